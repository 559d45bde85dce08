"""Splitting chunks by columns and by what lanes are fair by."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from flowguard._native import wire
from flowguard.chunk import NO_FLOW, TopicPartition
from flowguard.errors import ConfigError, RegistryError
from flowguard.intake.chunks import Arrival, chunks_of
from flowguard.intake.codec import make_codec
from flowguard.intake.schema import Schema
from flowguard.lanes.fairness import FLOWS, header, key
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Conflate
from flowguard.lanes.rules import by_column, by_header, compile_rule, rule_fingerprint
from flowguard.lanes.split import Splitter

FAST, HINTS, SLOW = Lane("fast", target="50ms"), Lane("hints"), Lane("slow")
LANES = LaneSet.of([FAST, HINTS, SLOW])
SCHEMA = Schema.parse({"kind": "string", "size": "!int64", "tenant": "string"})


def splitter(rule: Any, lanes: LaneSet = LANES, **options: Any) -> Splitter:
    route = compile_rule(rule, "orders", lanes, used_by="feed 'orders'", columns=SCHEMA.arrow)
    options.setdefault("codec", make_codec("json", SCHEMA))
    return Splitter(route, lanes, columns=SCHEMA.arrow, used_by="feed 'orders'", **options)


def chunk(*values: Any, keys: Any = None, tenants: Any = None) -> pa.RecordBatch:
    """Return columns with offsets 10, 11, …; a value is bytes, null, or what JSON can say."""
    count = len(values)
    raw = [v if v is None or isinstance(v, bytes) else json.dumps(v).encode() for v in values]
    headers = [
        None if tenant is None else wire.encode_headers([(b"tenant", tenant)])
        for tenant in tenants or [None] * count
    ]
    return pa.record_batch(
        {
            "offset": pa.array(range(10, 10 + count), pa.int64()),
            "timestamp": pa.array([0] * count, pa.int64()),
            "key": pa.array(keys or [None] * count, pa.binary()),
            "value": pa.array(raw, pa.binary()),
            "headers": pa.array([head or wire.encode_headers([]) for head in headers], pa.binary()),
        }
    )


def lanes_of(parts: Any) -> dict[int, list[int]]:
    """Return lane → offsets, flows of a lane one after the other."""
    found: dict[int, list[int]] = {}
    for part in parts:
        found.setdefault(part.lane, []).extend(part.columns.column("offset").to_pylist())
    return found


def flow_of(parts: Any) -> dict[int, int]:
    return {o: p.flow for p in parts for o in p.columns.column("offset").to_pylist()}


def test_the_value_of_a_column_names_the_lane():
    split = splitter(by_column({"kind": {"f": FAST, "h": HINTS}}, default=SLOW)).split
    values = [{"kind": each, "size": 1} for each in ("f", "x", "h", None, "f")]

    assert lanes_of(split(chunk(*values), 2)) == {0: [10, 14], 1: [12], 2: [11, 13]}


def test_missing_null_unreadable_and_rejected_records_get_the_default():
    split = splitter(by_column({"size": {1: FAST}}, default=HINTS)).split
    values = [None, b"", b"no json", {"kind": "f"}, {"size": "1"}, {"size": None}, {"size": 1}]

    assert lanes_of(split(chunk(*values), 1)) == {0: [16], 1: [10, 11, 12, 13, 14, 15]}


def test_of_several_columns_the_first_that_matches_counts():
    rule = by_column({"kind": {"f": FAST}, "size": {1: HINTS}}, default=SLOW)
    values = [{"kind": "f", "size": 1}, {"kind": "x", "size": 1}, {"kind": "x", "size": 2}]

    assert lanes_of(splitter(rule).split(chunk(*values), 2)) == {0: [10], 1: [11], 2: [12]}


def test_another_bad_column_does_not_change_the_lane():
    split = splitter(by_column({"kind": {"f": FAST}}, default=SLOW)).split

    assert lanes_of(split(chunk({"kind": "f", "size": "wrong"}), 2)) == {0: [10]}


def test_an_expression_yields_lane_names():
    rule = pl.when(pl.col("size") > 5).then(pl.lit("fast")).otherwise(pl.col("kind"))
    values = [{"size": 6}, {"size": 1, "kind": "hints"}, {"size": 1, "kind": "none"}, {"size": 1}]

    assert lanes_of(splitter(rule).split(chunk(*values), 2)) == {0: [10], 1: [11], 2: [12, 13]}


def test_a_row_that_makes_an_expression_fail_costs_no_other_row_its_lane():
    rule = pl.when(pl.col("kind").cast(pl.Int64) > 0).then(pl.lit("fast"))
    values = [{"size": 1, "kind": each} for each in ("5", "five", "7")]

    assert lanes_of(splitter(rule).split(chunk(*values), 2)) == {0: [10, 12], 2: [11]}


def test_a_record_gets_its_lane_whatever_is_read_with_it():
    rule = pl.when(pl.col("size") * 2 > 5).then(pl.col("kind"))
    split = splitter(rule).split
    values = [
        {"size": 3, "kind": "fast"}, None, {"size": 2, "kind": "fast"}, b"{", {"size": 2**62},
        {"size": 9, "kind": "hints"}, {"size": 9, "kind": "fast"},
    ]  # fmt: skip
    whole = chunk(*values)

    alone = {10 + row: split(whole[row : row + 1], 2)[0].lane for row in range(len(values))}

    together = {o: lane for lane, each in lanes_of(split(whole, 2)).items() for o in each}
    assert together == alone


def test_a_rule_that_the_parser_carries_out_needs_no_splitting():
    whole = splitter(by_header("l", {"f": FAST}, SLOW))
    columns = chunk({"size": 1}, {"size": 2})

    [part] = whole.split(columns, 1)

    assert not whole.needed and not whole.decodes
    assert part == (1, NO_FLOW, columns, None) and part.columns is columns


def test_a_chunk_of_one_lane_is_not_copied():
    columns = chunk({"kind": "f", "size": 1}, {"kind": "f", "size": 2})

    [part] = splitter(by_column({"kind": {"f": FAST}}, SLOW)).split(columns, 2)

    assert part.lane == 0 and part.columns is columns


def test_no_records_are_no_parts():
    assert splitter(by_column({"kind": {"f": FAST}}, SLOW)).split(chunk()[:0], 2) == []


def test_order_by_key_keeps_each_key_in_one_flow():
    keys = [b"a", b"b", None, b"a", b"b", None]
    parts = splitter(SLOW, order="key").split(chunk(*[{"size": 1}] * 6, keys=keys), 2)

    flows = flow_of(parts)
    assert flows[10] == flows[13] != flows[11] == flows[14]
    assert flows[12] == flows[15] == 0
    assert all(0 <= flow < FLOWS for flow in flows.values())
    assert [o for p in parts if p.flow == flows[10] for o in p.columns["offset"].to_pylist()] == [
        10, 13,
    ]  # fmt: skip


def test_order_none_without_fairness_has_one_flow():
    parts = splitter(SLOW, order="none").split(
        chunk({"size": 1}, {"size": 2}, keys=[b"a", b"b"]), 2
    )

    assert [(part.lane, part.flow) for part in parts] == [(2, NO_FLOW)]


@pytest.mark.parametrize("by", [key(), header("tenant"), "tenant", "size"])
def test_a_lane_is_fair_by_the_key_a_header_or_a_column(by):
    fair = Lane("fair", fair_by=by)
    columns = chunk(
        {"size": 1, "tenant": "a"}, {"size": 2, "tenant": "b"}, b"?", {"size": 1, "tenant": "a"},
        keys=[b"a", b"b", None, b"a"], tenants=[b"a", b"b", None, b"a"],
    )  # fmt: skip

    flows = flow_of(splitter(fair, LaneSet.of([fair]), order="none").split(columns, 0))

    assert flows[10] == flows[13] != flows[11]
    assert flows[12] == 0


def test_each_lane_is_fair_by_its_own():
    one = Lane("one", fair_by=header("tenant"))
    other = Lane("other", fair_by="size")
    last = Lane("last")
    rule = by_column({"kind": {"1": one, "2": other}}, default=last)
    columns = chunk(
        *({"kind": kind, "size": size} for kind, size in (("1", 5), ("1", 6), ("2", 5), ("2", 6))),
        {"size": 5}, {"size": 6}, tenants=[b"t"] * 6, keys=[b"a", b"b"] * 3,
    )  # fmt: skip

    parts = splitter(rule, LaneSet.of([one, other, last]), order="none").split(columns, 2)

    flows = flow_of(parts)
    assert lanes_of(parts).keys() == {0, 1, 2}
    assert flows[10] == flows[11] and flows[12] != flows[13] and flows[14] == flows[15] == NO_FLOW


def test_fairness_in_a_feed_that_keeps_the_order_of_partitions_is_an_error():
    fair = Lane("fair", fair_by=key())
    with pytest.raises(ConfigError, match='declare the feed with order="key"'):
        splitter(fair, LaneSet.of([fair]), order="partition")


def test_fairness_by_a_column_that_nobody_declared_is_an_error():
    fair = Lane("fair", fair_by="tennant")
    with pytest.raises(ConfigError, match="did you mean 'tenant'"):
        splitter(fair, LaneSet.of([fair]), order="none")


def test_a_lane_that_is_conflated_by_a_column_keeps_its_values():
    latest = Lane("latest", overflow=Conflate("tenant"))
    split = splitter(by_column({"kind": {"l": latest}}, SLOW), LaneSet.of([FAST, latest, SLOW]))
    columns = chunk(
        {"kind": "l", "size": 1, "tenant": "a"},
        {"kind": "x", "size": 1, "tenant": "a"},
        {"kind": "l", "size": 1},
        {"kind": "l", "size": 1, "tenant": "b"},
    )

    [first, second] = split.split(columns, 2)

    assert split.needed and split.decodes
    assert (first.lane, first.entity.to_pylist()) == (1, [b"a", None, b"b"])
    assert (second.lane, second.entity) == (2, None)
    assert first.columns.schema == second.columns.schema == columns.schema


def test_records_that_cannot_be_decoded_and_tombstones_are_nothing_that_is_conflated():
    latest = Lane("latest", overflow=Conflate("size"))
    split = splitter(latest, LaneSet.of([latest]))

    [part] = split.split(chunk({"size": 5}, b"{", None, {"size": None}, {"size": 5}), 0)

    assert part.entity.to_pylist() == [b"5", None, None, None, b"5"]
    assert part.columns.num_rows == 5


def test_values_that_a_lane_is_conflated_by_follow_their_records_into_flows():
    latest = Lane("latest", overflow=Conflate("tenant"))
    split = splitter(latest, LaneSet.of([latest]), order="key")
    columns = chunk(
        *({"size": n, "tenant": f"t{n}"} for n in range(8)),
        keys=[b"%d" % (n % 3) for n in range(8)],
    )

    parts = split.split(columns, 0)

    assert len(parts) == 3
    for part in parts:
        numbers = [offset - 10 for offset in part.columns.column("offset").to_pylist()]
        assert part.entity.to_pylist() == [b"t%d" % n for n in numbers]


def test_conflating_by_the_key_needs_no_splitting():
    latest = Lane("latest", overflow=Conflate())

    assert not splitter(latest, LaneSet.of([latest])).needed


def test_conflating_by_a_column_that_nobody_declared_is_an_error():
    latest = Lane("latest", overflow=Conflate("tenent"))

    with pytest.raises(ConfigError, match="did you mean 'tenant'"):
        splitter(latest, LaneSet.of([latest]))


def test_what_is_kept_for_conflating_is_counted_as_memory():
    latest = Lane("latest", overflow=Conflate("tenant"))
    split = splitter(latest, LaneSet.of([latest]))
    columns = chunk(*({"size": n, "tenant": f"t{n}"} for n in range(8)))
    parsed = SimpleNamespace(lane=0, columns=columns, num_bytes=columns.nbytes)

    [read] = chunks_of(TopicPartition("orders", 0), [parsed], Arrival(0, 0), splitter=split)

    assert read.entity is not None and read.entity.to_pylist()[0] == b"t0"
    assert read.num_bytes == columns.nbytes + read.entity.nbytes
    assert read.entities is read.entity


def test_a_registry_that_does_not_answer_decides_nothing():
    class Silent:
        def schema(self, id: int) -> str:
            raise RegistryError("no answer")

    codec = make_codec("avro", SCHEMA, registry=Silent())
    split = splitter(by_column({"kind": {"f": FAST}}, SLOW), codec=codec)

    assert split.decodes
    with pytest.raises(RegistryError):
        split.split(chunk(b"\0\0\0\0\1"), 2)


# What a rule decides, in 16 digits.


def fingerprint(rule: Any, lanes: LaneSet = LANES, codec: str = "json", topic: str = "t") -> str:
    route = compile_rule(rule, topic, lanes, used_by="x", columns=SCHEMA.arrow)
    return rule_fingerprint(route, lanes, codec=codec, columns=SCHEMA.arrow)


def test_a_fingerprint_changes_with_what_a_rule_decides_and_with_nothing_else():
    prints = [
        fingerprint(FAST),
        fingerprint(SLOW),
        fingerprint(None),
        fingerprint(None, LaneSet.of([FAST, SLOW, HINTS])),
        fingerprint(by_header("a", {"x": FAST}, SLOW)),
        fingerprint(by_header("b", {"x": FAST}, SLOW)),
        fingerprint(by_column({"kind": {"x": FAST}}, SLOW)),
        fingerprint(by_column({"kind": {"x": HINTS}}, SLOW)),
        fingerprint(by_column({"kind": {"x": FAST}}, SLOW), codec="msgpack"),
        fingerprint(pl.col("kind")),
        fingerprint(pl.col("tenant")),
    ]

    assert len(set(prints)) == len(prints)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in prints)
    swapped = by_header("a", {"y": HINTS, "x": FAST}, SLOW)
    assert fingerprint(swapped) == fingerprint(by_header("a", {"x": FAST, "y": HINTS}, SLOW))


def test_a_fingerprint_does_not_change_with_how_lanes_are_served():
    tuned = LaneSet.of([Lane("fast", target="1s", rate="1/s"), Lane("hints"), Lane("slow")])

    assert fingerprint(None, tuned) == fingerprint(None)
