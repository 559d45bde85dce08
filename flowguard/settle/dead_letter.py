"""Dead letters: records that cannot go on, kept as they were, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import Slice, TopicPartition, rows_by_slice
from flowguard.settle.egress import Header, Outgoing

Position: TypeAlias = tuple[TopicPartition, int]

__all__ = ["DeadLetter", "Position", "letter_of", "letters_of", "outgoing_of", "positions_of"]

#: Larger values are not kept: the broker refuses a record over 1 MiB unless told otherwise.
VALUE_BYTES_MAX: Final = 900 * 1024

#: Reading so few records by themselves costs less than reading them together.
FEW_ROWS: Final = 4

#: As they are on the wire.
NO_HEADERS: Final = wire.encode_headers([])


class DeadLetter(dict[str, Any]):
    """One record: key, value, headers, timestamp."""


def positions_of(slices: Sequence[Slice], rows: Iterable[int]) -> dict[int, Position]:
    """Return where in the log these rows are, ascending by row."""
    rows = sorted(rows)
    positions = [
        (piece.chunk.partition, piece.offsets[place].as_py())
        for piece, places in zip(slices, rows_by_slice(slices, rows), strict=True)
        for place in places
    ]
    return dict(zip(rows, positions, strict=True))


def letters_of(
    slices: Sequence[Slice], reasons: Mapping[int, str], *, attempt: int, error: str
) -> list[DeadLetter]:
    """Return the rejected rows as dead letters, in their order.

    A value that is too large is left out; its digest tells which one it was.
    """
    rows = sorted(reasons)
    records = [
        record | piece.chunk.partition._asdict()
        for piece, places in zip(slices, rows_by_slice(slices, rows), strict=True)
        for record in (records_at(piece.columns, places) if places else ())
    ]
    return [
        letter_of(record, reasons[row], attempt, error)
        for row, record in zip(rows, records, strict=True)
    ]


def records_at(columns: pa.RecordBatch, places: Sequence[int]) -> list[dict[str, Any]]:
    """Return records as dicts, their headers as dicts of name and value."""
    if len(places) <= FEW_ROWS:  # to take them costs more than all else
        records = [columns.slice(place, 1).to_pylist()[0] for place in places]
    else:
        records = columns.take(pa.array(places, pa.int64())).to_pylist()
    with_headers = [record for record in records if record["headers"] != NO_HEADERS]
    encoded = pa.array([record["headers"] for record in with_headers], pa.binary())
    decoded = wire.decode_headers(encoded).to_pylist() if with_headers else []
    for record in records:
        record["headers"] = []
    for record, headers in zip(with_headers, decoded, strict=True):
        record["headers"] = headers
    return records


def letter_of(record: Mapping[str, Any], reason: str, attempt: int, error: str) -> DeadLetter:
    """Return one record as a dead letter."""
    value: bytes | None = record["value"]
    if value is not None and len(value) > VALUE_BYTES_MAX:
        digest = hashlib.sha256(value).hexdigest()
        reason = f"{reason} (value of {len(value)} bytes left out, sha256 {digest})"
        value = None
    notes = {
        "fg-error-type": error,
        "fg-error-reason": reason,
        "fg-attempt": str(attempt),
        "fg-orig-topic": record["topic"],
        "fg-orig-partition": str(record["partition"]),
        "fg-orig-offset": str(record["offset"]),
        "fg-orig-timestamp": str(record["timestamp"]),
    }
    kept: list[Header] = [(each["name"], each["value"]) for each in record["headers"]]
    kept += [(name, text.encode()) for name, text in notes.items()]
    return DeadLetter(key=record["key"], value=value, timestamp=record["timestamp"], headers=kept)


def outgoing_of(letters: Sequence[DeadLetter], partition_count: int) -> Outgoing:
    """Return dead letters as columns."""
    keys = pa.array([each["key"] for each in letters], pa.binary())
    return Outgoing(
        keys=keys,
        values=pa.array([each["value"] for each in letters], pa.binary()),
        partitions=partitions_of(keys, partition_count),
        timestamps=pa.array([each["timestamp"] for each in letters], pa.int64()),
        partition_count=partition_count,
        own_headers=[each["headers"] for each in letters],
    )
