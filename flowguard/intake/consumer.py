"""The Faust consumer of an app with feeds.

Group membership, metadata, heartbeats, commits and plain topics stay with Faust and
aiokafka. For partitions of feeds three things differ:

- aiokafka never fetches them: they are paused in its subscription the moment they are
  assigned, for good. flowguard's own `Fetcher` reads them, on the same thread.
- What may be committed is the engine's answer, not a list of acknowledged offsets; with
  the offset go the watermarks of the lanes, in its metadata.
- A commit that fails is tried again at the next interval; it does not crash the app.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import aiokafka
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaError, OffsetMetadataTooLargeError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP

from flowguard.chunk import Chunk, TopicPartition
from flowguard.facts import Stored
from flowguard.intake.connection import Connect, open_connection
from flowguard.intake.fetcher import Fetcher
from flowguard.intake.range_reader import RangeReader
from flowguard.settle.metadata_room import MetadataRoom

if TYPE_CHECKING:
    from flowguard.runtime import FeedRuntime

__all__ = ["FeedConsumer"]

T = TypeVar("T")

Positions = dict[TopicPartition, Stored]

#: Finished work that is not committed yet is repeated after a crash.
COMMIT_INTERVAL_S = 1.0

#: A broker knows a topic some milliseconds after it was created, seconds in a cluster in trouble.
KNOWN_WITHIN_S: Final = 30.0
ASK_EVERY_S: Final = 0.05


class FeedSubscription(SubscriptionState):  # type: ignore[misc]  # aiokafka is untyped
    """A subscription whose feed partitions are paused as soon as they are assigned.

    aiokafka's fetcher runs at the same time as the rebalance callbacks, so pausing there
    would be too late now and then.
    """

    def __init__(self, *, is_feed: Callable[[str], bool]) -> None:
        super().__init__()
        self._is_feed = is_feed

    def assign_from_subscribed(self, assignment: set[KafkaTopicPartition]) -> None:
        """Set the assignment, and pause what aiokafka must not fetch."""
        super().assign_from_subscribed(assignment)
        for partition in assignment:
            if self._is_feed(partition.topic):
                self.pause(partition)


class Flowing:
    """The partitions that flow at each moment, for aiokafka to ask.

    It takes an empty set for all partitions, and Faust empties the one it gave while aiokafka
    waits: what it returned of a partition that does not flow yet would be lost. This is never
    empty.
    """

    def __init__(self, active: set[TP]) -> None:
        self._active = active

    def __contains__(self, partition: object) -> bool:
        return partition in self._active


class FeedConsumerThread(AIOKafkaConsumerThread):
    """The consumer's thread, which also runs the feed fetcher."""

    fetcher: Fetcher | None = None
    connect: ClassVar[Connect] = staticmethod(open_connection)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._metadata_room = MetadataRoom()
        super().__init__(*args, **kwargs)

    @property
    def runtime(self) -> FeedRuntime:
        """Return what drives the engine."""
        return cast("FeedConsumer", self.consumer).runtime

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._subscription = FeedSubscription(is_feed=self.runtime.declared.is_feed)
        return consumer

    async def on_thread_stop(self) -> None:
        """Stop fetching before the connections close."""
        if self.fetcher is not None:
            await self.fetcher.stop()
        await super().on_thread_stop()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe once the changelogs of tables, which may just have been created, are known."""
        wanted = set(topics)
        if changelogs := wanted & set(self.app.tables.changelog_topics):
            await self.call_thread(self._until_known, wanted, changelogs)
        await super().subscribe(wanted)

    async def _until_known(self, topics: set[str], awaited: set[str]) -> None:
        """Look up topics until those awaited are among them.

        A broker hears of a new topic a moment after it was created. aiokafka asks once and then
        not for five minutes; until then agents would run without their tables' partitions.
        """
        client = self._ensure_consumer()._client
        partitions_of = client.cluster.partitions_for_topic
        give_up_s = self.thread_loop.time() + KNOWN_WITHIN_S
        await client.set_topics(topics)
        while missing := [name for name in awaited if not partitions_of(name)]:
            if self.thread_loop.time() > give_up_s:
                self.log.warning(
                    "the broker has not heard of the changelogs %s for %.0f s; going on, but "
                    "agents fail until it has. May this worker describe these topics?",
                    ", ".join(sorted(missing)), KNOWN_WITHIN_S,
                )  # fmt: skip
                return
            await asyncio.sleep(ASK_EVERY_S)
            await client.force_metadata_update()

    # Fetching.

    async def getmany(
        self,
        active_partitions: Any,
        timeout: float,  # noqa: ASYNC109  Faust names it
    ) -> Any:
        """Return what aiokafka has read of the plain partitions that flow."""
        if active_partitions is not None:
            active_partitions = Flowing(active_partitions)
        return await super().getmany(active_partitions, timeout)

    async def fetch(self, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Let the fetcher read these partitions, and no others."""
        await self.call_thread(self._fetch, offsets)

    async def _fetch(self, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        if self.fetcher is None:
            self.fetcher = self._new_fetcher()
        self.fetcher.assign(offsets)

    def _new_fetcher(self) -> Fetcher:
        runtime = self.runtime
        consumer = self._ensure_consumer()

        def touch() -> None:
            with consumer._subscription.fetch_context():
                pass

        return Fetcher(
            client=consumer._client,
            plans=runtime.declared.partition_plans,
            lane_count=len(runtime.lanes),
            memory=runtime.memory,
            clock=runtime.clock,
            deliver=runtime.deliver_threadsafe,
            touch=touch,
            find_offset=self._find_offset,
            connect=self.connect,
        )

    async def _find_offset(self, partition: TopicPartition, which: str) -> int:
        name = KafkaTopicPartition(*partition)
        return int((await self._find_offsets([name], which))[name])

    async def _find_offsets(
        self, names: Sequence[KafkaTopicPartition], which: str
    ) -> Mapping[KafkaTopicPartition, int]:
        """Return the earliest or latest offsets, in one question to each broker."""
        consumer = self._ensure_consumer()
        find = consumer.beginning_offsets if which == "earliest" else consumer.end_offsets
        return cast("Mapping[KafkaTopicPartition, int]", await find(names))

    # Reading again.

    async def log_starts(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return from which offset on Kafka still has these partitions."""
        names = [KafkaTopicPartition(*name) for name in partitions]
        found = await self.call_thread(self._find_offsets, names, "earliest")
        return {TopicPartition(*name): offset for name, offset in found.items()}

    async def read_range(
        self, name: TopicPartition, first: int, end: int, lane: int
    ) -> list[list[Chunk]]:
        """Return the records of a lane in a range, beside what is being fetched."""
        return await self._aside(lambda reader: reader.read(name, first, end, lane))

    async def record_at(self, name: TopicPartition, offset: int) -> Mapping[str, Any] | None:
        """Return one record as column → value, None if the log has none at this offset."""
        return await self._aside(lambda reader: reader.record_at(name, offset))

    async def _aside(self, read: Callable[[RangeReader], Coroutine[Any, Any, T]]) -> T:
        """Read on the consumer's thread, without a place in the queue that commits wait in."""
        work = asyncio.run_coroutine_threadsafe(read(self._range_reader), self.thread_loop)
        return await asyncio.wrap_future(work)

    @cached_property
    def _range_reader(self) -> RangeReader:
        runtime = self.runtime
        return RangeReader(
            client=self._ensure_consumer()._client,
            plans=runtime.declared.partition_plans,
            lane_count=len(runtime.lanes),
            memory=runtime.memory,
            clock=runtime.clock,
            find_offset=self._find_offset,
            connect=self.connect,
        )

    # Positions and commits.

    async def feed_positions(self, partitions: Sequence[TP]) -> Positions:
        """Return where to begin: the committed offset or, without one, where Faust says."""
        return cast("Positions", await self.call_thread(self._feed_positions, partitions))

    async def _feed_positions(self, partitions: Sequence[TP]) -> Positions:
        consumer = self._ensure_consumer()
        names = [KafkaTopicPartition(*partition) for partition in partitions]
        committed = await consumer._coordinator.fetch_committed_offsets(names)
        positions = {TopicPartition(*name): Stored(*committed[name]) for name in committed}
        if without := [name for name in names if name not in committed]:
            found = await self._find_offsets(without, self.app.conf.consumer_auto_offset_reset)
            positions |= {TopicPartition(*name): Stored(at, "") for name, at in found.items()}
        return positions

    async def cluster_id(self) -> str:
        """Return the id of the Kafka cluster; empty if it has none."""
        return str(await self.call_thread(self._cluster_id))

    async def _cluster_id(self) -> str:
        client = self._ensure_consumer()._client
        answer = await client.send(client.get_random_node(), MetadataRequest([]))
        return getattr(answer, "cluster_id", None) or ""

    async def commit_feeds(self, stored: Mapping[TopicPartition, Stored]) -> bool:
        """Commit; a failure is reported and tried again, never a crash."""
        return bool(await self.call_thread(self._commit_feeds, stored))

    async def _commit_feeds(self, stored: Mapping[TopicPartition, Stored]) -> bool:
        consumer = self._ensure_consumer()
        ours = consumer.assignment()
        wanted = {
            name: each for tp, each in stored.items() if (name := KafkaTopicPartition(*tp)) in ours
        }
        if not wanted:
            return False
        try:
            await self._commit_offsets(consumer, wanted)
        except (KafkaError, TimeoutError) as error:
            self.log.warning("commit failed, trying again: %s: %s", type(error).__name__, error)
            return False
        return True

    async def _commit_offsets(
        self, consumer: Any, wanted: Mapping[KafkaTopicPartition, Stored]
    ) -> None:
        """Commit offsets, with as much of their metadata as the broker takes."""
        while True:
            fitting = self._metadata_room.fit(wanted)
            try:
                await consumer.commit(
                    {name: OffsetAndMetadata(*each) for name, each in fitting.items()}
                )
                break
            except OffsetMetadataTooLargeError:
                if not self._metadata_room.refuse(fitting):
                    raise
        if line := self._metadata_room.report(wanted):
            self.log.warning("%s", line)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave feeds to flowguard's own state; Faust would report them as stuck."""
        if not self.runtime.declared.is_feed(tp.topic):
            super().verify_event_path(now, tp)


class FeedConsumer(Consumer):
    """Faust's consumer; partitions of feeds are read and committed by flowguard."""

    _thread: FeedConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._feeds_resumed: set[TP] = set()
        self._streams_due = False  # assigned, but their flow has not begun
        self._streams_resumed: set[TP] = set()  # of those, what will flow
        self._feed_positions: Positions | None = None
        super().__init__(*args, **kwargs)
        if not self.runtime.commit_interval_is_set:
            self.commit_interval = COMMIT_INTERVAL_S

    @property
    def runtime(self) -> FeedRuntime:
        """Return what drives the engine."""
        return cast("FeedRuntime", self.app.runtime)  # type: ignore[attr-defined]

    def _new_consumer_thread(self) -> FeedConsumerThread:
        return FeedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _split(self, tps: Iterable[TP]) -> tuple[set[TP], set[TP]]:
        """Return the plain partitions, and those of feeds."""
        plain: set[TP] = set()
        feeds: set[TP] = set()
        for tp in tps:
            (feeds if self.runtime.declared.is_feed(tp.topic) else plain).add(TP(*tp))
        return plain, feeds

    # Flow: Faust decides when feeds flow, and never fetches them itself.
    #
    # Faust resumes plain streams, then seeks their positions, then empties the queues of agents.
    # What they brought in between would come twice or be lost, so they wait for the end of it.

    def _set_active_tps(self, tps: set[TP]) -> set[TP]:
        return super()._set_active_tps(self._split(tps)[0])

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause fetching."""
        plain, feeds = self._split(tps)
        super().pause_partitions(plain)
        self._streams_resumed -= plain
        self._feeds_resumed -= feeds

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume fetching."""
        plain, feeds = self._split(tps)
        if self._streams_due:
            streams = {tp for tp in plain if not self._is_changelog_tp(tp)}
            self._streams_resumed |= streams
            plain -= streams
        super().resume_partitions(plain)
        self._feeds_resumed |= feeds

    def on_buffer_drop(self, tp: TP) -> None:
        """Let a partition flow again whose agent has room, unless it is paused for a rebalance."""
        if tp in self._paused_partitions:
            self._buffered_partitions.discard(tp)
        else:
            super().on_buffer_drop(tp)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let Faust prepare the new partitions."""
        self._streams_due = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offset."""
        await super().perform_seek()
        _, feeds = self._split(self.assignment())
        if feeds and not self.runtime.cluster:
            self.runtime.cluster = await self._thread.cluster_id()
        self._feed_positions = await self._thread.feed_positions(sorted(feeds)) if feeds else {}
        if feeds:
            await self.runtime.find_spilled(self._feed_positions)

    def resume_flow(self) -> None:
        """Let messages flow; for feeds this is when reading begins.

        Faust also calls this while tables recover, before it has sought any position.
        """
        super().resume_flow()
        if self._streams_resumed:
            streams, self._streams_resumed = self._streams_resumed, set()
            self._streams_due = False
            super().resume_partitions(streams & self.assignment())
        positions = {} if not self.assignment() else self._feed_positions
        self._feed_positions = None
        if positions is not None:
            self.runtime.assigned(
                {
                    name: stored
                    for name, stored in positions.items()
                    if TP(*name) in self._feeds_resumed
                }
            )

    # Rebalance and shutdown.

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish what is in flight, commit it, and only then let Faust forget it."""
        _, feeds = self._split(revoked)
        if feeds:
            await self.runtime.revoking(frozenset(TopicPartition(*tp) for tp in feeds))
            await self._commit_now()
        await super().on_partitions_revoked(revoked)

    async def _commit_now(self) -> None:
        """Commit a snapshot of its own; one that is under way may be too old."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.maybe_wait_for_commit_to_finish()
        await self.commit()

    async def wait_empty(self) -> None:
        """Wait for what is in flight, but no longer than the drain timeout, and commit."""
        await self.runtime.drain()
        await super().wait_empty()

    # Commits.

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        for name in self.runtime.engine.partitions:
            if topics is None or name in topics or name.topic in topics:
                yield TP(*name)

    def _new_offset(self, tp: TP) -> int | None:
        if not self.runtime.declared.is_feed(tp.topic):
            return super()._new_offset(tp)
        partition = self.runtime.engine.partitions.get(TopicPartition(*tp))
        return None if partition is None else partition.ledger.point.offset

    def _should_commit(self, tp: TP, offset: int) -> bool:
        """Commit a feed also if only its watermarks moved."""
        if not self.runtime.declared.is_feed(tp.topic):
            return bool(super()._should_commit(tp, offset))
        partition = self.runtime.engine.partitions[TopicPartition(*tp)]
        return self._committed_offset[tp] is None or partition.ledger.point != partition.committed

    async def _commit_offsets(
        self, offsets: Mapping[TP, int], start_new_transaction: bool = True
    ) -> bool:
        """Commit plain partitions as Faust does, and those of feeds on their own.

        Faust flushes the producer first. What a feed may commit is acknowledged already, so
        it waits for nobody else's output.
        """
        plain, feeds = self._split(offsets)
        done = not plain or await super()._commit_offsets(
            {tp: offsets[tp] for tp in plain}, start_new_transaction
        )
        return await self._commit_feeds(feeds) and bool(done)

    async def _commit_feeds(self, tps: set[TP]) -> bool:
        """Commit offsets and watermarks as they are now, in one snapshot."""
        points = self.runtime.commit_points(TopicPartition(*tp) for tp in tps)
        if not points:
            return True
        if not await self._thread.commit_feeds(self.runtime.stored(points)):
            return False
        offsets = {TP(*name): point.offset for name, point in points.items()}
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(dict(offsets))
        self.app.tables.on_commit(dict(offsets))
        self.runtime.committed(points)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave feeds to flowguard's own state."""
        if not self.runtime.declared.is_feed(tp.topic):
            super().verify_event_path(now, tp)
