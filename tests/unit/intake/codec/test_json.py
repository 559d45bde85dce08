"""`codec="json"`: what a value means, and where Arrow's reader would not have said so."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.intake.codec import Decoded, make_codec
from flowguard.intake.codec.json import JsonCodec
from flowguard.intake.schema import Schema


def decode(columns: dict[str, str], *values: bytes | None) -> Decoded:
    return make_codec("json", Schema.parse(columns)).decode([pa.array(values, pa.binary())])


def cells(decoded: Decoded, name: str = "c") -> list[Any]:
    return decoded.frame[name].to_list()


def test_missing_is_null_and_extra_is_ignored() -> None:
    decoded = decode({"a": "int64", "b": "string"}, b'{"a":1}', b'{"b":"x","z":[{}]}', b"{}")
    assert decoded.rejected == []
    assert decoded.frame.rows() == [(1, None), (None, "x"), (None, None)]


def test_tombstones_and_blanks_are_rows_of_nulls() -> None:
    decoded = decode({"c": "int64"}, b'{"c":1}', None, b"", b" \t\r\n", b'{"c":2}')
    assert cells(decoded) == [1, None, None, None, 2]


def test_a_required_column_rejects_missing_null_and_tombstone() -> None:
    decoded = decode({"c": "!int64"}, b'{"c":1}', b"{}", b'{"c":null}', None, b'{"c":2}')
    assert cells(decoded) == [1, 2]
    assert decoded.rejected == [
        (1, 'column "c" is missing'),
        (2, 'column "c" is null'),
        (3, 'column "c" is missing: the value is empty'),
    ]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("int64", '"12"', 'expected int64, found text "12"'),
        ("int64", "1.5", "expected int64, found number 1.5"),
        ("int64", "true", "expected int64, found true"),
        ("uint8", "256", "number 256 does not fit uint8"),
        ("float64", '"1.5"', 'expected float64, found text "1.5"'),
        ("float32", "1e39", "number 1e39 does not fit float32"),
        ("string", "12", "expected string, found number 12"),
        ("bool", "1", "expected bool, found number 1"),
        ("decimal128(12, 2)", "12.345", "number 12.345 does not fit decimal128(12, 2)"),
        ("decimal128(12, 2)", "1e10", "number 1e10 does not fit decimal128(12, 2)"),
        ("decimal128(12, 2)", '"abc"', 'expected decimal128(12, 2), found text "abc"'),
        ("timestamp[s]", '"2020-01-01T00:00:00.5Z"', "expected timestamp[s], found text"),
        ("timestamp[us, UTC]", '"soon"', 'expected timestamp[us, tz=UTC], found text "soon"'),
        ("date32", '"2020-02-30"', 'expected date32, found text "2020-02-30"'),
        ("list<int64>", '[1,"2"]', 'column "c[1]": expected int64, found text "2"'),
        ("struct<a: list<bool>>", '{"a":[0]}', 'column "c.a[0]": expected bool'),
        ("list<int64>", "{}", "expected list, found an object"),
    ],
)
def test_a_wrong_type_rejects_its_row_only_and_says_what_was_found(
    kind: str, value: str, reason: str
) -> None:
    decoded = decode({"n": "int64", "c": kind}, b'{"n":1}', f'{{"c":{value}}}'.encode(), b'{"n":3}')
    assert cells(decoded, "n") == [1, 3]
    assert [row for row, _ in decoded.rejected] == [1]
    assert reason in decoded.rejected[0].reason
    assert decoded.rejected[0].reason.startswith('column "c')


@pytest.mark.parametrize(
    "value",
    [
        b"null", b"[]", b"1", b'"x"', b"{", b'{"c":1}{"c":2}', b'{"c":1}null', b'{"c":1},{"c":2}',
        b'{"c":NaN}', b'{"x":-Infinity}', b'{"c":01}', b'{"x":"\xff"}', b'{"x":"a\nb"}',
        b'{"x":"\\ud800"}', b'\xef\xbb\xbf{"c":1}', b'{"c":1}\x00', b'{"c":1,}',
        b'{"c":1}\n{"c":2}',
    ],
)  # fmt: skip
def test_what_is_not_one_json_object_is_rejected_and_shifts_nothing(value: bytes) -> None:
    decoded = decode({"c": "int64"}, b'{"c":1}', None, value, b'{"c":3}')
    assert cells(decoded) == [1, None, 3]
    assert [row for row, _ in decoded.rejected] == [2]


def test_a_blank_and_a_value_with_two_documents_do_not_cancel_out() -> None:
    decoded = decode({"c": "int64"}, b"", b'{"c":1}{"c":2}', b'{"c":3}')
    assert cells(decoded) == [None, 3]
    assert [row for row, _ in decoded.rejected] == [1]


def test_a_document_cannot_span_two_values() -> None:
    decoded = decode({"l": "list<int64>"}, b'{"l":[1,', b"2]}", b'{"l":[]}{"l":[]}', b'{"l":[3]}')
    assert cells(decoded, "l") == [[3]]
    assert [row for row, _ in decoded.rejected] == [0, 1, 2]


@pytest.mark.parametrize("opening", [b"[", b'{"x":'])
def test_a_value_nested_a_million_deep_does_not_end_the_process(opening: bytes) -> None:
    deep = b'{"x":' + opening * 1_000_000
    decoded = decode({"c": "int64"}, b'{"c":1}', deep, b'{"c":2}')
    assert cells(decoded) == [1, 2]


def test_a_hostile_exponent_does_not_end_the_process() -> None:
    hostile = [b'{"c":1e-999999999}', b'{"c":"1e-999999999"}', b'{"c":"1\\u0065-999999999"}']
    decoded = decode({"c": "decimal128(12, 2)"}, b'{"c":1.5}', *hostile, b'{"c":2.5}')
    assert cells(decoded) == [Decimal("1.50"), Decimal("2.50")]


def test_decimals_are_exact_from_numbers_and_from_text() -> None:
    kind = {"c": "decimal128(38, 9)"}
    number = b"12345678901234567890123456789.123456789"
    decoded = decode(kind, b'{"c":%b}' % number, b'{"c":"%b"}' % number, b'{"c":0.1}')
    exact = Decimal(number.decode())
    assert cells(decoded) == [exact, exact, Decimal("0.1")]


def test_timestamps_take_iso_text_and_numbers_in_their_unit_even_mixed() -> None:
    kind = {"c": "timestamp[ms, UTC]"}
    decoded = decode(
        kind, b'{"c":"2020-01-01T01:00:00+01:00"}', b'{"c":1577836800000}', b'{"c":"2020-01-01"}'
    )
    assert cells(decoded) == [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)] * 3


def test_the_last_of_two_equal_keys_wins() -> None:
    assert cells(decode({"c": "int64"}, b'{"c":"x","c":2}')) == [2]


def test_whole_numbers_with_a_point_are_integers() -> None:
    assert cells(decode({"c": "int64"}, b'{"c":1.0}', b'{"c":1e3}')) == [1, 1000]


def test_words_that_look_like_nan_are_left_alone() -> None:
    decoded = decode({"c": "string"}, b'{"c":"NaN, Information"}', b'{"c": "Infinity"}')
    assert cells(decoded) == ["NaN, Information", "Infinity"]


def test_bad_values_among_many_are_all_found() -> None:
    values = [b'{"c":%d}' % row for row in range(5000)]
    bad = {7: b'{"c":"x"}', 1234: b"{", 2500: b'{"c":1}\n', 4999: b'{"x":1e400}', 4000: b"\xff"}
    decoded = decode({"c": "int64"}, *(bad.get(row, value) for row, value in enumerate(values)))
    assert [row for row, _ in decoded.rejected] == [7, 1234, 4000]
    good = [row for row in range(5000) if row not in (7, 1234, 4000)]
    expected = {2500: 1, 4999: None}
    assert cells(decoded) == [expected.get(row, row) for row in good]


@pytest.mark.parametrize("every", [2, 40, 100])
def test_bad_values_leave_the_others_in_their_order(every: int) -> None:
    values = [b"no" if row % every == 1 else b'{"c":%d}' % row for row in range(200)]

    decoded = decode({"c": "int64"}, *values)

    assert cells(decoded) == [row for row in range(200) if row % every != 1]
    assert [row for row, _ in decoded.rejected] == list(range(1, 200, every))
    assert decoded.frame.n_chunks() == 1


def test_values_larger_than_a_block_are_read() -> None:
    text = "x" * 3_000_000
    decoded = decode({"c": "string"}, b'{"c":"a"}', b'{"c":"%b"}' % text.encode(), b'{"c":"b"}')
    assert cells(decoded) == ["a", text, "b"]


# ------------------------------------------------------------------ inferred columns


def inferred(codec: JsonCodec, *values: bytes | None) -> Decoded:
    return codec.decode([pa.array(values, pa.binary())])


def test_the_first_records_fix_the_types_in_silence() -> None:
    codec = JsonCodec()
    inferred(codec, b'{"a":1,"b":null}', None, b"{")
    decoded = inferred(codec, b'{"a":1.5,"b":"x","c":[1]}')
    expected = pa.schema({"a": pa.float64(), "b": pa.string(), "c": pa.list_(pa.int64())})
    assert codec.schema == Schema(expected)
    assert decoded.frame.rows() == [(1.5, "x", [1])]
    assert codec.notices == []


def test_later_records_only_widen_and_say_so() -> None:
    codec = JsonCodec()
    inferred(codec, *[b'{"a":1,"n":null}'] * 1000)
    assert inferred(codec, b'{"a":2}', b'{"a":2.5}').frame["a"].to_list() == [2.0, 2.5]
    assert inferred(codec, b'{"a":3,"n":true}').frame["a"].to_list() == [3.0]
    assert inferred(codec, b'{"a":"x","new":"y"}').frame["a"].to_list() == ["x"]
    assert inferred(codec, b'{"a":4}', b'{"a":4.50}', b'{"a":[1]}').frame["a"].to_list() == [
        "4", "4.50", "[1]",
    ]  # fmt: skip
    assert codec.notices == [
        'column "a" widened from int64 to double',
        'column "n" widened from null to bool',
        'column "a" widened from double to string',
        'column "new" appeared as string',
    ]


def test_a_batch_that_widens_late_has_one_type_from_its_first_row() -> None:
    codec = JsonCodec()
    inferred(codec, *[b'{"a":1}'] * 1000)
    decoded = inferred(codec, *[b'{"a":1}'] * 3000, b'{"a":"x"}', None)
    assert decoded.frame["a"].to_list() == ["1"] * 3000 + ["x", None]


def test_integers_beyond_64_bits_are_kept_as_text() -> None:
    codec = JsonCodec()
    assert inferred(codec, b'{"a":1}', b'{"a":9223372036854775808}').frame["a"].to_list() == [
        "1", "9223372036854775808",
    ]  # fmt: skip


def test_records_without_any_column_still_are_rows() -> None:
    assert inferred(JsonCodec(), None, b"{}").frame.height == 2


# ------------------------------------------------------------------ writing

INSTANTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-128, 127),
    "uint64": st.integers(0, 2**64 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "float32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "bool": st.booleans(),
    "string": st.text(),
    "binary": st.text().map(str.encode),
    "decimal128(12, 2)": st.decimals(-9999999999, 9999999999, places=2),
    "decimal128(38, 0)": st.integers(-(10**38) + 1, 10**38 - 1).map(Decimal),
    "timestamp[ms]": INSTANTS.map(lambda at: at.replace(microsecond=0)),
    "timestamp[us, Europe/Zurich]": INSTANTS.map(lambda at: at.replace(tzinfo=dt.UTC)),
    "timestamp[ns, UTC]": INSTANTS.map(lambda at: at.replace(tzinfo=dt.UTC)),
    "date32": st.dates(dt.date(1, 1, 1)),
    "duration[us]": st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6)),
    "list<decimal128(12, 2)>": st.lists(st.none() | st.decimals(0, 100, places=2), max_size=3),
    "struct<a: int64, b: list<timestamp[us, UTC]>>": st.fixed_dictionaries(
        {
            "a": st.none() | st.integers(0, 9),
            "b": st.none()
            | st.lists(INSTANTS.map(lambda at: at.replace(tzinfo=dt.UTC)), max_size=2),
        }
    ),
}


@pytest.mark.parametrize("name", ["json", "msgpack", "arrow"])
@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=20, deadline=None)
@given(draw=st.data())
def test_what_is_written_is_read_back(name: str, kind: str, draw: st.DataObject) -> None:
    schema = Schema.parse({"c": kind, "n": "int64"})
    values = draw.draw(st.lists(st.none() | CELLS[kind], max_size=5))
    table = pa.table([pa.array(values, schema.arrow.field("c").type), range(len(values))],
                     schema=schema.arrow)  # fmt: skip
    codec = make_codec(name, schema)
    decoded = codec.decode([codec.encode(table)])
    assert decoded.rejected == []
    assert decoded.frame.equals(pl.DataFrame(table))


def test_values_are_one_line_objects_with_nulls_written() -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x\ny", None], "d": [Decimal("1.20"), None]})
    assert make_codec("json", None).encode(frame).to_pylist() == [
        b'{"a":1,"b":"x\\ny","d":"1.20"}',
        b'{"a":null,"b":null,"d":null}',
    ]


def test_nan_and_infinity_are_written_as_null() -> None:
    frame = pl.DataFrame({"a": [float("nan"), float("inf"), 1.5]})
    assert make_codec("json", None).encode(frame).to_pylist() == [
        b'{"a":null}', b'{"a":null}', b'{"a":1.5}',
    ]  # fmt: skip


def test_bytes_that_are_no_text_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        make_codec("json", None).encode(pl.DataFrame({"a": [b"\xff"]}))


def test_a_frame_without_columns_is_empty_objects() -> None:
    assert make_codec("json", None).encode(pl.DataFrame(height=2)).to_pylist() == [b"{}", b"{}"]
