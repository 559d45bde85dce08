"""How many records a batch may have."""

from __future__ import annotations

import pytest

from flowguard.dispatch.sizing import RECORDS_FIRST, BatchLimit, BatchSize
from flowguard.errors import ConfigError
from flowguard.units import MICROSECOND, MILLISECOND, SECOND

TARGET_NS = 40 * MILLISECOND  # a quarter of it is 10 ms


class Served(BatchLimit):
    """A limit whose batches run one after the other."""

    now_ns = 0

    def serve(self, *, records: int, service_ns: int) -> None:
        self.now_ns += service_ns
        self.sample(records=records, service_ns=service_ns, now_ns=self.now_ns)


def test_without_a_target_batches_are_as_large_as_the_agent_allows():
    limit = Served(4096, target_ns=None)

    limit.serve(records=4096, service_ns=10_000 * MILLISECOND)

    assert limit.records == 4096


def test_with_a_target_the_search_starts_small():
    assert Served(4096, target_ns=TARGET_NS).records == RECORDS_FIRST
    assert Served(10, target_ns=TARGET_NS).records == 10


def test_full_batches_that_are_fast_make_the_next_ones_twice_as_large():
    limit = Served(200, target_ns=TARGET_NS)

    limit.serve(records=64, service_ns=4 * MILLISECOND)
    assert limit.records == 128
    limit.serve(records=128, service_ns=4 * MILLISECOND)

    assert limit.records == 200


def test_a_batch_that_was_not_full_says_nothing_about_larger_ones():
    limit = Served(4096, target_ns=TARGET_NS)

    limit.serve(records=3, service_ns=MILLISECOND)

    assert limit.records == RECORDS_FIRST


def test_a_batch_that_takes_too_long_shrinks_the_next_ones_in_proportion():
    limit = Served(4096, target_ns=TARGET_NS)

    limit.serve(records=64, service_ns=40 * MILLISECOND)

    assert limit.records == 16


def test_the_limit_never_falls_below_one_record():
    limit = Served(4096, target_ns=TARGET_NS)

    limit.serve(records=1, service_ns=60_000 * MILLISECOND)

    assert limit.records == 1


def test_a_slow_small_batch_never_makes_batches_larger():
    limit = Served(4096, target_ns=TARGET_NS)
    limit.serve(records=64, service_ns=640 * MILLISECOND)
    assert limit.records == 1

    limit.serve(records=64, service_ns=11 * MILLISECOND)

    assert limit.records == 1


def test_batches_settle_where_they_take_between_half_and_all_of_the_time():
    limit = Served(4096, target_ns=TARGET_NS)

    for _ in range(50):
        limit.serve(records=limit.records, service_ns=limit.records * 20_000)

    assert 5 * MILLISECOND <= limit.records * 20_000 <= 10 * MILLISECOND


def test_batch_size_takes_quantities_as_people_write_them():
    size = BatchSize(max=10, linger="7ms", by_partition=True)

    assert (size.max, size.linger_ns, size.by_partition) == (10, 7 * MILLISECOND, True)
    assert BatchSize().max == 4096


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "10"])
def test_batch_size_refuses_what_is_no_number_of_records(most):
    with pytest.raises(ConfigError, match=r"BatchSize\.max"):
        BatchSize(max=most)


def test_batch_size_names_the_option_that_was_meant():
    with pytest.raises(ConfigError, match="did you mean linger"):
        BatchSize(lingr="5ms")


def test_a_call_that_is_slow_whatever_its_size_does_not_shrink_batches_for_good():
    limit = Served(4096, target_ns=50 * MILLISECOND)

    for _ in range(40):
        limit.serve(records=limit.records, service_ns=500 * MILLISECOND)

    assert limit.records == 4096


