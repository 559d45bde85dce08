"""One life of a worker: the user's app on the broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from flowguard.app import App, Parts
from flowguard.intake.producer import FeedProducer
from flowguard.settle.service import EgressService
from flowguard.spill.disk import Hand
from flowguard.testing.broker import Broker
from flowguard.testing.client import MemoryProducer, MemorySender
from flowguard.testing.group import VirtualConsumer
from flowguard.testing.lives import Lives
from flowguard.testing.loop import VirtualClock, VirtualLoop
from flowguard.testing.watch import Watch, WatchedRuntime

__all__ = ["WorkerLife"]

#: A worker that dies may still run what it has to clean up, for so many turns of the loop.
LAST_TURNS: Final = 200


class VirtualProducer(FeedProducer):
    """flowguard's producer, in front of the broker in memory."""

    Sender = MemorySender
    broker: Broker

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        return MemoryProducer(self.broker)

    async def create_topic(self, topic: str, partitions: int, *args: Any, **kwargs: Any) -> None:
        """Create a topic."""
        self.broker.log.topic(topic, partitions)

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        """Send one message."""
        sent = await super().send(topic, *args, **kwargs)
        runtime: WatchedRuntime = self.app.runtime  # type: ignore[attr-defined]
        runtime.sending(cast("asyncio.Future[Any]", sent))
        return sent


class WatchedEgress(EgressService):
    """flowguard's egress, with somebody who looks on."""

    def begin(self, *args: Any, **kwargs: Any) -> asyncio.Future[None]:
        """Send a frame."""
        sending = super().begin(*args, **kwargs)
        self._app.runtime.sending(sending)  # type: ignore[attr-defined]
        return sending


class VirtualHand(Hand):
    """What works with the disk, on the loop instead of on a thread."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def ask(self, task: Callable[[], None]) -> None:
        """Do something soon, in the order of asking."""
        self._loop.call_soon(self._do, task)

    def _do(self, task: Callable[[], None]) -> None:
        _, error, _ = self._loop.clock.aside(task)
        if error is not None:
            raise error


class WorkerLife:
    """A worker from its start until it stops or dies.

    Args:
        app: The user's app, brought back to what it declares.
        spill_dir: Where its lanes spill to; stays when it dies.
    """

    def __init__(
        self, app: App, *, loop: VirtualLoop, clock: VirtualClock, broker: Broker, watch: Watch,
        spill_dir: str,
    ) -> None:  # fmt: skip
        Lives(app).begin(loop)
        self.app = app
        self._loop = loop
        self._broker = broker
        self._watch = watch
        self._order: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        loop.set_task_factory(self._new_task)
        app.parts = Parts(
            runtime=type("WatchedRuntime", (WatchedRuntime,), {"watch": watch}),
            consumer=type("VirtualConsumer", (VirtualConsumer,), {"broker": broker}),
            producer=type("VirtualProducer", (VirtualProducer,), {"broker": broker}),
            clock=clock,
        )
        app.boot_strategy.enable_web = False
        app.command_line = {**app.command_line, "spill_dir": spill_dir}
        app.__dict__["egress"] = WatchedEgress(app)
        app.check()
        self.runtime: WatchedRuntime = app.runtime  # type: ignore[assignment]
        self.runtime.spill_hand = lambda _: VirtualHand(loop)
        watch.begin(
            {
                topic: frozenset(
                    agent.name
                    for agent in self.runtime.declared.agents.values()
                    if topic in agent.feed.topics
                )
                for topic in self.runtime.declared.feeds
            }
        )
        self._starting = loop.create_task(app.start())

    def _new_task(self, loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
        self._order[task] = len(self._order)
        return task

    @property
    def ready(self) -> bool:
        """Tell whether the worker has its partitions, and reads."""
        return self.runtime.joined and self._starting.done()

    def check(self) -> None:
        """Raise what made the worker crash by itself, if anything did."""
        if self._starting.done() and not self._starting.cancelled():
            self._starting.result()
        if (reason := self.app.crash_reason) is not None:
            raise reason

    def rebalance(self, away: Any = ()) -> None:
        """Let the group take away all partitions and give back all but some."""
        consumer = self.app.consumer._thread._consumer  # type: ignore[attr-defined]
        self._broker.serve("group", lambda: consumer.rebalance(away))

    async def stop(self) -> None:
        """Stop in order, as SIGTERM does."""
        await self.app.stop()

    def die(self) -> None:
        """End at once: nothing more reaches the broker, and nothing is remembered."""
        self.runtime.dead = True
        self._broker.cut_off()
        self._watch.died()
        for _ in range(LAST_TURNS):
            tasks = sorted(asyncio.all_tasks(self._loop), key=lambda task: self._order.get(task, 0))
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self._loop.turn()
        self._loop.forget()
        self._let_disk_go()

    def _let_disk_go(self) -> None:
        """Give up the lock on the spill directory, as the system does for a dead process."""
        spill = self.runtime.__dict__.get("spill")
        disk = None if spill is None else spill._disk
        if disk is not None and disk._store is not None:
            disk._store._slot.release()
