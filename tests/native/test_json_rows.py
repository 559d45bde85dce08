"""`ObjectReader` reads a value as `rows.py` does, or says that it is in doubt."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native.json_rows import ObjectReader
from flowguard.intake.codec.json_columns import parse_json
from flowguard.intake.codec.rows import RowReader
from flowguard.intake.schema import Schema
from tests.native.fuzz_json_rows import EDGES, SEEDS, TYPES, binary_column, mutate
from tests.property.test_rows import HOSTILE, TOKENS

SCHEMA = Schema.parse(TYPES)

Values = list[bytes | None]


def shown(table: pa.Table) -> list[str]:
    """Return each row as text in which -0.0 is not 0.0, and every instant can be told."""
    columns = [counted(column) for column in table.columns]
    return [str(row) for row in pa.table(columns, table.column_names).to_pylist()]


def counted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return instants as counts, because Python cannot hold all of them."""
    if not pa.types.is_temporal(column.type):
        return column
    return column.cast(pa.int32() if pa.types.is_date(column.type) else pa.int64())


def read(schema: Schema, values: Values, **options: bool) -> tuple[list[str], list[bool]]:
    """Return the rows as text, and which of them are in doubt."""
    column = binary_column(values)
    columns, mask = ObjectReader(schema.arrow, **options).read(column)
    table = pa.table(columns, schema=schema.arrow)
    table.validate(full=True)
    if mask is None:
        return shown(table), [False] * len(values)
    mask.validate(full=True)
    assert mask.true_count and not mask.null_count
    doubtful = mask.to_pylist()
    for row, is_doubtful in enumerate(doubtful):
        if is_doubtful:
            assert set(table.slice(row, 1).to_pylist()[0].values()) == {None}
    return shown(table), doubtful


def check(schema: Schema, values: Values) -> list[bool]:
    """Compare every row that is not in doubt with the law; return which are."""
    rows, doubtful = read(schema, values)
    reader = RowReader(schema)
    sure = [value for value, doubt in zip(values, doubtful, strict=True) if not doubt]
    law = reader.read(map(parse_json, sure))
    assert law.rejected == []
    found = [row for row, doubt in zip(rows, doubtful, strict=True) if not doubt]
    assert found == shown(law.table)
    return doubtful


def one(kind: str, token: str) -> Any:
    """Return the cell that a token becomes; "doubtful" if it is."""
    schema = Schema.parse({"c": kind})
    columns, mask = ObjectReader(schema.arrow).read(
        pa.array([f'{{"c":{token}}}'.encode()], pa.binary())
    )
    return "doubtful" if mask is not None else columns[0].to_pylist()[0]


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("int8", "-128 127 0 -0 null"),
        ("uint8", "0 255"),
        ("int64", "-9223372036854775808 9223372036854775807"),
        ("uint64", "18446744073709551615 10000000000000000000"),
        ("float64", "1 -1.5 0.1 -0.0 1e22 123456.789 1E-5 9007199254740993"),
        ("float32", "0.1 16777217 3.4e38"),
        ("bool", "true false"),
        ("string", r'"" "abc" "é€😀" "\"\\\/\b\f\n\r\t" "\u00e9\u0000\u20ac\ud83d\ude00"'),
        ("binary", '"abc"'),
        ("decimal128(12, 2)", '"1.25" -0.5 "00012" 9999999999.99 0 "-0.00" 7'),
        ("decimal128(38, 9)", '"9999999999999999999" "-1234567890.123456789" 1'),
        ("date32", '"2020-02-29" "0001-01-01" "9999-12-31" -5'),
        ("timestamp[us, UTC]", '"2020-01-01" "2020-01-01T01:02:03.5+02:00" 5'),
        ("timestamp[ns]", '"2020-01-01T01:02:03.123456789Z"'),
        ("timestamp[s]", '"1969-12-31T23:59:59-00:30" -9223372036854775'),
        ("duration[ms]", "-5"),
        ("null", "null"),
    ],
)
def test_plain_cells_of_each_type_are_read_without_doubt(kind: str, tokens: str) -> None:
    schema = Schema.parse({"c": kind})
    values: Values = [f'{{"c":{token}}}'.encode() for token in tokens.split()]
    assert check(schema, values) == [False] * len(values)


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("int8", '-129 128 1.0 1e1 01 - "1" true 1x'),
        ("uint64", "18446744073709551616 -1 100000000000000000000"),
        ("float64", '1. .5 01 1e 1e400 "1" NaN Infinity'),
        ("float32", "3.5e38"),
        ("bool", '1 "true" truefalse tru'),
        ("string", r'1 "\q" "\u12" "\ud800" "\ud800\u0041" "\udc00" "\u12g4"'),
        ("decimal128(12, 2)", '"1e1" 1.255 10000000000 01 "" "." "1.2'),
        ("date32", '"2020-02-30" "0000-01-01" "2020-1-1" "2020-01-01T00:00:00" 2147483648'),
        ("timestamp[s]", '"2020-01-01T24:00:00" "2020-01-01T00:00:00.5" 9223372036854775'),
        ("timestamp[ns]", '"1600-01-01" "2020-01-01T00:00:00.1234567890" "2020-01-01Z"'),
        ("null", "0"),
    ],
)
def test_what_may_be_wrong_is_in_doubt(kind: str, tokens: str) -> None:
    for token in tokens.split():
        assert one(kind, token) == "doubtful", token


