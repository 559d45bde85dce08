"""How far a lane may run ahead of its own oldest unfinished record, where order allows it."""

from __future__ import annotations

from dataclasses import replace

from flowguard.lanes.lane import Lane
from flowguard.situation import snapshot_of
from flowguard.view import SKEW_RECORDS
from tests.builders import EPOCH_MS, A, EngineDriver, chunk_of, only_offsets

BLOCK = SKEW_RECORDS // 4


def driver(**options: object) -> EngineDriver:
    d = EngineDriver(order="none", lanes=(Lane("only"),), seats=2, records_max=BLOCK, **options)
    d.assign(A=0)
    return d


def blocks(d: EngineDriver, *numbers: int) -> None:
    """Read blocks of the lane in one fetch each."""
    for number in numbers:
        d.records(A, range(number * BLOCK, (number + 1) * BLOCK), 0)


def settle_all_but(d: EngineDriver, oldest: object) -> None:
    while others := [cut for cut in d.running if cut is not oldest]:
        d.finish(others[0])


def test_a_lane_runs_as_far_ahead_of_its_oldest_record_as_skew_allows_and_no_further():
    d = driver()
    blocks(d, 0)
    (oldest,) = d.running

    blocks(d, 1, 2, 3, 4, 5)
    settle_all_but(d, oldest)

    assert d.counts(0) == {
        "read": 6 * BLOCK, "settled": 3 * BLOCK, "in_flight": BLOCK, "held": 2 * BLOCK,
    }  # fmt: skip


def test_the_lane_says_for_whom_it_waits():
    d = driver()
    blocks(d, 0, 1, 2, 3, 4)
    settle_all_but(d, d.running[0])

    (lane,) = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes

    assert (lane.state, lane.why) == (
        "paused",
        "orders[0] is far ahead of offset 0, which is not finished",
    )
    assert lane.queued_bytes == 100 * BLOCK


def test_the_lane_goes_on_when_its_oldest_record_is_finished():
    d = driver()
    blocks(d, 0, 1, 2, 3, 4)
    (oldest, *_) = d.running
    settle_all_but(d, oldest)

    (started,) = d.finish(oldest)

    assert only_offsets(started)[0] == 4 * BLOCK
    d.finish(started)
    assert d.commit()[A] == 5 * BLOCK


def test_a_crash_repeats_at_most_the_skew():
    d = driver()
    blocks(d, *range(10))
    settle_all_but(d, d.running[0])

    point = d.engine.commit_points()[A]

    assert point.offset == 0
    assert d.counts(0)["settled"] <= SKEW_RECORDS


def test_a_block_larger_than_the_skew_goes_when_it_is_the_oldest():
    d = driver()
    rows = 2 * SKEW_RECORDS
    d.fetch(A, chunk_of(range(rows)), chunk_of([rows]))

    while d.running:
        d.finish(d.running[0])

    assert d.commit()[A] == rows + 1


def test_blocks_of_one_fetch_are_held_back_one_by_one():
    d = driver()
    chunks = [
        replace(chunk_of(range(number * BLOCK, (number + 1) * BLOCK)), block=number)
        for number in range(6)
    ]
    d.fetch(A, *chunks)
    settle_all_but(d, d.running[0])

    assert d.counts(0)["settled"] == 3 * BLOCK


def test_an_ordered_lane_needs_no_skew():
    d = EngineDriver(lanes=(Lane("only"),), records_max=SKEW_RECORDS)
    d.assign(A=0)

    d.records(A, range(3 * SKEW_RECORDS), 0)
    for _ in range(4):
        d.give_back(d.running[-1])  # nothing is settled

    assert only_offsets(d.running[-1])[-1] > SKEW_RECORDS
