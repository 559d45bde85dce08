"""Wire batches and fetch responses for tests, written by aiokafka's own encoder.

What brokers add to a batch (its offset, control records, log append time) and what
compaction takes away is patched in; the checksum is renewed by aiokafka, too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.protocol.fetch import FetchResponse_v11
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from flowguard._native.wire import PartitionSection

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
ABORT, COMMIT = 0, 1

LOG_APPEND_TIME = 1 << 3
TRANSACTIONAL = 1 << 4
CONTROL = 1 << 5

AT_LENGTH = 8
AT_MAGIC = 16
AT_CRC = 17
AT_ATTRIBUTES = 21
AT_LAST_OFFSET_DELTA = 23
AT_MAX_TIMESTAMP = 35
AT_RECORD_COUNT = 57
AT_RECORDS = 61


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record; `delta` is its place in the batch, None to follow the one before."""

    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = 1_700_000_000_000
    delta: int | None = None


def patch(batch: bytearray, form: str, at: int, value: int) -> None:
    """Overwrite one field."""
    struct.pack_into(form, batch, at, value)


def renew_crc(batch: bytearray) -> None:
    patch(batch, ">I", AT_CRC, calc_crc32c(bytes(batch[AT_ATTRIBUTES:])))


def wire_batch(
    rows: Sequence[Row] = (Row(),),
    *,
    base_offset: int = 0,
    codec: int = 0,
    flags: int = 0,
    producer_id: int = -1,
    last_delta: int | None = None,
    max_timestamp: int | None = None,
) -> bytes:
    """Return a wire batch with a right checksum.

    Args:
        last_delta: Last offset of the batch, if compaction took the last records.
        max_timestamp: What the broker writes together with LOG_APPEND_TIME.
    """
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=producer_id,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    delta = -1
    for row in rows:
        delta = delta + 1 if row.delta is None else row.delta
        builder.append(delta, row.timestamp, row.key, row.value, list(row.headers))
    batch = bytearray(builder.build())
    patch(batch, ">q", 0, base_offset)
    batch[AT_ATTRIBUTES + 1] |= flags
    patch(batch, ">i", AT_LAST_OFFSET_DELTA, max(delta, 0) if last_delta is None else last_delta)
    if max_timestamp is not None:
        patch(batch, ">q", AT_MAX_TIMESTAMP, max_timestamp)
    renew_crc(batch)
    return bytes(batch)


def marker(kind: int, *, base_offset: int, producer_id: int) -> bytes:
    """Return the control batch that ends a transaction."""
    row = Row(key=struct.pack(">hh", 0, kind), value=struct.pack(">hi", 0, 0))
    return wire_batch(
        [row], base_offset=base_offset, flags=TRANSACTIONAL | CONTROL, producer_id=producer_id
    )


def frame_of(wire: bytes, aborted: Sequence[tuple[int, int]] | None = ()) -> bytes:
    """Return a Fetch v11 response of one partition, from after its correlation id."""
    partition = (3, 0, 1000, 999, 7, aborted, -1, wire)
    frame: bytes = FetchResponse_v11(5, 0, 77, [("topic", [partition])]).encode()
    return frame


def section_of(wire: bytes, aborted: Sequence[tuple[int, int]] = ()) -> PartitionSection:
    """Return a section of a frame that is nothing but wire batches."""
    return PartitionSection(topic="topic", partition=3, start=0, size=len(wire), aborted=aborted)
