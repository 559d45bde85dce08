"""The face of aiokafka that flowguard and Faust talk to, in front of a broker in memory.

Fetcher ──▶ MemoryFetch ──┐
BatchSender ▶ MemoryProduce ├──▶ Broker ──▶ Log
Faust ────▶ MemoryProducer ─┤
Faust ────▶ MemoryConsumer ─┘   (group, commits, plain topics: `group.py`)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, cast

import pyarrow as pa
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import RecordMetadata

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.chunk import TopicPartition
from flowguard.intake.connection import Awaited, FetchConnection
from flowguard.intake.fetch_request import FetchRequest
from flowguard.intake.produce_broker import Broker as SendingBroker
from flowguard.intake.produce_connection import Listener, ProduceConnection
from flowguard.intake.sender import BatchSender
from flowguard.testing.broker import NODE, Broker, produce_answer
from flowguard.testing.log import Log

__all__ = ["MemoryClient", "MemoryProducer", "MemorySender", "one_record", "open_fetch"]

CLUSTER_ID: Final = "harness"

#: aiokafka waits so long before it sends again what was refused.
RETRY_S: Final = 0.1

#: A batch of one record may have any size.
ONE_RECORD_BYTES: Final = 64 * 1024 * 1024


class MemoryCluster:
    """Metadata: one broker leads everything."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Return the numbers of its partitions; a topic that is asked for exists."""
        return set(range(len(self._log.topic(topic))))

    available_partitions_for_topic = partitions_for_topic

    def leader_for_partition(self, name: Any) -> int:
        """Return the one broker."""
        return NODE

    def broker_metadata(self, node: int) -> Any:
        """Return its address, which nobody connects to."""
        return SimpleNamespace(nodeId=node, host="harness", port=9092, rack=None)

    def topics(self) -> set[str]:
        """Return the topics there are."""
        return set(self._log.topics)


class MemoryClient:
    """aiokafka's client as far as flowguard and Faust use it."""

    api_version = (3, 0, 0)

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.life = broker.life
        self.cluster = MemoryCluster(broker.log)
        self._ids = itertools.count(1000 * (broker.life + 1))

    @property
    def alive(self) -> bool:
        """Tell whether its worker is the one that lives."""
        return self.life == self.broker.life

    def get_random_node(self) -> int:
        """Return the one broker."""
        return NODE

    def add_topic(self, topic: str) -> Awaitable[bool]:
        """Create the topic if it is not there."""
        self.broker.log.topic(topic)
        return self._done(True)

    def set_topics(self, topics: Iterable[str]) -> Awaitable[bool]:
        """Create the topics that are not there."""
        for topic in sorted(topics):
            self.broker.log.topic(topic)
        return self._done(True)

    def force_metadata_update(self) -> Awaitable[bool]:
        """Nothing to do: metadata is always right."""
        return self._done(True)

    def _done(self, value: Any) -> asyncio.Future[Any]:
        future = self.broker.loop.create_future()
        future.set_result(value)
        return future

    async def fetch_all_metadata(self) -> MemoryCluster:
        """Return the metadata of all topics."""
        return self.cluster

    async def send(self, node: int, request: Any) -> Any:
        """Answer a request for a producer id or for the cluster's id."""
        await self.broker.take_its_time()
        return SimpleNamespace(
            error_code=0, producer_id=next(self._ids), producer_epoch=0, cluster_id=CLUSTER_ID
        )

    async def ask_any(self, request: Any) -> Any:
        """Answer as any broker does."""
        return await self.send(NODE, request)

    async def close(self) -> None:
        """Nothing to close."""


# Fetching.


