"""The line of one lane and partition behind what its agents have in memory.

    agents' queues ◀── read ── frames on disk ◀── write ── tail in memory ◀── fetched

Records leave it in the order in which they were read from Kafka: while there is a line, what
is fetched joins its end. What is still in the tail when its turn comes never sees the disk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from flowguard.chunk import Chunk
from flowguard.holdings import Partition
from flowguard.settle.ledger import Run
from flowguard.spill.manifest import Frame, FrameQueue

__all__ = ["Block", "Line"]

#: The place of a line in its lane as long as it is not known what comes before it: last.
LAST: Final = 1 << 60


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One block of a lane's records, as it was fetched.

    Args:
        chunks: Several where they queue by flow.
        scan_lo: First offset of the range of which the lane's records are all here.
        scan_hi: Offset after that range.
        num_records: How many there are.
        num_bytes: Of their columns.
    """

    chunks: tuple[Chunk, ...]
    scan_lo: int
    scan_hi: int
    num_records: int = field(init=False)
    num_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_records", sum(chunk.num_records for chunk in self.chunks))
        object.__setattr__(self, "num_bytes", sum(chunk.num_bytes for chunk in self.chunks))

    @property
    def first_timestamp_ms(self) -> int:
        """Return the oldest timestamp."""
        return min(chunk.first_timestamp_ms for chunk in self.chunks)


@dataclass(slots=True, eq=False)
class Line:
    """What waits of one lane and partition behind what is in its agents' queues.

    Args:
        frames: On disk, oldest first, without the one that is being read.
        scanned: Offset up to which all records of the lane are in it or were before it.
        anchors: One for each agent: unfinished from the first record of the line on.
        ordinal: How many records of the lane were read before its first.
        tail: In memory, behind all frames.
        writing: So many blocks of the tail, from its front, are being written.
        reading: Frame that is being read.
        refetching: It is not on disk any more and is read from Kafka again.
        tail_bytes: Of the columns in the tail.
        tail_records: Records in the tail.
        opened: All that comes before its first record was read; not so at first if its frames
            are from an earlier life.
    """

    partition: Partition
    rank: int
    frames: FrameQueue
    scanned: int
    anchors: list[Run] = field(default_factory=list)
    ordinal: int = LAST
    tail: deque[Block] = field(default_factory=deque)
    writing: int = 0
    reading: Frame | None = None
    refetching: bool = False
    opened: bool = True
    tail_bytes: int = 0
    tail_records: int = 0

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing waits in it."""
        return not (len(self.frames) or self.tail or self.reading)

    @property
    def first_offset(self) -> int:
        """Return an offset that no record of the line is below; it is not empty."""
        if self.reading is not None:
            return self.reading.scan_lo
        return self.frames[0].scan_lo if len(self.frames) else self.tail[0].scan_lo

    @property
    def first_timestamp_ms(self) -> int:
        """Return the oldest timestamp of what comes first; it is not empty."""
        if self.reading is not None:
            return self.reading.min_timestamp_ms
        if len(self.frames):
            return self.frames[0].min_timestamp_ms
        return self.tail[0].first_timestamp_ms

    def put(self, block: Block) -> None:
        """Put a block behind all others."""
        self.tail.append(block)
        self.tail_bytes += block.num_bytes
        self.tail_records += block.num_records

    def take(self) -> Block:
        """Take the first block of the tail out."""
        block = self.tail.popleft()
        self.tail_bytes -= block.num_bytes
        self.tail_records -= block.num_records
        return block

    def write_front(self, num_bytes: int) -> list[Block]:
        """Return what of the tail is to be written next: one block, or more up to a size."""
        blocks: list[Block] = []
        for block in self.tail:
            if blocks and num_bytes < block.num_bytes:
                break
            blocks.append(block)
            num_bytes -= block.num_bytes
        self.writing = len(blocks)
        return blocks

    @property
    def may_be_written(self) -> bool:
        """Tell whether what is in the tail can go to disk now."""
        return bool(self.tail) and not self.writing and not self.partition.revoking

    @property
    def spilled_records(self) -> int:
        """Return how many records count as spilled."""
        if self.reading is None or self.refetching:
            return self.frames.records
        return self.frames.records + self.reading.records

    @property
    def may_give(self) -> bool:
        """Tell whether what comes first can go to the agents now."""
        if self.reading is not None or not self.opened or self.partition.revoking:
            return False
        return len(self.frames) > 0 or (bool(self.tail) and not self.writing)
