"""Lanes and their options."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flowguard.errors import ConfigError
from flowguard.lanes.fairness import Column, Header, Key, header, key
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Block


def test_a_lane_has_the_options_it_was_given():
    lane = Lane("realtime", target="50ms", reserve=0.5, weight=3)

    assert (lane.name, lane.target, lane.target_ns) == ("realtime", 0.05, 50_000_000)
    assert (lane.reserve, lane.weight, lane.overflow) == (0.5, 3, (Block(),))


def test_a_lane_without_options_has_no_target_and_reserves_nothing():
    lane = Lane("backfill")

    assert (lane.target, lane.reserve, lane.weight) == (None, 0.0, 1)
    assert (lane.rate_per_s, lane.fair_by, lane.demote_after_ns) == (None, None, None)


def test_a_lane_has_a_rate_fair_shares_and_an_age_limit():
    lane = Lane("a", rate="5k/s", fair_by="tenant", demote_after="2m")

    assert (lane.rate_per_s, lane.fair_by) == (5000.0, Column("tenant"))
    assert (lane.demote_after_ns, lane.demote_after) == (120 * 10**9, 120.0)


def test_a_lane_is_fair_by_the_key_or_a_header_too():
    assert Lane("a", fair_by=key()).fair_by == Key()
    assert Lane("a", fair_by=header("tenant")).fair_by == Header("tenant")


@pytest.mark.parametrize("by", ["", 5, b"tenant", [key()]])
def test_shares_by_something_else_are_refused(by):
    with pytest.raises(ConfigError, match="nothing to share by"):
        Lane("a", fair_by=by)


@pytest.mark.parametrize("name", ["", None, b"tenant"])
def test_a_header_to_share_by_needs_a_name(name):
    with pytest.raises(ConfigError, match="needs a name"):
        header(name)


@pytest.mark.parametrize("rate", ["fast", 0, "0/s", -1, True])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="rate"):
        Lane("a", rate=rate)


@pytest.mark.parametrize("age", ["soon", 0, -1])
def test_an_age_limit_that_is_no_duration_is_refused(age):
    with pytest.raises(ConfigError, match="demote_after"):
        Lane("a", demote_after=age)


@pytest.mark.parametrize("target", [timedelta(milliseconds=50), 0.05, "50 ms"])
def test_a_target_is_any_duration(target):
    assert Lane("a", target=target).target_ns == 50_000_000


@pytest.mark.parametrize("name", ["", "Real", "a b", "-a", "a.b", "ä", None, 5, "a\n"])
def test_a_name_that_is_no_label_is_refused(name):
    with pytest.raises(ConfigError, match="not usable"):
        Lane(name)


@pytest.mark.parametrize("reserve", [-0.1, 1.1, float("nan")])
def test_a_reserve_that_is_no_share_is_refused(reserve):
    with pytest.raises(ConfigError, match="not a share"):
        Lane("a", reserve=reserve)


@pytest.mark.parametrize("reserve", ["0.5", None])
def test_a_reserve_that_is_no_number_is_a_config_error_too(reserve):
    with pytest.raises(ConfigError, match="not a share"):
        Lane("a", reserve=reserve)


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, 1001, "2"])
def test_a_weight_that_is_no_whole_number_is_refused(weight):
    with pytest.raises(ConfigError, match="no weight"):
        Lane("a", weight=weight)


@pytest.mark.parametrize("target", ["soon", -1, "0ms", 0])
def test_a_target_that_is_no_duration_is_refused(target):
    with pytest.raises(ConfigError, match="target"):
        Lane("a", target=target)


def test_a_lane_may_be_degraded_unless_it_says_otherwise_and_knows_no_greatest_age():
    assert Lane("a").degrade and not Lane("a", degrade=False).degrade
    assert Lane("a").max_age is None
    assert Lane("a", max_age="30s").max_age == 30.0


def test_a_misspelt_option_names_the_one_that_was_meant():
    with pytest.raises(ConfigError, match="did you mean target"):
        Lane("a", tagret="50ms")


def test_equal_lanes_are_equal_and_can_be_keys():
    assert {Lane("a", target="1s"): 1}[Lane("a", target=1)] == 1
