"""Rules: which lane a record belongs to."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.rules import Route, by_column, by_header, by_key_prefix, by_topic, compile_rule

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


# Rules by columns.

COLUMNS = pa.schema([("kind", pa.string()), ("size", pa.int16()), ("price", pa.decimal128(6, 2))])


def columns_route(rule: object, columns: pa.Schema | None = COLUMNS) -> Route:
    return compile_rule(rule, "orders", LANES, used_by="feed 'orders'", columns=columns)  # type: ignore[arg-type]


def test_a_rule_by_column_says_what_it_needs_and_what_it_can_decide():
    found = columns_route(by_column({"kind": {"f": FAST}, "size": {1: HINTS}}, default=SLOW))

    assert found.columns is not None
    assert found.columns.names == ("kind", "size")
    assert (found.default, found.ranks) == (2, {0, 1, 2})
    assert (found.header, found.table) == (None, ())


def test_an_expression_can_decide_for_every_lane_and_its_default_is_the_lowest():
    found = columns_route(pl.when(pl.col("size") > 1).then(pl.col("kind")))

    assert found.columns is not None
    assert found.columns.names == ("kind", "size")
    assert (found.default, found.ranks) == (2, {0, 1, 2})


@pytest.mark.parametrize("rule", [by_column({"kind": {"f": FAST}}, SLOW), pl.col("kind")])
def test_a_rule_by_columns_that_are_inferred_asks_to_declare_them(rule):
    with pytest.raises(ConfigError, match="depend on kind; declare columns"):
        columns_route(rule, None)


@pytest.mark.parametrize("rule", [by_column({"kinds": {"f": FAST}}, SLOW), pl.col("kinds")])
def test_a_rule_by_a_column_that_does_not_exist_names_the_nearest(rule):
    with pytest.raises(ConfigError, match=r"no column 'kinds'.*did you mean 'kind'"):
        columns_route(rule)


@pytest.mark.parametrize(
    ("name", "value"), [("size", "x"), ("size", 70_000), ("size", True), ("size", None)]
)
def test_a_value_that_its_column_cannot_have_is_an_error(name, value):
    with pytest.raises(ConfigError, match="which cannot be"):
        columns_route(by_column({name: {value: FAST}}, SLOW))


def test_values_may_be_written_as_text():
    columns_route(by_column({"size": {"1": FAST}, "price": {"1.50": FAST}}, SLOW))
    with pytest.raises(ConfigError, match="are the same"):
        columns_route(by_column({"size": {"1": FAST, 1: HINTS}}, SLOW))


@pytest.mark.parametrize(
    "rule",
    [
        pl.col("kind").shift(1), pl.col("kind").over("size"), pl.col("kind").first(),
        pl.when(pl.col("size") > pl.col("size").mean()).then(pl.lit("fast")), pl.lit("fast"),
        pl.col("kind").sort(), pl.col("kind").drop_nulls(),
    ],
)  # fmt: skip
def test_an_expression_that_looks_at_more_than_one_row_is_refused(rule):
    with pytest.raises(ConfigError, match="row by row"):
        columns_route(rule)


@pytest.mark.parametrize(
    "rule",
    [
        pl.col("kind"), pl.col("kind").str.slice(0, 3), pl.coalesce("kind", pl.lit("fast")),
        pl.when(pl.col("size").is_in([1, 2])).then(pl.lit("fast")).otherwise(pl.lit("slow")),
        pl.when(pl.col("kind").is_null() & (pl.col("price") > 2)).then(pl.lit("fast")),
        pl.when(pl.any_horizontal(pl.col("size") > 1, pl.col("size") < 0)).then(pl.lit("fast")),
        pl.col("kind").replace_strict({"a": "fast"}, default=None), pl.concat_str("kind", "size"),
        pl.when(pl.col("size").is_between(1, pl.lit(2) + 3)).then(pl.lit("fast")).alias("lane"),
        pl.when(pl.col("price").cast(pl.Float64).round() > 1.0).then(pl.col("kind")),
    ],
)  # fmt: skip
def test_an_expression_that_looks_at_one_row_only_is_taken(rule):
    assert columns_route(rule).columns is not None


def test_an_expression_that_yields_no_names_is_refused():
    with pytest.raises(ConfigError, match="not lane names"):
        columns_route(pl.col("size"))
    with pytest.raises(ConfigError, match="fails"):
        columns_route(pl.col("size").str.len_bytes())


@pytest.mark.parametrize("tables", [None, {}, {"kind": FAST}, {1: {"f": FAST}}, {"kind": {"f": 1}}])
def test_a_table_by_column_of_something_else_is_an_error(tables):
    with pytest.raises(ConfigError, match="by_column"):
        by_column(tables, default=SLOW)


def test_rules_still_name_the_declared_lanes_when_settings_change_them():
    changed = LaneSet((Lane("fast", target="1s"), HINTS, SLOW), declared=LANES.lanes)

    assert route(by_topic({"orders": FAST}, default=SLOW), lanes=changed) == Route(0)
