"""What a partition's batches keep through refusals and lost connections: their order, once each.

The broker of the model judges sequences as Kafka does: one that it does not know may begin
anywhere, a batch among the last five of a producer is not written again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.chunk import TopicPartition
from flowguard.intake.lineup import Lineup
from flowguard.intake.parcel import Parcel, Send, Session

OUT = TopicPartition("out", 0)
NOT_LEADER, TOO_LARGE, OUT_OF_ORDER = 6, 10, 45
REMEMBERED = IN_FLIGHT_MAX = 5
BYTES_MAX = 200
OPEN_BYTES = 1000

#: Alone in a batch it is beyond the limit.
LARGE = 150


@dataclass
class Broker:
    """The log of one partition."""

    log: list[int] = field(default_factory=list)
    known: dict[int, deque[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED))
    )

    def append(self, wire: bytes) -> int:
        batch = DefaultRecordBatch(wire)
        values = [int.from_bytes(each.value[:4], "big") for each in batch]
        first, last = batch.base_sequence, batch.base_sequence + len(values) - 1
        known = self.known[batch.producer_id]
        if len(wire) > BYTES_MAX:
            return TOO_LARGE
        if (first, last) in known:
            return 0
        if known and first != known[-1][1] + 1:
            return OUT_OF_ORDER
        known.append((first, last))
        self.log += values
        return 0


class Sender:
    """Does by hand what the sender does in turns of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lineup = Lineup(OUT)
        self.broker = Broker()
        self.under_way: deque[tuple[Parcel, bytes]] = deque()
        self.sends: list[tuple[list[int], list[int], Send]] = []  # values, sizes
        self._loop = loop
        self._ids = 0
        self._values = 0

    def send(self, sizes: list[int], *, join: bool) -> None:
        values = list(range(self._values, self._values + len(sizes)))
        self._values += len(sizes)
        rows = rows_of(values, sizes)
        waiting = self.lineup.waiting
        if not (join and waiting and not waiting[-1].batch.closed):
            waiting.append(Parcel(RecordBatch(OPEN_BYTES), deadline_s=1e9))
        send, start = Send(self._loop.create_future(), parts=0), 0
        self.sends.append((values, sizes, send))
        while start < len(sizes):
            taken = rows.append_to(waiting[-1].batch, start, len(sizes))
            if taken > start:
                waiting[-1].add(taken - start, send)
                send.parts += 1
            if taken < len(sizes):
                waiting.append(Parcel(RecordBatch(OPEN_BYTES), deadline_s=1e9))
            start = taken

    def go(self) -> None:
        lineup = self.lineup
        if not lineup.waiting or lineup.broken or not lineup.has_room(0.0):
            return
        if len(self.under_way) == IN_FLIGHT_MAX:
            return
        if lineup.session is None:
            self._ids += 1
            lineup.begin(Session(self._ids, 0))
        lineup.seal_first(None, 0.0)
        parcel = lineup.send_first(0)
        self.under_way.append((parcel, bytes(memoryview(parcel.batch))))

    def answer(self, *, not_leader: bool = False) -> None:
        if self.under_way:
            parcel, wire = self.under_way.popleft()
            self._answered(parcel, NOT_LEADER if not_leader else self.broker.append(wire))

    def lose(self, written: int) -> None:
        """Lose the connection when the broker has worked on so many of what was under way."""
        lost, self.under_way = self.under_way, deque()
        for place, (parcel, wire) in enumerate(lost):
            if place < written:
                self.broker.append(wire)
            self._answered(parcel, ConnectionError())

    def _answered(self, parcel: Parcel, refused: int | BaseException) -> None:
        lineup = self.lineup
        if lineup.answered(parcel, refused, 0.0) and lineup.put_back(0.0, 0.0):
            lineup.session = None


def rows_of(values: list[int], sizes: list[int]) -> Rows:
    return Rows(
        pa.nulls(len(values), pa.binary()),
        pa.array(
            [
                value.to_bytes(4, "big") + bytes(size)
                for value, size in zip(values, sizes, strict=True)
            ],
            pa.binary(),
        ),
        pa.array([0] * len(values), pa.int32()),
        7,
        b"\0",
        1,
    )


@pytest.fixture(scope="module")
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


sizes = st.lists(st.sampled_from([0, 0, 10, 40, LARGE]), min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), sizes, st.booleans()),
        st.tuples(st.just("send"), sizes, st.just(False)),
        st.tuples(st.just("go"), st.integers(1, IN_FLIGHT_MAX)),
        st.tuples(st.just("answer"), st.booleans(), st.integers(1, IN_FLIGHT_MAX)),
        st.tuples(st.just("lose"), st.integers(0, IN_FLIGHT_MAX)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(steps=steps)
def test_records_are_written_in_their_order_and_once_whatever_is_refused_or_lost(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[Any, ...]]
) -> None:
    sender = Sender(loop)
    for step in steps:
        match step:
            case ("send", sizes, join):
                sender.send(sizes, join=join)
            case ("go", times):
                for _ in range(times):
                    sender.go()
            case ("answer", first_is_not_leader, times):
                sender.answer(not_leader=first_is_not_leader)
                for _ in range(times - 1):
                    sender.answer()
            case ("lose", written):
                sender.lose(written)
    while sender.lineup.waiting or sender.lineup.under_way:
        sender.go()
        sender.answer()

    log = sender.broker.log
    assert log == sorted(set(log)), "a record is written twice, or before one that came first"
    written = set(log)
    for values, sizes, send in sender.sends:
        too_large = {value for value, size in zip(values, sizes, strict=True) if size == LARGE}
        assert send.done.done()
        assert bool(too_large) == send.failed == (send.done.exception() is not None)
        assert not too_large & written
        assert send.failed or written.issuperset(values)
