"""All lines of a worker: what waits in them stays unfinished, and leaves them in its order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from flowguard.chunk import Chunk, TopicPartition
from flowguard.holdings import Partition
from flowguard.line import Block, Line
from flowguard.spill.manifest import FrameQueue

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Lines"]


class Lines:
    """Lines by partition and lane.

    Args:
        engine: What holds the records.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lines: dict[tuple[Partition, int], Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def get(self, partition: Partition, rank: int) -> Line | None:
        """Return the line of a lane and partition, None if there is none."""
        return self._lines.get((partition, rank))

    def find(self, name: TopicPartition, epoch: int, rank: int) -> Line | None:
        """Return a line of this assignment of a partition; None if it is over."""
        partition = self._engine.partitions.get(name)
        if partition is None or partition.epoch != epoch:
            return None
        return self._lines.get((partition, rank))

    def of(self, partition: Partition) -> list[Line]:
        """Return the lines of a partition."""
        return [line for line in self if line.partition is partition]

    def of_lane(self, rank: int) -> list[Line]:
        """Return the lines of a lane."""
        return [line for line in self if line.rank == rank]

    def begin(
        self, partition: Partition, rank: int, *, scanned: int, frames: FrameQueue | None = None
    ) -> Line:
        """Begin a line.

        Args:
            scanned: Offset up to which all records of the lane were before it, or are in it.
            frames: What is in it already, behind records that were not read yet.
        """
        name = self._engine.lanes[rank].name
        line = Line(partition, rank, frames or FrameQueue(name, partition.name), scanned)
        self._lines[partition, rank] = line
        if frames:
            line.opened = False
        else:
            line.ordinal = partition.lane_records[rank]
        return line

    def open(self, line: Line) -> None:
        """Let a line give its records: all that comes before them was read."""
        records = line.partition.lane_records
        line.opened = True
        line.ordinal = records[line.rank]
        records[line.rank] += line.frames.records
        self.anchor(line)

    def join(self, line: Line, chunks: Sequence[Chunk], scan_hi: int) -> None:
        """Let one block of a lane's records wait at the end of its line.

        Args:
            scan_hi: Up to this offset all records of the lane are in it.
        """
        block = Block(tuple(chunks), line.scanned, scan_hi)
        line.scanned = scan_hi
        line.put(block)
        self._engine.tally.read(line.rank, block.num_records)
        line.partition.lane_records[line.rank] += block.num_records
        self.anchor(line)

    def give(
        self, line: Line, blocks: Iterable[Sequence[Chunk]], records: int, now_ns: int
    ) -> None:
        """Hand what comes first in a line to the agents.

        Args:
            blocks: Taken out of the line by now.
            records: How many they counted for in the line.
        """
        ordinal = line.ordinal
        for chunks in blocks:
            self._engine.admit(line.partition, line.rank, chunks, ordinal, now_ns)
            ordinal += sum(chunk.num_records for chunk in chunks)
        line.ordinal += records
        self.anchor(line)
        self._engine.stir(self._engine.views_of(line.partition.name.topic))

    def anchor(self, line: Line) -> None:
        """Keep unfinished what is in a line, and nothing else; an empty line ends."""
        ledgers = [agent[line.rank] for agent in line.partition.ledger.agents]
        before, line.anchors = line.anchors, []
        if line.is_empty:
            del self._lines[line.partition, line.rank]
        else:
            restored = line.partition.ledger.restored[line.rank]
            first_offset = max(line.first_offset, restored)
            if before and before[0].is_at(first_offset, line.ordinal):
                line.anchors = before
                return
            line.anchors = [ledger.admit(first_offset, line.ordinal) for ledger in ledgers]
        for ledger, run in zip(ledgers, before, strict=False):
            ledger.finish(run)
        views = self._engine.views_of(line.partition.name.topic)
        for view, ledger in zip(views, ledgers, strict=True):
            view.backlog.advance(line.partition, line.rank, ledger)

    def forget(self, line: Line) -> None:
        """Forget a line whose partition is not ours any more."""
        del self._lines[line.partition, line.rank]