@pytest.mark.parametrize(
    "value",
    [
        b"null", b"[]", b"{", b"}", b'{"c":1,}', b'{"c":1}x', b'{"c":1}{}', b'{"c":1,"c":2}',
        b'{"c":null,"c":2}', b'{"\\u0063":1}', b'\xef\xbb\xbf{"c":1}', b'{"c" 1}', b'{"c":1 "x":2}',
        b'{"x":[}', b'{"x":{"a":1,}}', b'{"x":{1:2}}', b'{"x":"\x00"}', b'{"x":"\xff"}',
        b'{"x":01}',
        b'{"x":' + b"[" * 65 + b"]" * 65 + b"}", b'{"x":1e}', b'{"x":nul}', b"{,}", b'{"c":1\x0b}',
        b'{"x":"\xed\xa0\x80"}', b'{"x":"\xc0\x80"}', b'{"x":"\xf4\x90\x80\x80"}', b'{"\xc3":1}',
    ],
)  # fmt: skip
def test_what_is_no_plain_object_is_in_doubt(value: bytes) -> None:
    _, doubtful = read(Schema.parse({"c": "int64"}), [b'{"c":1}', value, b'{"c":1}'])
    assert doubtful == [False, True, False]


def test_members_that_are_no_column_are_stepped_over_unless_the_columns_are_closed() -> None:
    schema = Schema.parse({"c": "int64"})
    values: Values = [
        b'{"x":{"a":[1,-2.5e3,"\\u00e9",null,true,false,{}],"b":{}},"c":1}',
        b'{"x":' + b"[" * 64 + b"]" * 64 + b',"c":1}',
        b' { "c" : 1 , "\xc3\xa9" : [ ] } ',
    ]
    assert check(schema, values) == [False] * 3
    assert read(schema, values, closed=True)[1] == [True] * 3


def test_blank_values_and_tombstones_are_rows_of_nulls() -> None:
    assert check(SCHEMA, [None, b"", b" \t\r\n", b"{}", b"{ }"]) == [False] * 5


def test_members_may_come_in_any_order_and_names_need_not_be_ascii() -> None:
    schema = Schema.parse(dict.fromkeys(("a", "é", "", "long name", 'q"', "b\\"), "int64"))
    values: Values = [
        b'{"long name":1,"\xc3\xa9":2,"":3,"a":4}', b'{"":5}', b'{"q\\"":6}', b'{"b\\\\":7}',
        b'{"q":8}', b'{"a":9,"q":1,"":2}',
    ]  # fmt: skip
    assert check(schema, values) == [False, False, True, True, False, False]


def test_slices_are_read_from_where_they_begin() -> None:
    values: Values = [None, b'{"i":1,"s":"a"}', None, b'{"i":2}', b'{"i"', b'{"s":"\\n\xc3\xa9"}']
    reader = ObjectReader(SCHEMA.arrow)
    whole, mask = reader.read(binary_column(values * 9))
    assert mask is not None
    for start in range(len(values) * 9):
        part, cut = reader.read(binary_column(values * 9).slice(start, 20))
        assert [column.to_pylist() for column in part] == [
            column.slice(start, 20).to_pylist() for column in whole
        ]
        found = [False] * len(part[0]) if cut is None else cut.to_pylist()
        assert found == mask.slice(start, 20).to_pylist()


def test_columns_without_nulls_have_no_null_bits_and_text_takes_no_byte_too_much() -> None:
    schema = Schema.parse({"a": "int64", "s": "string"})
    columns, mask = ObjectReader(schema.arrow).read(
        pa.array([b'{"a":1,"s":"xy"}', b'{"a":2,"s":"\\n"}'], pa.binary())
    )
    assert mask is None
    assert [column.buffers()[0] for column in columns] == [None, None]
    assert columns[1].buffers()[2].size == 3


