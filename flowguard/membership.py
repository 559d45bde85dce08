"""Where a worker stands in its group: what it is called, and whether its partitions are its own.

| the group | what is held |
| --- | --- |
| answers | is worked on, also while it rebalances |
| has been silent for a session | may be somebody else's: nothing is started or committed |
| answers again | goes on where it was |
| has forgotten this worker | waits for the next assignment, which tells what is left |
| knows another worker by its id | is given up; the worker stops |

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import faust
from mode import get_logger

from flowguard.chunk import TopicPartition
from flowguard.ending import Stopping
from flowguard.facts import Assigned, Revoking
from flowguard.intake.place import Place, take_place

if TYPE_CHECKING:
    from flowguard.intake.coordinator import FeedCoordinator
    from flowguard.runtime import FeedRuntime

__all__ = ["Membership"]

#: What people want to read about a worker that works as it should.
logger = get_logger("flowguard.worker")

NEVER: Final = -1


class Membership:
    """The membership of a worker.

    Args:
        instance_id: What the worker is called in its group; empty if nobody chose a name.
    """

    def __init__(self, runtime: FeedRuntime, *, instance_id: str) -> None:
        self._runtime = runtime
        self._instance_id = instance_id
        self.place = Place(None)
        #: The worker goes for good: others get its partitions at once.
        self.leaving = False
        #: The instance id that another worker has taken.
        self.replaced_by = ""
        self._fenced: frozenset[TopicPartition] = frozenset()
        self._losses = NEVER  # how often the group had forgotten us when we fenced

    async def take_place(self) -> None:
        """Find out under which name this worker comes back, if it can."""
        conf = self._runtime.app.conf
        self.place = await asyncio.to_thread(
            take_place,
            conf.datadir,
            conf.id,
            given=self._instance_id,
            host=socket.gethostname(),
        )
        if self.place.why:
            logger.info(
                "when this worker is killed, its partitions wait for the end of its session, "
                "because %s; give it an --instance-id to change that", self.place.why,
            )  # fmt: skip

    def hear_of_interrupts(self) -> None:
        """Learn of the SIGINT that ends Faust's own worker, which tells nobody why it stops."""
        root = self._runtime.app.beacon.root
        worker = None if root is None else root.data
        if isinstance(worker, faust.Worker) and not isinstance(worker, Stopping):

            def interrupted() -> None:
                self.leaving = True
                worker._on_sigint()

            worker.loop.add_signal_handler(signal.SIGINT, interrupted)

    @property
    def _member(self) -> FeedCoordinator | None:
        return self._runtime.member

    # What is ours.

    @property
    def held(self) -> set[TopicPartition]:
        """Return the partitions that are worked on, also while the group rebalances."""
        partitions = self._runtime.engine.partitions
        return {name for name, each in partitions.items() if not each.revoking}

    def may_commit(self, name: TopicPartition) -> bool:
        """Tell whether what is finished of a partition is ours to commit."""
        return name not in self._fenced

    def settled(self, partitions: Iterable[TopicPartition]) -> None:
        """Take in that an assignment has told of these whose they are."""
        self._fenced -= frozenset(partitions)

    def look(self) -> None:
        """Start nothing more of what may be somebody else's; go on once the group answers."""
        member = self._member
        if member is None or not self._runtime.joined:
            return
        if member.fenced and not self._fenced:
            self.fence()
        elif self._fenced and not member.fenced and member.losses == self._losses:
            self._go_on()

    def fence(self) -> None:
        """Start nothing more, and commit nothing, until the group has said what is ours."""
        member, engine = self._member, self._runtime.engine
        self._losses = NEVER if member is None or member.lost else member.losses
        self._fenced = names = frozenset(engine.partitions)
        self._runtime.observe(Revoking(partitions=names, at_ns=self._runtime.clock.now_ns()))

    def _go_on(self) -> None:
        """Take up everything as it was: the group was silent, but still counts on us."""
        held = self._runtime.engine.partitions
        offsets = {name: held[name].committed.offset for name in self._fenced & held.keys()}
        self._fenced = frozenset()
        self._runtime.observe(Assigned(offsets=offsets, at_ns=self._runtime.clock.now_ns()))

    # Another worker.

    def replaced(self, instance_id: str) -> None:
        """Stop, because another worker has our instance id, and with it our partitions."""
        self.replaced_by = instance_id
        logger.error(
            "another worker has joined group %s as %s, which is this one's instance id; this one "
            "stops and does not join again. Give each worker another --instance-id or, without "
            "it, a data directory that no other machine has",
            self._runtime.app.conf.id, instance_id,
        )  # fmt: skip
        self.fence()
        os.kill(os.getpid(), signal.SIGTERM)
