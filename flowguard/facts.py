"""Facts: what the engine is told. Each carries the time it happened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from flowguard.chunk import Chunk, TopicPartition

if TYPE_CHECKING:
    from flowguard.spill.manifest import Frame, FrameQueue

__all__ = [
    "Assigned",
    "CommitPoint",
    "Committed",
    "DiskSeen",
    "Fact",
    "Failed",
    "Fetched",
    "Finished",
    "FrameGone",
    "LogsBegin",
    "Nack",
    "NotSpilled",
    "Restored",
    "Returned",
    "Revoked",
    "Revoking",
    "SpillWatched",
    "Spilled",
    "Stopped",
    "Stored",
    "Ticked",
]


class CommitPoint(NamedTuple):
    """How far a partition is done, all of it taken at one instant.

    Args:
        offset: Everything below it is finished.
        watermarks: By lane, the first offset that is not finished.
    """

    offset: int
    watermarks: tuple[int, ...]


class Stored(NamedTuple):
    """What the broker keeps of a commit.

    Args:
        offset: The next offset to read.
        metadata: What was committed with it; anyone may have written it.
    """

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """These partitions are ours; reading starts, or goes on, at these offsets.

    A partition that is already held and whose committed offset is still ours keeps what
    it has.

    Args:
        watermarks: Partition → by lane, the offset below which it was finished before;
            without them nothing above the offset is known to be finished.
        spilled: Partition → what is on disk of its lanes from an earlier time, which is still
            what the log has.
    """

    offsets: Mapping[TopicPartition, int]
    watermarks: Mapping[TopicPartition, tuple[int, ...]] = field(default_factory=dict)
    spilled: Mapping[TopicPartition, Sequence[FrameQueue]] = field(default_factory=dict)
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoking:
    """These partitions may go away: nothing of theirs is started any more."""

    partitions: frozenset[TopicPartition]
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """These partitions are no longer ours: what they hold is let go."""

    partitions: frozenset[TopicPartition]
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Records of one partition were read and parsed.

    Args:
        epoch: The assignment they were fetched for; chunks of an older one are ignored.
        next_offset: Where the next fetch begins.
    """

    partition: TopicPartition
    epoch: int
    chunks: Sequence[Chunk]
    next_offset: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A partition cannot be read any further; the reason is for people."""

    partition: TopicPartition
    epoch: int
    why: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The agent came back for its next batch; what it sent may not be acknowledged yet.

    Not told of a batch that has failed by then.

    Args:
        nacked: It wants some of the records again.
        held_ns: The longest time for which it kept everything else on the event loop from
            running; None if nobody looked.
    """

    batch_id: int
    at_ns: int
    nacked: bool = False
    held_ns: int | None = None


class Nack(NamedTuple):
    """What an agent said of a record that it wants again.

    Args:
        reason: Why, for people.
        after_ns: How long to wait at least.
    """

    reason: str
    after_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The agent came back, and all that was sent for the batch is acknowledged.

    Args:
        dead_letters: Rows of the records that went to dead letters instead of the agent.
        epoch_ms: The wall clock, for latency from the records' timestamps.
        nacked: Row → why the agent wants that record again; the others are settled.
    """

    batch_id: int
    dead_letters: Collection[int]
    at_ns: int
    epoch_ms: int
    nacked: Mapping[int, Nack] = field(default_factory=dict)


class Found(NamedTuple):
    """What an agent knows of the records of a batch for which it raised.

    Args:
        done: So many of the first are done, and what was sent for them is acknowledged.
        failing: So many behind them have failed, together if they are several; what comes after
            them was not tried.
        dead_letters: Rows among the first that were rejected.
    """

    done: int
    failing: int
    dead_letters: Collection[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The agent raised, or something sent for the batch was not acknowledged.

    Args:
        unavailable: Something that the agent depends on is not there; that counts as no
            attempt, and is tried again for as long as it takes.
        retry_after_ns: How long to wait at least, if what is unavailable said so.
        common: What is unavailable is a sink or a schema registry, which the agent's fallback
            needs as well.
        alone: What is unavailable concerns this batch only, and no other that the agent has.
        kind: Type of the error.
        rejected: The agent says that the records are bad.
        transient: It looks as if something were not there, though nobody said so.
        stops: Partition → why the batch's lane stops there.
        found: Which of its records are done all the same, and which fail; None: all fail together.
        epoch_ms: The wall clock, where some are done.
    """

    batch_id: int
    why: str
    at_ns: int
    unavailable: bool = False
    retry_after_ns: int | None = None
    common: bool = False
    alone: bool = False
    kind: str = ""
    rejected: bool = False
    transient: bool = False
    stops: Mapping[TopicPartition, str] = field(default_factory=dict)
    found: Found | None = None
    epoch_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The broker has stored these offsets and watermarks."""

    points: Mapping[TopicPartition, CommitPoint]
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """Time has passed.

    Args:
        loop_lag_ns: How much later than wanted the event loop came to this.
        epoch_ms: The wall clock, None if whoever tells does not know.
    """

    at_ns: int
    loop_lag_ns: int = 0
    epoch_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilled:
    """Records are on disk, all of what was asked for at once."""

    partition: TopicPartition
    epoch: int
    lane: int
    frame: Frame
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSpilled:
    """The disk did not take records, which stay where they are; the reason is for people."""

    partition: TopicPartition
    epoch: int
    lane: int
    why: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The records of a frame are back in memory, from disk or from Kafka.

    Args:
        blocks: As they were fetched at first; there may be fewer records than the frame had,
            if Kafka does not have them any more either.
    """

    frame: Frame
    epoch: int
    lane: int
    blocks: Sequence[Sequence[Chunk]]
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameGone:
    """A frame cannot be had from the disk; its records are being read from Kafka again."""

    frame: Frame
    epoch: int
    lane: int
    at_ns: int


class DiskSeen(NamedTuple):
    """What a lane's disk was like when somebody looked.

    Args:
        accepts: It takes more.
        why: Why it takes no more or not freely, for people; empty if it does.
        stored_bytes: What the lane's files take.
    """

    accepts: bool
    why: str
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsBegin:
    """From which offset on Kafka still has these partitions."""

    starts: Mapping[TopicPartition, int]
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillWatched:
    """Somebody has looked at the disk; by lane."""

    lanes: Mapping[int, DiskSeen]
    at_ns: int


Fact = (
    Assigned
    | Revoking
    | Revoked
    | Fetched
    | Stopped
    | Returned
    | Finished
    | Failed
    | Committed
    | Ticked
    | Spilled
    | NotSpilled
    | Restored
    | FrameGone
    | SpillWatched
    | LogsBegin
)
