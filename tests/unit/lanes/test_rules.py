"""Rules: which lane a record belongs to."""

from __future__ import annotations

import pytest

from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.rules import Route, by_header, by_key_prefix, by_topic, compile_rule

FAST, HINTS, SLOW = Lane("fast", target="50ms"), Lane("hints"), Lane("slow")
LANES = LaneSet.of([FAST, HINTS, SLOW])


def route(rule: object, topic: str = "orders", lanes: LaneSet = LANES) -> Route:
    return compile_rule(rule, topic, lanes, used_by="feed 'orders'")  # type: ignore[arg-type]


def test_a_lane_is_a_rule():
    assert route(HINTS) == Route(1)


def test_a_rule_by_topic_is_one_lane_once_the_topic_is_known():
    rule = by_topic({"orders": FAST}, default=SLOW)

    assert route(rule, "orders") == Route(0)
    assert route(rule, "other") == Route(2)


def test_a_rule_by_header_has_ranks_by_value():
    rule = by_header("lane", {"f": FAST, "h": HINTS}, default=SLOW)

    assert route(rule) == Route(2, b"lane", ((b"f", 0), (b"h", 1)))
    assert route(rule).ranks == {0, 1, 2}


def test_a_rule_by_key_prefix_has_ranks_by_prefix():
    assert route(by_key_prefix({"vip:": FAST}, default=SLOW)) == Route(2, None, ((b"vip:", 0),))


def test_without_a_rule_the_header_fg_lane_names_the_lane():
    assert route(None) == Route(2, b"fg-lane", ((b"fast", 0), (b"hints", 1), (b"slow", 2)))


def test_without_a_rule_an_app_with_one_lane_never_looks():
    assert route(None, lanes=LaneSet.of([SLOW])) == Route(0)


@pytest.mark.parametrize(
    "rule",
    [
        Lane("other"),
        by_topic({"x": Lane("other")}, default=SLOW),
        by_topic({}, default=Lane("other")),
        by_header("lane", {"x": Lane("other")}, default=SLOW),
        by_key_prefix({"x": SLOW}, default=Lane("other")),
    ],
)
def test_a_rule_that_names_a_lane_of_no_app_is_an_error(rule):
    with pytest.raises(ConfigError, match="feed 'orders' names lane 'other'"):
        route(rule)


@pytest.mark.parametrize("table", [None, [FAST], {1: FAST}, {"a": "fast"}])
def test_a_table_of_something_else_is_an_error_where_it_is_declared(table):
    with pytest.raises(ConfigError, match="by_header"):
        by_header("lane", table, default=SLOW)
    with pytest.raises(ConfigError, match="by_topic"):
        by_topic(table, default=SLOW)
    with pytest.raises(ConfigError, match="by_key_prefix"):
        by_key_prefix(table, default=SLOW)


@pytest.mark.parametrize("name", ["", None, b"lane"])
def test_a_header_without_a_name_is_an_error(name):
    with pytest.raises(ConfigError, match="needs a name"):
        by_header(name, {}, default=SLOW)


def test_a_default_that_is_no_lane_is_an_error():
    with pytest.raises(ConfigError, match="is no lane"):
        by_topic({}, default="slow")  # type: ignore[arg-type]


def test_changing_a_table_later_changes_no_rule():
    table = {"f": FAST}
    rule = by_header("lane", table, default=SLOW)

    table["g"] = HINTS

    assert route(rule).ranks == {0, 2}
