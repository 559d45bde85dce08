"""`codec="avro"`: what fastavro writes is read, by the schema of each value."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import fastavro
import polars as pl
import pyarrow as pa
import pytest

from flowguard.errors import RegistryError
from flowguard.intake.codec import Codec, Decoded, make_codec
from flowguard.intake.schema import Schema
from flowguard.intake.schema_registry import SchemaRegistry
from tests.stub_registry import StubRegistry, record

NOON = dt.datetime(2024, 2, 29, 12, 0, 0, 123000, tzinfo=dt.UTC)


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


def write(id: int, schema: Any, row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return b"\0" + id.to_bytes(4, "big") + out.getvalue()


def codec(stub: StubRegistry, columns: dict[str, Any] | None = None) -> Codec:
    schema = None if columns is None else Schema.parse(columns)
    return make_codec("avro", schema, registry=SchemaRegistry(stub.url), subject="t-value")


def decode(of: Codec, *values: bytes | None) -> Decoded:
    return of.decode([pa.array(values, pa.binary())])


CELLS = [
    ("long", 2**62, "int64", 2**62),
    ("int", -5, "int64", -5),
    ("float", 0.5, "float64", 0.5),
    ("boolean", True, "bool", True),
    ("string", "é", "string", "é"),
    ("bytes", b"\xff", "binary", b"\xff"),
    (["null", "string"], None, "string", None),
    (["null", "long", "double"], 1.5, "float64", 1.5),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "string", "B"),
    ({"type": "fixed", "name": "F", "size": 2}, b"ab", "binary", b"ab"),
    (logical("bytes", "decimal", precision=12, scale=2), Decimal("-12.34"), "decimal128(12, 2)",
     Decimal("-12.34")),
    (logical("int", "date"), dt.date(2024, 2, 29), "date32", dt.date(2024, 2, 29)),
    (logical("long", "timestamp-millis"), NOON, "timestamp[ms, UTC]", NOON),
    (logical("long", "timestamp-micros"), NOON, "timestamp[us, UTC]", NOON),
    (logical("long", "local-timestamp-millis"), NOON.replace(tzinfo=None), "timestamp[ms]",
     NOON.replace(tzinfo=None)),
    (logical("string", "uuid"), uuid.UUID(int=7), "string", str(uuid.UUID(int=7))),
    (logical("int", "time-millis"), dt.time(0, 0, 1), "int64", 1000),
    ({"type": "array", "items": ["null", "long"]}, [1, None], "list<int64>", [1, None]),
    ({"type": "map", "values": "long"}, {"a": 1}, "list<struct<key: string, value: int64>>",
     [{"key": "a", "value": 1}]),
    (record("R", x="int", y={"type": "map", "values": "int"}), {"x": 1, "y": {"k": 2}},
     "struct<x: int64, y: list<struct<key: string, value: int64>>>",
     {"x": 1, "y": [{"key": "k", "value": 2}]}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "column", "cell"), CELLS)
def test_a_value_has_the_column_that_its_schema_says(
    registry: StubRegistry, schema: Any, value: Any, column: str, cell: Any
) -> None:
    whole = record("T", c=schema)
    framed = write(registry.register("t-value", whole), whole, {"c": value})

    derived = decode(codec(registry), framed)
    declared = decode(codec(registry, {"c": column}), framed)

    assert derived.rejected == declared.rejected == []
    assert derived.frame["c"].to_list() == declared.frame["c"].to_list() == [cell]
    assert derived.frame.schema == declared.frame.schema


@pytest.mark.parametrize(("schema", "value", "column", "cell"), CELLS)
def test_what_is_written_is_what_is_read(
    registry: StubRegistry, schema: Any, value: Any, column: str, cell: Any
) -> None:
    registry.register("t-value", record("T", c=schema))
    written = codec(registry, {"c": column})
    frame = decode(written, write(100, record("T", c=schema), {"c": value})).frame

    assert written.decode([written.encode(frame)]).frame.equals(frame)


def test_the_schema_may_change_in_the_middle_of_a_batch(registry: StubRegistry) -> None:
    old = record("T", a="int")
    new = record("T", b="string", a=["null", "double"])
    first, second = registry.register("t", old), registry.register("t", new)
    values = [
        write(first, old, {"a": 1}),
        write(second, new, {"a": 2.5, "b": "x"}),
        write(first, old, {"a": 3}),
    ]
    of = codec(registry)

    assert decode(of, values[0]).frame.to_dict(as_series=False) == {"a": [1]}
    widened = decode(of, *values).frame
    assert widened.to_dict(as_series=False) == {"a": [1.0, 2.5, 3.0], "b": [None, "x", None]}
    assert decode(of, values[0]).frame.schema == widened.schema
    assert of.notices == [
        'column "a" widened from int64 to double', 'column "b" appeared as string',
    ]  # fmt: skip
    assert registry.asked.total() == 2


def test_bad_values_are_rejected_alone(registry: StubRegistry) -> None:
    schema = record("T", a="string")
    id = registry.register("t", schema)
    good = write(id, schema, {"a": "text"})
    bad = {
        b"x": "not framed",
        b"{}": "not framed",
        b"\1" + good[1:]: "not framed",
        b"\0\0\0\0\1": "has schema 1",
        good[:-1]: "not what its schema says",
        good[:5]: "not what its schema says",
        good + b"!": "1 bytes more",
        good[:5] + b"\x7f": "not what its schema says",
        good[:5] + b"\2\xff": "not what its schema says",
    }
    found = decode(codec(registry, {"a": "string"}), good, *bad, None, b"", good)

    assert found.frame["a"].to_list() == ["text", None, None, "text"]
    assert [row for row, _ in found.rejected] == list(range(1, 1 + len(bad)))
    for (_, reason), expected in zip(found.rejected, bad.values(), strict=True):
        assert expected in reason


def test_a_registry_that_does_not_answer_rejects_nothing(registry: StubRegistry) -> None:
    schema = record("T", a="int")
    id = registry.register("t", schema)
    of = codec(registry, {"a": "int64"})
    registry.broken = (503, b"busy")
    with pytest.raises(RegistryError):
        decode(of, b"bad", write(id, schema, {"a": 1}))

    registry.broken = None
    found = decode(of, b"bad", write(id, schema, {"a": 1}))
    assert found.frame["a"].to_list() == [1] and len(found.rejected) == 1


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("no json", "cannot be read"),
        ('"long"', "describes no records"),
        (json.dumps({"type": "record", "name": "T", "fields": [{}]}), "cannot be read"),
        (json.dumps(record("T", a={"type": "array", "items": "null"})), "no bytes"),
        (json.dumps(record("T", a={"type": "array", "items": record("N", n="null")})), "no bytes"),
        (json.dumps(record("T", a="Unknown")), "cannot be read"),
        (
            json.dumps(
                record("T", a={"type": "array", "items": logical("long", "timestamp-nanos")})
            ),
            "inside another type",
        ),
    ],
)
def test_a_schema_that_cannot_be_read_rejects_what_was_written_with_it(
    registry: StubRegistry, schema: str, reason: str
) -> None:
    id = registry.register("t", schema)

    found = decode(codec(registry), b"\0" + id.to_bytes(4, "big") + b"\x01" * 20)

    [(row, why)] = found.rejected
    assert row == 0 and reason in why


def test_nanoseconds_are_read_exactly_or_rejected(registry: StubRegistry) -> None:
    schema = record("T", at=["null", logical("long", "timestamp-nanos")])
    id = registry.register("t", schema)
    values = [write(id, schema, {"at": 1_000_000_005}), write(id, schema, {"at": -1_000})]

    nanos = decode(codec(registry), *values)
    micros = decode(codec(registry, {"at": "timestamp[us, UTC]"}), *values)

    assert nanos.frame["at"].cast(pl.Int64).to_list() == [1_000_000_005, -1_000]
    assert micros.frame["at"].cast(pl.Int64).to_list() == [-1]
    assert [row for row, _ in micros.rejected] == [0]


def test_writers_that_two_threads_meet_at_once_both_have_their_columns(
    registry: StubRegistry,
) -> None:
    schemas = [record("T", **{f"c{number}": "int"}) for number in range(8)]
    values = [
        write(registry.register("t", schema), schema, {f"c{number}": number})
        for number, schema in enumerate(schemas)
    ]
    of = codec(registry)
    with ThreadPoolExecutor(8) as threads:
        frames = [each.frame for each in threads.map(lambda value: decode(of, value), values)]

    for number, frame in enumerate(frames):
        assert frame[f"c{number}"].to_list() == [number]
    assert set(decode(of, values[0]).frame.columns) == {f"c{number}" for number in range(8)}


def test_a_record_without_fields_is_a_column_too(registry: StubRegistry) -> None:
    schema = record("T", a="int", nothing=record("N"))
    value = write(registry.register("t", schema), schema, {"a": 1, "nothing": {}})

    found = decode(codec(registry), value, value)

    assert found.frame["a"].to_list() == [1, 1] and found.rejected == []


def test_a_recursive_value_is_read_and_a_bottomless_one_rejected(registry: StubRegistry) -> None:
    schema = record("N", v="int", next=["null", "N"])
    id = registry.register("t", schema)
    good = write(id, schema, {"v": 1, "next": {"v": 2, "next": None}})
    deep = good[:5] + b"\2\2" * 300_000 + b"\2\0"

    found = decode(codec(registry), good, deep)

    assert found.frame.to_dict(as_series=False) == {"v": [1], "next": ['{"v":2,"next":null}']}
    assert found.rejected == [(1, "value is nested too deeply")]


def test_references_are_found(registry: StubRegistry) -> None:
    leaf, whole = (
        record("Leaf", x="int"),
        record("T", leaf="Leaf", many={"type": "array", "items": "Leaf"}),
    )
    registry.register("leaf", leaf)
    id = registry.register("t-value", whole, ("Leaf", "leaf", 1))
    row = {"leaf": {"x": 1}, "many": [{"x": 2}]}
    out = io.BytesIO()
    named: dict[str, Any] = {}
    fastavro.parse_schema(leaf, named_schemas=named)
    fastavro.schemaless_writer(out, fastavro.parse_schema(whole, named_schemas=named), row)
    of = codec(registry)

    found = decode(of, b"\0" + id.to_bytes(4, "big") + out.getvalue())

    assert found.frame.to_dicts() == [row]
    assert of.encode(found.frame).to_pylist()[0][5:] == out.getvalue()


def test_instants_without_a_zone_are_written_as_utc(registry: StubRegistry) -> None:
    registry.register("t-value", record("T", at=logical("long", "timestamp-micros")))
    frame = pl.DataFrame({"at": [dt.datetime(1970, 1, 1, 0, 0, 1)]})

    assert codec(registry).encode(frame).to_pylist()[0][5:] == b"\x80\x89\x7a"


def test_a_frame_that_does_not_fit_the_schema_is_an_error_that_says_why(
    registry: StubRegistry,
) -> None:
    of = codec(registry)
    with pytest.raises(ValueError, match="no schema for subject 't-value'"):
        of.encode(pl.DataFrame({"a": [1]}))
    registry.register("t-value", record("T", a="int"))
    with pytest.raises(ValueError, match="has no b"):
        codec(registry).encode(pl.DataFrame({"a": [1], "b": [2]}))
    for cell in ("text", None, 2**40, 1.5, True):
        with pytest.raises(ValueError, match="does not fit"):
            codec(registry).encode(pl.DataFrame({"a": [cell]}))


def test_a_registry_object_may_answer_with_text_and_need_not_write() -> None:
    class Own:
        def schema(self, id: int) -> str:
            return json.dumps(record("T", a="int"))

    of = make_codec("avro", None, registry=Own())

    assert decode(of, b"\0\0\0\0\x09\x02").frame["a"].to_list() == [1]
    with pytest.raises(ValueError, match=r"no latest\(subject\)"):
        of.encode(pl.DataFrame({"a": [1]}))


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test depend on where the machine is."""
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
