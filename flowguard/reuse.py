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

    def begin(self, partition: Partition, frames: Iterable[FrameQueue]) -> None:
        """Take up frames of a partition that begins."""
        for queue in frames:
            rank = self._ranks[queue.lane]
            self._covered[partition, rank] = (queue[0].scan_lo, queue[-1].scan_hi)
            self._lines.begin(partition, rank, scanned=queue[-1].scan_hi, frames=queue)
            counts = self._engine.books[rank].counts
            counts.read += queue.records
            counts.spilled += queue.records

    def rest(self, partition: Partition, chunk: Chunk) -> Sequence[Chunk]:
        """Return what of a chunk comes before and behind what is on disk; nothing is copied."""
        covered = self._covered.get((partition, chunk.lane))
        return (chunk,) if covered is None else chunk.without(*covered)

    def is_behind(self, partition: Partition, chunk: Chunk) -> bool:
        """Tell whether a chunk comes behind what is on disk."""
        low, _ = self._covered.get((partition, chunk.lane), (LAST, LAST))
        return chunk.first_offset >= low

    def read_up_to(self, partition: Partition) -> Seek | None:
        """Open the lines that a position has reached, and tell where to read on, if elsewhere."""
        position = partition.ledger.position
        covered = [key for key in self._covered if key[0] is partition]
        if not covered:
            return None
        for _, rank in covered:
            line = self._lines.get(partition, rank)
            if line is not None and not line.opened and position >= line.first_offset:
                self._lines.open(line)
        target = min(self._needed_from(partition, rank) for rank in range(len(self._engine.lanes)))
        partition.ledger.position = max(position, target)
        for key in covered:
            if partition.ledger.position >= self._covered[key][1]:
                del self._covered[key]
        return Seek(partition.name, partition.epoch, target) if target > position else None

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
