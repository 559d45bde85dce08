"""The log in memory keeps what Kafka keeps, and the watch sees what is missing from it."""

from __future__ import annotations

import asyncio
import struct

import pytest

from flowguard.chunk import Slice, TopicPartition
from flowguard.commands import Cut
from flowguard.facts import Stored
from flowguard.testing.client import one_record
from flowguard.testing.log import OK, OUT_OF_ORDER_SEQUENCE, Log
from flowguard.testing.watch import Watch
from tests.builders import chunk_of, slice_of

ORDERS = TopicPartition("orders", 0)
OTHER = TopicPartition("orders", 1)


def batch(value: bytes, *, producer: int = -1, sequence: int = -1) -> bytes:
    """Return a wire batch of one record, as an idempotent producer numbers it."""
    wire = bytearray(one_record(b"k", value, 1, [("h", b"x")]))
    struct.pack_into(">qhi", wire, 43, producer, 0, sequence)
    return bytes(wire)


def filled(count: int) -> Log:
    """Return a log with so many records in one of two partitions."""
    log = Log({"orders": 2}, 4)
    for number in range(count):
        log.append(ORDERS, batch(b"%d" % number))
    return log


def cut_of(first: int, count: int, batch_id: int = 1) -> Cut:
    """Return a batch of these offsets."""
    piece: Slice = slice_of(chunk_of(list(range(first, first + count)), partition=ORDERS))
    return Cut(batch_id, "agent", 0, (piece,))


def test_records_have_offsets_in_the_order_of_appending() -> None:
    log = filled(3)
    log.append(OTHER, batch(b"3"))
    rows = log.rows("orders")
    assert [(row["partition"], row["offset"], row["value"]) for row in rows] == [
        (0, 0, b"0"), (0, 1, b"1"), (0, 2, b"2"), (1, 0, b"3"),
    ]  # fmt: skip
    assert rows[0]["headers"] == (("h", b"x"),)
    assert len(log.topic("orders")) == 2 and len(log.topic("new")) == 4


def test_what_is_sent_again_is_there_once() -> None:
    log = filled(0)
    for _ in range(2):
        assert log.append(ORDERS, batch(b"a", producer=7, sequence=0)) == OK
    assert log.partition(ORDERS).end == 1


def test_what_comes_after_a_refused_batch_is_refused() -> None:
    log = filled(0)
    log.append(ORDERS, batch(b"a", producer=7, sequence=0))
    assert log.append(ORDERS, batch(b"c", producer=7, sequence=2)) == OUT_OF_ORDER_SEQUENCE
    assert log.append(ORDERS, batch(b"b", producer=7, sequence=1)) == OK
    assert log.append(ORDERS, batch(b"c", producer=7, sequence=2)) == OK


@pytest.mark.parametrize(("offset", "first"), [(0, b"0"), (2, b"2")])
def test_reading_begins_at_an_offset(offset: int, first: bytes) -> None:
    log = filled(4)
    assert next(log.partition(ORDERS).records(offset)).value == first
    assert len(log.partition(ORDERS).bytes_from(offset, 1)) == len(batch(b"0"))
    assert log.partition(ORDERS).bytes_from(4, 1000) == b""


def test_what_is_committed_and_not_finished_is_lost() -> None:
    log = filled(5)
    watch = Watch(log)
    watch.begin({"orders": frozenset({"agent"})})
    watch.started(cut_of(0, 2), diverted=False)
    watch.finished(1, epoch_ms=10)
    assert (watch.lost, watch.unfinished) == (0, 3)
    log.committed[ORDERS] = Stored(4, "")
    assert (watch.lost, watch.unfinished) == (2, 3)


def test_what_is_finished_again_is_a_duplicate_and_only_as_many_are_allowed() -> None:
    watch = Watch(filled(5))
    watch.begin({"orders": frozenset({"agent"})})
    watch.started(cut_of(0, 3), diverted=False)
    watch.finished(1, epoch_ms=10)
    watch.started(cut_of(3, 2, batch_id=2), diverted=False)
    watch.died()
    assert watch.allowed == 5 and watch.duplicates == 0
    watch.begin({"orders": frozenset({"agent"})})
    watch.started(cut_of(0, 5), diverted=False)
    watch.finished(1, epoch_ms=10)
    assert watch.duplicates == 3


def test_what_is_committed_may_not_be_repeated() -> None:
    watch = Watch(filled(5))
    watch.begin({"orders": frozenset({"agent"})})
    watch.started(cut_of(0, 3), diverted=False)
    watch.finished(1, epoch_ms=10)
    watch.read_off()
    watch.started(cut_of(3, 2, batch_id=2), diverted=False)
    watch.finished(2, epoch_ms=10)
    watch.committed()
    watch.died()
    assert watch.allowed == 2


async def test_each_call_that_wrote_counts_for_the_records_it_had() -> None:
    watch = Watch(filled(4))
    watch.begin({"orders": frozenset({"agent"})})
    watch.started(cut_of(0, 4), diverted=False)
    parts: list[range] = []
    await acknowledged(watch, parts)  # all of them, in vain
    parts.append(range(2))
    await acknowledged(watch, parts)  # these are done
    parts.append(range(2, 3))  # done, without writing
    parts.append(range(3, 4))
    await acknowledged(watch, parts)  # in vain
    watch.done_in_part(1, epoch_ms=10, num_done=3)
    assert watch.duplicates == 4
    watch.started(cut_of(3, 1, batch_id=2), diverted=False)
    watch.finished(2, epoch_ms=10)
    assert (watch.duplicates, watch.unfinished) == (5, 0)


async def acknowledged(watch: Watch, parts: list[range]) -> None:
    """Have something sent for batch 1, and acknowledged."""
    sending = asyncio.get_running_loop().create_future()
    watch.sent(1, sending, parts)
    sending.set_result(None)
    await asyncio.sleep(0)


def test_a_failed_attempt_without_effect_is_no_duplicate() -> None:
    watch = Watch(filled(2))
    watch.begin({"orders": frozenset({"agent"})})
    for attempt in (1, 2):
        watch.started(cut_of(0, 2, batch_id=attempt), diverted=False)
        if attempt == 1:
            watch.failed(attempt)
    watch.finished(2, epoch_ms=10)
    assert watch.duplicates == 0 and watch.unfinished == 0
