"""The consumer group of a harness, and Faust's consumer without a thread in front of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata
from faust.assignor.client_assignment import ClientAssignment
from faust.types import TP

from flowguard.chunk import TopicPartition
from flowguard.facts import Stored
from flowguard.intake.connection import Connect
from flowguard.intake.consumer import FeedConsumer
from flowguard.intake.consumer_thread import FeedConsumerThread
from flowguard.intake.topic_lives import TopicLives
from flowguard.testing.broker import Broker
from flowguard.testing.client import MemoryClient, open_fetch

__all__ = ["MemoryConsumer", "VirtualConsumer"]

RECORDS_MAX = 500

#: What the beginning of a log is called in requests.
EARLIEST = -2


class MemoryConsumer:
    """aiokafka's consumer as far as Faust and flowguard use it: the only member of its group."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._client = MemoryClient(broker)
        self._closed = False
        self._max_poll_records = RECORDS_MAX
        self._positions: dict[KafkaTopicPartition, int] = {}
        self._assigned: frozenset[KafkaTopicPartition] = frozenset()
        self._away: frozenset[KafkaTopicPartition] = frozenset()
        self._topics: frozenset[str] = frozenset()
        self._listener: Any = None
        self._joining = asyncio.Lock()
        self._fetcher = SimpleNamespace(
            _closed=False,
            fetched_records=self._fetched_records,
            _retrieve_offsets=self._retrieve_offsets,
            _subscriptions=SimpleNamespace(fetch_context=contextlib.nullcontext),
        )
        self._subscription = self._fetcher._subscriptions
        self._coordinator = SimpleNamespace(
            generation=0,
            member_id="harness",
            coordinator_id=1,
            fetch_committed_offsets=self._committed,
            close=self._client.close,
            _metadata_snapshot=Counts(broker),
            check_errors=lambda: None,
        )
        self._group_id = "harness"
        self.on_assignment: Callable[[Iterable[KafkaTopicPartition]], None] = lambda _: None

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Leave the group."""
        self._closed = self._fetcher._closed = True

    # The group.

    def subscribe(self, topics: Iterable[str], listener: Any = None) -> None:
        """Read these topics from the next rebalance on."""
        self._topics = frozenset(topics)
        self._listener = listener
        self._broker.serve("group", self.rebalance)

    async def rebalance(self, away: Iterable[TopicPartition] = ()) -> None:
        """Take all partitions away, as Faust's protocol does, and give back all but some.

        Args:
            away: Partitions that another member has from now on.
        """
        async with self._joining:
            await self._broker.take_its_time()
            await self._listener.on_partitions_revoked(sorted(self._assigned))
            log = self._broker.log
            self._away = frozenset(KafkaTopicPartition(*name) for name in away)
            self._assigned = (
                frozenset(
                    KafkaTopicPartition(topic, number)
                    for topic in self._topics
                    for number in range(len(log.topic(topic)))
                )
                - self._away
            )
            self._positions = {}
            self._coordinator.generation += 1
            self.on_assignment(sorted(self._assigned))
            await self._broker.take_its_time()
            await self._listener.on_partitions_assigned(sorted(self._assigned))

    def assignment(self) -> set[KafkaTopicPartition]:
        """Return the partitions that are ours."""
        return set(self._assigned)

    # Offsets.

    async def _committed(
        self, names: Sequence[KafkaTopicPartition]
    ) -> dict[KafkaTopicPartition, OffsetAndMetadata]:
        await self._broker.take_its_time()
        stored = self._broker.log.committed
        return {
            name: OffsetAndMetadata(*stored[TopicPartition(*name)])
            for name in names
            if TopicPartition(*name) in stored
        }

    async def commit(self, offsets: Mapping[KafkaTopicPartition, Any]) -> None:
        """Store offsets."""
        await self._broker.take_its_time()
        if not self._client.alive:
            raise KafkaConnectionError("the worker is dead")
        for name, each in offsets.items():
            self._broker.log.committed[TopicPartition(*name)] = Stored(*each)

    async def _retrieve_offsets(self, asked: Mapping[Any, int], _: int) -> dict[Any, Any]:
        await self._broker.take_its_time()
        return {
            name: (0 if which == EARLIEST else self.highwater(name), None)
            for name, which in asked.items()
        }

    async def seek_to_committed(self) -> dict[KafkaTopicPartition, int]:
        """Go to what is committed, or to where a new group begins."""
        found = await self._committed(sorted(self._assigned))
        for name in self._assigned:
            self._positions[name] = found[name].offset if name in found else 0
        return {name: each.offset for name, each in found.items()}

    def seek(self, name: Any, offset: int) -> None:
        """Go on at an offset."""
        self._positions[KafkaTopicPartition(*name)] = offset

    async def seek_to_beginning(self, *names: Any) -> None:
        """Go on at the first offset."""
        for name in names:
            self.seek(name, 0)

    async def position(self, name: Any) -> int:
        """Return the next offset to read."""
        name = KafkaTopicPartition(*name)
        if name not in self._positions:
            found = await self._committed([name])
            self._positions.setdefault(name, found[name].offset if name in found else 0)
        return self._positions[name]

    async def beginning_offsets(self, names: Iterable[Any]) -> dict[Any, int]:
        """Return the first offset of each partition."""
        await self._broker.take_its_time()
        return dict.fromkeys(names, 0)

    async def end_offsets(self, names: Iterable[Any]) -> dict[Any, int]:
        """Return the offset after the last record of each partition."""
        await self._broker.take_its_time()
        return {name: self.highwater(name) for name in names}

    def highwater(self, name: Any) -> int:
        """Return the offset after the last record."""
        return self._broker.log.partition(TopicPartition(*name)).end

    last_stable_offset = highwater

    # Plain topics.

    async def _fetched_records(
        self,
        active: Any,
        timeout: float | None = None,  # noqa: ASYNC109  Faust names it
        max_records: int | None = None,
    ) -> dict[Any, list[ConsumerRecord]]:
        loop = self._broker.loop
        until_s = loop.time() + (timeout or 0.0)
        await self._broker.take_its_time()
        while True:
            if found := self._poll(active, max_records or RECORDS_MAX):
                return found
            left_s = until_s - loop.time()
            if left_s <= 0:
                return {}
            await asyncio.wait([self._broker.log.changed(loop)], timeout=left_s)

    def _poll(self, active: Any, left: int) -> dict[Any, list[ConsumerRecord]]:
        found: dict[Any, list[ConsumerRecord]] = {}
        for name in sorted(self._assigned & self._positions.keys()):
            if left and (active is None or name in active):
                records = list(self._records(name, left))
                if records:
                    found[name] = records
                    left -= len(records)
                    self._positions[name] = records[-1].offset + 1
        return found

    def _records(self, name: KafkaTopicPartition, most: int) -> Iterator[ConsumerRecord]:
        log = self._broker.log.partition(TopicPartition(*name))
        for record, _ in zip(log.records(self._positions[name]), range(most), strict=False):
            yield ConsumerRecord(
                name.topic, name.partition, record.offset, record.timestamp, 0,
                record.key, record.value, None,
                len(record.key or b""), len(record.value or b""), record.headers,
            )  # fmt: skip


class MemoryMember:
    """The member of the group that a worker is: the only one, never forgotten.

    Each rebalance takes everything away, as Faust's protocol does.
    """

    is_static = has_tables = fenced = keeps = kept = overdue = lost = False
    may_commit = True
    losses = 0

    def __init__(self, consumer: MemoryConsumer) -> None:
        self._consumer = consumer

    @property
    def owned(self) -> frozenset[tuple[str, int]]:
        """Return the partitions that are ours."""
        return frozenset((name.topic, name.partition) for name in self._consumer.assignment())

    async def commit(self, offsets: Mapping[KafkaTopicPartition, Any], *, losses: int) -> bool:
        """Store offsets."""
        await self._consumer.commit(offsets)
        return True

    def request_rejoin(self) -> None:
        """Nobody waits for another rebalance."""

    def rejoin_unless_complete(self) -> None:
        """Every assignment is complete."""

    def leave_at_the_end(self) -> None:
        """Nobody else is there to be told."""


class Counts:
    """Topic → number of partitions, as the coordinator's snapshot of metadata has them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def get(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return len(self._broker.log.topic(topic))


