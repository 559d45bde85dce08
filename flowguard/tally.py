"""Counting what becomes of records, exactly, also where several agents read them.

A record counts once, whatever the number of its agents: as held while no agent has it, as
in flight while one has, and as settled when all are done with it. With one agent that is
plain arithmetic; with several each row is marked, and marks are counted a slice at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from flowguard.chunk import Chunk, Slice
from flowguard.snapshot import Counts

__all__ = ["AGENTS_MAX", "Settled", "Tally"]

#: A mark is a byte.
AGENTS_MAX: Final = 200

UP: Final = bytes([*range(1, 256), 0])
DOWN: Final = bytes([255, *range(255)])


@dataclass(slots=True, eq=False)
class Marks:
    """One byte a row: how many agents have it now, and how many are not done with it."""

    flying: bytearray
    left: bytearray

    @classmethod
    def fresh(cls, rows: int, agents: int) -> Marks:
        return cls(bytearray(rows), bytearray([agents]) * rows)


@dataclass(frozen=True, slots=True)
class Settled:
    """Records that all agents are done with.

    Args:
        count: How many.
        timestamps: Their timestamps, ms.
    """

    count: int
    timestamps: pa.Int64Array


class Tally:
    """Keep the counts of the lanes.

    Args:
        counts: One for each lane, by rank.
    """

    def __init__(self, counts: list[Counts]) -> None:
        self._counts = counts
        self._dead_letters = [0] * len(counts)  # of records that other agents still work on
        self._marks: dict[Chunk, Marks] = {}
        self._flying: dict[Chunk, int] = {}

    def fetched(self, chunk: Chunk, *, agents: int) -> None:
        """Count the records of a chunk that so many agents will get."""
        counts = self._counts[chunk.lane]
        counts.read += chunk.num_records
        counts.held += chunk.num_records
        chunk.unsettled = chunk.num_records * agents
        if agents > 1:
            self._marks[chunk] = Marks.fresh(chunk.num_records, agents)
        else:
            self._flying[chunk] = 0

    def skipped(self, lane: int, count: int) -> None:
        """Count records that were finished before this worker began."""
        self._counts[lane].read += count
        self._counts[lane].skipped += count

    def started(self, piece: Slice) -> None:
        """Count records that an agent gets."""
        moved = piece.count
        if (marks := self._marks.get(piece.chunk)) is None:
            self._flying[piece.chunk] += moved
        else:
            rows = rows_of(piece)
            moved = marks.flying[rows].count(0)
            marks.flying[rows] = marks.flying[rows].translate(UP)
        self._move(piece.chunk.lane, moved)

    def failed(self, piece: Slice) -> None:
        """Count records that an agent will get again."""
        moved = piece.count
        if (marks := self._marks.get(piece.chunk)) is None:
            self._flying[piece.chunk] -= moved
        else:
            moved = self._land(marks, rows_of(piece))
        self._move(piece.chunk.lane, -moved)

    def settled(self, piece: Slice) -> Settled:
        """Count records that an agent is done with, and return those that all are done with."""
        chunk, counts = piece.chunk, self._counts[piece.chunk.lane]
        chunk.unsettled -= piece.count
        timestamps = piece.timestamps
        count = piece.count
        if (marks := self._marks.get(chunk)) is None:
            self._flying[chunk] -= count
        else:
            rows = rows_of(piece)
            marks.left[rows] = marks.left[rows].translate(DOWN)
            count = marks.left[rows].count(0)
            self._move(chunk.lane, count - self._land(marks, rows))
            if 0 < count < piece.count:
                timestamps = timestamps.filter(pc.equal(as_array(marks.left[rows]), 0))
        counts.in_flight -= count
        counts.settled += count
        if chunk.unsettled == 0:
            self._forget(chunk)
        self._bury(chunk.lane)
        return Settled(count, timestamps if count else timestamps.slice(0, 0))

    def dead_letters(self, lane: int, count: int) -> None:
        """Count settled records as dead letters; those of a batch, once it is settled."""
        self._dead_letters[lane] += count
        self._bury(lane)

    def released(self, chunk: Chunk) -> None:
        """Count what is left of a chunk whose partition is no longer ours."""
        counts = self._counts[chunk.lane]
        if (marks := self._marks.get(chunk)) is None:
            count, flying = chunk.unsettled, self._flying[chunk]
        else:
            count = len(marks.left) - marks.left.count(0)
            flying = len(marks.flying) - marks.flying.count(0)
        counts.in_flight -= flying
        counts.held -= count - flying
        counts.released += count
        self._forget(chunk)

    def _land(self, marks: Marks, rows: slice) -> int:
        """Mark that one agent no longer has these rows; return how many none has."""
        marks.flying[rows] = marks.flying[rows].translate(DOWN)
        return marks.flying[rows].count(0)

    def _move(self, lane: int, count: int) -> None:
        """Move records from held to in flight, or back."""
        self._counts[lane].held -= count
        self._counts[lane].in_flight += count

    def _bury(self, lane: int) -> None:
        """Take dead letters out of what is settled, as far as it is settled."""
        counts = self._counts[lane]
        count = min(self._dead_letters[lane], counts.settled)
        self._dead_letters[lane] -= count
        counts.settled -= count
        counts.dead_letters += count

    def _forget(self, chunk: Chunk) -> None:
        self._marks.pop(chunk, None)
        self._flying.pop(chunk, None)


def rows_of(piece: Slice) -> slice:
    """Return the rows of a slice in its chunk."""
    return slice(piece.start, piece.start + piece.count)


def as_array(marks: bytearray) -> pa.UInt8Array:
    """Return marks as an Arrow array."""
    return pa.UInt8Array.from_buffers(pa.uint8(), len(marks), [None, pa.py_buffer(bytes(marks))])