class MemoryFetch(FetchConnection):
    """A connection of the fetcher's to the broker in memory."""

    def __init__(self, client: MemoryClient) -> None:
        self._memory_client = client
        self._ids = itertools.count(1)
        self._lost: BaseException | None = None
        self._answers: set[asyncio.Future[memoryview]] = set()

    @property
    def alive(self) -> bool:
        """Tell whether a request can be sent."""
        return self._lost is None and self._memory_client.alive

    @property
    def buffer_bytes(self) -> int:
        """Return nothing: what is received is the log's own bytes."""
        return 0

    def __del__(self, *args: Any) -> None:
        """Nothing to close."""

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Let what is under way fail."""
        self._lost = self._lost or KafkaConnectionError("the connection is closed")
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(self._lost)
                answer.exception()

    def send_fetch(self, request: FetchRequest) -> Awaited:
        """Send a request."""
        if not self.alive:
            raise KafkaConnectionError("no connection to the harness")
        broker = self._memory_client.broker
        answer: asyncio.Future[memoryview] = broker.loop.create_future()
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

        async def serve() -> None:
            body = await broker.fetched(request)
            if not answer.done():
                answer.set_result(memoryview(body))

        broker.serve(self, serve)
        return Awaited(next(self._ids), answer)

    async def receive(self, awaited: Awaited, *, timeout_s: float) -> memoryview:
        """Return the body of a response."""
        async with asyncio.timeout(timeout_s):
            return await awaited.answer


async def open_fetch(
    client: Any, node: int, *, buffer_bytes: Callable[[], int], memory_bytes: int
) -> FetchConnection:
    """Connect to the broker in memory, to fetch from it."""
    await client.broker.take_its_time()
    return MemoryFetch(client)


# Sending.


class MemoryProduce(ProduceConnection):
    """A connection of the sender's to the broker in memory."""

    def __init__(self, client: MemoryClient, listener: Listener) -> None:
        self._memory_client = client
        self._memory_listener = listener
        self._ids = itertools.count(1)
        self._gone = False

    @property
    def alive(self) -> bool:
        """Tell whether a request can be sent."""
        return not self._gone and self._memory_client.alive

    @property
    def full(self) -> bool:
        """Tell that there is always room."""
        return False

    def __del__(self, *args: Any) -> None:
        """Nothing to close."""

    def abandon(self) -> None:
        """Close it; nobody is told."""
        self._gone = True

    def send_batches(self, batches: Mapping[TopicPartition, RecordBatch]) -> int:
        """Send a request with one batch a partition; return its correlation id."""
        correlation_id = next(self._ids)
        copied = {name: bytes(memoryview(batch)) for name, batch in batches.items()}
        broker = self._memory_client.broker

        def answered(errors: Mapping[TopicPartition, int]) -> None:
            if self.alive:
                answer = produce_answer(correlation_id, errors.items())
                self._memory_listener.answered(memoryview(answer))

        if self.alive:
            broker.produce(self, copied, answered)
        return correlation_id


class MemorySender(BatchSender):
    """flowguard's sender, over connections to the broker in memory."""

    async def _connected(self, broker: SendingBroker) -> ProduceConnection:
        return MemoryProduce(self.client, broker)


class MemoryProducer:
    """aiokafka's producer as far as Faust uses it: one record at a time."""

    def __init__(self, broker: Broker) -> None:
        self.client = MemoryClient(broker)
        self._message_accumulator = SimpleNamespace(_batches={}, _pending_batches=set())
        self._unsent: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Wait for what is under way."""
        await self.flush()

    async def flush(self) -> None:
        """Wait for what is under way."""
        if self._unsent:
            await asyncio.wait(self._unsent)

    async def partitions_for(self, topic: str) -> set[int]:
        """Return the numbers of a topic's partitions."""
        return self.client.cluster.partitions_for_topic(topic)

    def _partition(
        self, topic: str, partition: int | None, key: Any, value: Any,
        serialized_key: bytes | None, serialized_value: bytes | None,
    ) -> int:  # fmt: skip
        if partition is not None:
            return partition
        count = len(self.client.broker.log.topic(topic))
        keys = pa.array([serialized_key], pa.binary())
        return int(partitions_of(keys, count, self.client.broker.chance.randrange(count))[0])

    async def send(
        self, topic: str, value: bytes | None = None, key: bytes | None = None,
        partition: int | None = None, timestamp_ms: int | None = None, headers: Any = None,
    ) -> asyncio.Future[RecordMetadata]:  # fmt: skip
        """Send one record; what is returned is done when it is acknowledged."""
        broker = self.client.broker
        number = self._partition(topic, partition, None, None, key, value)
        if timestamp_ms is None:
            timestamp_ms = cast("Any", broker.loop).clock.epoch_ms()
        batch = one_record(key, value, timestamp_ms, headers or ())
        future: asyncio.Future[RecordMetadata] = broker.loop.create_future()
        self._unsent.add(future)
        future.add_done_callback(self._unsent.discard)
        name = TopicPartition(topic, number)

        def answered(errors: Mapping[TopicPartition, int]) -> None:
            if future.done():
                return
            if errors[name]:  # as aiokafka tries again
                broker.loop.call_later(RETRY_S, send)
                return
            offset = broker.log.partition(name).end - 1
            future.set_result(RecordMetadata(topic, number, name, offset, timestamp_ms, 0, 0))

        def send() -> None:
            if self.client.alive:
                broker.produce(self, {name: batch}, answered)

        send()
        return future


def one_record(
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int,
    headers: Iterable[tuple[str, bytes | None]] = (),
) -> bytes:
    """Return a record batch of one record, as it is on the wire."""
    rows = Rows(
        pa.array([key], pa.binary()),
        pa.array([value], pa.binary()),
        pa.array([0], pa.int32()),
        timestamp_ms,
        wire.encode_headers([(name.encode(), each) for name, each in headers]),
        1,
    )
    [(_, batch)] = rows.encode(ONE_RECORD_BYTES)
    batch.close()
    batch.seal()
    return bytes(memoryview(batch))
