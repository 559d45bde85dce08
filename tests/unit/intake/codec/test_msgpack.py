"""`codec="msgpack"`: the rules of JSON, in another format."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from flowguard.intake.codec import Decoded, make_codec
from flowguard.intake.codec.msgpack import MsgpackCodec
from flowguard.intake.schema import Schema

pack = msgspec.msgpack.encode


def decode(columns: dict[str, str], *values: bytes | None) -> Decoded:
    return make_codec("msgpack", Schema.parse(columns)).decode([pa.array(values, pa.binary())])


@pytest.mark.parametrize(
    ("kind", "value", "cell"),
    [
        ("int64", 1.0, 1),
        ("int8", -128, -128),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("float64", 7, 7.0),
        ("float64", math.inf, math.inf),
        ("float32", 0.5, 0.5),
        ("binary", b"\xff", b"\xff"),
        ("binary", "é", "é".encode()),
        ("decimal128(12, 2)", "12.34", Decimal("12.34")),
        ("decimal128(12, 2)", 12, Decimal("12.00")),
        ("timestamp[us, UTC]", dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
         dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        ("list<date32>", ["2020-01-01", 0], [dt.date(2020, 1, 1), dt.date(1970, 1, 1)]),
        ("struct<a: int8>", {"a": 1, "z": 2}, {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_column_says(kind: str, value: Any, cell: Any) -> None:
    decoded = decode({"c": f"!{kind}"}, pack({"c": value, "extra": [1]}))
    assert decoded.rejected == []
    assert decoded.frame["c"].to_list() == [cell]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("int64", "12", 'expected int64, found text "12"'),
        ("int64", 2**63, "does not fit int64"),
        ("int64", True, "expected int64, found true"),
        ("uint64", -1, "does not fit uint64"),
        ("int8", 128, "does not fit int8"),
        ("string", b"x", "expected string, found bytes"),
        ("decimal128(12, 2)", 12.5, "expected decimal128(12, 2), found number 12.5"),
        ("float32", 1e300, "does not fit float32"),
    ],
)
def test_a_wrong_type_rejects_its_row_only(kind: str, value: Any, reason: str) -> None:
    decoded = decode({"n": "int64", "c": kind}, pack({"n": 1}), pack({"c": value}), pack({"n": 3}))
    assert decoded.frame["n"].to_list() == [1, 3]
    assert [row for row, _ in decoded.rejected] == [1]
    assert reason in decoded.rejected[0].reason


def test_tombstones_are_null_rows_unless_a_column_is_required() -> None:
    assert decode({"c": "int64"}, None, b"").frame["c"].to_list() == [None, None]
    for kind in ("!int64", "!decimal128(3, 1)"):
        decoded = decode({"c": kind}, None, pack({}), pack({"c": None}), pack({"c": 1}))
        assert [row for row, _ in decoded.rejected] == [0, 1, 2]


@pytest.mark.parametrize(
    "value", [b"\xc1", b"\x81", pack({"c": 1}) + b"\x00", pack([1]), pack(None), b"\x91" * 100_000,
              b"\x81\xa1c\xa1\xff"],
)  # fmt: skip
def test_what_is_not_one_map_is_rejected(value: bytes) -> None:
    decoded = decode({"c": "int64"}, pack({"c": 1}), value, pack({"c": 3}))
    assert decoded.frame["c"].to_list() == [1, 3]
    assert [row for row, _ in decoded.rejected] == [1]


def test_inferred_types_widen() -> None:
    codec = MsgpackCodec()
    codec.decode([pa.array([pack({"a": 1, "b": b"x"})] * 1000, pa.binary())])
    decoded = codec.decode([pa.array([pack({"a": 1.5}), pack({"a": 2})], pa.binary())])
    assert decoded.frame["a"].to_list() == [1.5, 2.0]
    assert codec.notices == ['column "a" widened from int64 to double']
