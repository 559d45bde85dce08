"""Commands: what the engine wants done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowguard.chunk import Slice, TopicPartition

__all__ = ["Command", "Cut", "DivertBatch", "Fetch", "Hold", "Resume", "StartBatch", "Unprocessed"]


@dataclass(slots=True, eq=False)
class Cut:
    """Records that go to an agent together: one lane of one feed.

    Args:
        batch_id: Unique in this worker's life.
        agent: Name of the agent.
        lane: Rank of the lane.
        slices: The records, slice by slice.
        attempt: 1 at first, one more after each failure.
        degraded: Why the agent's fallback serves it (`brownout`, `failure`, `deadline`), or "".
        again: It was started before; what is unavailable counts as no attempt.
    """

    batch_id: int
    agent: str
    lane: int
    slices: tuple[Slice, ...]
    attempt: int = 1
    started_ns: int = field(default=0)
    degraded: str = ""
    again: bool = False

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
class Hold:
    """Leave these partitions out of fetch requests, replacing all that were left out before.

    Where each is being read stays as it is, so nothing is repeated or left out when it goes
    on; what a request under way brings is taken in.
    """

    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Resume:
    """There is room again for partitions that had none."""


@dataclass(frozen=True, slots=True)
class DivertBatch:
    """Write these records, as they are, to another topic; then tell how it ended as of a batch."""

    cut: Cut
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprocessed:
    """Log that these records leave without an agent, as their lane's policy says.

    Args:
        outcome: `shed`, `conflated`, `expired` or `diverted`.
        lane: Rank of the lane.
        ranges: Half-open runs of offsets, ascending; offsets of other lanes may lie between.
        why: The reason, for people.
    """

    outcome: str
    lane: int
    partition: TopicPartition
    ranges: tuple[tuple[int, int], ...]
    count: int
    why: str


Command = StartBatch | Fetch | Hold | Resume | DivertBatch | Unprocessed
