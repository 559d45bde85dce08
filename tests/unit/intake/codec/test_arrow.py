"""`codec="arrow"`: one stream of one row a value."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from flowguard.intake.codec import Decoded, make_codec
from flowguard.intake.codec.arrow import ArrowCodec
from flowguard.intake.schema import Schema


def stream(**columns: pa.Array) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(columns: dict[str, str], *values: bytes | None) -> Decoded:
    return make_codec("arrow", Schema.parse(columns)).decode([pa.array(values, pa.binary())])


def test_each_value_is_a_row_and_a_tombstone_is_a_row_of_nulls() -> None:
    decoded = decode(
        {"a": "int64", "b": "string"},
        stream(a=pa.array([1]), extra=pa.array(["x"])),
        None,
        stream(b=pa.array(["y"], pa.large_string())),
    )
    assert decoded.rejected == []
    assert decoded.frame.rows() == [(1, None), (None, None), (None, "y")]


def test_bad_streams_and_several_rows_are_rejected_alone() -> None:
    good = stream(a=pa.array([1]))
    decoded = decode({"a": "!int64"}, good, b"junk", stream(a=pa.array([1, 2])), good[:-30], None,
                     stream(a=pa.array(["12"])), stream(a=pa.array([2])))  # fmt: skip
    assert decoded.frame["a"].to_list()[0] == 1
    assert decoded.frame["a"].to_list()[-1] == 2
    assert {1, 2, 4, 5} <= {row for row, _ in decoded.rejected}
    reasons = dict(decoded.rejected)
    assert reasons[2] == "value holds 2 rows, not one"
    assert reasons[5] == 'column "a": expected int64, found text "12"'


def test_another_number_type_is_taken_if_nothing_is_lost() -> None:
    decoded = decode({"a": "int64"}, stream(a=pa.array([1], pa.int8())), stream(a=pa.array([2.0])))
    assert decoded.frame["a"].to_list() == [1, 2]


def test_undeclared_columns_widen_and_say_so() -> None:
    codec = ArrowCodec()
    values = [stream(a=pa.array([1])), None, stream(a=pa.array([1.5]), b=pa.array(["x"]))]
    decoded = codec.decode([pa.array(values, pa.binary())])
    assert decoded.frame.rows() == [(1.0, None), (None, None), (1.5, "x")]
    assert codec.notices == [
        'column "a" widened from int64 to double',
        'column "b" appeared as string',
    ]


def test_undeclared_types_that_cannot_meet_reject_the_later_value() -> None:
    values = [stream(a=pa.array([1])), stream(a=pa.array(["x"])), stream(a=pa.array([2]))]
    decoded = ArrowCodec().decode([pa.array(values, pa.binary())])
    assert decoded.frame["a"].to_list() == [1, 2]
    assert [row for row, _ in decoded.rejected] == [1]


def test_an_encoded_row_is_a_stream_anyone_can_read() -> None:
    value = ArrowCodec().encode(pl.DataFrame({"a": [1, 2]}))[1].as_py()
    assert pa.ipc.open_stream(value).read_all().to_pylist() == [{"a": 2}]
