"""Dead letters: records that cannot go on, kept as they were, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import Slice, TopicPartition, rows_by_slice
from flowguard.settle.egress import Header, Outgoing

Position: TypeAlias = tuple[TopicPartition, int]

__all__ = [
    "DeadLetter",
    "Position",
    "Rejects",
    "letter_of",
    "letters_of",
    "outgoing_of",
    "positions_of",
]

#: Larger values are not kept: the broker refuses a record over 1 MiB unless told otherwise.
VALUE_BYTES_MAX: Final = 900 * 1024

#: So few rows of a slice cost less to cut out one by one than to take together.
FEW_ROWS: Final = 8

#: As they are on the wire.
NO_HEADERS: Final = wire.encode_headers([])


class DeadLetter(dict[str, Any]):
    """One record: key, value, headers, timestamp."""


@dataclass(frozen=True, slots=True)
class Rejects:
    """Rows of one batch that cannot go on.

    Args:
        slices: Where the rows are, counted through all of them.
        reasons: Row → why it cannot go on.
        attempt: How often the record had been tried.
        error: The kind of error, for `fg-error-type`.
    """

    slices: Sequence[Slice]
    reasons: Mapping[int, str]
    attempt: int
    error: str


def positions_of(slices: Sequence[Slice], rows: Iterable[int]) -> dict[int, Position]:
    """Return where in the log these rows are, ascending by row."""
    rows = sorted(rows)
    positions = [
        (piece.chunk.partition, piece.chunk.offset_at(piece.start + place))
        for piece, places in zip(slices, rows_by_slice(slices, rows), strict=True)
        for place in places
    ]
    return dict(zip(rows, positions, strict=True))


def letters_of(*batches: Rejects) -> list[DeadLetter]:
    """Return the rejected rows of batches as dead letters, in their order.

    What takes long about a record is to get it out of its columns; those of several batches
    are read together, which takes hardly longer than one.

    A value that is too large is left out; its digest tells which one it was.
    """
    picked: list[pa.RecordBatch] = []
    marks: list[tuple[TopicPartition, str, Rejects]] = []
    for each in batches:
        rows = iter(sorted(each.reasons))
        found = rows_by_slice(each.slices, each.reasons)
        for piece, places in zip(each.slices, found, strict=True):
            if places:
                picked += rows_at(piece.columns, places)
                name = piece.chunk.partition
                marks += [(name, each.reasons[next(rows)], each) for _ in places]
    return [
        letter_of(record | name._asdict(), reason, each.attempt, each.error)
        for record, (name, reason, each) in zip(records_of(picked), marks, strict=True)
    ]


def rows_at(columns: pa.RecordBatch, places: Sequence[int]) -> list[pa.RecordBatch]:
    """Return some rows, in one piece or in several."""
    if len(places) <= FEW_ROWS:  # nothing is copied
        return [columns.slice(place, 1) for place in places]
    return [columns.take(pa.array(places, pa.int64()))]


def records_of(pieces: Sequence[pa.RecordBatch]) -> list[dict[str, Any]]:
    """Return records as dicts, their headers as dicts of name and value."""
    records: list[dict[str, Any]] = pa.concat_batches(pieces).to_pylist() if pieces else []
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