def test_a_fixed_part_leaves_half_of_the_time_to_records():
    limit = Served(4096, target_ns=40 * MILLISECOND)

    for _ in range(60):
        limit.serve(
            records=limit.records, service_ns=20 * MILLISECOND + limit.records * MILLISECOND // 20
        )

    assert 50 <= limit.records <= 110


@pytest.mark.parametrize("waiting_ms", [0, 8])
def test_a_few_records_do_not_stay_a_few_where_more_cost_little_more(waiting_ms: int):
    """2 ms a call and 1 ms a record, 25 ms of target: alone each takes half of a quarter of it."""
    limit = Served(4096, target_ns=25 * MILLISECOND)
    limit.serve(records=64, service_ns=640 * MILLISECOND)
    assert limit.records == 1

    for _ in range(1_000):
        service_ns = (2 + waiting_ms + limit.records) * MILLISECOND
        limit.serve(records=limit.records, service_ns=service_ns)

    assert limit.records in (3, 4)


def test_a_batch_is_larger_than_what_is_known_to_be_in_time_now_and_then_only():
    limit = Served(4096, target_ns=12 * MILLISECOND)
    sizes = []

    for _ in range(2_000):
        sizes.append(limit.records)
        limit.serve(records=limit.records, service_ns=limit.records * MILLISECOND)

    assert set(sizes[20:]) == {3, 4}
    assert sizes[20:].count(4) <= 2_000 / 60


def test_an_agent_that_becomes_slow_gets_smaller_batches():
    limit = Served(4096, target_ns=40 * MILLISECOND)
    for _ in range(20):
        limit.serve(records=limit.records, service_ns=limit.records * MICROSECOND)

    for _ in range(60):
        limit.serve(records=limit.records, service_ns=limit.records * 100 * MICROSECOND)

    assert limit.records <= 100


