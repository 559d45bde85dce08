"""Which records are done, and what may be committed.

Within one partition each lane is a stream of its own, and each agent reads it at its own
pace. A *run* is a piece of such a stream: unfinished from the moment it was read until an
agent came back from it and everything sent for it was acknowledged.

    offsets   100      110      120      130      140
    lane 0     ├─ done ─┤        ├─ out ──┤           watermark 120
    lane 1              ├─ out ──┤        ├ queued ┤  watermark 110
                                                   position 140
    committed offset = the lowest watermark = 110

- Cost is by run, never by record: O(log runs) where agents take them out of order,
  O(1) where they do not.
- Offsets are half-open: a watermark is the first offset that is not finished.
- Gaps (compaction, control batches, other lanes) belong to nobody and hold nothing back.
- The records of a run need not follow one another; its first offset speaks for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from flowguard.facts import CommitPoint

__all__ = ["LaneLedger", "PartitionLedger", "Run"]


@dataclass(slots=True, eq=False)
class Run:
    """Unfinished records of one lane and partition, as one agent sees them.

    Args:
        first_offset: Offset of the first of them.
        ordinal: How many records of the lane were read before their block.
    """

    first_offset: int
    ordinal: int = 0
    finished: bool = False

    def is_at(self, first_offset: int, ordinal: int) -> bool:
        """Tell whether it begins at this offset, in this place of its lane."""
        return (self.first_offset, self.ordinal) == (first_offset, ordinal)

    def __lt__(self, other: Run) -> bool:
        return self.first_offset < other.first_offset


@dataclass(slots=True)
class LaneLedger:
    """What one agent has not finished of one lane of one partition."""

    runs: list[Run] = field(default_factory=list)  # a heap

    def admit(self, first_offset: int, ordinal: int = 0) -> Run:
        """Note that records were read."""
        run = Run(first_offset, ordinal)
        heappush(self.runs, run)
        return run

    def split(self, run: Run, rest_offset: int) -> Run:
        """Cut a run in two, and return the rest, which begins at this offset."""
        return self.admit(rest_offset, run.ordinal)

    def finish(self, run: Run) -> None:
        """Note that a run is settled; runs may finish in any order."""
        run.finished = True
        while self.runs and self.runs[0].finished:
            heappop(self.runs)

    @property
    def oldest(self) -> Run | None:
        """Return the first unfinished run."""
        return self.runs[0] if self.runs else None

    def watermark(self, position: int) -> int:
        """Return the first unfinished offset, or `position` if there is none."""
        return self.runs[0].first_offset if self.runs else position


class PartitionLedger:
    """What is unfinished in one partition, by agent and lane.

    Args:
        position: Next offset to read; everything below it was read or does not exist.
        agents: How many agents read the partition; a record is finished when all have.
        watermarks: By lane, the offset below which it was finished before this ledger began.
    """

    def __init__(self, position: int, *, agents: int, watermarks: Sequence[int]) -> None:
        self.position = position
        self.restored = tuple(watermarks)
        self.agents = tuple(tuple(LaneLedger() for _ in watermarks) for _ in range(agents))

    def watermark(self, rank: int) -> int:
        """Return the first offset of a lane that is not finished."""
        position = max(self.position, self.restored[rank])
        return min(lanes[rank].watermark(position) for lanes in self.agents)

    @property
    def point(self) -> CommitPoint:
        """Return what may be committed: the watermarks, and the lowest of them as offset."""
        watermarks = tuple(self.watermark(rank) for rank in range(len(self.restored)))
        return CommitPoint(min(watermarks), watermarks)
