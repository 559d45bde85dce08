"""Schema drift: the same change has the same outcome in every codec.

Each row of the table is a value between two good ones, and what becomes of it: a cell, or
`REJECTED`. The codecs that have no schema of their own get it as it is; the others get it
with the schema that its writer would have.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import msgspec
import pyarrow as pa
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as T

from flowguard.intake.codec import RegisteredSchema, make_codec
from flowguard.intake.codec.protobuf import file_of, message_at
from flowguard.intake.schema import Schema
from tests.stub_registry import message, proto_file, record

REJECTED = object()
GOOD = {"a": 1, "b": "x"}

DRIFTS: list[tuple[str, dict[str, str], dict[str, Any] | None, Any]] = [
    ("nothing", {"a": "!int64", "b": "string"}, {"a": 2, "b": "y"}, {"a": 2, "b": "y"}),
    ("a column is missing", {"a": "int64", "b": "string"}, {"b": "y"}, {"a": None, "b": "y"}),
    ("a needed column is missing", {"a": "!int64", "b": "string"}, {"b": "y"}, REJECTED),
    ("a column is null", {"a": "int64", "b": "string"}, {"a": None, "b": "y"},
     {"a": None, "b": "y"}),
    ("a needed column is null", {"a": "!int64", "b": "string"}, {"a": None, "b": "y"}, REJECTED),
    ("a column is new", {"a": "!int64", "b": "string"}, {"a": 2, "b": "y", "c": 1.5},
     {"a": 2, "b": "y"}),
    ("text for a number", {"a": "int64", "b": "string"}, {"a": "2", "b": "y"}, REJECTED),
    ("a number for text", {"a": "int64", "b": "string"}, {"a": 2, "b": 5}, REJECTED),
    ("a fraction for a whole number", {"a": "int64", "b": "string"}, {"a": 2.5, "b": "y"},
     REJECTED),
    ("a float that is whole", {"a": "int64", "b": "string"}, {"a": 2.0, "b": "y"},
     {"a": 2, "b": "y"}),
    ("a whole number for a float", {"a": "float64", "b": "string"}, {"a": 2, "b": "y"},
     {"a": 2.0, "b": "y"}),
    ("too large a number", {"a": "int8", "b": "string"}, {"a": 200, "b": "y"}, REJECTED),
    ("a list for a number", {"a": "int64", "b": "string"}, {"a": [2], "b": "y"}, REJECTED),
    ("a tombstone", {"a": "int64", "b": "string"}, None, {"a": None, "b": None}),
    ("a tombstone where a column is needed", {"a": "!int64", "b": "string"}, None, REJECTED),
]  # fmt: skip


class Schemas:
    """A registry that has a schema for each shape of a row."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def schema(self, id: int) -> str:
        return self.texts[id]

    def add(self, text: str) -> bytes:
        if text not in self.texts:
            self.texts.append(text)
        return b"\0" + self.texts.index(text).to_bytes(4, "big")


AVRO = {int: "long", str: "string", float: "double", list: {"type": "array", "items": "long"},
        type(None): ["null", "long"]}  # fmt: skip
PROTO: dict[type, Any] = {
    int: {"type": T.TYPE_INT64, "proto3_optional": True}, float: T.TYPE_DOUBLE,
    str: T.TYPE_STRING, list: {"type": T.TYPE_INT64, "label": 3},
    type(None): {"type": T.TYPE_INT64, "proto3_optional": True},
}  # fmt: skip


def avro(row: dict[str, Any], schemas: Schemas) -> bytes:
    schema = record("T", **{name: AVRO[type(cell)] for name, cell in row.items()})
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return schemas.add(json.dumps(schema)) + out.getvalue()


def protobuf(row: dict[str, Any], schemas: Schemas) -> bytes:
    text = proto_file(message("T", **{name: PROTO[type(cell)] for name, cell in row.items()}))
    make = message_factory.GetMessageClass(message_at(file_of(RegisteredSchema(text)), (0,)))
    return schemas.add(text) + b"\0" + make(**row).SerializeToString()


def arrow(row: dict[str, Any], _: Schemas) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({name: [cell] for name, cell in row.items()})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


WRITE: dict[str, Callable[[dict[str, Any], Schemas], bytes]] = {
    "json": lambda row, _: json.dumps(row).encode(),
    "msgpack": lambda row, _: msgspec.msgpack.encode(row),
    "avro": avro,
    "protobuf": protobuf,
    "arrow": arrow,
}


@pytest.mark.parametrize("codec", WRITE)
@pytest.mark.parametrize(("columns", "row", "outcome"), [each[1:] for each in DRIFTS],
                         ids=[each[0] for each in DRIFTS])  # fmt: skip
def test_a_drift_has_one_outcome_and_costs_no_neighbour(
    codec: str, columns: dict[str, str], row: dict[str, Any] | None, outcome: Any
) -> None:
    schemas = Schemas()
    registry = schemas if codec in ("avro", "protobuf") else None
    reader = make_codec(codec, Schema.parse(columns), registry=registry)
    good = WRITE[codec](GOOD, schemas)
    drifted = None if row is None else WRITE[codec](row, schemas)

    decoded = reader.decode([pa.array([good, drifted, good], pa.binary())])

    expected = [GOOD, GOOD] if outcome is REJECTED else [GOOD, outcome, GOOD]
    assert decoded.frame.to_dicts() == expected
    assert [at for at, _ in decoded.rejected] == ([1] if outcome is REJECTED else [])
    assert all(reason for _, reason in decoded.rejected)
