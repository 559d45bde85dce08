"""Dead letters: records that cannot go on, kept as they were, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import Slice, TopicPartition, rows_by_slice
from flowguard.settle.egress import Outgoing

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


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that cannot go on, with where it came from and why in its headers.

    Args:
        timestamp: Milliseconds since 1970.
        headers: As they are on the wire.
    """

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: bytes


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

    A value that is too large is left out; its digest tells which one it was.
    """
    letters = []
    for each in batches:
        rows = iter(sorted(each.reasons))
        found = rows_by_slice(each.slices, each.reasons)
        for piece, places in zip(each.slices, found, strict=True):
            letters += [letter_of(piece, place, each.reasons[next(rows)], each) for place in places]
    return letters


def letter_of(piece: Slice, place: int, reason: str, rejects: Rejects) -> DeadLetter:
    """Return one record of a slice as a dead letter; nothing else of its columns is touched."""
    chunk, row = piece.chunk, piece.start + place
    offset, timestamp, key, value, headers = (
        column[row].as_py() for column in chunk.columns.columns
    )
    if value is not None and len(value) > VALUE_BYTES_MAX:
        digest = hashlib.sha256(value).hexdigest()
        reason = f"{reason} (value of {len(value)} bytes left out, sha256 {digest})"
        value = None
    topic, partition = chunk.partition
    notes = (
        (b"fg-error-type", rejects.error.encode()),
        (b"fg-error-reason", reason.encode()),
        (b"fg-attempt", b"%d" % rejects.attempt),
        (b"fg-orig-topic", topic.encode()),
        (b"fg-orig-partition", b"%d" % partition),
        (b"fg-orig-offset", b"%d" % offset),
        (b"fg-orig-timestamp", b"%d" % timestamp),
    )
    return DeadLetter(key, value, timestamp, wire.append_headers(headers, notes))


def outgoing_of(letters: Sequence[DeadLetter], partition_count: int) -> Outgoing:
    """Return dead letters as columns."""
    keys = pa.array([each.key for each in letters], pa.binary())
    return Outgoing(
        keys=keys,
        values=pa.array([each.value for each in letters], pa.binary()),
        partitions=partitions_of(keys, partition_count),
        timestamps=pa.array([each.timestamp for each in letters], pa.int64()),
        partition_count=partition_count,
        encoded_headers=pa.array([each.headers for each in letters], pa.binary()),
    )
