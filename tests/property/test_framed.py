"""Whatever bytes follow a frame, values become rows or rejections, and neighbours stay."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as T
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.intake.codec import make_codec
from flowguard.intake.schema import Schema
from tests.stub_registry import map_of, message, proto_file, record

AVRO = record(
    "T", row="long", s="string", y="bytes", u=["null", "long", "string"], f="float", b="boolean",
    e={"type": "enum", "name": "E", "symbols": ["A"]}, x={"type": "fixed", "name": "F", "size": 3},
    d={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
    t={"type": "long", "logicalType": "timestamp-micros"},
    n={"type": "int", "logicalType": "date"},
    l={"type": "array", "items": "string"}, m={"type": "map", "values": ["null", "double"]},
    r=record("R", z="int"),
)  # fmt: skip
RECURSIVE = record("T", row="long", next=["null", "T"], many={"type": "array", "items": "T"})


def proto() -> str:
    found = message(
        "T", row=T.TYPE_INT64, s=T.TYPE_STRING, y=T.TYPE_BYTES, f=T.TYPE_FLOAT,
        at={"type_name": ".google.protobuf.Timestamp"},
        d={"type_name": ".google.protobuf.Duration"},
        r={"type": T.TYPE_SINT32, "label": 3}, t={"type_name": ".p.T"},
        ts={"type_name": ".p.T", "label": 3},
    )  # fmt: skip
    map_of(found, "m", T.TYPE_DOUBLE)
    needed = ("google/protobuf/timestamp.proto", "google/protobuf/duration.proto")
    return proto_file(found, imports=needed)


SCHEMAS = {
    "avro": json.dumps(AVRO),
    "avro recursive": json.dumps(RECURSIVE),
    "protobuf": proto(),
}


class Registry:
    def __init__(self, text: str) -> None:
        self.text = text

    def schema(self, id: int) -> str:
        if id:
            raise LookupError("none")
        return self.text


PAYLOAD = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from([b"\0", b"\1", b"\2", b"\xff" * 9 + b"\1", b"\x80" * 5, b"\x7f" * 8, b"a",
                         b"\x0a\x04", b"\x22\x08", b"\x08", b"\xfe\xff\xff\xff\x0f"]),
        max_size=30,
    ).map(b"".join),
    st.integers(0, 3000).map(lambda count: b"\0" + b"\2" * count),
)  # fmt: skip
VALUES = st.none() | st.binary(max_size=6) | PAYLOAD.map(lambda tail: b"\0\0\0\0\0" + tail)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=150, deadline=None)
@given(values=st.lists(VALUES, max_size=6))
def test_random_bytes_are_rows_or_rejections(
    name: str, declared: bool, values: list[bytes | None]
) -> None:
    columns = Schema.parse({"row": "int64", "s": "string"}) if declared else None
    registry: Any = Registry(SCHEMAS[name])
    codec = make_codec(name.split()[0], columns, registry=registry)

    decoded = codec.decode([pa.array(values, pa.binary())])

    assert decoded.frame.height + len(decoded.rejected) == len(values)
    assert [row for row, _ in decoded.rejected] == sorted({row for row, _ in decoded.rejected})
    for row, reason in decoded.rejected:
        alone = codec.decode([pa.array([values[row]], pa.binary())])
        assert [reason] == [each.reason for each in alone.rejected]
