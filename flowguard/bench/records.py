"""The records that are read: built once, sent as finished wire batches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder

__all__ = ["COLUMNS", "LANE_HEADER", "RT_EVERY", "make_value", "wire_batch", "wire_batches"]

#: As declared by whoever reads all of a value.
COLUMNS: Final = {
    "id": "int64",
    "account": "string",
    "amount": "decimal128(12,2)",
    "currency": "string",
    "merchant": "string",
    "note": "string",
}

LANE_HEADER: Final = "lane"

#: One record in this many is `rt`, all others `bulk`.
RT_EVERY: Final = 10

#: A broker takes 1 MiB a batch unless told otherwise, and so does librdkafka.
BATCH_BYTES_MAX: Final = 1_000_000

#: Different batches; they are sent again and again, each time at new offsets.
DISTINCT_BATCHES: Final = 32


def make_value(number: int) -> bytes:
    """Return a value of about 185 bytes."""
    return json.dumps(
        {
            "id": number,
            "account": f"acc-{number % 100_000:08d}",
            "amount": f"{number % 10_000}.{number % 100:02d}",
            "currency": "EUR",
            "merchant": f"shop-{number % 5_000:06d}",
            "note": "a payment like many others, with a few words about what it was for, or not",
        },
        separators=(",", ":"),
    ).encode()


def make_key(number: int) -> bytes:
    """Return a key of 8 bytes."""
    return b"k%07d" % (number % 100_000)


def make_lane(number: int) -> bytes:
    """Return the value of the lane header."""
    return b"rt" if number % RT_EVERY == 0 else b"bulk"


def wire_batch(first: int, count: int, timestamp_ms: int) -> tuple[bytes, int]:
    """Return records as one wire batch without compression, and how many fit."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=BATCH_BYTES_MAX,
    )
    taken = 0
    while taken < count:
        number = first + taken
        added = builder.append(
            taken,
            timestamp_ms,
            make_key(number),
            make_value(number),
            [(LANE_HEADER, make_lane(number))],
        )
        if added is None:
            break
        taken += 1
    return bytes(builder.build()), taken


def wire_batches(records: int) -> Iterator[tuple[bytes, int]]:
    """Yield wire batches with their number of records, this many in all."""
    now_ms = time.time_ns() // 1_000_000
    made: list[tuple[bytes, int]] = []
    numbered = 0
    turn = 0
    while records:
        if len(made) < DISTINCT_BATCHES:
            made.append(wire_batch(numbered, records, now_ms))
            numbered += made[-1][1]
        batch, count = made[turn % len(made)] if len(made) == DISTINCT_BATCHES else made[-1]
        if count > records:
            batch, count = wire_batch(0, records, now_ms)
        yield batch, count
        records -= count
        turn += 1
