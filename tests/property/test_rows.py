"""Row i of what a codec returns is value i, however hostile the values are."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.intake.codec import json_columns, make_codec
from flowguard.intake.codec.json_columns import JsonColumns, parse_json
from flowguard.intake.codec.rows import Part, RowReader
from flowguard.intake.schema import Schema

TYPES = {
    "i": "int64",
    "u": "uint8",
    "f": "float64",
    "g": "float32",
    "b": "bool",
    "s": "string",
    "y": "binary",
    "d": "decimal128(12, 2)",
    "t": "timestamp[us, UTC]",
    "n": "timestamp[s]",
    "e": "date32",
    "p": "duration[ms]",
    "l": "list<int64>",
    "o": "struct<a: int64, b: list<string>>",
}
SCHEMA = Schema.parse(TYPES)

TOKENS = r"""
    0 1 -0 -1 12 255 256 1.0 1.5 -0.0 1e3 1E+2 1e400 1e309 1e39 -1e39 3.4028236e38 12.34 12.345
    12.340 0.1 9999999999.99 99999999999 1e10 1e-2 1e-3 10e-1 1e-99 120e-1 0e5 0e-5
    1e-999999999 9223372036854775807 9223372036854775808 -9223372036854775808
    18446744073709551616 123456789012345678901234567890 01 1. .5 +1 - 0x1
    true false null NaN -NaN Infinity -Infinity Inf nan
    "" "12" "1.5" "12.34" "12.345" "+1" ".5" "5." "1e1" "1e-999999999" "1\u0065-999999999"
    "12.340" "00012" "99999999999" "true" "NaN" "Infinity" "null" "é" "\u00e9" "\u0000"
    "\ud83d\ude00" "\ud800" "\udc00" "\q" "\n" "a\"b" "}{"
    "2020-01-01" "2020-01-01T00:00:00Z" "2020-01-01T00:00:00.123456+02:00" "2020-01-01T00"
    "2020-01-01T00:00:00.000Z" "2020-01-01T00:00:00.1234567Z" "0000-01-01" "0000-02-29"
    "9999-12-31T23:59:59Z" "2020-02-30" "2020-01-01T24:00:00Z" "2020-1-1" "20200101"
    "2020-01-01T00:00:00+0200" "2020-01-01T00:00:00+24:00" "10000-01-01" "2020-01-01Z"
    [] [1] [null] [1.5] ["1"] [1,2 {} {"a":1} {"a":1,"a":2} {"a":"x"} {"a":null,"b":["x",null]}
    {"b":[1]} {"a":1,"z":NaN} [NaN]
""".split()  # noqa: SIM905
NAMES = st.sampled_from([*TYPES, "i", "d", "t", "x", r"\u0069", "\\ud800", ""])
MEMBERS = st.builds(lambda name, token: f'"{name}":{token}', NAMES, st.sampled_from(TOKENS))
SPACE = st.sampled_from(["", "", "", " ", "\t", "\n", "\r", "\x0b", "\x00", "\ufeff"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(MEMBERS, max_size=4))
    comma = draw(st.sampled_from([",", ",", ",", " , ", ",,", "\n,"]))
    before, after = draw(SPACE), draw(SPACE)
    return f"{before}{{{comma.join(members)}}}{after}".encode()


GOOD = st.sampled_from(
    [
        b'{"i":1,"s":"a","d":"1.25","t":"2020-01-01T00:00:00Z"}',
        b'{"i":2,"s":"b","d":3.5,"t":1577836800000000}',
        b'{"i":3}',
    ]
)
HOSTILE = st.one_of(
    GOOD,
    objects(),
    st.builds(lambda one, other: one + other, objects(), objects()),
    st.sampled_from([
        None, b"", b" ", b"\n", b"null", b"[]", b"1", b'"a"', b"true", b"{", b"}", b"{}{}",
        b"{}null{}", b'{"i":1}null', b'{"l":[1', b"2]}", b'{"l":[1,', b'{"s":"a', b'b"}',
        b'{"i":1},{"i":2}',
        b'{"s":"\xff"}', b'{"x":"\xff"}', b'{"\xc3":1}', b'{"s":"a\tb"}', b'{"s":"a\x00b"}',
        b'{"x":' + b"[" * 499 + b"]" * 499 + b"}", b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"x":' + b"[" * 300_000 + b"]" * 300_000 + b"}", b'{"x":' + b"{" * 9,
        b'{"i":1}\n{"i":2}', b'\n{"i":1}\n', b'{"x": "Information, Nancy", "i": 7}',
    ]),
    st.binary(max_size=12),
    st.builds(lambda inner: b"{" + inner + b"}", st.binary(max_size=8)),
)  # fmt: skip


def slow(schema: Schema) -> Any:
    reader = RowReader(schema)
    return lambda values: reader.read(map(parse_json, values))


def same(fast: Part, law: Part) -> None:
    assert fast.rejected == law.rejected
    assert fast.table.schema == law.table.schema
    assert shown(fast.table) == shown(law.table)


def shown(table: pa.Table) -> str:
    """Return a table as text, in which every instant can be told; the sign of zero is left out."""
    counts = {"t": pa.int64(), "n": pa.int64(), "p": pa.int64(), "e": pa.int32()}
    columns = {
        name: table[name].cast(counts[name]) if name in counts else table[name]
        for name in table.column_names
    }
    text = str({name: column.to_pylist() for name, column in columns.items()})
    return text.replace("-0.0,", "0.0,").replace("-0.0]", "0.0]")


@pytest.mark.parametrize("names", [*TYPES, "isdt", "".join(TYPES)])
@settings(max_examples=150, deadline=None)
@given(values=st.lists(HOSTILE, max_size=12))
def test_columns_are_read_as_the_row_path_reads_them(
    names: str, values: list[bytes | None]
) -> None:
    schema = Schema.parse({name: TYPES[name] for name in names})
    law = slow(schema)(values)
    same(JsonColumns(schema, slow(schema)).decode(pa.array(values, pa.binary())), law)


@pytest.mark.parametrize("names", ["i", "g", "isdt", "".join(TYPES)])
@settings(max_examples=100, deadline=None)
@given(values=st.lists(HOSTILE, max_size=12))
def test_arrow_reads_what_our_own_reader_leaves_to_it_as_the_row_path_does(
    names: str, values: list[bytes | None]
) -> None:
    schema = Schema.parse({name: TYPES[name] for name in names})
    columns = JsonColumns(schema, slow(schema))
    array = pa.array(values, pa.binary())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_columns, "FEW_VALUES", 0)
        same(columns._with_arrow(array), slow(schema)(values))


@pytest.mark.parametrize("share", [0.1, 0.9])
@settings(max_examples=30, deadline=None)
@given(values=st.lists(HOSTILE, min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_many_values_are_read_as_the_row_path_reads_them_however_many_are_bad(
    share: float, values: list[bytes | None], seed: int
) -> None:
    schema = Schema.parse({name: TYPES[name] for name in "isdtf"})
    random = Random(seed)
    good = b'{"i":1,"s":"a","d":"1.25","t":"2020-01-01T00:00:00Z","f":0.1}'
    many = [random.choice(values) if random.random() < share else good for _ in range(500)]
    same(JsonColumns(schema, slow(schema)).decode(pa.array(many, pa.binary())), slow(schema)(many))


@pytest.mark.parametrize("name", TYPES)
def test_every_token_means_the_same_in_a_column_of_its_own(name: str) -> None:
    schema = Schema.parse({name: TYPES[name]})
    columns = JsonColumns(schema, slow(schema))
    for token in TOKENS:
        for text in (f'{{"{name}":{token}}}', f'{{"{name}":null,"x":{token}}}'):
            values = [b'{"x":1}', text.encode()]
            same(columns.decode(pa.array(values, pa.binary())), slow(schema)(values))


@settings(max_examples=150, deadline=None)
@given(values=st.lists(HOSTILE, max_size=12), cut=st.integers(0, 12))
def test_a_hostile_value_never_costs_or_moves_its_neighbours(
    values: list[bytes | None], cut: int
) -> None:
    codec = make_codec("json", Schema.parse({"row": "int64", **TYPES}))
    marked = [value for at, bad in enumerate(values) for value in (b'{"row":%d}' % at, bad)]
    array = pa.array([b"{}", *marked], pa.binary())[1:]
    decoded = codec.decode([array[:cut], array[cut:]])
    rejected = {row for row, _ in decoded.rejected}
    kept = [row for row in range(len(marked)) if row not in rejected]
    assert decoded.frame.height == len(kept)
    found = decoded.frame["row"].to_list()
    for place, row in enumerate(kept):
        if row % 2 == 0:
            assert found[place] == row // 2
    assert not any(row % 2 == 0 for row in rejected)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**70), 2**70)
                | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
                lambda inner: st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
                max_leaves=4,
            ),
            max_size=3,
        ),
        max_size=8,
    ),
    cut=st.integers(0, 8),
)  # fmt: skip
def test_inferred_columns_take_every_json_object(rows: list[Any], cut: int) -> None:
    codec = make_codec("json")
    values = pa.array([json.dumps(row).encode() for row in rows], pa.binary())
    ordinary = pa.array([b'{"a":1,"b":"x"}'] * 1000, pa.binary())
    for stretch in (values[:cut], ordinary, values[cut:], values):
        decoded = codec.decode([stretch])
        assert decoded.rejected == []
        assert decoded.frame.height == len(stretch)
