"""Commands: what the engine wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowguard.chunk import Slice, TopicPartition

__all__ = ["Command", "Cut", "Fetch", "Resume", "StartBatch"]


@dataclass(slots=True, eq=False)
class Cut:
    """Records that go to an agent together: one lane of one feed.

    Args:
        batch_id: Unique in this worker's life.
        agent: Name of the agent.
        lane: Rank of the lane.
        slices: The records, slice by slice.
        attempt: 1 at first, one more after each failure.
    """

    batch_id: int
    agent: str
    lane: int
    slices: tuple[Slice, ...]
    attempt: int = 1
    started_ns: int = field(default=0)

    @property
    def num_records(self) -> int:
        """Return the number of records."""
        return sum(piece.count for piece in self.slices)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of their columns."""
        return sum(piece.num_bytes for piece in self.slices)


@dataclass(frozen=True, slots=True)
class StartBatch:
    """Hand these records to their agent; it has a free seat."""

    cut: Cut


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read these partitions from these offsets, replacing all that was being read.

    Args:
        offsets: Partition → (next offset, epoch).
    """

    offsets: Mapping[TopicPartition, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Resume:
    """There is room again for partitions that had none."""


Command = StartBatch | Fetch | Resume
