"""`Consumer._add_gap` takes the first record behind a gap for a part of the gap, and keeps it all.

Offsets are missing in compacted topics and behind transactions. Faust counts the record behind
them as finished while an agent has it, and notes each missing offset as a number of its own.
"""

from __future__ import annotations

import tracemalloc

from tests.builders import A, EngineDriver
from tests.regression.plain import ORDERS, PlainFaust

GAP_RECORDS = 100_000
BYTES_MAX = 64 * 1024  # a tenth of a pointer for each missing offset


async def test_plain_faust_commits_the_unfinished_record_behind_a_gap() -> None:
    faust = PlainFaust(committed=100)
    await faust.consumer._add_gap(ORDERS, 101, 110)  # as `_drain_messages` asks, having read 110

    faust.ack(100, 111)  # 110 is in flight

    assert await faust.commit() == 112


def test_a_feed_commits_up_to_the_unfinished_record_behind_a_gap() -> None:
    d = EngineDriver(order="none", seats=8, records_max=1)
    d.assign(A=100)
    first, _in_flight, last = d.records(A, [100, 110, 111])

    d.finish(first)
    d.finish(last)

    assert d.commit() == {A: 110}


async def test_plain_faust_keeps_each_offset_of_a_gap_while_a_record_is_in_flight() -> None:
    """One of the ways in which it grows without a bound: #247, robinhood/faust#169, #433."""
    faust = PlainFaust(committed=5)
    await faust.consumer._add_gap(ORDERS, 10, GAP_RECORDS)

    faust.ack(GAP_RECORDS + 1)  # 5 to 9 are in flight

    assert await faust.commit() is None
    assert len(faust.consumer._acked[ORDERS]) > 0.99 * GAP_RECORDS


def test_a_gap_costs_a_feed_nothing_whatever_its_length() -> None:
    d = EngineDriver(order="none", seats=8, records_max=1)
    d.assign(A=5)
    tracemalloc.start()
    try:
        (_in_flight,) = d.records(A, [5])
        (behind,) = d.records(A, [GAP_RECORDS])
        d.finish(behind)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert d.commit() == {A: 5}
    assert kept < BYTES_MAX
