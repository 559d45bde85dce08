"""Sending frames: their order, and how much may be unacknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from flowguard.agents.delivered import current
from flowguard.control.memory import MemoryBudget
from flowguard.errors import ConfigError, SettleError
from flowguard.intake.codec.raw import RawCodec
from flowguard.settle.egress import Outgoing
from flowguard.settle.service import EgressService, LetterService, OutputRoom, headers_of

KIB = 1024
MEMORY = 1024 * KIB  # so 128 KiB are for output


class FakeProducer:
    """A producer whose broker acknowledges when the test says so."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.ready = True

    async def partition_count(self, topic: str) -> int:
        return 4

    def encode(self, outgoing: Outgoing) -> Outgoing:
        return outgoing

    def partition_count_now(self, topic: str) -> int | None:
        return 4 if self.ready else None

    async def send_encoded(
        self, topic: str, encoded: Outgoing, begun: Callable[[], None] = lambda: None
    ) -> None:
        written = self.write(topic, encoded)
        begun()
        await written

    def write(self, topic: str, encoded: Outgoing) -> asyncio.Future[None]:
        self.sent.append(encoded.values.to_pylist())
        return asyncio.ensure_future(self.acknowledge())

    async def acknowledge(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class FakeApp:
    """As much of an app as egress needs."""

    def __init__(self) -> None:
        self.runtime = self
        self.memory = MemoryBudget(MEMORY)
        self.producer = FakeProducer()
        self.egress = EgressService(self)  # type: ignore[arg-type]

    async def maybe_start_producer(self) -> FakeProducer:
        return self.producer


class FakeBatch:
    """As much of a batch as an output inherits."""

    oldest_timestamp_ms = 1_700_000_000_000
    lane = SimpleNamespace(name="rt")
    degraded = False
    traceparent: bytes | None = None


class Sink:
    codec = RawCodec()

    def get_topic_name(self) -> str:
        return "out"


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def frame(*values: bytes) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Binary})


def test_an_output_names_the_lane_and_the_trace_of_its_batch():
    batch = FakeBatch()
    source: Any = SimpleNamespace(batch=batch)

    assert headers_of(None) == []
    assert headers_of(source) == [("fg-lane", b"rt")]
    batch.traceparent = b"00-1-1-01"
    assert headers_of(source) == [("fg-lane", b"rt"), ("traceparent", b"00-1-1-01")]


async def test_frames_and_tables_become_the_same_records() -> None:
    app = FakeApp()
    app.producer.gate.set()

    assert await app.egress.send(Sink(), frame(b"a", b"b"), key_by=None) == 2
    assert await app.egress.send(Sink(), pa.table({"value": [b"a", b"b"]}), key_by=None) == 2

    assert app.producer.sent == [[b"a", b"b"], [b"a", b"b"]]


async def test_frames_of_one_topic_are_sent_in_order_however_long_each_takes_to_encode() -> None:
    app = FakeApp()
    app.producer.gate.set()
    large = frame(*[b"large"] * 1000)  # encoded on another thread

    await asyncio.gather(
        app.egress.send(Sink(), large, key_by=None),
        app.egress.send(Sink(), frame(b"x"), key_by=None),
    )

    assert [len(each) for each in app.producer.sent] == [1000, 1]


async def test_few_records_are_written_before_anything_else_runs() -> None:
    app = FakeApp()

    app.egress.begin(Sink(), frame(b"urgent"), key_by=None)

    assert app.producer.sent == [[b"urgent"]]


async def test_few_records_wait_their_turn_behind_many() -> None:
    app = FakeApp()
    app.producer.gate.set()
    first = app.egress.begin(Sink(), frame(*[b"large"] * 1000), key_by=None)
    second = app.egress.begin(Sink(), frame(b"x"), key_by=None)
    assert app.producer.sent == []

    await asyncio.gather(first, second)

    assert [len(each) for each in app.producer.sent] == [1000, 1]


async def test_few_records_wait_until_the_producer_is_ready() -> None:
    app = FakeApp()
    app.producer.ready = False
    app.producer.gate.set()
    sending = app.egress.begin(Sink(), frame(b"x"), key_by=None)
    assert app.producer.sent == []

    await sending

    assert app.producer.sent == [[b"x"]]


