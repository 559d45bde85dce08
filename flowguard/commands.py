"""Commands: what the engine wants done."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

from flowguard.chunk import Chunk, Slice, TopicPartition

if TYPE_CHECKING:
    from flowguard.spill.manifest import Frame, FrameQueue

__all__ = [
    "BuryBatch", "Command", "Cut", "DivertBatch", "Fetch", "FinishFrames", "Hold", "OffsetRanges",
    "Park", "ReadFrame", "Resume", "Seek", "StartBatch", "Unprocessed", "WriteFrame",
]  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class BuryBatch:
    """Write these records to the agent's dead letters; then tell how it ended as of a batch.

    Args:
        error: The kind of error, for `fg-error-type`.
        reason: Why, for people.
    """

    cut: Cut
    error: str
    reason: str


class OffsetRanges(Sequence[tuple[int, int]]):
    """Half-open ranges of offsets, ascending, without an object for each.

    Args:
        flat: First, end, first, end, ...
    """

    def __init__(self, flat: array[int]) -> None:
        self.flat = flat

    def __len__(self) -> int:
        return len(self.flat) // 2

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | Sequence[tuple[int, int]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self.flat[2 * at], self.flat[2 * at + 1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"OffsetRanges({list(self)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprocessed:
    """Log that these records leave without an agent, as their lane's policy says.

    Args:
        outcome: `shed`, `conflated`, `expired` or `diverted`.
        lane: Rank of the lane.
        ranges: Half-open runs of offsets, ascending; offsets of other lanes may lie between.
            There can be as many as records.
        why: The reason, for people.
    """

    outcome: str
    lane: int
    partition: TopicPartition
    ranges: OffsetRanges
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Seek:
    """Read a partition from a later offset on; what lies before it is not wanted."""

    partition: TopicPartition
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFrame:
    """Write these records to disk together; then tell whether they are there.

    Args:
        blocks: In the order of their offsets; they stay in memory until they are written.
        scan_lo: First offset of the range of which the lane's records are all here.
        scan_hi: Offset after that range.
        deadline_ms: The earliest deadline among them, wall clock; `NO_DEADLINE` without one.
    """

    partition: TopicPartition
    epoch: int
    lane: int
    blocks: Sequence[Sequence[Chunk]]
    scan_lo: int
    scan_hi: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """Bring these records back into memory: from disk or, if it has lost them, from Kafka."""

    frame: Frame
    epoch: int
    lane: int


@dataclass(frozen=True, slots=True)
class FinishFrames:
    """Nobody wants these frames any more."""

    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class Park:
    """Keep what is on disk of a partition that is not ours any more, for a while.

    Args:
        pinned: Kafka has deleted some of it, so it is kept whatever happens.
    """

    frames: FrameQueue
    pinned: bool = False


Command = (
    StartBatch
    | Fetch
    | Hold
    | Resume
    | Seek
    | DivertBatch
    | BuryBatch
    | Unprocessed
    | WriteFrame
    | ReadFrame
    | FinishFrames
    | Park
)