def in_time(limit: Served, records: int) -> Served:
    """Return a limit that has seen so many records in time, and lets a batch have no more."""
    for _ in range(20):
        limit.serve(records=limit.records, service_ns=8 * MILLISECOND * limit.records // records)
    return limit


def test_one_batch_that_was_late_for_once_changes_nothing():
    limit = in_time(Served(4096, target_ns=TARGET_NS), 100)
    usual = limit.records

    for records in (usual, 1, 20):  # a short pause of the machine shows in whatever runs
        limit.serve(records=records, service_ns=60 * MILLISECOND)
        limit.serve(records=records, service_ns=MILLISECOND)

    assert limit.records >= usual > 1


def test_batches_that_ran_beside_a_late_one_say_no_more_than_that_one():
    limit = in_time(Served(4096, target_ns=TARGET_NS), 100)
    usual = limit.records

    for late_ms in range(4):
        now_ns = limit.now_ns + (60 + late_ms) * MILLISECOND
        limit.sample(records=usual, service_ns=60 * MILLISECOND, now_ns=now_ns)

    assert limit.records == usual


def test_a_second_late_batch_is_believed_and_the_better_of_both_decides():
    limit = in_time(Served(4096, target_ns=TARGET_NS), 100)
    usual = limit.records

    limit.serve(records=usual, service_ns=400 * MILLISECOND)
    limit.serve(records=usual, service_ns=20 * MILLISECOND)

    assert limit.records == usual // 2


# The slow loop.


class Reviewed(BatchLimit):
    """A limit that knows how late it is."""

    reviewed_s = 0


def review_all(limit: Reviewed, count: int, **figures) -> list[int]:
    """Let ten seconds pass so many times; return what batches may have after each."""
    found = []
    for _ in range(count):
        limit.reviewed_s += 10
        limit.review(limit.reviewed_s * SECOND, **figures)
        found.append(limit.records)
    return found


def costs(*, fixed_ms: float, record_us: float) -> dict[str, float]:
    return {"fixed_ns": fixed_ms * MILLISECOND, "record_ns": record_us * MICROSECOND}


def test_records_that_only_make_batches_longer_are_left_out_step_by_step():
    limit = Reviewed(4096, target_ns=None)
    limit.review(0, **costs(fixed_ms=0, record_us=1000))

    found = review_all(limit, 9, **costs(fixed_ms=0, record_us=1000))

    assert found[:4] == [2048, 1024, 512, 256]
    assert found[-1] == 50  # 50 ms


def test_a_large_fixed_part_keeps_batches_large():
    limit = Reviewed(4096, target_ns=None)
    limit.review(0, **costs(fixed_ms=100, record_us=500))

    assert review_all(limit, 5, **costs(fixed_ms=100, record_us=500)) == [4096] * 5


def test_batches_become_larger_again_when_records_become_cheap():
    limit = Reviewed(4096, target_ns=None)
    limit.review(0, **costs(fixed_ms=0, record_us=1000))
    review_all(limit, 10, **costs(fixed_ms=0, record_us=1000))

    found = review_all(limit, 8, **costs(fixed_ms=0, record_us=5))

    assert found[:3] == [100, 200, 400]
    assert found[-1] == 4096


def test_small_differences_change_nothing():
    limit = Reviewed(4096, target_ns=None)
    limit.review(0, **costs(fixed_ms=0, record_us=100))
    review_all(limit, 10, **costs(fixed_ms=0, record_us=100))
    assert limit.records == 512

    assert review_all(limit, 3, **costs(fixed_ms=0, record_us=120)) == [512] * 3


def test_nothing_is_changed_before_ten_seconds_or_five_windows_have_passed():
    limit = BatchLimit(4096, target_ns=None)
    figures = costs(fixed_ms=0, record_us=1000)
    limit.review(0, **figures)

    assert limit.review(9 * SECOND, **figures) is None
    assert limit.review(20 * SECOND, **figures, window_ns=5 * SECOND) is None
    assert limit.review(25 * SECOND, **figures, window_ns=5 * SECOND) is not None


def test_nothing_is_changed_while_it_is_not_known_what_records_cost():
    limit = Reviewed(4096, target_ns=None)
    limit.review(0, fixed_ns=0.0, record_ns=None)

    assert review_all(limit, 3, fixed_ns=0.0, record_ns=None) == [4096] * 3


def test_long_batches_of_one_size_are_halved_to_find_out_what_makes_them_long():
    limit = Reviewed(4096, target_ns=None)
    unknown = {"fixed_ns": 0.0, "record_ns": None, "service_ns": 2.0 * SECOND}
    limit.review(0, **unknown)

    assert review_all(limit, 1, **unknown) == [2048]
    assert review_all(limit, 2, **costs(fixed_ms=2000, record_us=0)) == [4096, 4096]


def test_a_review_says_what_it_would_do_and_does_it_only_if_it_is_enforced():
    limit = BatchLimit(4096, target_ns=None)
    figures = costs(fixed_ms=0.5, record_us=1000)
    limit.review(0, **figures, enforce=False)

    review = limit.review(10 * SECOND, **figures, enforce=False)

    assert review is not None
    assert (review.before, review.after) == (4096, 2048)
    assert review.why == "a record takes 1000 us, and a batch 0.5 ms beside"
    assert limit.records == 4096


def test_the_quarter_of_a_target_holds_whatever_a_review_says():
    limit = Reviewed(4096, target_ns=TARGET_NS)
    limit.review(0, **costs(fixed_ms=100, record_us=1000))
    review_all(limit, 5, **costs(fixed_ms=100, record_us=1000))

    limit.sample(records=64, service_ns=40 * MILLISECOND, now_ns=0)

    assert limit.records == 16


def test_bulk_may_grow_for_a_while_but_never_beyond_what_the_agent_allows():
    limit = BatchLimit(200, target_ns=TARGET_NS)

    limit.bulk_factor = 2.0
    assert limit.records == 128
    limit.bulk_factor = 8.0
    assert limit.records == 200
    limit.bulk_factor = 1.0
    assert limit.records == 64