def test_types_that_it_cannot_read_are_refused() -> None:
    assert not ObjectReader.supports(pa.list_(pa.int64()))
    assert not ObjectReader.supports(pa.struct([("a", pa.int64())]))
    assert not ObjectReader.supports(pa.large_string())
    with pytest.raises(TypeError, match="cannot read list"):
        ObjectReader(pa.schema({"a": pa.list_(pa.int64())}))
    with pytest.raises(ValueError, match="one name"):
        ObjectReader(pa.schema([("a", pa.int64()), ("a", pa.int8())]))
    with pytest.raises(TypeError, match="needs a BinaryArray"):
        ObjectReader(pa.schema({"a": pa.int64()})).read(pa.array(["{}"]))


def test_no_values_are_no_rows() -> None:
    for values in (pa.array([], pa.binary()), pa.array([b"{}"], pa.binary())[1:]):
        columns, mask = ObjectReader(SCHEMA.arrow).read(values)
        assert mask is None and {len(column) for column in columns} == {0}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_value_cut_at_any_byte_is_in_doubt(seed: bytes) -> None:
    cut: Values = [seed[:size] for size in range(1, len(seed.rstrip()))]
    assert all(check(SCHEMA, cut)[len(seed) - len(seed.lstrip()) :])
    assert check(SCHEMA, [seed]) == [False]


@settings(max_examples=300, deadline=None)
@given(values=st.lists(HOSTILE, max_size=8))
def test_hostile_values_are_read_as_the_law_says_or_not_at_all(values: Values) -> None:
    check(SCHEMA, values)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**63))
def test_mutated_values_are_read_as_the_law_says_or_not_at_all(seed: int) -> None:
    random = Random(seed)
    check(SCHEMA, [mutate(random, random.choice(SEEDS)) for _ in range(30)])


@pytest.mark.parametrize("name", TYPES)
def test_every_token_means_what_the_law_says(name: str) -> None:
    schema = Schema.parse({name: TYPES[name]})
    tokens = [*TOKENS, *(edge.decode() for edge in EDGES if edge.isascii())]
    members = [f'{{"{name}":{token}}}' for token in tokens] + [f'{{"?":{it}}}' for it in tokens]
    check(schema, [member.encode() for member in members])


CELLS = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(-(10**20), 10**20, places=3).map(str)
    | st.datetimes().map(str) | st.dates().map(str) | st.lists(st.text(max_size=3), max_size=2)
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from([*TYPES, "?"]), CELLS), max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_objects_are_read_as_the_law_says_or_not_at_all(
    rows: list[Any], ascii_only: bool, indent: int | None
) -> None:
    texts = [json.dumps(row, ensure_ascii=ascii_only, indent=indent) for row in rows]
    check(SCHEMA, [text.encode() for text in texts])


@settings(max_examples=300, deadline=None)
@given(text=st.text(), ascii_only=st.booleans(), pad=st.integers(0, 20))
def test_any_text_is_read_exactly_and_without_doubt(text: str, ascii_only: bool, pad: int) -> None:
    value = json.dumps({"s": "x" * pad + text}, ensure_ascii=ascii_only).encode()
    assert check(SCHEMA, [value]) == [False]


@settings(max_examples=300, deadline=None)
@given(number=st.floats(allow_nan=False, allow_infinity=False), digits=st.integers(1, 19))
def test_floats_are_rounded_as_python_rounds_them(number: float, digits: int) -> None:
    kinds = Schema.parse({"f": "float64", "g": "float32"})
    for text in (f"{number!r}", f"{number:.{digits}g}", f"{number:.{digits}e}"):
        check(kinds, [b'{"f":%b}' % text.encode(), b'{"g":%b}' % text.encode()])


@given(number=st.floats(1e-80, 1e80), negative=st.booleans())
def test_what_python_writes_for_a_float_of_ordinary_size_is_not_in_doubt(
    number: float, negative: bool
) -> None:
    value = json.dumps({"f": -number if negative else number}).encode()
    assert check(Schema.parse({"f": "float64"}), [value]) == [False]


@pytest.mark.parametrize("text", [
    "9007199254740993.0", "9007199254740995.0", "4503599627370497.5",
    "1.00000000000000011102230246", "9007199254740993e0", "9007199254740993e5",
    "36028797018963970e-1", "0.30000000000000004",
    "7.2057594037927933e16", "8.98846567431158e-100", "5e-324", "1.7976931348623157e308",
])  # fmt: skip
def test_floats_halfway_between_two_are_rounded_to_even_or_in_doubt(text: str) -> None:
    check(Schema.parse({"f": "float64"}), [b'{"f":%b}' % text.encode()])


@settings(max_examples=300, deadline=None)
@given(digits=st.decimals(-(10**10) + 1, 10**10 - 1, places=2))
def test_any_decimal_that_fits_is_read_exactly_and_without_doubt(digits: Any) -> None:
    values: Values = [b'{"d":"%s"}' % str(digits).encode(), b'{"d":%s}' % str(digits).encode()]
    assert check(SCHEMA, values) == [False, False]
