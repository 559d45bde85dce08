"""How records leave without an agent: finished, counted, let go of and logged.

Where some rows of a chunk leave and others stay, those that stay are copied into a chunk of
their own, so that the memory of the others comes free.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Leaving", "joined_chunk", "kept_chunk"]


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
        self,
        view: View,
        part: Part,
        keep: pa.BooleanArray,
        outcome: str,
        why: str,
        *,
        always: bool = False,
    ) -> Part | None:
        """Let some records of a slice go, which wait, and return the others; None if none stays.

        Where they would have to be copied and memory has no room for that, all stay.

        Args:
            keep: Mask of those that stay.
            always: Copy in any case: what stays is no more than a batch.
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
            if not (always or self._fits([part], chunk)):
                return part
            kept = Slice(chunk, 0, count)
            self._count(part, keep, outcome, why)
            self._engine.tally.moved(piece, keep, chunk)
            self._hold(part.partition, chunk)
        run = part.run
        if (first_offset := kept.chunk.offset_at(kept.start)) != run.first_offset:
            run = part.ledger.split(part.run, first_offset)
            part.ledger.finish(part.run)
            self._moved_on[view, part.partition, piece.chunk.lane] = part.ledger
        self._let_go(part)
        return part._replace(piece=kept, run=run)

    def joined(self, view: View, parts: Sequence[Part]) -> Part | None:
        """Return slices of one partition, which wait one behind the other, as a single one.

        None if several agents read them, or memory has no room for the copy.
        """
        first = parts[0]
        if any(self._engine.tally.is_shared(part.piece.chunk) for part in parts):
            return None
        chunk = joined_chunk([part.piece for part in parts])
        if not self._fits(parts, chunk):
            return None
        self._engine.tally.joined([part.piece for part in parts], chunk)
        self._hold(first.partition, chunk)
        for part in parts[1:]:
            part.ledger.finish(part.run)
        self._moved_on[view, first.partition, chunk.lane] = first.ledger
        for part in parts:
            self._let_go(part)
        return first._replace(piece=Slice(chunk, 0, chunk.num_records))

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

    def _fits(self, parts: Sequence[Part], chunk: Chunk) -> bool:
        """Tell whether a copy has room, or takes the place of what it was copied from."""
        replaces = all(part.piece.chunk.unsettled == part.piece.count for part in parts)
        room_bytes = self._engine.memory.room(parts[0].partition.account)
        return replaces or room_bytes >= chunk.num_bytes

    def _hold(self, partition: Partition, chunk: Chunk) -> None:
        self._engine.memory.hold(partition.account, chunk.num_bytes)
        partition.chunks.add(chunk)

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


def joined_chunk(pieces: Sequence[Slice]) -> Chunk:
    """Return slices of one partition, lane and flow, in their order, as one chunk.

    It counts as read when the last of them was.
    """
    chunks = [piece.chunk for piece in pieces]
    table = pa.Table.from_batches([piece.columns for piece in pieces]).combine_chunks()
    (columns,) = table.to_batches()
    entity = None
    if chunks[0].entity is not None:
        entity = pa.concat_arrays([piece.entities for piece in pieces])
    return replace(
        chunks[0],
        columns=columns,
        entity=entity,
        num_bytes=columns.nbytes + (0 if entity is None else entity.nbytes),
        first_offset=int(columns.column(0)[0].as_py()),
        first_timestamp_ms=min(chunk.first_timestamp_ms for chunk in chunks),
        fetched_ns=max(chunk.fetched_ns for chunk in chunks),
        born_ns=min(chunk.born_ns for chunk in chunks),
        sparse=True,
    )
