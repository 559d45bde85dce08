"""Counting what becomes of records, exactly, also where several agents read them.

A record counts once, whatever the number of its agents: as held while no agent has it, as
in flight while one has, and as done when all are. Done is settled if one agent settled it;
if none did, it counts as what the last one did with it: shed, expired, conflated, diverted.
With one agent that is plain arithmetic; with several each row is marked
(`flowguard._native.marks`), and marks are counted a slice at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native.marks import Marks
from flowguard.chunk import Chunk, Slice
from flowguard.snapshot import Counts

__all__ = ["AGENTS_MAX", "OUTCOMES", "GivenUp", "Settled", "Tally"]

#: A mark is a byte.
AGENTS_MAX: Final = 200

#: What a record can count as that no agent has processed.
OUTCOMES: Final = ("shed", "conflated", "expired", "diverted", "dead_letters")


@dataclass(frozen=True, slots=True)
class Settled:
    """Records that all agents are done with.

    Args:
        count: How many.
        timestamps: Their timestamps, ms.
    """

    count: int
    timestamps: pa.Int64Array


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Records that all agents are done with, and none has processed.

    Args:
        count: How many.
        keep: Mask of the other rows of the slice; None if there are none.
    """

    count: int
    keep: pa.BooleanArray | None


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

    def read(self, lane: int, count: int) -> None:
        """Count records that were read and wait."""
        self._counts[lane].read += count
        self._counts[lane].held += count

    def spilled(self, lane: int, count: int) -> None:
        """Count records that waited in memory and are on disk now."""
        self._counts[lane].held -= count
        self._counts[lane].spilled += count

    def admitted(self, chunk: Chunk, *, agents: int) -> None:
        """Note that so many agents will get the records of a chunk, which wait."""
        chunk.unsettled = chunk.num_records * agents
        if agents > 1:
            self._marks[chunk] = Marks(chunk.num_records, agents)
        else:
            self._flying[chunk] = 0

    def skipped(self, lane: int, count: int) -> None:
        """Count records that were finished before this worker began."""
        self._counts[lane].read += count
        self._counts[lane].skipped += count

    def started(self, piece: Slice) -> None:
        """Count records that an agent gets, or that are on their way to another topic."""
        moved = piece.count
        if (marks := self._marks.get(piece.chunk)) is None:
            self._flying[piece.chunk] += moved
        else:
            moved = marks.start(piece.start, piece.count)
        self._move(piece.chunk.lane, moved)

    def passed_over(self, lane: int, count: int) -> None:
        """Count records that were read of a lane that does not go on."""
        self._counts[lane].read += count
        self._counts[lane].released += count

    def failed(self, piece: Slice) -> None:
        """Count records that wait again."""
        moved = piece.count
        if (marks := self._marks.get(piece.chunk)) is None:
            self._flying[piece.chunk] -= moved
        else:
            moved = marks.land(piece.start, piece.count)
        self._move(piece.chunk.lane, -moved)

    def settled(self, piece: Slice) -> Settled:
        """Count records that an agent is done with, and return those that all are done with."""
        self.failed(piece)
        chunk, counts = piece.chunk, self._counts[piece.chunk.lane]
        chunk.unsettled -= piece.count
        timestamps = piece.timestamps
        count = piece.count
        if (marks := self._marks.get(chunk)) is not None:
            count, _, _ = marks.finish(piece.start, piece.count, processed=True)
            if 0 < count < piece.count:
                timestamps = timestamps.filter(marks.done(piece.start, piece.count))
        counts.held -= count
        counts.settled += count
        if chunk.unsettled == 0:
            self._forget(chunk)
        self._bury(chunk.lane)
        return Settled(count, timestamps if count else timestamps.slice(0, 0))

    def gave_up(self, piece: Slice, outcome: str, keep: pa.BooleanArray | None = None) -> GivenUp:
        """Count waiting records that an agent will not get, and return those none has got.

        Args:
            outcome: One of `OUTCOMES`.
            keep: Mask of the rows that it may still get; None if none.
        """
        chunk, counts = piece.chunk, self._counts[piece.chunk.lane]
        done = given_up = piece.count - (0 if keep is None else keep.true_count)
        chunk.unsettled -= given_up
        if (marks := self._marks.get(chunk)) is not None:
            done, processed, unprocessed = marks.finish(
                piece.start, piece.count, processed=False, keep=keep
            )
            given_up = done - processed
            counts.settled += processed
            keep = None if unprocessed is None else inverted(unprocessed)
        counts.held -= done
        setattr(counts, outcome, getattr(counts, outcome) + given_up)
        if chunk.unsettled == 0:
            self._forget(chunk)
        self._bury(chunk.lane)
        return GivenUp(given_up, keep)

    def moved(self, piece: Slice, keep: pa.BooleanArray, to: Chunk) -> None:
        """Note that an agent goes on with these waiting rows in a chunk of their own."""
        chunk = piece.chunk
        chunk.unsettled -= to.num_records
        if (marks := self._marks.get(chunk)) is None:
            self._flying[to] = 0
        else:
            self._marks[to] = marks.moved(piece.start, piece.count, keep)
        if chunk.unsettled == 0:
            self._forget(chunk)

    def is_shared(self, chunk: Chunk) -> bool:
        """Tell whether several agents read a chunk, so that its rows keep their marks."""
        return chunk in self._marks

    def joined(self, pieces: Iterable[Slice], to: Chunk) -> None:
        """Note that waiting rows of chunks that nobody shares go on in one chunk."""
        self._flying[to] = 0
        for piece in pieces:
            piece.chunk.unsettled -= piece.count
            if piece.chunk.unsettled == 0:
                self._forget(piece.chunk)

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
            count, flying = marks.let_go()
        counts.in_flight -= flying
        counts.held -= count - flying
        counts.released += count
        self._forget(chunk)

    def _move(self, lane: int, count: int) -> None:
        """Move records from held to in flight, or back."""
        self._counts[lane].held -= count
        self._counts[lane].in_flight += count

    def _bury(self, lane: int) -> None:
        """Take dead letters out of what is settled, as far as it is settled."""
        if not self._dead_letters[lane]:
            return
        counts = self._counts[lane]
        count = min(self._dead_letters[lane], counts.settled)
        self._dead_letters[lane] -= count
        counts.settled -= count
        counts.dead_letters += count

    def _forget(self, chunk: Chunk) -> None:
        self._marks.pop(chunk, None)
        self._flying.pop(chunk, None)


def inverted(mask: pa.BooleanArray) -> pa.BooleanArray | None:
    """Return the mask of the other rows, None if there are none."""
    return None if mask.true_count == len(mask) else pc.invert(mask)
