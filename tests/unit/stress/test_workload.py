"""Schedules: what is due, and when it was meant to be sent."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest

from flowguard.stress.workload import ConstantRate, Spread, record_id, warp
from flowguard.units import MILLISECOND, SECOND

MIDNIGHT = datetime(2013, 1, 1)


def test_a_flood_is_due_at_its_rate_between_its_ends() -> None:
    flood = ConstantRate(per_s=1_000, begin_ns=2 * SECOND, end_ns=5 * SECOND)

    assert flood.total == 3_000
    assert flood.due(0) == 0
    assert flood.due(2 * SECOND) == 0
    assert flood.due(3 * SECOND) == 1_000
    assert flood.due(60 * SECOND) == 3_000


def test_a_record_of_a_flood_is_due_just_after_its_instant() -> None:
    flood = ConstantRate(per_s=1_000, begin_ns=SECOND, end_ns=2 * SECOND)

    assert flood.at_ns(0) == SECOND
    assert flood.at_ns(500) == SECOND + 500 * MILLISECOND
    assert flood.due(flood.at_ns(500)) == 500


@pytest.mark.parametrize("per_s", [1, 3, 40, 999.9, 250_000])
def test_no_record_of_a_flood_is_due_later_than_its_instant(per_s: float) -> None:
    flood = ConstantRate(per_s=per_s, begin_ns=SECOND, end_ns=40 * SECOND)

    for index in (0, 1, 2, 7, 38):
        assert flood.due(flood.at_ns(index)) <= index
        assert flood.due(flood.at_ns(index) + 2) == index + 1, "not only when the next one is"


def test_a_flood_that_ends_before_it_begins_is_empty() -> None:
    flood = ConstantRate(per_s=1_000, begin_ns=2 * SECOND, end_ns=SECOND)

    assert flood.total == 0
    assert flood.due(3 * SECOND) == 0


def test_warped_events_keep_their_rhythm() -> None:
    times = pl.Series([MIDNIGHT + timedelta(hours=hour) for hour in (5, 6, 29, 53)])

    schedule = warp(times, speed=86_400, seconds=1.5)

    assert schedule.total == 3, "what comes after the end is left out"
    assert schedule.at_ns(0) == 0
    assert schedule.at_ns(1) == SECOND // 24
    assert schedule.at_ns(2) == SECOND
    assert schedule.due(SECOND // 2) == 2


@pytest.mark.parametrize(("first", "end"), [(0, 0), (0, 1), (0, 10), (3, 10), (9, 10), (7, 23)])
def test_every_record_goes_to_one_partition_in_turn(first: int, end: int) -> None:
    spread = Spread(partitions=4)

    dealt = [spread.of(partition, first, end) for partition in range(4)]

    assert sorted(index for part in dealt for index in part) == list(range(first, end))
    assert all(index % 4 == partition for partition in range(4) for index in dealt[partition])


def test_ids_of_a_partition_are_consecutive_and_unique() -> None:
    spread = Spread(partitions=3)

    ids = [spread.id(index) for index in range(9)]

    assert len(set(ids)) == 9
    assert [spread.id(index) for index in (1, 4, 7)] == [record_id(1, n) for n in range(3)]
    assert [spread.number(index) for index in (1, 4, 7)] == [0, 1, 2]
