"""The thread that the consumer of an app with feeds runs on.

It has aiokafka's consumer, the member of the group that it is, and flowguard's own `Fetcher`, which
reads the partitions of feeds: aiokafka pauses these for good the moment they are assigned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import aiokafka
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, OffsetMetadataTooLargeError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from flowguard.chunk import Chunk, TopicPartition
from flowguard.facts import Stored
from flowguard.intake.client import FeedClient
from flowguard.intake.connection import Connect, open_connection
from flowguard.intake.coordinator import FeedCoordinator, Replaced
from flowguard.intake.creation import create_patiently
from flowguard.intake.fetcher import Fetcher
from flowguard.intake.member_id import instance_id
from flowguard.intake.positions import EARLIEST, LATEST, find_offsets, store
from flowguard.intake.range_reader import RangeReader
from flowguard.intake.topic_lives import TopicLives
from flowguard.settle.metadata_room import MetadataRoom

if TYPE_CHECKING:
    from flowguard.faust_conf import FaustConf
    from flowguard.intake.consumer import FeedConsumer
    from flowguard.runtime import FeedRuntime

__all__ = ["FeedConsumerThread", "Positions"]

T = TypeVar("T")

Positions = dict[TopicPartition, Stored]

#: How soon the group notices that a worker is gone; Faust's are 60 and 3 s.
SESSION_MS: Final = 10_000
HEARTBEAT_MS: Final = 1_000

#: A broker knows a topic some milliseconds after it was created, seconds in a cluster in trouble.
KNOWN_WITHIN_S: Final = 30.0
ASK_EVERY_S: Final = 0.05

#: Errors of the group are looked for so often.
WATCH_EVERY_S: Final = 1.0


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
    _watch: asyncio.Task[None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._metadata_room = MetadataRoom()
        self.member: FeedCoordinator | None = None
        super().__init__(*args, **kwargs)

    @property
    def runtime(self) -> FeedRuntime:
        """Return what drives the engine."""
        return cast("FeedConsumer", self.consumer).runtime

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._subscription = FeedSubscription(is_feed=self.runtime.declared.is_feed)
        if not self.app.tables.changelog_topics:  # Faust's own is for tables
            consumer._partition_assignment_strategy = [RoundRobinPartitionAssignor]
        chosen = cast("FaustConf", self.app.conf).origins.keys()
        if not chosen & {"broker_session_timeout", "broker_heartbeat_interval"}:
            consumer._session_timeout_ms = SESSION_MS
        if "broker_heartbeat_interval" not in chosen:
            consumer._heartbeat_interval_ms = HEARTBEAT_MS
        FeedClient.adopt(consumer._client, should_stop=self._is_stopping)
        return consumer

    def _is_stopping(self) -> bool:
        return bool(self.should_stop or self.app.should_stop)

    async def on_start(self) -> None:
        """Start the consumer once a broker answers, be its member of the group, look after it."""
        await super().on_start()
        self._watch = self.thread_loop.create_task(self._watch_group())
        if self._ensure_consumer()._group_id is not None:
            self.member = self._new_member()

    def _new_member(self) -> FeedCoordinator:
        return FeedCoordinator.adopt(
            self._ensure_consumer()._coordinator,
            on_replaced=self._replaced_threadsafe,
            on_strangers=self._say_strangers,
        )

    async def _watch_group(self) -> None:
        """Let aiokafka go on after an error of the group.

        It stands still until somebody has asked for the error, which happens in calls that are
        not made for feeds.
        """
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            coordinator = self._ensure_consumer()._coordinator
            try:
                coordinator.check_errors()
            except KafkaError as error:
                if coordinator._coordination_task.done():  # for good: a restart is the way out
                    await self.crash(error)
                    return
                self.log.warning("the group refuses us, trying again: %s", error)

    def _replaced_threadsafe(self, instance_id: str) -> None:
        runtime = self.runtime
        runtime.loop.call_soon_threadsafe(runtime.membership.replaced, instance_id)

    def _say_strangers(self) -> None:
        self.log.error(
            "group %s has members that deal out partitions in another way, such as workers of "
            "plain Faust; this worker waits until they have left. Stop them", self.app.conf.id,
        )  # fmt: skip

    async def on_thread_stop(self) -> None:
        """Stop fetching before the connections close."""
        if self._watch is not None:
            self._watch.cancel()
        if self.fetcher is not None:
            await self.fetcher.stop()
        if self.member is not None and self.runtime.membership.leaving:
            self.member.leave_at_the_end()
        await super().on_thread_stop()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let the event loop take them in; ask for another rebalance if some are given back."""
        await super().on_partitions_assigned(assigned, generation_id)
        if self.member is not None:
            if cast("FeedConsumer", self.consumer).take_handed_over():
                self.member.request_rejoin()
            self.member.rejoin_unless_complete()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe once the changelogs of tables, which may just have been created, are known."""
        wanted = set(topics)
        if changelogs := wanted & set(self.app.tables.changelog_topics):
            await self.call_thread(self._until_known, wanted, changelogs)
        await self.call_thread(self._name_member, set(wanted))
        await super().subscribe(wanted)

    async def _name_member(self, topics: set[str]) -> None:
        """Choose the instance id, unless somebody gave Faust one."""
        name = self.runtime.membership.place.name
        if name is None or self.member is None or self.member.is_static:
            return
        client = self._ensure_consumer()._client
        topics |= self.runtime.declared.feeds.keys()  # Faust may subscribe to them later
        await client.set_topics(topics)
        counts = {topic: len(client.cluster.partitions_for_topic(topic) or ()) for topic in topics}
        # Faust's assignor gives an assignment to an address, and takes no other's.
        address = str(self.app.conf.canonical_url) if self.member.has_tables else ""
        self.member.rename(instance_id(name, counts, address=address))

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

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Create a topic of Faust's; where no broker takes it now, and Faust ends the app, wait."""
        await create_patiently(
            lambda: super(FeedConsumerThread, self).create_topic(topic, *args, **kwargs),
            topic,
            self._is_stopping,
        )

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
            begin_anew=runtime.begin_anew_threadsafe,
            lives=self._new_lives(),
            connect=self.connect,
        )

    def _new_lives(self) -> TopicLives | None:
        return TopicLives(self._ensure_consumer()._client)

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
        """Return where to begin: the committed offset or, without one, where Faust says.

        Without either, because nobody leads it, a partition is left out.
        """
        return cast("Positions", await self.call_thread(self._feed_positions, partitions))

    async def _feed_positions(self, partitions: Sequence[TP]) -> Positions:
        consumer = self._ensure_consumer()
        names = [KafkaTopicPartition(*partition) for partition in partitions]
        committed = await consumer._coordinator.fetch_committed_offsets(names)
        positions = {TopicPartition(*name): Stored(*committed[name]) for name in committed}
        if without := [name for name in names if name not in committed]:
            which = LATEST if self.app.conf.consumer_auto_offset_reset == "latest" else EARLIEST
            found = await find_offsets(consumer, without, which)
            positions |= {TopicPartition(*name): Stored(at, "") for name, at in found.items()}
        return positions

    async def later_positions(self, partitions: Sequence[TP]) -> Positions:
        """Return the same beside all else, of those that had none."""
        work = asyncio.run_coroutine_threadsafe(self._feed_positions(partitions), self.thread_loop)
        return cast("Positions", await asyncio.wrap_future(work))

    async def cluster_id(self) -> str:
        """Return the id of the Kafka cluster; empty if it has none."""
        return str(await self.call_thread(self._cluster_id))

    async def _cluster_id(self) -> str:
        client = self._ensure_consumer()._client
        while (answer := await client.ask_any(MetadataRequest([]))) is None:
            await client.force_metadata_update()  # what it says decides about watermarks
        return getattr(answer, "cluster_id", None) or ""

    async def commit_feeds(
        self, stored: Mapping[TopicPartition, Stored], *, handed_over: bool = False
    ) -> bool:
        """Commit; a failure is reported and tried again, never a crash.

        Args:
            handed_over: The last rebalance has taken these from us, and nobody has them yet;
                otherwise only what is ours is committed.
        """
        return bool(await self.call_thread(self._commit_feeds, stored, handed_over))

    async def _commit_feeds(
        self, stored: Mapping[TopicPartition, Stored], handed_over: bool = False
    ) -> bool:
        if self.member is None or not self.member.may_commit:
            return False
        wanted = {
            KafkaTopicPartition(*name): each
            for name, each in stored.items()
            if handed_over or name in self.member.owned
        }
        doubted = set()  # no topic gets the offsets of another one of its name
        if self.fetcher is not None:
            doubted = {
                name for name in wanted if not self.fetcher.is_certain(TopicPartition(*name))
            }
        wanted = {name: each for name, each in wanted.items() if name not in doubted}
        if not wanted:
            return False
        return await self._try(lambda: self._commit_offsets(wanted)) and not doubted

    async def _try(self, commit: Callable[[], Awaitable[bool]]) -> bool:
        """Commit; what fails is said, and tried again at the next interval."""
        try:
            return await commit()
        except Replaced:
            return False
        except (KafkaError, TimeoutError) as error:
            self.log.warning(
                "commit failed, trying again: %s: %s",
                type(error).__name__, str(error) or "no answer",
            )  # fmt: skip
            return False

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit plain partitions; where Faust ends the app, and its feeds, they wait."""
        ours = self.assignment()
        wanted = {
            KafkaTopicPartition(*tp): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in ours
        }
        self.tp_last_committed_at.update(
            dict.fromkeys((TP(*name) for name in wanted), self.thread_loop.time())
        )
        return await self._try(lambda: self._store(wanted))

    async def _store(self, offsets: Mapping[KafkaTopicPartition, OffsetAndMetadata]) -> bool:
        member = self.member
        assert member is not None, "without a group nothing is committed"
        return await store(
            self._ensure_consumer()._client, offsets, partial(member.commit, losses=member.losses)
        )

    async def _commit_offsets(self, wanted: Mapping[KafkaTopicPartition, Stored]) -> bool:
        """Commit offsets, with as much of their metadata as the broker takes."""
        while True:
            fitting = self._metadata_room.fit(wanted)
            try:
                done = await self._store(
                    {name: OffsetAndMetadata(*each) for name, each in fitting.items()}
                )
                break
            except OffsetMetadataTooLargeError:
                if not self._metadata_room.refuse(fitting):
                    raise
        if done and (line := self._metadata_room.report(wanted)):
            self.log.warning("%s", line)
        return done

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave feeds to flowguard's own state; Faust would report them as stuck."""
        if not self.runtime.declared.is_feed(tp.topic):
            super().verify_event_path(now, tp)
