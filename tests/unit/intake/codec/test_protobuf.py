"""`codec="protobuf"`: what protobuf itself writes is read, by the schema of each value."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FieldDescriptorProto

from flowguard.errors import RegistryError
from flowguard.intake.codec import Codec, Decoded, RegisteredSchema, make_codec
from flowguard.intake.codec.protobuf import file_of, message_at
from flowguard.intake.schema import Schema
from flowguard.intake.schema_registry import SchemaRegistry
from tests.stub_registry import StubRegistry, map_of, message, proto_file

T = FieldDescriptorProto
NOON = dt.datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=dt.UTC)
TIMESTAMP = {"type_name": ".google.protobuf.Timestamp"}
TIMES = (
    "google/protobuf/timestamp.proto",
    "google/protobuf/duration.proto",
    "google/protobuf/wrappers.proto",
    "confluent/meta.proto",
)


def write(
    id: int, text: str, index: bytes = b"\0", path: tuple[int, ...] = (0,), **cells: Any
) -> bytes:
    make = message_factory.GetMessageClass(message_at(file_of(RegisteredSchema(text)), path))
    return b"\0" + id.to_bytes(4, "big") + index + make(**cells).SerializeToString()


def codec(stub: StubRegistry, columns: dict[str, Any] | None = None) -> Codec:
    schema = None if columns is None else Schema.parse(columns)
    registry = SchemaRegistry(stub.url, serialized=True)
    return make_codec("protobuf", schema, registry=registry, subject="t-value")


def decode(of: Codec, *values: bytes | None) -> Decoded:
    return of.decode([pa.array(values, pa.binary())])


def whole_message() -> str:
    found = message(
        "T", i=T.TYPE_INT64, u=T.TYPE_UINT64, f=T.TYPE_DOUBLE, b=T.TYPE_BOOL, s=T.TYPE_STRING,
        y=T.TYPE_BYTES, e={"type": T.TYPE_ENUM, "type_name": ".p.T.E"}, at=TIMESTAMP,
        d={"type_name": ".google.protobuf.Duration"},
        w={"type_name": ".google.protobuf.Int64Value"},
        o={"type": T.TYPE_STRING, "proto3_optional": True},
        r={"type": T.TYPE_INT32, "label": 3}, x={"type_name": ".p.X"},
        xs={"type_name": ".p.X", "label": 3}, t={"type_name": ".p.T"},
    )  # fmt: skip
    kinds = EnumDescriptorProto(name="E")
    kinds.value.add(name="NONE", number=0)
    kinds.value.add(name="SOME", number=1)
    found.enum_type.append(kinds)
    map_of(found, "m", T.TYPE_INT64)
    return proto_file(found, message("X", n=T.TYPE_INT32), imports=TIMES)


FULL = {
    "i": -(2**62), "u": 2**64 - 1, "f": 0.5, "b": True, "s": "é", "y": b"\xff", "e": "SOME",
    "at": NOON, "d": dt.timedelta(seconds=-1, microseconds=-5), "w": 0, "o": "", "r": [1, 2],
    "x": {"n": 1}, "xs": [{"n": 2}, {"n": 3}], "t": '{"i":1}', "m": [{"key": "k", "value": 7}],
}  # fmt: skip


def test_every_kind_of_field_is_written_and_read(registry: StubRegistry) -> None:
    registry.register("t-value", whole_message())
    of = codec(registry)
    cells = {name: [cell] for name, cell in FULL.items() if name != "t"}
    frame = pl.DataFrame(cells, schema_overrides={"u": pl.UInt64})

    found = decode(of, *of.encode(frame).to_pylist())

    assert found.rejected == []
    [row] = found.frame.drop("t").to_dicts()
    assert row == {name: cell for name, cell in FULL.items() if name != "t"}
    assert found.frame.schema["at"] == pl.Datetime("us", "UTC")
    assert found.frame.schema["t"] == pl.String  # it holds itself


def test_an_absent_field_is_null_where_protobuf_knows_it_is_absent(registry: StubRegistry) -> None:
    id = registry.register("t-value", whole_message())

    [row] = decode(codec(registry), write(id, whole_message())).frame.to_dicts()

    nulls = {name for name, cell in row.items() if cell is None}
    assert nulls == {"at", "d", "w", "o", "x", "t"}
    assert (row["i"], row["s"], row["e"], row["r"], row["m"]) == (0, "", "NONE", [], [])


def test_nulls_are_not_written(registry: StubRegistry) -> None:
    registry.register("t-value", whole_message())
    frame = pl.DataFrame({"o": [None], "i": [None]}, schema={"o": pl.String, "i": pl.Int64})

    assert codec(registry).encode(frame).to_pylist() == [b"\0" + (100).to_bytes(4, "big") + b"\0"]


def test_the_message_index_says_which_message_it_is(registry: StubRegistry) -> None:
    outer = message("Outer")
    outer.nested_type.append(message("First", no=T.TYPE_INT32))
    outer.nested_type.append(message("Second", a=T.TYPE_INT32))
    text = proto_file(message("Other", b=T.TYPE_INT32), outer)
    id = registry.register("t-value", text)
    values = [
        write(id, text, b"\x04\x02\x02", (1, 1), a=5),  # 2 indexes: 1, 1
        write(id, text, b"\x02\x00", (0,), b=6),  # 1 index: 0
        write(id, text, b"\x00", (0,), b=7),
    ]

    found = decode(codec(registry, {"a": "int64", "b": "int64"}), *values)

    assert found.frame.to_dict(as_series=False) == {"a": [5, None, None], "b": [None, 6, 7]}


def test_the_schema_may_change_in_the_middle_of_a_batch(registry: StubRegistry) -> None:
    old = proto_file(message("T", a=T.TYPE_INT32))
    new = proto_file(message("T", a=T.TYPE_DOUBLE, b=T.TYPE_STRING))
    values = [
        write(registry.register("t", old), old, a=1),
        write(registry.register("t", new), new, a=2.5, b="x"),
    ]

    found = decode(codec(registry), *values)

    assert found.frame.to_dict(as_series=False) == {"a": [1.0, 2.5], "b": [None, "x"]}


def test_bad_values_are_rejected_alone(registry: StubRegistry) -> None:
    text = proto_file(message("T", a=T.TYPE_STRING))
    id = registry.register("t", text)
    good = write(id, text, a="text")
    bad = {
        b"": None,
        b"text": "not framed",
        b"\0\0\0\0\1\0": "has schema 1",
        good[:5]: "ends inside its message index",
        good[:5] + b"\x80": "ends inside its message index",
        good[:5] + b"\x80\x80\x80\x80\x80\x01": "ends inside its message index",
        good[:5] + b"\x01": "message index of -1 numbers",
        good[:5] + b"\xfe\xff\x03": "message index of",
        good[:5] + b"\x02\x02": "no message [1]",
        good[:5] + b"\x02\x01": "no message [-1]",
        good[:-1]: "not what its schema says",
        good[:6] + b"\x0a\x01\xff": "not what its schema says",
    }
    del bad[b""]
    found = decode(codec(registry, {"a": "string"}), good, *bad, None, b"", good)

    assert found.frame["a"].to_list() == ["text", None, None, "text"]
    assert [row for row, _ in found.rejected] == list(range(1, 1 + len(bad)))
    for (_, reason), expected in zip(found.rejected, bad.values(), strict=True):
        assert expected is not None and expected in reason


def test_instants_keep_their_nanoseconds_where_the_column_has_them(registry: StubRegistry) -> None:
    text = proto_file(message("T", at=TIMESTAMP), imports=TIMES)
    id = registry.register("t", text)
    exact = write(id, text, at={"seconds": 1, "nanos": 5})
    far = write(id, text, at={"seconds": 2**62})

    nanos = decode(codec(registry, {"at": "timestamp[ns, UTC]"}), exact, far)
    micros = decode(codec(registry), exact)

    assert nanos.frame["at"].cast(pl.Int64).to_list() == [1_000_000_005]
    assert [row for row, _ in nanos.rejected] == [1]
    assert [row for row, _ in micros.rejected] == [0]


def test_references_are_found(registry: StubRegistry) -> None:
    leaf = proto_file(message("Leaf", n=T.TYPE_INT32))
    registry.register("leaf", leaf)
    whole = proto_file(message("T", leaf={"type_name": ".p.Leaf"}), imports=("leaf.proto",))
    id = registry.register("t-value", whole, ("leaf.proto", "leaf", 1))

    found = decode(codec(registry), b"\0" + id.to_bytes(4, "big") + b"\0\x0a\x02\x08\x05")

    assert found.frame.to_dicts() == [{"leaf": {"n": 5}}]


@pytest.mark.parametrize(
    "text", ["?", "", "AAAA", 'syntax = "proto3"; message T {}', proto_file(),
             proto_file(message("T", a={"type_name": ".p.None"})),
             proto_file(message("T"), imports=("none.proto",))],
)  # fmt: skip
def test_a_schema_that_cannot_be_read_rejects_what_was_written_with_it(
    registry: StubRegistry, text: str
) -> None:
    id = registry.register("t", text)

    found = decode(codec(registry), b"\0" + id.to_bytes(4, "big") + b"\0")

    [(row, why)] = found.rejected
    assert row == 0 and "cannot be read" in why


def test_a_registry_that_does_not_answer_rejects_nothing(registry: StubRegistry) -> None:
    registry.broken = (503, b"busy")
    with pytest.raises(RegistryError):
        decode(codec(registry), b"bad", b"\0\0\0\0\1\0")


def test_a_bottomless_value_is_rejected(registry: StubRegistry) -> None:
    text = proto_file(message("T", t={"type_name": ".p.T"}))
    id = registry.register("t", text)
    content = b""
    for _ in range(2_000):
        size, prefix = len(content), b"\x0a"
        while size >= 0x80:
            prefix, size = prefix + bytes([size & 0x7F | 0x80]), size >> 7
        content = prefix + bytes([size]) + content

    found = decode(codec(registry), b"\0" + id.to_bytes(4, "big") + b"\0" + content)

    assert [row for row, _ in found.rejected] == [0]


def test_a_frame_that_does_not_fit_the_schema_is_an_error_that_says_why(
    registry: StubRegistry,
) -> None:
    with pytest.raises(ValueError, match="no schema for subject"):
        codec(registry).encode(pl.DataFrame({"i": [1]}))
    registry.register("t-value", whole_message())
    of = codec(registry)
    for column, cell in {"i": "x", "r": [2**40], "e": "OTHER", "b": 1.5, "x": {"z": 1}}.items():
        with pytest.raises(ValueError, match=r"does not fit p\.T"):
            of.encode(pl.DataFrame({column: [cell]}))
    with pytest.raises(ValueError, match="has no z"):
        of.encode(pl.DataFrame({"z": [1]}))
