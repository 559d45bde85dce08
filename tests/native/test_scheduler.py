"""What the scheduler promises, one sentence a test."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from flowguard._native.scheduler import Scheduler

ALL = 2**64 - 1
NO_LIMIT = 2**62
QUANTUM_COST = 65536


def backlog(scheduler: Scheduler, lane: int, queue: int, *, slices: int = 2000) -> None:
    """Admit slices of 10 records and 1000 bytes; handles count up."""
    for handle in range(slices):
        scheduler.admit(lane, queue, handle, 10, 1000)


def serve(scheduler: Scheduler, batches: int, *, mask: int = ALL) -> list[int]:
    """Take one slice a batch and return the lanes in order."""
    lanes = []
    for _ in range(batches):
        taken = scheduler.take(mask, 10, NO_LIMIT, exclusive=False)
        assert taken is not None
        lanes.append(taken[0])
    return lanes


# -- One batch ---------------------------------------------------------------


def test_nothing_is_taken_from_an_empty_scheduler() -> None:
    assert Scheduler(1).take(ALL, 10, 10) is None


def test_a_batch_is_cut_at_records_max_and_continues_there() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=10, num_bytes=1000)

    assert scheduler.take(1, 4, NO_LIMIT, exclusive=False) == (0, [(7, 100, 0, 4)])
    assert scheduler.head(0, 7) == (100, 4)
    assert scheduler.take(1, 40, NO_LIMIT, exclusive=False) == (0, [(7, 100, 4, 6)])
    assert scheduler.head(0, 7) is None


def test_a_batch_is_cut_at_bytes_max_in_proportion() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=10, num_bytes=1000)

    assert scheduler.take(1, 10, 399, exclusive=False) == (0, [(7, 100, 0, 3)])
    assert scheduler.queued_bytes(0) == 700


def test_one_record_is_taken_even_if_it_is_larger_than_bytes_max() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=2, num_bytes=1000)

    assert scheduler.take(1, 10, 0) == (0, [(7, 100, 0, 1)])


def test_one_sub_queue_fills_the_batch_alone_with_one_entry_a_slice() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=5000, num_bytes=10_000_000)
    scheduler.admit(0, 7, 101, records=5000, num_bytes=10_000_000)

    assert scheduler.take(1, 8000, NO_LIMIT) == (0, [(7, 100, 0, 5000), (7, 101, 0, 3000)])


def test_a_batch_combines_sub_queues_with_one_entry_a_slice() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=5000, num_bytes=10_000_000)
    scheduler.admit(0, 8, 101, records=5000, num_bytes=10_000_000)

    assert scheduler.take(1, NO_LIMIT, NO_LIMIT) == (0, [(7, 100, 0, 5000), (8, 101, 0, 5000)])


def test_with_single_queue_all_records_come_from_one_sub_queue() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=2, num_bytes=10)
    scheduler.admit(0, 8, 101, records=2, num_bytes=10)
    scheduler.admit(0, 7, 102, records=2, num_bytes=10)

    taken = scheduler.take(1, 100, NO_LIMIT, single_queue=True)

    assert taken == (0, [(7, 100, 0, 2), (7, 102, 0, 2)])


# -- Several seats -----------------------------------------------------------


def deep(scheduler: Scheduler, *queues: int, records: int = 10_000) -> None:
    """Admit a slice a sub-queue, of which 64 records are a turn."""
    for queue in queues:
        scheduler.admit(0, queue, queue, records, 768 * records)


def test_free_seats_share_the_ready_sub_queues() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, *range(10))

    batches = [scheduler.take(1, 1000, NO_LIMIT, seats=seats) for seats in (4, 3, 2, 1)]

    taken = [[entry[0] for entry in batch[1]] for batch in batches if batch]
    assert taken == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert {sum(entry[3] for entry in batch[1]) for batch in batches if batch} == {1000}


def test_a_batch_with_enough_sub_queues_is_filled_a_turn_of_each_after_the_other() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, 2, 3, 4)

    assert scheduler.take(1, 200, NO_LIMIT, seats=2) == (0, [(1, 1, 0, 128), (2, 2, 0, 72)])


def test_where_one_has_little_the_others_fill_the_batch() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, records=10)
    deep(scheduler, 2, 3, 4)

    assert scheduler.take(1, 500, NO_LIMIT, seats=2) == (0, [(1, 1, 0, 10), (2, 2, 0, 490)])


def test_a_batch_is_not_filled_beyond_its_bytes() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, 2, 3, 4)

    taken = scheduler.take(1, 500, 150 * 768 + 1, seats=2)
    assert taken == (0, [(1, 1, 0, 86), (2, 2, 0, 64)])


def test_what_filled_a_batch_is_paid_in_later_turns() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, 2, 3, 4)
    scheduler.take(1, 256, NO_LIMIT, seats=2)  # two turns of 1 and of 2
    for queue in (1, 2):
        scheduler.open(0, queue)

    assert turns(scheduler, 8) == [3, 4, 3, 4, 1, 2, 3, 4]


def test_without_exclusive_nothing_is_left_for_other_seats() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, 2, 3, records=1)

    _, taken = scheduler.take(1, 10, NO_LIMIT, exclusive=False, seats=3) or (0, [])
    assert len(taken) == 3


def test_with_more_seats_than_sub_queues_each_batch_has_one() -> None:
    scheduler = Scheduler(1)
    deep(scheduler, 1, 2, records=100)

    assert scheduler.take(1, 200, NO_LIMIT, seats=2**62) == (0, [(1, 1, 0, 100)])
    assert scheduler.take(1, 200, NO_LIMIT, seats=2**62) == (0, [(2, 2, 0, 100)])


@pytest.mark.parametrize("options", [{"deadlines": [True]}, {"demote_after_ns": [0]}])
def test_free_seats_share_what_goes_by_deadline_or_age(options: dict[str, list[int]]) -> None:
    scheduler = Scheduler(1, **options)  # type: ignore[arg-type]
    for handle, queue in enumerate((1, 2, 1, 3, 2, 4)):
        scheduler.admit(0, queue, handle, 5, 10, handle, -1, handle)

    # In order until 3 would be next, then the rest of 2.
    taken = scheduler.take(1, 100, NO_LIMIT, now_ns=100, seats=2)
    assert taken == (0, [(1, 0, 0, 5), (2, 1, 0, 5), (1, 2, 0, 5), (2, 4, 0, 5)])
    assert scheduler.take(1, 100, NO_LIMIT, now_ns=100) == (0, [(3, 3, 0, 5), (4, 5, 0, 5)])


def test_the_demoted_are_not_mixed_with_the_young_to_fill_a_batch() -> None:
    scheduler = Scheduler(1, demote_after_ns=[50])
    for handle, (queue, born_ns) in enumerate(((1, 0), (2, 1), (1, 90))):
        scheduler.admit(0, queue, handle, 5, 10, born_ns=born_ns)

    assert scheduler.take(1, 100, NO_LIMIT, now_ns=100, seats=2) == (0, [(1, 0, 0, 5)])
    assert scheduler.demoted_records(0) == 5


def test_what_filled_a_batch_of_the_demoted_is_not_charged() -> None:
    scheduler = Scheduler(1, demote_after_ns=[50])
    for handle, (queue, born_ns) in enumerate(((1, 0), (2, 1), (1, 2))):
        scheduler.admit(0, queue, handle, 320, 320 * 768, born_ns=born_ns)  # five quanta
    deep(scheduler, 1)
    taken = scheduler.take(1, 640, NO_LIMIT, now_ns=100, seats=2)
    assert taken == (0, [(1, 0, 0, 320), (1, 2, 0, 320)])
    scheduler.open(0, 1)
    scheduler.drop_queue(2)
    deep(scheduler, 3)

    assert turns(scheduler, 4) == [1, 3, 1, 3]


@pytest.mark.parametrize("waiting", [[10, 30, 30, 30], [2, 3, 4, 5, 6, 7, 8, 5]])
def test_a_lane_is_due_for_the_batch_that_its_seat_would_get(waiting: list[int]) -> None:
    scheduler = Scheduler(2)
    backlog(scheduler, 0, 0)
    for queue, records in enumerate(waiting):
        scheduler.admit(1, queue, queue, records, 100 * records)

    lanes = []
    for _ in range(3):
        lane, _ = scheduler.take(ALL, 40, NO_LIMIT, seats=4) or (9, [])
        lanes.append(lane)
        scheduler.open(0, 0)
    # Ten records, about, which two batches of forty have earned; all would need five.
    assert lanes == [0, 0, 1]


# -- Open and closed ---------------------------------------------------------


def test_a_sub_queue_is_closed_by_an_exclusive_take_until_it_is_opened() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, records=10, num_bytes=1000)
    scheduler.take(1, 4, NO_LIMIT)

    scheduler.admit(0, 7, 101, records=1, num_bytes=1)
    assert scheduler.take(1, 4, NO_LIMIT) is None
    assert (scheduler.ready_records(0), scheduler.queued_records(0)) == (0, 7)
    assert scheduler.ready_lanes() == 0

    scheduler.open(0, 7)
    assert (scheduler.ready_records(0), scheduler.ready_lanes()) == (7, 1)
    assert scheduler.take(1, 100, NO_LIMIT) == (0, [(7, 100, 4, 6), (7, 101, 0, 1)])


def test_a_sub_queue_can_be_closed_before_it_exists() -> None:
    scheduler = Scheduler(1)
    scheduler.close(0, 7)
    scheduler.admit(0, 7, 100, records=1, num_bytes=1)

    assert scheduler.take(1, 1, 1) is None


def test_opening_an_unknown_sub_queue_does_nothing() -> None:
    scheduler = Scheduler(1)
    scheduler.open(0, 7)

    assert scheduler.ready_lanes() == 0


def test_a_dropped_queue_is_forgotten_in_every_lane_and_open_again() -> None:
    scheduler = Scheduler(2)
    scheduler.admit(1, 7, 100, records=2, num_bytes=2)
    scheduler.admit(0, 7, 101, records=2, num_bytes=2)
    scheduler.admit(0, 7, 102, records=2, num_bytes=2)
    scheduler.admit(0, 8, 103, records=2, num_bytes=2)
    scheduler.take(1, 1, NO_LIMIT)

    assert scheduler.drop_queue(7) == [101, 102, 100]
    assert (scheduler.queued_records(0), scheduler.queued_records(1)) == (2, 0)
    assert scheduler.ready_lanes() == 0b01
    scheduler.admit(0, 7, 104, records=1, num_bytes=2)
    assert scheduler.ready_records(0) == 3


# -- Between lanes -----------------------------------------------------------


def test_the_first_batches_are_of_the_higher_lane() -> None:
    scheduler = Scheduler(2)
    backlog(scheduler, 1, 0)
    backlog(scheduler, 0, 0)

    assert serve(scheduler, 11) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_lanes_get_cap_and_weighted_shares_at_saturation() -> None:
    scheduler = Scheduler(3, weights=[1, 3, 1], cap=0.8)
    for lane in range(3):
        backlog(scheduler, lane, 0)

    # A lane below is at most one batch behind, the top has what is left.
    assert Counter(serve(scheduler, 1000)) == {0: 802, 1: 149, 2: 49}


def test_a_lane_keeps_its_floor_beside_a_heavy_one() -> None:
    scheduler = Scheduler(3, weights=[1, 1000, 1], cap=0.8, floor=0.05)
    for lane in range(3):
        backlog(scheduler, lane, 0)

    served = Counter(serve(scheduler, 1000))
    assert served[2] in (49, 50)
    assert served[1] in (198, 199, 200)


def test_a_wait_for_the_higher_lane_is_at_most_one_lower_batch() -> None:
    scheduler = Scheduler(3)
    for lane in range(3):
        backlog(scheduler, lane, 0)

    order = "".join(map(str, serve(scheduler, 1000)))
    # Equal shares fall due together, so each of the two lanes goes once.
    assert max(map(len, order.split("0"))) == 2
    assert "11" not in order
    assert "22" not in order


def test_lower_lanes_use_all_that_the_higher_one_leaves() -> None:
    scheduler = Scheduler(2)
    backlog(scheduler, 1, 0)

    assert serve(scheduler, 100) == [1] * 100


def test_a_lane_banks_no_credit_while_it_is_empty_or_masked_out() -> None:
    scheduler = Scheduler(2)
    backlog(scheduler, 0, 0)
    serve(scheduler, 500)
    backlog(scheduler, 1, 0)
    serve(scheduler, 500, mask=0b01)

    assert serve(scheduler, 6) == [0, 0, 0, 0, 0, 1]


def test_strict_priority_is_a_cap_of_one_without_a_floor() -> None:
    scheduler = Scheduler(2, cap=1.0, floor=0.0)
    backlog(scheduler, 1, 0)
    backlog(scheduler, 0, 0)

    assert serve(scheduler, 2000) == [0] * 2000
    assert serve(scheduler, 1) == [1]


def test_a_tiny_weight_can_be_due_without_a_share() -> None:
    scheduler = Scheduler(3, weights=[1, 65536, 1], cap=0.99, floor=0.0)
    backlog(scheduler, 0, 0)
    backlog(scheduler, 2, 0)
    serve(scheduler, 100)
    backlog(scheduler, 1, 0)

    assert 2 in serve(scheduler, 200)


def test_only_lanes_of_the_mask_are_served() -> None:
    scheduler = Scheduler(64, floor=0.01)
    backlog(scheduler, 0, 0, slices=1)
    backlog(scheduler, 63, 0, slices=1)

    assert serve(scheduler, 1, mask=1 << 63) == [63]
    assert scheduler.take(1 << 63, 1, 1) is None
    assert scheduler.ready_lanes() == 1


# -- Inside a lane -----------------------------------------------------------


def turns(scheduler: Scheduler, count: int) -> list[int]:
    """Take a whole turn each time, 64 records of cost 1024, and return the sub-queues."""
    queues = []
    for _ in range(count):
        taken = scheduler.take(1, 64, NO_LIMIT, exclusive=False)
        assert taken is not None
        queues += [entry[0] for entry in taken[1]]
    return queues


def test_a_new_sub_queue_goes_before_old_ones_once() -> None:
    scheduler = Scheduler(1)
    for queue in (1, 2):
        scheduler.admit(0, queue, queue, records=10_000, num_bytes=7_680_000)
    turns(scheduler, 3)
    scheduler.admit(0, 3, 3, records=10_000, num_bytes=7_680_000)

    assert turns(scheduler, 7) == [3, 2, 3, 1, 2, 3, 1]


def test_sub_queues_share_by_cost_not_by_records() -> None:
    scheduler = Scheduler(1, record_cost=1)
    scheduler.admit(0, 1, 1, records=100_000, num_bytes=100_000 * 99)
    scheduler.admit(0, 2, 2, records=100_000, num_bytes=100_000 * 999)
    records: Counter[int] = Counter()
    for _ in range(100):
        taken = scheduler.take(1, 500, NO_LIMIT, exclusive=False)
        assert taken is not None
        for queue, _handle, _start, count in taken[1]:
            records[queue] += count

    assert records[1] / records[2] == pytest.approx(10, rel=0.05)


def test_a_thousand_sub_queues_have_a_turn_each() -> None:
    scheduler = Scheduler(1)
    for queue in range(1000):
        scheduler.admit(0, queue, queue, records=1000, num_bytes=768_000)

    assert turns(scheduler, 2000) == list(range(1000)) * 2


def test_new_sub_queues_without_an_end_do_not_starve_an_old_one() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 0, 0, records=10_000, num_bytes=7_680_000)
    scheduler.admit(0, 1, 1, records=64, num_bytes=49_152)
    turns(scheduler, 2)
    served = []
    for queue in range(2, 100):
        scheduler.admit(0, queue, queue, records=64, num_bytes=49_152)
        served += turns(scheduler, 1)

    # More come than can be served: its waits are as long as what waits beside it.
    assert served.count(0) == 11


def test_a_sub_queue_that_ran_empty_in_a_batch_is_closed_with_it() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 1, 1, records=1, num_bytes=1)
    for queue in (2, 3):
        scheduler.admit(0, queue, queue, records=10_000, num_bytes=0)
    # Sub-queues 2 and 3 use up their turns, so that 1 is passed, and found empty.
    assert scheduler.take(1, 2000, NO_LIMIT) == (0, [(1, 1, 0, 1), (2, 2, 0, 1024), (3, 3, 0, 975)])
    scheduler.admit(0, 1, 4, records=1, num_bytes=1)

    assert scheduler.take(1, 1, NO_LIMIT) is None


# -- Corrections -------------------------------------------------------------


def two_backlogs() -> Scheduler:
    scheduler = Scheduler(1)
    for queue in (1, 2):
        scheduler.admit(0, queue, queue, records=100_000, num_bytes=76_800_000)
    return scheduler


def test_a_sub_queue_pays_in_its_next_turns_what_it_cost_beyond_the_estimate() -> None:
    scheduler = two_backlogs()
    assert turns(scheduler, 2) == [1, 2]
    scheduler.correct(0, 1, QUANTUM_COST)

    assert turns(scheduler, 6) == [2, 1, 2, 1, 2, 1]


def test_a_sub_queue_gets_back_what_it_did_not_cost() -> None:
    scheduler = two_backlogs()
    assert turns(scheduler, 2) == [1, 2]
    scheduler.correct(0, 1, -QUANTUM_COST)

    assert turns(scheduler, 4) == [1, 1, 2, 1]


def test_corrections_reach_one_quantum_at_most() -> None:
    scheduler = two_backlogs()
    turns(scheduler, 2)
    for _ in range(100):
        scheduler.correct(0, 1, 2**62)
    owing = turns(scheduler, 4)
    for _ in range(100):
        scheduler.correct(0, 1, -(2**62))

    # It loses the turn that it has, and one that it owes; it gains one.
    assert owing == [2, 2, 1, 2]
    assert turns(scheduler, 5) == [1, 1, 2, 1, 2]


def test_a_debt_is_not_escaped_by_leaving() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 1, 1, records=320, num_bytes=320 * 768)  # five quanta
    scheduler.admit(0, 2, 2, records=10_000, num_bytes=7_680_000)
    taken = scheduler.take(1, 320, NO_LIMIT, exclusive=False, single_queue=True)
    assert taken == (0, [(1, 1, 0, 320)])
    order = turns(scheduler, 1)
    scheduler.admit(0, 1, 3, records=10_000, num_bytes=7_680_000)

    order += turns(scheduler, 7)
    # Five turns for its five, one that had no other to share with, and the next one.
    assert order == [2, 2, 2, 2, 2, 2, 2, 1]


def test_a_debt_is_paid_round_by_round_while_its_sub_queue_is_empty() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 1, 1, records=320, num_bytes=320 * 768)  # five quanta
    for queue in (2, 3):
        scheduler.admit(0, queue, queue, records=10_000, num_bytes=7_680_000)
    scheduler.take(1, 320, NO_LIMIT, exclusive=False, single_queue=True)
    turns(scheduler, 4)
    scheduler.admit(0, 1, 4, records=10_000, num_bytes=7_680_000)

    assert 1 not in turns(scheduler, 4)
    assert 1 in turns(scheduler, 6)


def test_a_debt_is_kept_for_a_sub_queue_that_is_unknown_by_now() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 2, 2, records=10_000, num_bytes=7_680_000)
    turns(scheduler, 1)
    scheduler.correct(0, 1, 10 * QUANTUM_COST)
    scheduler.admit(0, 1, 1, records=10_000, num_bytes=7_680_000)

    assert turns(scheduler, 6) == [2, 2, 2, 1, 2, 1]


def test_what_an_unknown_sub_queue_would_get_back_is_forgotten() -> None:
    scheduler = two_backlogs()
    scheduler.correct(0, 3, -QUANTUM_COST)
    scheduler.admit(0, 3, 3, records=10_000, num_bytes=7_680_000)

    assert turns(scheduler, 6) == [1, 2, 3, 1, 2, 3]


# -- Deadlines ---------------------------------------------------------------


def entries(
    scheduler: Scheduler, records: int = 1, *, single_queue: bool = False, now_ns: int = 0
) -> list[int]:
    """Take one batch that closes nothing and return the handles in it."""
    taken = scheduler.take(
        ALL, records, NO_LIMIT, exclusive=False, single_queue=single_queue, now_ns=now_ns
    )
    return [] if taken is None else [entry[1] for entry in taken[1]]


def test_the_sub_queue_with_the_earliest_first_slice_goes_first() -> None:
    scheduler = Scheduler(1, deadlines=[True])
    scheduler.admit(0, 1, 100, 2, 10, stamp_ns=30)
    scheduler.admit(0, 1, 101, 2, 10, stamp_ns=5)  # behind 100: inside a sub-queue, in order
    scheduler.admit(0, 2, 102, 2, 10, stamp_ns=20)
    scheduler.admit(0, 3, 103, 2, 10, stamp_ns=-10)

    assert entries(scheduler, 5) == [103, 102, 100]
    scheduler.admit(0, 2, 104, 2, 10, stamp_ns=29)
    assert entries(scheduler, 100) == [104, 100, 101]


def test_of_equal_stamps_the_slice_that_was_first_in_line_goes_first() -> None:
    scheduler = Scheduler(1, deadlines=[True])
    for handle in range(20):
        scheduler.admit(0, handle % 5, handle, 1, 10)

    assert [entries(scheduler) for _ in range(20)] == [[handle] for handle in range(20)]


def test_only_lanes_with_deadlines_look_at_stamps() -> None:
    scheduler = Scheduler(2, deadlines=[False, True])
    for lane in (0, 1):
        scheduler.admit(lane, 1, 10 * lane + 1, 1, 10, stamp_ns=9)
        scheduler.admit(lane, 2, 10 * lane + 2, 1, 10, stamp_ns=1)

    assert [entries(scheduler) for _ in range(4)] == [[1], [2], [12], [11]]


def test_with_single_queue_deadlines_choose_the_sub_queue_once() -> None:
    scheduler = Scheduler(1, deadlines=[True])
    scheduler.admit(0, 1, 100, 1, 10, stamp_ns=1)
    scheduler.admit(0, 1, 101, 1, 10, stamp_ns=9)
    scheduler.admit(0, 2, 102, 1, 10, stamp_ns=5)

    assert entries(scheduler, 10, single_queue=True) == [100, 101]


# -- Demoted -----------------------------------------------------------------


def test_a_sub_queue_waits_behind_the_lowest_lane_while_its_first_slice_is_too_old() -> None:
    scheduler = Scheduler(2, demote_after_ns=[100, None], cap=1.0, floor=0.0)
    scheduler.admit(0, 1, 100, 1, 10, born_ns=0)
    scheduler.admit(0, 1, 101, 1, 10, born_ns=90)
    scheduler.admit(0, 2, 102, 1, 10, born_ns=90)
    scheduler.admit(1, 1, 103, 1, 10)
    scheduler.admit(1, 1, 104, 1, 10)

    assert entries(scheduler, now_ns=101) == [102]
    assert (scheduler.demoted_records(0), scheduler.ready_records(0)) == (2, 2)
    assert entries(scheduler, now_ns=101) == [103]
    assert scheduler.take(0b01, 1, 10, exclusive=False, now_ns=101) == (0, [(1, 100, 0, 1)])
    assert scheduler.demoted_records(0) == 0  # the next slice is young enough
    assert [entries(scheduler, now_ns=101) for _ in range(2)] == [[101], [104]]


def test_the_demoted_keep_a_floor() -> None:
    scheduler = Scheduler(2, demote_after_ns=[100, None], floor=0.05)
    for handle in range(2000):
        scheduler.admit(0, 1, handle, 10, 1000, born_ns=0)
        scheduler.admit(0, 2, 2000 + handle, 10, 1000)
        scheduler.admit(1, 3, 4000 + handle, 10, 1000)
    served: Counter[int] = Counter()
    for _ in range(1000):
        taken = scheduler.take(ALL, 10, NO_LIMIT, exclusive=False, now_ns=101)
        assert taken is not None
        served[taken[1][0][0]] += 1

    # Both below the top have weight 1 and half of what the cap leaves.
    assert served == {1: 99, 2: 802, 3: 99}


def test_the_oldest_of_the_demoted_goes_first_whatever_its_lane() -> None:
    scheduler = Scheduler(2, demote_after_ns=[50, 50])
    scheduler.admit(0, 1, 100, 1, 10, born_ns=30)
    scheduler.admit(0, 2, 101, 1, 10, born_ns=10)
    scheduler.admit(1, 1, 102, 1, 10, born_ns=20)

    assert [entries(scheduler, now_ns=200) for _ in range(3)] == [[101], [102], [100]]


def test_what_is_demoted_is_masked_closed_and_dropped_with_its_lane() -> None:
    scheduler = Scheduler(2, demote_after_ns=[0, None])
    scheduler.admit(0, 1, 100, 2, 10, born_ns=0)
    assert scheduler.take(0b10, 1, 10, now_ns=1) is None
    assert scheduler.ready_lanes() == 0b01

    assert scheduler.take(0b01, 1, 10, now_ns=1) == (0, [(1, 100, 0, 1)])
    assert (scheduler.ready_lanes(), scheduler.demoted_records(0)) == (0, 0)
    scheduler.open(0, 1)
    assert (scheduler.ready_lanes(), scheduler.demoted_records(0)) == (1, 1)
    assert scheduler.drop_queue(1) == [100]
    assert (scheduler.ready_lanes(), scheduler.queued_records(0)) == (0, 0)


def test_the_demoted_keep_their_credit_when_an_owner_leaves_them_to_another_lane() -> None:
    scheduler = Scheduler(3, demote_after_ns=[50, 50, None])
    backlog(scheduler, 2, 0)
    scheduler.admit(0, 1, 5000, 10, 1000, owner=1, born_ns=0)
    scheduler.admit(1, 2, 5001, 10, 1000, owner=1, born_ns=99)
    scheduler.admit(1, 2, 5002, 10, 1000, owner=2, born_ns=0)
    for _ in range(4):
        assert scheduler.take(0b101, 10, NO_LIMIT, exclusive=False, now_ns=100) is not None

    assert scheduler.drop_owner(1) == [5000, 5001]
    lanes = [
        (scheduler.take(ALL, 10, NO_LIMIT, exclusive=False, now_ns=100) or (9,))[0]
        for _ in range(2)
    ]
    assert lanes == [2, 1]


def test_time_does_not_go_back() -> None:
    scheduler = Scheduler(2, demote_after_ns=[100, None])
    scheduler.admit(0, 1, 100, 2, 10, born_ns=0)
    scheduler.admit(1, 1, 101, 2, 10)
    assert entries(scheduler, now_ns=101) == [101]

    assert entries(scheduler, now_ns=0) == [101]


# -- Taken out and put back --------------------------------------------------


def test_records_are_taken_out_from_the_head_across_slices_up_to_either_limit() -> None:
    scheduler = Scheduler(1)
    for handle in (100, 101, 102):
        scheduler.admit(0, 7, handle, records=10, num_bytes=1000)

    assert scheduler.extract(0, 7, 13, NO_LIMIT) == [(100, 0, 10), (101, 0, 3)]
    assert scheduler.extract(0, 7, NO_LIMIT, 899) == [(101, 3, 7), (102, 0, 1)]
    assert scheduler.extract(0, 7, 1, 0) == [(102, 1, 1)]
    assert (scheduler.queued_records(0), scheduler.queued_bytes(0)) == (8, 800)
    assert scheduler.extract(0, 7, NO_LIMIT, NO_LIMIT) == [(102, 2, 8)]
    assert scheduler.extract(0, 7, NO_LIMIT, NO_LIMIT) == []
    assert scheduler.ready_lanes() == 0


def test_records_are_taken_out_of_a_closed_sub_queue_which_stays_closed() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, 10, 1000)
    scheduler.close(0, 7)

    assert scheduler.extract(0, 7, 4, NO_LIMIT) == [(100, 0, 4)]
    assert scheduler.take(1, 10, NO_LIMIT) is None
    scheduler.open(0, 7)
    assert scheduler.take(1, 10, NO_LIMIT) == (0, [(7, 100, 4, 6)])


def test_what_is_put_back_goes_first() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, 10, 1000)
    scheduler.extract(0, 7, 4, NO_LIMIT)

    scheduler.put_back(0, 7, 101, 4, 400)

    assert scheduler.head(0, 7) == (101, 0)
    assert scheduler.take(1, 20, NO_LIMIT) == (0, [(7, 101, 0, 4), (7, 100, 4, 6)])
    scheduler.put_back(0, 7, 102, 1, 10)
    assert scheduler.take(1, 20, NO_LIMIT) is None
    scheduler.open(0, 7)
    assert scheduler.take(1, 20, NO_LIMIT) == (0, [(7, 102, 0, 1)])


def test_taking_out_charges_nobody_and_hides_no_debt() -> None:
    scheduler = Scheduler(1, record_cost=1)
    for queue in (0, 1):
        scheduler.admit(0, queue, queue, 100, 100 * QUANTUM_COST)
    scheduler.correct(0, 0, QUANTUM_COST * 5)
    scheduler.extract(0, 0, NO_LIMIT, NO_LIMIT)
    scheduler.admit(0, 0, 2, 100, 100 * QUANTUM_COST)

    queues = [
        taken[1][0][0]
        for _ in range(4)
        if (taken := scheduler.take(1, 1, NO_LIMIT, exclusive=False)) is not None
    ]

    assert queues.count(1) > queues.count(0)


def test_the_next_deadline_counts_when_the_first_slices_are_taken_out() -> None:
    scheduler = Scheduler(1, deadlines=[True])
    scheduler.admit(0, 1, 100, 1, 10, stamp_ns=1)
    scheduler.admit(0, 1, 101, 1, 10, stamp_ns=9)
    scheduler.admit(0, 2, 102, 1, 10, stamp_ns=5)

    scheduler.extract(0, 1, 1, NO_LIMIT)

    assert scheduler.take(1, 1, NO_LIMIT, exclusive=False) == (0, [(2, 102, 0, 1)])


def test_sub_queues_are_told_the_costliest_first() -> None:
    scheduler = Scheduler(2, record_cost=256)
    scheduler.admit(0, 1, 100, 1, 1000)
    scheduler.admit(0, 2, 101, 100, 10)
    scheduler.admit(0, 3, 102, 1, 1000)
    scheduler.admit(1, 4, 103, 1, 9999)
    scheduler.close(0, 3)
    scheduler.close(0, 5)

    assert scheduler.sub_queues(0) == [(2, 100, 10), (1, 1, 1000), (3, 1, 1000)]


# -- Owners, limits of lanes, memory -----------------------------------------


def test_an_owner_is_dropped_wherever_it_waits_and_the_others_keep_their_order() -> None:
    scheduler = Scheduler(2, deadlines=[True, False])
    for lane in (1, 0):
        for handle in range(6):
            scheduler.admit(lane, 8 - handle // 3, 10 * lane + handle, 2, 100, owner=handle % 3)
    scheduler.close(1, 7)
    entries(scheduler, 1)

    assert scheduler.drop_owner(0) == [3, 0, 13, 10]
    assert [scheduler.queued_records(lane) for lane in (0, 1)] == [8, 8]
    assert [scheduler.queued_bytes(lane) for lane in (0, 1)] == [400, 400]
    assert [scheduler.ready_records(lane) for lane in (0, 1)] == [8, 4]
    assert scheduler.head(1, 7) == (14, 0)
    scheduler.admit(1, 7, 16, 2, 100, owner=0)
    scheduler.open(1, 7)
    assert sorted(entries(scheduler, 100)) == [1, 2, 4, 5]
    assert entries(scheduler, 100) == [11, 12, 14, 15, 16]
    assert scheduler.drop_owner(1) == []


def test_a_slice_without_an_owner_belongs_to_its_sub_queue() -> None:
    scheduler = Scheduler(1)
    scheduler.admit(0, 7, 100, 1, 10)

    assert scheduler.drop_owner(7) == [100]
    assert scheduler.ready_lanes() == 0


def test_a_lane_can_have_smaller_batches_than_the_others() -> None:
    scheduler = Scheduler(2)
    for lane in (0, 1):
        backlog(scheduler, lane, 0)
    scheduler.set_batch_records(1, 2)
    counts: Counter[int] = Counter()
    batches: Counter[int] = Counter()
    for _ in range(1000):
        lane, taken = scheduler.take(ALL, 10, NO_LIMIT, exclusive=False) or (0, [])
        counts[lane] += sum(entry[3] for entry in taken)
        batches[lane] += 1

    assert counts[1] == 2 * batches[1]
    # Its share is the same in records, not in batches, and it never waits for a full ten.
    assert counts[1] / counts.total() == pytest.approx(0.2, abs=0.001)
    scheduler.set_batch_records(1, 2**62)
    assert len(entries(scheduler, 2**62)) > 1


def test_a_lane_with_small_batches_banks_two_of_them_at_most() -> None:
    scheduler = Scheduler(2)
    for lane in (0, 1):
        scheduler.admit(lane, 0, lane, records=10_000, num_bytes=0)
    scheduler.set_batch_records(1, 1)
    lanes = [(scheduler.take(ALL, 100, 0, exclusive=False) or (9,))[0] for _ in range(7)]

    # A batch of the higher lane earns twenty of the lower one.
    assert lanes == [0, 1, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("options", [{}, {"deadlines": [True]}, {"demote_after_ns": [0]}])
@pytest.mark.parametrize("exclusive", [False, True])
def test_sub_queues_that_come_and_go_take_no_more_memory(
    options: dict[str, list[int]], exclusive: bool
) -> None:
    scheduler = Scheduler(1, **options)  # type: ignore[arg-type]
    if "demote_after_ns" not in options:  # where it would be in the way
        scheduler.admit(0, 0, 0, 2**31 - 1, 2**31 - 1, 2**62)  # always there, and last
    sizes = set()
    for number in range(1, 5000):
        scheduler.admit(0, number, number, 1, QUANTUM_COST, 0, -1, 0)
        for _ in range(3):
            _, taken = scheduler.take(1, 100, NO_LIMIT, exclusive=exclusive, now_ns=1) or (0, [])
            for entry in taken:
                scheduler.open(0, entry[0])
        sizes.add(sys.getsizeof(scheduler))
    assert len(sizes) <= 2


# -- Arguments ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lane_count": 0}, "lane_count is 0"),
        ({"lane_count": 65}, "lane_count is 65"),
        ({"lane_count": 2, "weights": [1]}, "1 weights for 2 lanes"),
        ({"lane_count": 1, "weights": [0]}, "a weight is 0"),
        ({"lane_count": 2, "cap": 1.1}, "cap is 1.1"),
        ({"lane_count": 2, "floor": -0.1}, "floor -0.1"),
        ({"lane_count": 2, "record_cost": 0}, "record_cost is 0"),
        ({"lane_count": 20}, "floors of 0.05 for 20 lanes do not fit"),
        ({"lane_count": 2, "deadlines": [True]}, "1 deadlines for 2 lanes"),
        ({"lane_count": 2, "demote_after_ns": [1]}, "1 ages for 2 lanes"),
        ({"lane_count": 1, "demote_after_ns": [-1]}, "demote_after_ns of lane 0 is -1"),
        ({"lane_count": 64, "floor": 0.0, "demote_after_ns": [1] * 64}, "one less if a lane"),
        ({"lane_count": 5, "floor": 0.2, "demote_after_ns": [1] * 5}, "0.2 for 6 lanes"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 0, 0, 1, 0), "lane 2 does not exist; lanes are 0 to 1"),
        ((-1, 0, 0, 1, 0), "lane -1"),
        ((0, -1, 0, 1, 0), "queue is -1"),
        ((0, 0, -1, 1, 0), "handle is -1"),
        ((0, 0, 0, 0, 0), "a slice of 0 records"),
        ((0, 0, 0, 2**31, 0), "a slice of 2147483648 records"),
        ((0, 0, 0, 1, -1), "a slice of -1 bytes"),
        ((0, 0, 0, 1, 0, 0, -2), "owner is -2"),
    ],
)
def test_wrong_slices_are_not_admitted(arguments: tuple[int, ...], message: str) -> None:
    scheduler = Scheduler(2)
    with pytest.raises(ValueError, match=message):
        scheduler.admit(*arguments)
    assert scheduler.queued_records(0) == scheduler.queued_records(1) == 0


@pytest.mark.parametrize(("records_max", "bytes_max"), [(0, 1), (1, -1)])
def test_an_impossible_batch_is_refused(records_max: int, bytes_max: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        Scheduler(1).take(1, records_max, bytes_max)


def test_a_batch_without_a_seat_is_refused() -> None:
    with pytest.raises(ValueError, match="seats is 0"):
        Scheduler(1).take(1, 1, 1, seats=0)


@pytest.mark.parametrize("name", ["ready_records", "queued_records", "queued_bytes", "sub_queues"])
def test_an_unknown_lane_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lane 1 does not exist"):
        getattr(Scheduler(1), name)(1)


@pytest.mark.parametrize("name", ["open", "close", "head"])
def test_an_unknown_place_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="queue is -2"):
        getattr(Scheduler(1), name)(0, -2)


def test_other_impossible_numbers_are_refused() -> None:
    scheduler = Scheduler(1)
    with pytest.raises(ValueError, match="records_max is 0"):
        scheduler.set_batch_records(0, 0)
    with pytest.raises(ValueError, match="owner is -1"):
        scheduler.drop_owner(-1)
    with pytest.raises(ValueError, match="queue is -1"):
        scheduler.correct(0, -1, 0)
    with pytest.raises(ValueError, match="0 records and 1 bytes at most"):
        scheduler.extract(0, 0, 0, 1)
    with pytest.raises(ValueError, match="queue is -1"):
        scheduler.extract(0, -1, 1, 1)
    with pytest.raises(ValueError, match="a slice of 0 records"):
        scheduler.put_back(0, 0, 1, 0, 0)


def test_the_largest_ages_and_stamps_do_not_overflow() -> None:
    scheduler = Scheduler(1, deadlines=[True], demote_after_ns=[2**63 - 1])
    scheduler.admit(0, 1, 1, 1, 0, stamp_ns=2**63 - 1, born_ns=-(2**63))
    scheduler.admit(0, 2, 2, 1, 0, stamp_ns=-(2**63), born_ns=2**63 - 1)

    assert entries(scheduler, now_ns=0) == [2]
    assert entries(scheduler, now_ns=2**63 - 1) == [1]


def test_the_largest_corrections_do_not_overflow() -> None:
    scheduler = two_backlogs()
    for delta in (2**63 - 1, -(2**63), 2**63 - 1, 2**63 - 1, -(2**63)):
        scheduler.correct(0, 1, delta)

    assert turns(scheduler, 4) == [1, 1, 2, 1]


def test_the_largest_numbers_do_not_overflow() -> None:
    scheduler = Scheduler(2, record_cost=65536)
    queue = handle = 2**63 - 1
    for lane in (0, 1):
        scheduler.admit(lane, queue, handle, 2**31 - 1, 2**31 - 1)

    lanes = []
    for _ in range(100):
        taken = scheduler.take(ALL, 2**63 - 1, 2**63 - 1, exclusive=False)
        assert taken is not None
        [(queue, handle, _start, count)] = taken[1]
        assert (queue, handle, count) == (2**63 - 1, 2**63 - 1, 2**24)
        lanes.append(taken[0])
    assert lanes.count(1) in (19, 20)