async def test_what_is_sent_holds_the_current_batch_even_if_it_cannot_be_sent() -> None:
    held: list[asyncio.Future[None]] = []
    app = FakeApp()
    delivered = SimpleNamespace(open=True, hold=held.append, batch=FakeBatch())
    token = current.set(delivered)  # type: ignore[arg-type]
    try:
        app.egress.begin(Sink(), frame(b"x"), key_by=None)
        app.egress.begin(Sink(), frame(b"x"), key_by="nothing")
    finally:
        current.reset(token)

    app.producer.gate.set()
    outcomes = await asyncio.gather(*held, return_exceptions=True)

    assert outcomes[0] is None
    assert isinstance(outcomes[1], ConfigError)


async def test_output_counts_until_it_is_acknowledged() -> None:
    app = FakeApp()
    sending = asyncio.create_task(app.egress.send(Sink(), frame(b"x" * 1000), key_by=None))
    await settle()

    assert app.memory.output_bytes >= 1000
    assert app.memory.used_bytes == app.memory.output_bytes
    app.producer.gate.set()
    await sending
    await settle()
    assert app.memory.output_bytes == 0


async def test_output_that_failed_counts_no_longer() -> None:
    app = FakeApp()
    app.producer.error = SettleError("no")
    app.producer.gate.set()

    with pytest.raises(SettleError):
        await app.egress.send(Sink(), frame(b"x"), key_by=None)
    with pytest.raises(ConfigError):
        await app.egress.send(Sink(), frame(b"x"), key_by="nothing")
    await settle()

    assert app.memory.output_bytes == 0


async def test_what_exceeds_the_share_waits_in_order_and_goes_once_there_is_room() -> None:
    app = FakeApp()
    sends = [
        asyncio.create_task(app.egress.send(Sink(), frame(bytes([n]) * 50 * KIB), key_by=None))
        for n in range(5)
    ]
    await settle()
    assert [each[0][:1] for each in app.producer.sent] == [b"\x00", b"\x01"]

    app.producer.gate.set()
    await asyncio.gather(*sends)

    assert [each[0][:1] for each in app.producer.sent] == [bytes([n]) for n in range(5)]
    await settle()
    assert app.memory.output_bytes == 0


async def test_a_frame_larger_than_the_share_goes_alone() -> None:
    app = FakeApp()
    app.producer.gate.set()
    sends = [
        app.egress.send(Sink(), frame(bytes([n]) * size), key_by=None)
        for n, size in enumerate([10, 500 * KIB, 10])
    ]

    assert await asyncio.gather(*sends) == [1, 1, 1]


async def test_a_send_that_is_cancelled_goes_on_and_gives_its_room_back() -> None:
    app = FakeApp()
    sending = asyncio.create_task(app.egress.send(Sink(), frame(b"x"), key_by=None))
    await settle()
    sending.cancel()
    app.producer.gate.set()
    await settle()

    assert app.producer.sent == [[b"x"]]
    assert app.memory.output_bytes == 0


async def test_whoever_asks_waits_while_the_share_is_full() -> None:
    app = FakeApp()
    sending = asyncio.create_task(app.egress.send(Sink(), frame(b"x" * 200 * KIB), key_by=None))
    await settle()
    waiting = asyncio.create_task(app.egress.wait_for_room())
    await settle()
    assert not waiting.done()

    app.producer.gate.set()
    await sending
    await asyncio.wait_for(waiting, 5)


async def test_there_is_room_as_long_as_the_share_is_not_full() -> None:
    room = OutputRoom(MemoryBudget(MEMORY))
    room.enter(100)

    await asyncio.wait_for(room.wait(), 5)


async def test_output_that_leaves_before_it_was_granted_lets_the_next_one_in() -> None:
    memory = MemoryBudget(MEMORY)
    room = OutputRoom(memory)
    first, second, third = (room.enter(100 * KIB) for _ in range(3))

    second.leave()
    first.leave()

    assert third.granted.done()
    third.leave()
    assert memory.output_bytes == 0


async def test_dead_letters_count_as_output_too() -> None:
    app = FakeApp()
    outgoing = Outgoing(
        keys=pa.nulls(1, pa.binary()),
        values=pa.array([b"x" * 1000]),
        partitions=pa.array([0], pa.int32()),
        timestamps=pa.array([0], pa.int64()),
        partition_count=4,
    )
    writing = asyncio.create_task(LetterService(app).send_columns("dlq", outgoing))  # type: ignore[arg-type]
    await settle()

    assert app.memory.output_bytes >= 1000
    app.producer.gate.set()
    await writing
    assert app.memory.output_bytes == 0