class NoThread:
    """What Faust starts instead of a thread: a task on the same loop."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def start(self) -> None:
        """Run the service beside everything else."""
        self._task = self._service.thread_loop.create_task(self._service._serve())

    def stop(self) -> None:
        """Nothing to join."""


class VirtualConsumerThread(FeedConsumerThread):
    """The consumer's thread as a task, in front of the broker in memory."""

    Worker = cast("Any", NoThread)
    connect: ClassVar[Connect] = staticmethod(open_fetch)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, thread_loop=kwargs["loop"], **kwargs)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = MemoryConsumer(cast("VirtualConsumer", self.consumer).broker)
        consumer.on_assignment = self._tell_assignor
        return consumer

    def _new_member(self) -> Any:
        return MemoryMember(cast("MemoryConsumer", self._ensure_consumer()))

    def _new_lives(self) -> TopicLives | None:
        return None  # a topic is never made anew

    async def _name_member(self, topics: set[str]) -> None:
        """Stay without a name."""

    def _tell_assignor(self, assigned: Iterable[Any]) -> None:
        """Tell Faust's assignor what is ours: tables ask it."""
        actives: dict[str, list[int]] = {}
        for name in assigned:
            actives.setdefault(name.topic, []).append(name.partition)
        assignor: Any = self.app.assignor
        assignor._assignment = ClientAssignment(actives=actives, standbys={})
        assignor._active_tps = assignor._assignment.active_tps

    async def _gather_remaining_tasks(self) -> None:
        """Leave the tasks of the loop alone: it is everybody's."""

    async def create_topic(self, topic: str, partitions: int, *args: Any, **kwargs: Any) -> None:
        """Create a topic."""
        cast("VirtualConsumer", self.consumer).broker.log.topic(topic, partitions)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing can be stuck that a test would not see."""

    def verify_recovery_event_path(self, now: float, tp: TP) -> None:
        """Nothing can be stuck that a test would not see."""

    def close(self) -> None:
        """Nothing to close."""


class VirtualConsumer(FeedConsumer):
    """The consumer of flowguard, without a thread, in front of a broker in memory."""

    broker: Broker

    def _new_consumer_thread(self) -> FeedConsumerThread:
        return VirtualConsumerThread(self, loop=self.loop, beacon=self.beacon)
