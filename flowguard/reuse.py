"""What an earlier life has left on disk, in its place between what is read from Kafka.

    offsets   100       160               400        500
    Kafka      ├─ read ──┤                 ├── read ──┤
    disk                 ├── frames ───────┤             covered: 160 to 400

The line of such frames opens when all that comes before them was read. From there on Kafka is
read behind them, unless another lane needs what lies between; then what is on disk of what
comes from Kafka again is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flowguard.chunk import Chunk
from flowguard.commands import Seek
from flowguard.holdings import Partition
from flowguard.line import LAST
from flowguard.lines import Lines
from flowguard.spill.manifest import FrameQueue

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Reuse"]


class Reuse:
    """Offsets that are not taken from Kafka again, by partition and lane.

    Args:
        engine: What holds the records.
        lines: Where frames wait.
    """

    def __init__(self, engine: Engine, lines: Lines) -> None:
        self._engine = engine
        self._lines = lines
        self._ranks = {lane.name: rank for rank, lane in enumerate(engine.lanes)}
        self._covered: dict[tuple[Partition, int], tuple[int, int]] = {}
        #: Offsets over which reading has gone on; what was asked for before brings them still.
        self._passed: dict[Partition, tuple[int, int]] = {}

    def begin(self, partition: Partition, frames: Iterable[FrameQueue]) -> None:
        """Take up frames of a partition that begins.

        Nothing anchors them before what comes first was read: until then, how far that is holds
        the watermark back.
        """
        for queue in frames:
            rank = self._ranks[queue.lane]
            self._covered[partition, rank] = (queue[0].scan_lo, queue[-1].scan_hi)
            self._lines.begin(partition, rank, scanned=queue[-1].scan_hi, frames=queue)
            counts = self._engine.books[rank].counts
            counts.read += queue.records
            counts.spilled += queue.records

    def rest(self, partition: Partition, chunk: Chunk) -> Sequence[Chunk]:
        """Return what of a chunk comes before and behind what is on disk; nothing is copied."""
        parts: Sequence[Chunk] = (chunk,)
        for ours in (self._covered.get((partition, chunk.lane)), self._passed.get(partition)):
            if ours is not None:
                parts = [part for each in parts for part in each.without(*ours)]
        return parts

    def is_behind(self, partition: Partition, chunk: Chunk) -> bool:
        """Tell whether a chunk comes behind what is on disk."""
        low, _ = self._covered.get((partition, chunk.lane), (LAST, LAST))
        return chunk.first_offset >= low

    def read_up_to(self, partition: Partition) -> Seek | None:
        """Open the lines that a position has reached, and tell where to read on, if elsewhere."""
        ledger = partition.ledger
        if ledger.position > self._passed.get(partition, (0, LAST))[1]:
            del self._passed[partition]
        covered = [key for key in self._covered if key[0] is partition]
        if not covered:
            return None
        start = ledger.position
        while True:
            self._open(partition, [rank for _, rank in covered])
            needed = [self._needed_from(partition, rank) for rank in range(len(ledger.restored))]
            if min(needed) <= ledger.position:
                break
            ledger.position = min(needed)
        for key in covered:
            if ledger.position >= self._covered[key][1]:
                del self._covered[key]
        if ledger.position == start:
            return None
        self._passed[partition] = (self._passed.get(partition, (start,))[0], ledger.position)
        return Seek(partition.name, partition.epoch, ledger.position)

    def _open(self, partition: Partition, ranks: Iterable[int]) -> None:
        """Let lines begin of which all that comes before was read."""
        for rank in ranks:
            line = self._lines.get(partition, rank)
            reached = line is not None and partition.ledger.position >= line.first_offset
            if line is not None and reached and not line.opened:
                self._lines.open(line)

    def _needed_from(self, partition: Partition, rank: int) -> int:
        """Return from which offset on a lane's records have to be read from Kafka."""
        ledger = partition.ledger
        needed = max(ledger.position, ledger.restored[rank])
        low, high = self._covered.get((partition, rank), (needed, needed))
        return high if low <= needed < high else needed

    def end(self, partition: Partition) -> None:
        """Forget a partition that is not ours any more."""
        for key in [key for key in self._covered if key[0] is partition]:
            del self._covered[key]
        self._passed.pop(partition, None)
