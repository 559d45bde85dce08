"""Time decoding: bytes of Kafka values into columns, codec by codec, beside other readers.

    python benchmarks/bench_codecs.py [--rows 20000] [--rounds 5]

A value has six columns: two int64, float64, bool and two strings, about 130 bytes of JSON. All
readers check types and end with a Polars frame. Polars gets the values joined to lines
beforehand, which costs it nothing here; msgspec and orjson stand for the usual loop, values to
Python objects to a frame (msgspec checks types, orjson does not). The last rows split the
records of a chunk into eight lanes, and into 128 sub-queues.

A figure is the best of the rounds, all in one run, so that ratios hold on any machine; CPU is
of all threads.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import time
from collections.abc import Callable
from typing import Any

import fastavro
import msgspec
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from flowguard._native.split import hash_groups, split_rows
from flowguard.intake.codec import RegisteredSchema, make_codec
from flowguard.intake.codec.protobuf import file_of, message_at
from flowguard.intake.schema import Schema

COLUMNS = {
    "txn_id": "int64", "account": "string", "amount": "float64", "accepted": "bool",
    "at": "int64", "merchant": "string",
}  # fmt: skip
POLARS = {
    "txn_id": pl.Int64, "account": pl.String, "amount": pl.Float64, "accepted": pl.Boolean,
    "at": pl.Int64, "merchant": pl.String,
}  # fmt: skip
AVRO = {"int64": "long", "string": "string", "float64": "double", "bool": "boolean"}
PROTO = {"int64": 3, "string": 9, "float64": 1, "bool": 8}


class Record(msgspec.Struct):
    """The columns, as msgspec checks them."""

    txn_id: int
    account: str
    amount: float
    accepted: bool
    at: int
    merchant: str


def make_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "txn_id": 10**12 + number, "account": f"account-{number % 997:08}",
            "amount": number % 10_000 / 100, "accepted": number % 3 > 0,
            "at": 1_700_000_000_000 + number, "merchant": f"merchant {number % 89}, Zürich",
        }
        for number in range(count)
    ]  # fmt: skip


class OneSchema:
    """A registry of one schema."""

    def __init__(self, text: str) -> None:
        self.text = text

    def schema(self, id: int) -> str:
        return self.text


def avro_values(rows: list[dict[str, Any]]) -> tuple[pa.BinaryArray, OneSchema]:
    fields = [{"name": name, "type": AVRO[kind]} for name, kind in COLUMNS.items()]
    schema = {"type": "record", "name": "T", "fields": fields}
    parsed = fastavro.parse_schema(schema)
    values = []
    for row in rows:
        out = io.BytesIO(b"\0" * 5)
        out.seek(5)
        fastavro.schemaless_writer(out, parsed, row)
        values.append(out.getvalue())
    return pa.array(values, pa.binary()), OneSchema(json.dumps(schema))


def protobuf_values(rows: list[dict[str, Any]]) -> tuple[pa.BinaryArray, OneSchema]:
    file = FileDescriptorProto(syntax="proto3")
    message = file.message_type.add(name="T")
    for number, (name, kind) in enumerate(COLUMNS.items(), 1):
        message.field.add(
            name=name, number=number, type=PROTO[kind], label=FieldDescriptorProto.LABEL_OPTIONAL
        )
    text = base64.b64encode(file.SerializeToString()).decode()
    make = message_factory.GetMessageClass(message_at(file_of(RegisteredSchema(text)), (0,)))
    values = [b"\0" * 6 + make(**row).SerializeToString() for row in rows]
    return pa.array(values, pa.binary()), OneSchema(text)


def contenders(rows: list[dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    schema = Schema.parse(COLUMNS)
    frame = pl.DataFrame(rows, schema=POLARS)
    found: dict[str, Callable[[], Any]] = {}

    def add(label: str, name: str, values: pa.BinaryArray, registry: Any = None) -> None:
        codec = make_codec(name, schema, registry=registry)
        found[label] = lambda: codec.decode([values]).frame

    texts = make_codec("json").encode(frame)
    listed, lines = texts.to_pylist(), b"\n".join(texts.to_pylist())
    decoder = msgspec.json.Decoder(Record)
    add("json", "json", texts)
    found["  polars.read_ndjson, schema"] = lambda: pl.read_ndjson(io.BytesIO(lines), schema=POLARS)
    found["  msgspec, loop"] = lambda: pl.DataFrame(
        [msgspec.structs.astuple(decoder.decode(value)) for value in listed], POLARS, orient="row"
    )
    found["  orjson, loop"] = lambda: pl.DataFrame(list(map(orjson.loads, listed)), POLARS)
    add("msgpack", "msgpack", make_codec("msgpack").encode(frame))
    add("avro", "avro", *avro_values(rows))
    add("protobuf", "protobuf", *protobuf_values(rows))
    few = make_codec("arrow").encode(frame.head(max(1, len(rows) // 10)))
    add("arrow (a tenth of the rows)", "arrow", few)
    return found


def splits(rows: list[dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    keys = pa.array([row["account"].encode() for row in rows], pa.binary())
    numbers = pa.array(range(len(rows)), pa.int64())
    batch = pa.record_batch(
        {"offset": numbers, "timestamp": numbers, "key": keys,
         "value": make_codec("json").encode(pl.DataFrame(rows)), "headers": keys}
    )  # fmt: skip
    lanes, flows = hash_groups(keys, 8), hash_groups(keys, 128)
    return {
        "hash_groups": lambda: hash_groups(keys, 128),
        "split_rows, 8 lanes": lambda: split_rows(batch, lanes, 8),
        "split_rows, 128 sub-queues": lambda: split_rows(batch, flows, 128, 128),
        "split_rows, one group": lambda: split_rows(batch, hash_groups(keys, 1), 1),
        "  pyarrow sort_indices, take": lambda: batch.take(pc.sort_indices(flows)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    rows = make_rows(chosen.rows)
    runs = {**contenders(rows), **splits(rows)}
    best: dict[str, tuple[float, float]] = {}
    for _ in range(chosen.rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            was = best.get(name, (wall, cpu))
            best[name] = (min(was[0], wall), min(was[1], cpu))
    base = best["json"]
    print(f"{chosen.rows} rows, {os.cpu_count()} CPUs, Polars {pl.__version__}")
    print(f"{'':32} {'rows/s':>12} {'CPU µs/row':>12} {'CPU ÷ json':>12}")
    for name, (wall, cpu) in best.items():
        count = chosen.rows // (10 if "tenth" in name else 1)
        ratio = cpu / count / (base[1] / chosen.rows)
        print(f"{name:32} {count / wall:12,.0f} {cpu / count * 1e6:12.3f} {ratio:12.2f}")


if __name__ == "__main__":
    main()
