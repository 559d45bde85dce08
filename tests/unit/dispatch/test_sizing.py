"""How many records a batch may have."""

from __future__ import annotations

import pytest

from flowguard.dispatch.sizing import RECORDS_FIRST, BatchLimit, BatchSize
from flowguard.errors import ConfigError
from flowguard.units import MICROSECOND, MILLISECOND

TARGET_NS = 40 * MILLISECOND  # a quarter of it is 10 ms


def test_without_a_target_batches_are_as_large_as_the_agent_allows():
    limit = BatchLimit(4096, target_ns=None)

    limit.sample(records=4096, service_ns=10_000 * MILLISECOND)

    assert limit.records == 4096


def test_with_a_target_the_search_starts_small():
    assert BatchLimit(4096, target_ns=TARGET_NS).records == RECORDS_FIRST
    assert BatchLimit(10, target_ns=TARGET_NS).records == 10


def test_full_batches_that_are_fast_make_the_next_ones_twice_as_large():
    limit = BatchLimit(200, target_ns=TARGET_NS)

    limit.sample(records=64, service_ns=4 * MILLISECOND)
    assert limit.records == 128
    limit.sample(records=128, service_ns=4 * MILLISECOND)

    assert limit.records == 200


def test_a_batch_that_was_not_full_says_nothing_about_larger_ones():
    limit = BatchLimit(4096, target_ns=TARGET_NS)

    limit.sample(records=3, service_ns=MILLISECOND)

    assert limit.records == RECORDS_FIRST


def test_a_batch_that_takes_too_long_shrinks_the_next_ones_in_proportion():
    limit = BatchLimit(4096, target_ns=TARGET_NS)

    limit.sample(records=64, service_ns=40 * MILLISECOND)

    assert limit.records == 16


def test_the_limit_never_falls_below_one_record():
    limit = BatchLimit(4096, target_ns=TARGET_NS)

    limit.sample(records=1, service_ns=60_000 * MILLISECOND)

    assert limit.records == 1


def test_a_slow_small_batch_never_makes_batches_larger():
    limit = BatchLimit(4096, target_ns=TARGET_NS)
    limit.sample(records=64, service_ns=640 * MILLISECOND)
    assert limit.records == 1

    limit.sample(records=64, service_ns=11 * MILLISECOND)

    assert limit.records == 1


def test_batches_settle_where_they_take_between_half_and_all_of_the_time():
    limit = BatchLimit(4096, target_ns=TARGET_NS)

    for _ in range(50):
        limit.sample(records=limit.records, service_ns=limit.records * 20_000)

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
    limit = BatchLimit(4096, target_ns=50 * MILLISECOND)

    for _ in range(40):
        limit.sample(records=limit.records, service_ns=500 * MILLISECOND)

    assert limit.records == 4096


def test_a_fixed_part_leaves_half_of_the_time_to_records():
    limit = BatchLimit(4096, target_ns=40 * MILLISECOND)

    for _ in range(60):
        limit.sample(
            records=limit.records, service_ns=20 * MILLISECOND + limit.records * MILLISECOND // 20
        )

    assert 50 <= limit.records <= 110


def test_an_agent_that_becomes_slow_gets_smaller_batches():
    limit = BatchLimit(4096, target_ns=40 * MILLISECOND)
    for _ in range(20):
        limit.sample(records=limit.records, service_ns=limit.records * MICROSECOND)

    for _ in range(60):
        limit.sample(records=limit.records, service_ns=limit.records * 100 * MICROSECOND)

    assert limit.records <= 100
