"""The runtime of feeds in a worker: tells the engine what happens, does what it answers.

    consumer's thread                         event loop
    Fetcher ── deliver_threadsafe ──▶ observe ──▶ Engine ──▶ StartBatch ─▶ decode ─▶ agent
       ▲                                 ▲                                            │
       └───────── Fetch, Resume ─────────┴──── Returned, Finished, Failed ────────────┘

It decides nothing. Everything here runs on the event loop unless its name says otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka.errors import KafkaError
from mode import Service, get_logger

from flowguard.agents.failures import failure_of
from flowguard.agents.stuck import StuckWatch
from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import Clock, SystemClock
from flowguard.commands import (
    BuryBatch,
    Command,
    DivertBatch,
    Fetch,
    FinishFrames,
    Hold,
    Park,
    ReadFrame,
    Resume,
    Seek,
    StartBatch,
    Unprocessed,
    WriteFrame,
)
from flowguard.control.memory import MemoryBudget
from flowguard.declared import Declared
from flowguard.delivery import Delivery
from flowguard.engine import Engine
from flowguard.errors import SettleError
from flowguard.facts import (
    Assigned,
    CommitPoint,
    Committed,
    Fact,
    Fetched,
    Finished,
    Found,
    LogsBegin,
    Nack,
    Returned,
    Revoked,
    Revoking,
    Stopped,
    Stored,
    Ticked,
)
from flowguard.intake.warm import warm_up
from flowguard.lanes.lane_set import LaneSet
from flowguard.membership import Membership
from flowguard.observe.descriptors import DescriptorWatch, say_it_once
from flowguard.observe.journal import Journal
from flowguard.observe.logs import guard_handlers
from flowguard.observe.pressure import pressure_document
from flowguard.observe.state import worker_name
from flowguard.observe.watchdog import Stalls, Watchdog
from flowguard.pressure_topic import ControlTopic, PressureWriter
from flowguard.settle.watermarks import CommitContext
from flowguard.settle.watermarks import decode as decode_watermarks
from flowguard.settle.watermarks import encode as encode_watermarks
from flowguard.situation import snapshot_of
from flowguard.snapshot import Snapshot
from flowguard.units import SECOND
from flowguard.unprocessed import lines_of

if TYPE_CHECKING:
    from flowguard.app import App
    from flowguard.intake.consumer_thread import FeedConsumerThread
    from flowguard.intake.coordinator import FeedCoordinator
    from flowguard.spill.disk import Hand
    from flowguard.spill_service import SpillService

__all__ = ["UNPROCESSED", "FeedRuntime"]

logger = get_logger(__name__)

#: What people want to read about a worker that works as it should.
WORKER_LOG: Final = "flowguard.worker"
#: Which records left without an agent; a logger of its own, to be sent wherever it is wanted.
UNPROCESSED: Final = "flowguard.unprocessed"
unprocessed = get_logger(UNPROCESSED)

#: How often control loops look at the worker.
TICK_S: Final = 0.1

#: A partition that is revoked may finish what is in flight for this long; the group waits
#: for it meanwhile.
REVOKE_GRACE_S: Final = 3.0

#: Faust's default; a feed commits more often unless it was changed.
FAUST_COMMIT_INTERVAL_S: Final = 2.8

#: Python lets a busy thread run for 5 ms before another gets a turn, which the consumer's
#: thread would lose at each response.
SWITCH_INTERVAL_S: Final = 0.0005

#: Outcomes after which nobody has the record; what is conflated has a newer one in its place,
#: and what is diverted is in another topic.
LOST: Final = frozenset({"shed", "expired"})

TOPIC_CHECK_S: Final = 10.0
DISK_CHECK_S: Final = 1.0
RETENTION_CHECK_S: Final = 30.0
FETCH_RETRY_S: Final = 1.0


class FeedRuntime(Service):
    """Drives the engine of an app with feeds.

    Args:
        app: The app; its agents must have been declared when the engine is first used.
        lanes: Its lanes.
        memory: What its feeds may hold.
        drain_timeout_s: How long stopping waits for what is in flight.
        spill_dir: Where lanes spill to.
        shadow: Control loops that only say what they would do.
        instance_id: What this worker is called in its group; empty if nobody chose a name.
    """

    logger = logger
    spill_hand: Callable[[str], Hand] | None = None  # None: threads of its own

    def __init__(
        self,
        app: App,
        *,
        lanes: LaneSet,
        memory: MemoryBudget,
        drain_timeout_s: float,
        spill_dir: str,
        shadow: frozenset[str] = frozenset(),
        instance_id: str = "",
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.app = app
        self.lanes = lanes
        self.memory = memory
        self.clock = clock or SystemClock()
        self.drain_timeout_s = drain_timeout_s
        self.spill_dir = spill_dir
        self.shadow = shadow
        self.membership = Membership(self, instance_id=instance_id)
        self.draining = False
        self.cluster = ""  # its id, once a broker has told
        self.joined = False  # the group has told us once which partitions are ours
        self.missing_topics: frozenset[str] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._returned: tuple[Returned, ...] = ()  # told with what follows at once
        self._wanted: Mapping[TopicPartition, tuple[int, int]] | None = None
        self._wanted_changed = asyncio.Event()
        self._held: frozenset[TopicPartition] = frozenset()
        self._landed = asyncio.Event()
        self.declared = Declared(app, lanes)

    # Its parts.

    @property
    def commit_interval_is_set(self) -> bool:
        """Tell whether the user chose how often to commit."""
        return bool(self.app.conf.broker_commit_interval != FAUST_COMMIT_INTERVAL_S)

    @cached_property
    def engine(self) -> Engine:
        """Return the engine; from now on the agents are fixed."""
        return Engine(
            self.lanes,
            [agent.plan() for agent in self.declared.agents.values()],
            self.memory,
            shadow=self.shadow,
            ranks_of=self.declared.ranks_of,
            chance=random.random,
        )

    @cached_property
    def delivery(self) -> Delivery:
        """Return what hands batches to agents."""
        return Delivery(self.app, self.declared, memory=self.memory, outcome=self, loop=self.loop)

    @cached_property
    def watchdog(self) -> Watchdog:
        """Return what notices that the event loop does not run, or that descriptors are out."""
        log = get_logger(WORKER_LOG)
        return Watchdog(self.loop, log, beside=DescriptorWatch(log).look)

    @property
    def stalls(self) -> Stalls:
        """Return when the event loop did not run; may be called on any thread."""
        return self.watchdog.stalls

    @cached_property
    def journal(self) -> Journal:
        """Return what tells the log of rungs, and of what is unavailable."""
        return Journal(self.engine, get_logger(WORKER_LOG))

    @cached_property
    def stuck(self) -> StuckWatch:
        """Return what names agents that do not come back."""
        return StuckWatch(self.declared.agents.values(), get_logger(WORKER_LOG))

    # Facts.

    def deliver_threadsafe(self, facts: Sequence[Fetched | Stopped]) -> None:
        """Take in what was fetched; may be called on any thread."""
        self.loop.call_soon_threadsafe(self.observe, *facts)

    def assigned(self, positions: Mapping[TopicPartition, Stored]) -> None:
        """Take in partitions that are ours now, beside those that are held."""
        held = self.membership.held
        positions = {name: at for name, at in positions.items() if name not in held}
        new = positions.keys() - self.engine.partitions.keys()
        self.membership.settled(positions)
        self.observe(
            Assigned(
                offsets={name: stored.offset for name, stored in positions.items()},
                watermarks=self._restore(positions),
                spilled={} if self.spill is None else self.spill.take_found(new),
                at_ns=self.clock.now_ns(),
            )
        )
        self.joined = True

    def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let go of partitions that are not ours any more."""
        self.membership.settled(partitions)
        self.observe(Revoked(partitions=partitions, at_ns=self.clock.now_ns()))

    async def begin_later(self, positions: Mapping[TopicPartition, Stored]) -> None:
        """Take in partitions that are ours already, but had no position until now."""
        await self.find_spilled(positions)
        self.observe(
            Assigned(
                offsets={name: stored.offset for name, stored in positions.items()},
                watermarks=self._restore(positions),
                spilled={} if self.spill is None else self.spill.take_found(positions.keys()),
                at_ns=self.clock.now_ns(),
            )
        )

    def begin_anew_threadsafe(self, name: TopicPartition, epoch: int, offset: int) -> None:
        """Let go of a partition and begin at an earlier offset; on any thread."""
        self.loop.call_soon_threadsafe(self._begin_anew, name, epoch, offset)

    def _begin_anew(self, name: TopicPartition, epoch: int, offset: int) -> None:
        held = self.engine.partitions.get(name)
        if held is None or held.epoch != epoch:
            return  # it was revoked meanwhile
        at_ns = self.clock.now_ns()
        self.observe(
            Revoked(partitions=frozenset({name}), at_ns=at_ns),
            Assigned(offsets={name: offset}, at_ns=at_ns),
        )

    async def find_spilled(self, positions: Mapping[TopicPartition, Stored]) -> None:
        """Find what is on disk of partitions that are about to be assigned."""
        if self.spill is None:
            return
        self.spill.open(self.cluster)
        new = {name: at for name, at in positions.items() if name not in self.engine.partitions}
        restored = self._restore(new, say=False)
        await self.spill.find(
            {
                name: restored.get(name) or [stored.offset] * len(self.lanes)
                for name, stored in new.items()
            }
        )

    def _restore(
        self, positions: Mapping[TopicPartition, Stored], *, say: bool = True
    ) -> dict[TopicPartition, tuple[int, ...]]:
        """Read back what lanes had finished beyond the committed offset."""
        watermarks = {}
        for name, stored in positions.items():
            restored = decode_watermarks(
                stored.metadata, stored.offset, self._commit_context(name.topic)
            )
            if restored.watermarks is not None:
                watermarks[name] = restored.watermarks
            elif say and restored.why is not None and name not in self.engine.partitions:
                self.log.warning(
                    "%s[%s]: what lanes had finished beyond the committed offset is not used: %s; "
                    "up to %s offsets are repeated once", *name, restored.why, restored.repeated,
                )  # fmt: skip
        return watermarks

    def _commit_context(self, topic: str) -> CommitContext:
        return CommitContext(
            cluster=self.cluster,
            rules=self.declared.fingerprints[topic],
            lanes=tuple(lane.name for lane in self.lanes),
        )

    def commit_points(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, CommitPoint]:
        """Return how far these partitions may be committed, all at one instant."""
        held = self.engine.partitions
        return {
            name: held[name].ledger.point
            for name in names
            if name in held and self.membership.may_commit(name)
        }

    def stored(self, points: Mapping[TopicPartition, CommitPoint]) -> dict[TopicPartition, Stored]:
        """Return commits as the broker keeps them."""
        return {
            name: Stored(point.offset, encode_watermarks(point, self._commit_context(name.topic)))
            for name, point in points.items()
        }

    async def revoking(self, partitions: frozenset[TopicPartition]) -> None:
        """Start nothing more of these partitions, and let them finish for a short while."""
        self.observe(Revoking(partitions=partitions, at_ns=self.clock.now_ns()))
        await self._wait_landed(partitions, REVOKE_GRACE_S)

    async def drain(self) -> None:
        """Start nothing more, and wait for what is in flight until the drain timeout.

        Only when the app stops: Faust also asks in each rebalance, where `revoking` has
        waited already. On the way down it asks twice, and the second time is not waited for.
        """
        if self.draining or not self.app.should_stop:
            return
        self.draining = True
        partitions = frozenset(self.engine.partitions)
        self.observe(Revoking(partitions=partitions, at_ns=self.clock.now_ns()))
        await self._wait_landed(partitions, self.drain_timeout_s)

    def committed(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """Take in that the broker stored this."""
        self.observe(Committed(points=points, at_ns=self.clock.now_ns()))

    def returned(
        self,
        batch_id: int,
        *,
        nacked: bool = False,
        held_ns: int | None = None,
        settled: bool = False,
    ) -> None:
        """Take in that an agent came back; what it sent is on its way before anything else.

        Where its batch is settled by that, the engine is told of both at once.
        """
        self.app.egress.send_now()
        at_ns = self.clock.now_ns()
        fact = Returned(batch_id=batch_id, at_ns=at_ns, nacked=nacked, held_ns=held_ns)
        if settled:
            self._returned = (fact,)
        else:
            self.observe(fact)

    def too_many_letters(
        self, agent: str, lane: int, letters: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, str]:
        """Return of each partition that may have no more dead letters why."""
        return self.engine.failing.why_not(agent, lane, letters)

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        """Take in that a batch is settled."""
        self.delivery.let_frame_go(batch_id)
        returned, self._returned = self._returned, ()
        self.observe(
            *returned,
            Finished(
                batch_id=batch_id,
                dead_letters=dead_letters,
                at_ns=self.clock.now_ns(),
                epoch_ms=self.clock.epoch_ms(),
                nacked=nacked or {},
            ),
        )
        self._landed.set()

    def failed(
        self,
        batch_id: int,
        error: BaseException,
        *,
        logged: bool = False,
        found: Found | None = None,
    ) -> None:
        """Take in that a batch, or what is left of it, must be tried again.

        Args:
            logged: Why was said already.
            found: What its agent knows of its records.
        """
        self.delivery.let_frame_go(batch_id)
        if isinstance(error, SettleError) and not logged:  # an agent reports what it raises
            self.log.warning("a batch is held and tried again: %s", error)
        at_ns, epoch_ms = self.clock.now_ns(), self.clock.epoch_ms()
        self.observe(
            failure_of(error, batch_id=batch_id, at_ns=at_ns, found=found, epoch_ms=epoch_ms)
        )
        self._landed.set()

    def observe(self, *facts: Fact) -> None:
        """Tell the engine, and do what it answers."""
        for command in self.engine.observe(*facts):
            self._carry_out(command)
        self._arm()

    async def _wait_landed(self, partitions: frozenset[TopicPartition], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while self.engine.records_in_flight(partitions):
                    self._landed.clear()
                    await self._landed.wait()
        except TimeoutError:
            self.log.warning(
                "%s records are still in flight after %.0f s; they will be read again",
                self.engine.records_in_flight(partitions), timeout_s,
            )  # fmt: skip

    # Commands.

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartBatch(cut):
                self.delivery.start(cut)
            case Resume():
                if self._fetcher is not None:
                    self._fetcher.wake()
            case Fetch(offsets):
                self._wanted = offsets
                self._wanted_changed.set()
            case Hold(partitions):
                self._held = partitions
                if self._fetcher is not None:
                    self._fetcher.hold(partitions)
            case DivertBatch(cut, topic):
                self.delivery.divert(cut, topic)
            case BuryBatch(cut, error, reason):
                self.delivery.bury(cut, error, reason)
            case Unprocessed():
                self._log_unprocessed(command)
            case Seek():
                self._seek(command)
            case WriteFrame() | ReadFrame() | FinishFrames() | Park():
                assert self.spill is not None, "only lanes that spill have frames"
                self.spill.carry_out(command)

    def _seek(self, command: Seek) -> None:
        """Let the fetcher go on at a later offset; one that does not read yet begins there."""
        fetcher = self._fetcher
        if fetcher is not None:
            self._thread.thread_loop.call_soon_threadsafe(
                fetcher.seek, command.partition, command.epoch, command.offset
            )

    def _log_unprocessed(self, command: Unprocessed) -> None:
        """Say which records have left without an agent; where some are lost, louder."""
        level = logging.WARNING if command.outcome in LOST else logging.INFO
        for line in lines_of(command, self.lanes[command.lane].name):
            unprocessed.log(level, "%s", line)

    @property
    def _thread(self) -> Any:
        """Return the consumer's thread, None before there is one."""
        consumer: Any = self.app._consumer
        return None if consumer is None else consumer._thread

    @property
    def member(self) -> FeedCoordinator | None:
        """Return the member of the group that this worker is, None before it is one."""
        return None if self._thread is None else cast("FeedConsumerThread", self._thread).member

    @property
    def _fetcher(self) -> Any:
        return None if self._thread is None else self._thread.fetcher

    def _arm(self) -> None:
        """Tick when the engine next wants it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self.engine.due_ns
        if due_ns is not None:
            delay_s = max(0, due_ns - self.clock.now_ns()) / SECOND
            self._timer = self.loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self.observe(Ticked(at_ns=self.clock.now_ns(), epoch_ms=self.clock.epoch_ms()))

    @Service.task
    async def _tick_now_and_then(self) -> None:
        wanted_ns = self.clock.now_ns()
        while not self.should_stop:
            wanted_ns += round(TICK_S * SECOND)
            await self.sleep(max(0.0, (wanted_ns - self.clock.now_ns()) / SECOND))
            now_ns = self.clock.now_ns()
            self.membership.look()
            self.observe(
                Ticked(
                    at_ns=now_ns,
                    loop_lag_ns=max(0, now_ns - wanted_ns),
                    epoch_ms=self.clock.epoch_ms(),
                )
            )
            self.journal.look(now_ns)
            self.stuck.look(self.loop.time())
            wanted_ns = max(wanted_ns, now_ns)

    @Service.task
    async def _hand_over_fetches(self) -> None:
        """Give the consumer's thread the latest positions; it is the only one to do so."""
        while not self.should_stop:
            await self._wanted_changed.wait()
            self._wanted_changed.clear()
            if self._wanted is None or self._thread is None:
                continue
            try:
                await self._thread.fetch(self._wanted)
                self._fetcher.hold(self._held)
            except KafkaError as error:
                self.log.warning("cannot start to fetch, trying again: %r", error)
                await self.sleep(FETCH_RETRY_S)
                self._wanted_changed.set()

    # Disk.

    @cached_property
    def spill(self) -> SpillService | None:
        """Return what writes to disk, None if no lane spills."""
        if not self.lanes.spilling:
            return None
        from flowguard.spill_service import SpillService  # much to load that few need

        return SpillService(
            self.spill_dir,
            app=self.app.conf.id,
            lanes=self.lanes,
            fingerprints=lambda: self.declared.fingerprints,
            plans=lambda: self.declared.partition_plans,
            clock=self.clock,
            log=self,
            observe=self.observe,
            loop=self.loop,
            slot=self.membership.place.number,
            hand=self.spill_hand,
        )

    async def read_range(
        self, name: TopicPartition, first: int, end: int, lane: int
    ) -> list[list[Chunk]]:
        """Return the records of a lane in a range, read from Kafka beside all fetching."""
        return cast("list[list[Chunk]]", await self._thread.read_range(name, first, end, lane))

    async def record_at(self, name: TopicPartition, offset: int) -> Mapping[str, Any] | None:
        """Return one record of Kafka as column → value, None if there is none."""
        return cast("Mapping[str, Any] | None", await self._thread.record_at(name, offset))

    @Service.task
    async def _look_after_disk(self) -> None:
        while not self.should_stop:
            await self.sleep(DISK_CHECK_S)
            if self.spill is not None:
                self.spill.look()

    @Service.task
    async def _watch_retention(self) -> None:
        """Look how soon Kafka deletes what waits on disk."""
        said: frozenset[int] = frozenset()
        while not self.should_stop:
            await self.sleep(RETENTION_CHECK_S)
            spilling = self.engine.spilling
            names = {line.partition.name for line in spilling.lines}
            try:
                starts = await self._thread.log_starts(sorted(names)) if names else {}
            except (KafkaError, TimeoutError) as error:
                self.log.info("cannot look where logs begin: %r", error)
                continue
            self.observe(LogsBegin(starts=starts, at_ns=self.clock.now_ns()))
            said = self._warn_of_retention(said)

    def _warn_of_retention(self, said: frozenset[int]) -> frozenset[int]:
        """Say once which lanes are in danger, and return them."""
        found = set()
        for rank, lane in enumerate(self.lanes):
            condition = self.engine.spilling.condition(rank)
            lines = self.engine.spilling.endangered(rank)
            if condition is not None and condition[0] == "pinned":
                lines = [condition[1]]
            if lines:
                found.add(rank)
                if rank not in said:
                    self.log.warning("lane %s: %s", lane.name, "; ".join(lines))
        return frozenset(found)

    # Watching.

    @cached_property
    def pressure_writer(self) -> PressureWriter:
        """Return what tells upstream services of pressure."""
        worker = worker_name()
        return PressureWriter(
            f"{self.app.conf.id}.control",
            ControlTopic(self.app),
            worker=worker,
            read=lambda: pressure_document(self.engine, worker=worker),
            log=self.log,
        )

    @Service.task
    async def _tell_upstream(self) -> None:
        while not (self.joined or self.should_stop):
            await self.sleep(TOPIC_CHECK_S / 10)
        await self.pressure_writer.run()

    @Service.task
    async def _look_for_topics(self) -> None:
        """Say which topics of feeds do not exist."""
        while not self.should_stop:
            await self.sleep(TOPIC_CHECK_S)
            if self._thread is None or self._thread._consumer is None:
                continue
            cluster = self._thread._consumer._client.cluster
            missing = frozenset(
                topic for topic in self.declared.feeds if not cluster.partitions_for_topic(topic)
            )
            for topic in sorted(missing - self.missing_topics):
                self.log.error(
                    "topic %r does not exist; its feed waits. Create it, and the worker reads it "
                    "as soon as it learns of it", topic,
                )  # fmt: skip
            self.missing_topics = missing

    def snapshot(self) -> Snapshot:
        """Return what the engine shows of itself."""
        return snapshot_of(self.engine, now_ns=self.clock.now_ns(), epoch_ms=self.clock.epoch_ms())

    async def on_start(self) -> None:
        """Get ready for the first record before there is one."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.membership.hear_of_interrupts()
        await self.membership.take_place()
        feeds = [*self.declared.feeds.values(), *self.app.declared_feeds]
        await asyncio.to_thread(warm_up, {str(feed.options.codec) for feed in feeds})
        # What there is now stays for good: a full collection would stop everything for 70 ms.
        gc.collect()
        gc.freeze()
        guard_handlers()
        say_it_once()
        self.watchdog.start()

    async def on_stop(self) -> None:
        """Say what is not said yet, forget what was never delivered, take leave of upstream."""
        self.watchdog.stop()
        for command in self.engine.overflow.flush() if self.joined else ():
            if isinstance(command, Unprocessed):
                self._log_unprocessed(command)
        if self._timer is not None:
            self._timer.cancel()
        self.delivery.stop()
        await self.pressure_writer.close()
        if self.spill is not None:
            await self.spill.close()
        self.membership.place.leave()
