"""How records leave without an agent: finished, counted, let go of and logged.

Where some rows of a chunk leave and others stay, those that stay are copied into a chunk of
their own, so that the memory of the others comes free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native.sieve import left_out, span
from flowguard.chunk import NO_FLOW, Chunk, Slice
from flowguard.holdings import Part, Partition
from flowguard.settle.ledger import LaneLedger
from flowguard.units import MILLISECOND
from flowguard.unprocessed import UnprocessedLog

if TYPE_CHECKING:
    from flowguard.engine import Engine
    from flowguard.view import View

__all__ = ["Leaving", "kept_chunk"]


class Leaving:
    """Let records go that no agent will be given.

    Args:
        engine: What holds them.
    """

    def __init__(self, engine: Engine) -> None:
        self.log = UnprocessedLog()
        self._engine = engine
        self._made_room = False
        self._moved_on: dict[tuple[View, Partition, int], LaneLedger] = {}

    def whole(self, view: View, part: Part, outcome: str, why: str) -> None:
        """Let all records of a slice go, which wait."""
        self._count(part, None, outcome, why)
        part.ledger.finish(part.run)
        self._moved_on[view, part.partition, part.piece.chunk.lane] = part.ledger
        self._let_go(part)

    def rows(
        self, view: View, part: Part, keep: pa.BooleanArray, outcome: str, why: str
    ) -> Part | None:
        """Let some records of a slice go, which wait, and return the others; None if none stays.

        Where they would have to be copied and memory has no room for that, all stay.

        Args:
            keep: Mask of those that stay.
        """
        first, end, count = span(keep)
        if count == 0:
            self.whole(view, part, outcome, why)
            return None
        piece = part.piece
        if end - first == count:
            kept = Slice(piece.chunk, piece.start + first, count)
            self._count(part, keep, outcome, why)
        else:
            chunk = kept_chunk(piece, keep)
            if not self._fits(part, chunk):
                return part
            kept = Slice(chunk, 0, count)
            self._count(part, keep, outcome, why)
            self._engine.tally.moved(piece, keep, chunk)
            self._engine.memory.hold(part.partition.account, chunk.num_bytes)
            part.partition.chunks.add(chunk)
        run = part.run
        if (first_offset := kept.chunk.offset_at(kept.start)) != run.first_offset:
            run = part.ledger.split(part.run, first_offset)
            part.ledger.finish(part.run)
            self._moved_on[view, part.partition, piece.chunk.lane] = part.ledger
        self._let_go(part)
        return part._replace(piece=kept, run=run)

    def end(self) -> bool:
        """Let what waits behind go on; True if there is room for partitions that had none."""
        moved_on, self._moved_on = self._moved_on, {}
        for (view, partition, lane), ledger in moved_on.items():
            view.backlog.advance(partition, lane, ledger)
        made_room, self._made_room = self._made_room, False
        return made_room

    def _count(self, part: Part, keep: pa.BooleanArray | None, outcome: str, why: str) -> None:
        """Count and log; what another agent has processed is no loss."""
        piece = part.piece
        given_up = self._engine.tally.gave_up(piece, outcome, keep)
        if given_up.count:
            in_one = piece.chunk.flow == NO_FLOW and not piece.chunk.sparse
            self.log.note(
                part.partition.name,
                piece.chunk.lane,
                outcome,
                ranges=left_out(piece.offsets, given_up.keep, in_one),
                count=given_up.count,
                why=why,
            )

    def _fits(self, part: Part, chunk: Chunk) -> bool:
        """Tell whether a copy has room, or takes the place of what it was copied from."""
        replaces = part.piece.chunk.unsettled == part.piece.count
        return replaces or self._engine.memory.room(part.partition.account) >= chunk.num_bytes

    def _let_go(self, part: Part) -> None:
        if part.piece.chunk.unsettled == 0:
            self._made_room |= self._engine.let_go(part.partition, part.piece.chunk)


def kept_chunk(piece: Slice, keep: pa.BooleanArray) -> Chunk:
    """Return the rows of a mask in a chunk of their own, which shares no memory with the old."""
    chunk = piece.chunk
    columns = piece.columns.filter(keep)
    entity = None if chunk.entity is None else piece.entities.filter(keep)
    first_timestamp_ms = int(pc.min(columns.column(1)).as_py())
    later_ns = (first_timestamp_ms - chunk.first_timestamp_ms) * MILLISECOND
    return replace(
        chunk,
        columns=columns,
        entity=entity,
        num_bytes=columns.nbytes + (0 if entity is None else entity.nbytes),
        first_offset=int(columns.column(0)[0].as_py()),
        first_timestamp_ms=first_timestamp_ms,
        born_ns=min(chunk.fetched_ns, chunk.born_ns + later_ns),
        sparse=True,
    )
