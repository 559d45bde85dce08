"""Membership of the group: aiokafka's, with what it lacks.

- It knows until when the group counts on this worker. After that, nothing is committed.
- A static member that is replaced by another worker of the same id does not take the id back,
  which the other one would do again, and so on: it says so, once.
- On SIGINT a static member leaves the group; otherwise it never does.
- Partitions that stay are not interrupted by a rebalance, see `assignor`.

aiokafka sends no instance id in heartbeats and commits, so a member that was replaced hears that
it is not known, as one that was away for too long does. Which of both it is, only time tells.

Everything here runs on the consumer's thread unless its name says otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)
from aiokafka.structs import OffsetAndMetadata

from flowguard.intake.assignment import Place
from flowguard.intake.assignor import FeedAssignor, is_complete, is_cooperative
from flowguard.intake.unawaited import look_at

__all__ = ["FeedCoordinator", "Replaced"]

OK: Final = 0
UNKNOWN_MEMBER: Final = 25
REBALANCE_IN_PROGRESS: Final = 27
INCONSISTENT_PROTOCOL: Final = 23
STATIC_SINCE: Final = 5  # version of JoinGroup, Kafka 2.3
FENCED_INSTANCE: Final = 82  # aiokafka has no name for it

#: While the group does not take us, we ask again so often.
ASK_AGAIN_S: Final = 1.0

#: A partition that is to move is let go within the grace, 3 s, and a round of the group. If
#: its owner has died meanwhile, nobody else asks for the rebalance that gives it away.
HANDED_OVER_WITHIN_S: Final = 8.0


class Replaced(KafkaError):  # type: ignore[misc]  # aiokafka is untyped
    """Another worker has this one's instance id now."""


class FeedCoordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka is untyped
    """The group coordinator of an app with feeds.

    `adopt` makes one of the coordinator that aiokafka has made, before it joins.
    """

    _on_replaced: Callable[[str], None]
    _on_strangers: Callable[[], None]

    @classmethod
    def adopt(
        cls,
        coordinator: Any,
        *,
        on_replaced: Callable[[str], None],
        on_strangers: Callable[[], None],
    ) -> FeedCoordinator:
        """Take over a coordinator that has not joined yet.

        Args:
            on_replaced: Told once, with the instance id, that another worker has it now.
            on_strangers: Told once that the group has members with another assignor.
        """
        coordinator.__class__ = cls
        coordinator._on_replaced = on_replaced
        coordinator._on_strangers = on_strangers
        coordinator._told_of_others = False
        coordinator.heard_s = 0.0  # when the group was last known to count on us
        coordinator.joining = False  # a JoinGroup or SyncGroup is under way
        coordinator.lost = True  # the group does not know us, or not any more
        coordinator.losses = 0
        coordinator.replaced = False
        coordinator.cooperative = False  # partitions that move are withheld until we let go
        coordinator.complete = True
        coordinator.kept = False  # what we had was ours until this assignment
        coordinator.owned = frozenset()
        if list(coordinator._assignors) == [RoundRobinPartitionAssignor]:
            coordinator._assignors = [FeedAssignor(coordinator._claim)]
        assert isinstance(coordinator, cls)
        return coordinator

    _told_of_others: bool
    _group_instance_id: str | None
    heard_s: float
    joining: bool
    lost: bool
    losses: int
    replaced: bool
    cooperative: bool
    complete: bool
    kept: bool
    owned: frozenset[Place]

    # What others ask; these may be asked on any thread.

    @property
    def is_static(self) -> bool:
        """Tell whether the member has an instance id."""
        return self._group_instance_id is not None

    @property
    def session_s(self) -> float:
        """Return for how long the group counts on a member that says nothing."""
        return float(self._session_timeout_ms) / 1e3

    @property
    def overdue(self) -> bool:
        """Tell whether the group may have given our partitions away, for all we know."""
        return not self.joining and time.monotonic() - self.heard_s >= self.session_s

    @property
    def fenced(self) -> bool:
        """Tell whether our partitions may be somebody else's."""
        return self.lost or self.overdue

    @property
    def may_commit(self) -> bool:
        """Tell whether a commit is ours to make, and would arrive.

        While we join, it would wait behind the request, and come in the name of an older
        generation.
        """
        return not self.fenced and not self.joining

    @property
    def keeps(self) -> bool:
        """Tell whether a rebalance leaves us what we have until we let go of it."""
        return self.cooperative and not self.fenced

    # Joining.

    @property
    def has_tables(self) -> bool:
        """Tell whether Faust's assignor deals out the partitions, with those of tables."""
        return not isinstance(self._assignors[0], FeedAssignor)

    def rename(self, instance_id: str) -> None:
        """Set the instance id, unless the group knows another one of us already."""
        if not self.member_id:
            self._group_instance_id = instance_id

    def _claim(self) -> tuple[int, frozenset[Place]]:
        return self.generation, self.owned

    async def ensure_active_group(self, subscription: Any, prev_assignment: Any) -> Any:
        """Join the group; one that was replaced waits for the end instead."""
        if self.replaced:
            await self._closing
            return None
        return await super().ensure_active_group(subscription, prev_assignment)

    async def _do_rejoin_group(self, subscription: Any) -> bool:
        async with self._commit_lock:  # a commit under way goes first
            self.joining = True
        try:
            return bool(await super()._do_rejoin_group(subscription))
        finally:
            self.joining = False

    async def _on_join_complete(
        self, generation: int, member_id: str, protocol: str, assignment: bytes
    ) -> None:
        told = ConsumerProtocolMemberAssignment.decode(assignment)
        self.cooperative = is_cooperative(told)
        self.complete = is_complete(told)
        self.kept = self.cooperative and not self.lost
        self.owned = frozenset((each.topic, each.partition) for each in told.partitions())
        self.joining = self.lost = False
        await super()._on_join_complete(generation, member_id, protocol, assignment)

    def rejoin_unless_complete(self) -> None:
        """Ask for another rebalance in a while, if it is still needed then."""
        if self.complete:
            return
        generation = self.generation

        def look() -> None:
            if self.generation == generation and not self._closing.done():
                self.request_rejoin()

        self._closing.get_loop().call_later(HANDED_OVER_WITHIN_S, look)

    # Committing.

    async def commit(
        self, offsets: Mapping[KafkaTopicPartition, OffsetAndMetadata], *, losses: int
    ) -> bool:
        """Commit once; return whether it was ours to commit.

        aiokafka tries again by itself, and in the name of whatever generation we are of by then:
        others may be further than these offsets.

        Args:
            losses: How often the group had forgotten us when it was asked for.
        """
        await self.ensure_coordinator_known()
        async with self._commit_lock:
            if losses != self.losses or not self.may_commit:
                return False
            # It is not cancelled: half a request would end the connection of the group.
            storing = asyncio.ensure_future(self._do_commit_offsets(None, offsets))
            storing.add_done_callback(look_at)
            await asyncio.shield(storing)
        return True

    # Leaving.

    def leave_at_the_end(self) -> None:
        """Leave the group when it is closed, although the member is static."""
        self._group_instance_id = None

    def reset_generation(self) -> None:
        """Forget who we are in the group; what we had may be somebody else's."""
        self.lost = True
        self.losses += 1
        self.owned = frozenset()
        super().reset_generation()

    # What the group answers.

    async def _send_req(self, request: Any) -> Any:
        sent_s, member_id = time.monotonic(), self.member_id
        response = await super()._send_req(request)
        if isinstance(request, LeaveGroupRequest):
            return response
        codes = codes_of(request, response)
        if self._tells_of_another(codes, member_id):
            self._give_way()
            if isinstance(request, HeartbeatRequest):
                raise asyncio.CancelledError  # the way in which heartbeats end without a word
            raise Replaced("another worker has joined with this instance id")
        if INCONSISTENT_PROTOCOL in codes:
            await self._wait_for_others()
        if isinstance(request, HeartbeatRequest) and codes & {OK, REBALANCE_IN_PROGRESS}:
            self.heard_s = sent_s  # the group's clock has run since then at least
        elif isinstance(request, JoinGroupRequest | SyncGroupRequest) and OK in codes:
            self.heard_s = time.monotonic()
            if isinstance(request, JoinGroupRequest) and response.API_VERSION < STATIC_SINCE:
                self._group_instance_id = None  # the broker was not told of it
        return response

    async def _wait_for_others(self) -> None:
        """Wait a moment for members to leave whose assignor is another one, and say so once."""
        if not self._told_of_others:
            self._told_of_others = True
            self._on_strangers()
        await asyncio.sleep(ASK_AGAIN_S)
        raise KafkaError("the members of the group have another assignor")

    def _tells_of_another(self, codes: set[int], member_id: str) -> bool:
        """Tell whether an answer says that another worker has our instance id.

        Args:
            member_id: Whom the request was from.
        """
        if not self.is_static or not member_id or member_id != self.member_id:
            return False
        return FENCED_INSTANCE in codes or (UNKNOWN_MEMBER in codes and not self.fenced)

    def _give_way(self) -> None:
        if not self.replaced:
            self.replaced = True
            self._on_replaced(str(self._group_instance_id))
        self.reset_generation()


def codes_of(request: Any, response: Any) -> set[int]:
    """Return the error codes of an answer of the group, 0 for none."""
    if isinstance(request, OffsetCommitRequest):
        return {code for _, partitions in response.topics for _, code in partitions}
    return {getattr(response, "error_code", OK)}
