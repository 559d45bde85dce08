"""Which records are done, and what may be committed.

Within one partition each lane is a stream of its own: runs of records in offset order.
A run is *queued* when it was read, *outstanding* when it was handed to an agent, and
*finished* when the agent came back and everything sent for it was acknowledged.

    offsets   100      110      120      130      140
    lane 0     ├─ done ─┤        ├─ out ──┤           watermark 120
    lane 1              ├─ out ──┤        ├ queued ┤  watermark 110
                                                   position 140
    committed offset = the lowest watermark = 110

- Cost is by run, never by record.
- Offsets are half-open: a watermark is the first offset that is not finished.
- Gaps (compaction, control batches, other lanes) belong to nobody and hold nothing back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["LaneLedger", "PartitionLedger", "Run"]


@dataclass(slots=True, eq=False)
class Run:
    """Records of one lane and partition that were handed out together."""

    first_offset: int
    finished: bool = False


@dataclass(slots=True)
class LaneLedger:
    """What is unfinished in one lane of one partition, oldest first."""

    outstanding: deque[Run] = field(default_factory=deque)
    queued: deque[int] = field(default_factory=deque)  # first offset of each queued chunk

    def admit(self, first_offset: int) -> None:
        """Note that a chunk was read and waits."""
        self.queued.append(first_offset)

    def take(self, first_offset: int, rest_offset: int | None) -> Run:
        """Note that the oldest waiting records were handed out.

        Args:
            first_offset: Offset of the first of them.
            rest_offset: Offset of the first record left in their chunk, None if none is.
        """
        if rest_offset is None:
            self.queued.popleft()
        else:
            self.queued[0] = rest_offset
        run = Run(first_offset)
        self.outstanding.append(run)
        return run

    def finish(self, run: Run) -> None:
        """Note that a run is settled; runs may finish in any order."""
        run.finished = True
        while self.outstanding and self.outstanding[0].finished:
            self.outstanding.popleft()

    def watermark(self, position: int) -> int:
        """Return the first unfinished offset, or `position` if there is none."""
        if self.outstanding:
            return self.outstanding[0].first_offset
        if self.queued:
            return self.queued[0]
        return position


@dataclass(slots=True)
class PartitionLedger:
    """What is unfinished in one partition, by lane.

    Args:
        position: Next offset to read; everything below it was read or does not exist.
        lanes: One ledger a lane, by rank.
    """

    position: int
    lanes: tuple[LaneLedger, ...]

    @classmethod
    def starting_at(cls, position: int, *, lane_count: int) -> PartitionLedger:
        """Return the ledger of a partition of which nothing was read yet."""
        return cls(position, tuple(LaneLedger() for _ in range(lane_count)))

    @property
    def committable(self) -> int:
        """Return the offset below which every record is finished."""
        return min(lane.watermark(self.position) for lane in self.lanes)
