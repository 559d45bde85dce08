"""The lanes of a worker, in their one order of priority."""

from __future__ import annotations

import pytest

from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LANES_MAX, LaneSet

FAST, SLOW = Lane("fast", target="50ms"), Lane("slow")


def test_without_lanes_there_is_one_named_default():
    assert [lane.name for lane in LaneSet.of(None)] == ["default"]
    assert [lane.name for lane in LaneSet.of([])] == ["default"]


def test_the_first_lane_is_the_highest():
    lanes = LaneSet.of([FAST, SLOW])

    assert (lanes.rank(FAST, used_by="x"), lanes.rank(SLOW, used_by="x")) == (0, 1)
    assert (lanes[0], len(lanes)) == (FAST, 2)


def test_a_lane_of_another_app_is_an_error_that_names_who_uses_it():
    with pytest.raises(ConfigError, match=r"feed 'orders' names lane 'fats'.*did you mean 'fast'"):
        LaneSet.of([FAST, SLOW]).rank(Lane("fats"), used_by="feed 'orders'")


def test_a_lane_of_the_same_name_with_other_options_is_another_lane():
    with pytest.raises(ConfigError, match="names lane 'fast'"):
        LaneSet.of([FAST]).rank(Lane("fast", target="1s"), used_by="feed 'orders'")


def test_two_lanes_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two lanes are named 'fast'"):
        LaneSet.of([FAST, Lane("fast")])


def test_more_reserves_than_seats_are_refused():
    with pytest.raises(ConfigError, match="add up to 1"):
        LaneSet.of([Lane("a", reserve=0.6), Lane("b", reserve=0.5)])


def test_reserves_of_tenths_that_add_up_to_one_are_not_refused_for_a_rounding_error():
    lanes = [Lane(f"l{number}", reserve=0.1) for number in range(3)] + [Lane("rest", reserve=0.7)]

    assert len(LaneSet.of(lanes)) == 4


def test_more_lanes_than_bits_are_refused():
    with pytest.raises(ConfigError, match="too many"):
        LaneSet.of([Lane(f"l{number}") for number in range(LANES_MAX + 1)])


def test_the_tightest_target_counts():
    lanes = LaneSet.of([Lane("a", target="1s"), Lane("b", target="20ms"), Lane("c")])

    assert lanes.target_ns_min == 20_000_000
    assert LaneSet.of([Lane("c")]).target_ns_min is None
