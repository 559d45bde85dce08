"""The ledger: what may be committed, and never more.

The names of some tests are those of bugs of Faust that must not exist here.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowguard.settle.ledger import LaneLedger, PartitionLedger, Run


def ledger(position: int = 100, lane_count: int = 1) -> PartitionLedger:
    return PartitionLedger.starting_at(position, lane_count=lane_count)


def read(to: PartitionLedger, first: int, end: int, *, lane: int = 0) -> None:
    to.lanes[lane].admit(first)
    to.position = end


def test_nothing_read_means_nothing_new_to_commit():
    assert ledger(100).committable == 100


def test_what_waits_holds_the_commit_back():
    one = ledger()

    read(one, 105, 110)

    assert one.committable == 105


def test_what_is_handed_out_holds_the_commit_back_until_it_is_finished():
    one = ledger()
    read(one, 100, 110)

    run = one.lanes[0].take(100, None)
    assert one.committable == 100
    one.lanes[0].finish(run)

    assert one.committable == 110


def test_the_rest_of_a_chunk_that_was_taken_in_part_waits():
    one = ledger()
    read(one, 100, 110)

    one.lanes[0].finish(one.lanes[0].take(100, 104))

    assert one.committable == 104


def test_faust_606_an_unfinished_head_is_never_committed_past():
    """faust-streaming/faust#606: committed 2585, acked 2586..2589 gave 2590."""
    one = ledger(2585)
    lane = one.lanes[0]
    for offset in range(2585, 2590):
        read(one, offset, offset + 1)
    head, *others = [lane.take(offset, None) for offset in range(2585, 2590)]

    for run in others:
        lane.finish(run)

    assert one.committable == 2585
    lane.finish(head)
    assert one.committable == 2590


def test_faust_606_the_first_commit_of_a_partition_waits_for_its_head_too():
    """Nothing committed, records 1..3 finished, 0 in flight: Faust committed 4."""
    one = ledger(0)
    lane = one.lanes[0]
    for offset in range(4):
        read(one, offset, offset + 1)
    runs = [lane.take(offset, None) for offset in range(4)]

    for run in runs[1:]:
        lane.finish(run)

    assert one.committable == 0


def test_faust_add_gap_the_record_after_a_gap_is_not_part_of_the_gap():
    """A gap 101..109, record 110 in flight, 100 and 111 finished: Faust committed 112."""
    one = ledger(100)
    lane = one.lanes[0]
    for offset in (100, 110, 111):
        read(one, offset, offset + 1)
    first, after_gap, last = [lane.take(offset, None) for offset in (100, 110, 111)]

    lane.finish(first)
    lane.finish(last)

    assert one.committable == 110
    lane.finish(after_gap)
    assert one.committable == 112


def test_a_gap_at_the_end_is_committed_with_what_came_before_it():
    one = ledger(100)
    read(one, 100, 10_000_000)

    one.lanes[0].finish(one.lanes[0].take(100, None))

    assert one.committable == 10_000_000


def test_the_slowest_lane_decides():
    one = ledger(100, lane_count=2)
    read(one, 100, 110, lane=0)
    read(one, 103, 110, lane=1)

    one.lanes[0].finish(one.lanes[0].take(100, None))

    assert one.lanes[0].watermark(one.position) == 110
    assert one.committable == 103


def test_a_lane_without_records_holds_nothing_back():
    one = ledger(100, lane_count=8)
    read(one, 100, 110, lane=3)

    one.lanes[3].finish(one.lanes[3].take(100, None))

    assert one.committable == 110


def test_the_cost_follows_the_number_of_runs_not_of_records():
    lane = LaneLedger()
    lane.admit(0)

    lane.finish(lane.take(0, None))

    assert (len(lane.outstanding), len(lane.queued)) == (0, 0)


@given(
    ends=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_order_the_watermark_is_the_first_unfinished_offset(ends, order):
    one = ledger(0)
    lane = one.lanes[0]
    first = 0
    runs: list[tuple[int, Run]] = []
    for length in ends:
        read(one, first, first + length)
        runs.append((first, lane.take(first, None)))
        first += length
    unfinished = dict(runs)
    order.shuffle(runs)

    for at, run in runs:
        lane.finish(run)
        del unfinished[at]
        assert one.committable == min(unfinished, default=first)
