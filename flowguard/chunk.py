"""Chunks and slices: the unit of work everywhere behind the parser.

A *chunk* is what one fetch response held for one lane of one partition, as Arrow columns;
where order is by key or shares are fair, what it held for one flow of that lane.
A *slice* is a run of records of a chunk; cutting one copies nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["NO_FLOW", "Chunk", "Slice", "TopicPartition", "rows_by_slice", "run_of"]

#: The flow of records that queue by partition.
NO_FLOW: Final = -1


class TopicPartition(NamedTuple):
    """A partition of a topic; equal to Faust's and aiokafka's."""

    topic: str
    partition: int


@dataclass(slots=True, eq=False)
class Chunk:
    """Records of one lane and partition, in offset order.

    Args:
        partition: Where they were read.
        lane: Rank of their lane, 0 the highest.
        columns: offset int64, timestamp int64 (ms), key, value, headers (raw) binary; one
            row a record.
        num_bytes: Bytes of the column buffers.
        first_offset: Offset of row 0.
        first_timestamp_ms: The oldest timestamp.
        fetched_ns: When they arrived, on the monotonic clock.
        born_ns: The oldest timestamp on the monotonic clock; one of the future counts as now.
        flow: Hash of their key or tenant, by which they queue; `NO_FLOW`: by partition.
        block: Which block of its lane's records of this fetch it is part of.
        entity: Value of the column by which its lane is conflated, one a row; None: its key.
        sparse: Other records of its lane, which have left, lay between its own.
        unsettled: Records that an agent has not settled yet, summed up over the agents.
    """

    partition: TopicPartition
    lane: int
    columns: pa.RecordBatch
    num_bytes: int
    first_offset: int
    first_timestamp_ms: int
    fetched_ns: int
    born_ns: int = 0
    flow: int = NO_FLOW
    block: int = 0
    entity: pa.BinaryArray | None = None
    sparse: bool = False
    unsettled: int = field(init=False)
    _offsets: memoryview = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.unsettled = self.num_records
        offsets = self.columns.column(0)
        self._offsets = memoryview(offsets.buffers()[1]).cast("b").cast("q")[offsets.offset :]

    @property
    def num_records(self) -> int:
        """Return the number of records."""
        return int(self.columns.num_rows)

    @property
    def entities(self) -> pa.BinaryArray:
        """Return what each record is the latest state of, null where it is of nothing."""
        return self.columns.column(2) if self.entity is None else self.entity

    def offset_at(self, row: int) -> int:
        """Return the offset of one record."""
        return int(self._offsets[row])

    def row_of(self, offset: int) -> int:
        """Return the first row at or after an offset; O(log rows)."""
        return bisect_left(self._offsets, offset, 0, self.num_records)

    def rows(self, start: int, stop: int) -> Chunk | None:
        """Return some rows as a chunk of their own, None if there are none; nothing is copied."""
        count = self.num_records
        if start >= stop:
            return None
        if stop - start == count:
            return self
        columns = self.columns.slice(start, stop - start)
        return replace(
            self,
            columns=columns,
            first_offset=int(columns.column(0)[0].as_py()),
            num_bytes=self.num_bytes * stop // count - self.num_bytes * start // count,
            entity=None if self.entity is None else self.entity.slice(start, stop - start),
        )

    def from_offset(self, offset: int) -> Chunk | None:
        """Return the records at and after an offset; nothing is copied."""
        if offset <= self.first_offset:
            return self
        return self.rows(self.row_of(offset), self.num_records)

    def without(self, first: int, end: int) -> list[Chunk]:
        """Return the records before and after a range of offsets; nothing is copied."""
        parts = (self.rows(0, self.row_of(first)), self.from_offset(end))
        return [part for part in parts if part is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Rows `start` to `start + count` of a chunk."""

    chunk: Chunk
    start: int
    count: int

    @property
    def columns(self) -> pa.RecordBatch:
        """Return the records as columns; nothing is copied."""
        return self._cut(self.chunk.columns)

    @property
    def offsets(self) -> pa.Int64Array:
        """Return the offsets of the records; nothing is copied."""
        return self._cut(self.chunk.columns.column(0))

    @property
    def keys(self) -> pa.BinaryArray:
        """Return the keys of the records; nothing is copied."""
        return self._cut(self.chunk.columns.column(2))

    @property
    def entities(self) -> pa.BinaryArray:
        """Return what each record is the latest state of; nothing is copied."""
        return self._cut(self.chunk.entities)

    @property
    def timestamps(self) -> pa.Int64Array:
        """Return the timestamps of the records, ms; nothing is copied."""
        return self._cut(self.chunk.columns.column(1))

    @property
    def oldest_timestamp_ms(self) -> int:
        """Return the oldest timestamp of the records."""
        if self.count == self.chunk.num_records:
            return self.chunk.first_timestamp_ms
        return int(pc.min(self.timestamps).as_py())

    @property
    def num_bytes(self) -> int:
        """Return the slice's share of the chunk's bytes."""
        return self.chunk.num_bytes * self.count // max(1, self.chunk.num_records)

    def _cut(self, columns: Any) -> Any:
        """Return its rows of a column, or of all; what it has whole is not even sliced."""
        return columns if self.count == len(columns) else columns.slice(self.start, self.count)


def run_of(slices: Iterable[Slice], start: int, count: int) -> list[Slice]:
    """Return slices of some records that follow one another; nothing is copied.

    Args:
        start: The first of them, counted through all slices.
    """
    found = []
    before = 0
    for piece in slices:
        first = max(0, start - before)
        end = min(piece.count, start + count - before)
        if first < end:
            found.append(Slice(piece.chunk, piece.start + first, end - first))
        before += piece.count
    return found


def rows_by_slice(slices: Iterable[Slice], rows: Iterable[int]) -> list[list[int]]:
    """Return for each slice which of these rows it has, ascending.

    Args:
        rows: Counted through all slices; those that are returned begin at 0 in each.
    """
    wanted = sorted(rows)
    found = []
    start = 0
    for piece in slices:
        end = start + piece.count
        inside = wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]
        found.append([row - start for row in inside])
        start = end
    return found
