"""What the engine holds: partitions, and the records that wait or are with an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from flowguard.chunk import Chunk, Slice, TopicPartition
from flowguard.commands import Cut
from flowguard.facts import CommitPoint
from flowguard.settle.ledger import LaneLedger, PartitionLedger, Run

__all__ = ["Flight", "Part", "Partition", "Waiting"]


@dataclass(slots=True, eq=False)
class Partition:
    """A partition that is ours.

    Args:
        number: What it is called in the scheduler.
        lane_records: By lane, how many records were read in this assignment.
        chunks: All that holds records which are not settled.
    """

    name: TopicPartition
    number: int
    epoch: int
    ledger: PartitionLedger
    committed: CommitPoint
    lane_records: list[int]
    chunks: set[Chunk] = field(default_factory=set)
    revoking: bool = False
    gone: bool = False
    why: str | None = None  # it cannot be read any further
    stopped: dict[int, str] = field(default_factory=dict)  # by lane that does not go on, why

    @property
    def account(self) -> tuple[TopicPartition, int]:
        """Return what memory is counted by: the partition in this assignment."""
        return self.name, self.epoch


class Part(NamedTuple):
    """A slice in an agent's hands, with what must be settled for it."""

    partition: Partition
    piece: Slice
    ledger: LaneLedger
    run: Run
    queue: int

    @property
    def live(self) -> bool:
        """Tell whether its partition is still ours, and its lane goes on there."""
        return not self.partition.gone and self.piece.chunk.lane not in self.partition.stopped

    def cut(self, count: int) -> tuple[Part, Part]:
        """Return its first so many records, and the rest."""
        chunk, start = self.piece.chunk, self.piece.start
        rest = Slice(chunk, start + count, self.piece.count - count)
        rest_run = self.ledger.split(self.run, chunk.offset_at(rest.start))
        return self._replace(piece=Slice(chunk, start, count)), self._replace(
            piece=rest, run=rest_run
        )


@dataclass(slots=True, eq=False)
class Waiting:
    """What one agent has not been given of a chunk.

    Args:
        run: Begins at its first record.
        queue: Its sub-queue in the scheduler.
        piece: The rows that wait.
        base: The row of the chunk from which the scheduler counts.
        newest_born_ns: When the youngest of its records was made, once somebody has asked.
        conflated: It was among those of which only the newest of each key stayed.
    """

    partition: Partition
    ledger: LaneLedger
    run: Run
    queue: int
    piece: Slice
    base: int = 0
    newest_born_ns: int | None = None
    conflated: bool = False

    @property
    def part(self) -> Part:
        """Return all of it as if it were handed out."""
        return Part(self.partition, self.piece, self.ledger, self.run, self.queue)

    def go_on_with(self, part: Part) -> None:
        """Wait with these records only; they may be in another chunk."""
        self.piece, self.run = part.piece, part.run
        self.newest_born_ns = None


@dataclass(slots=True, eq=False)
class Flight:
    """A cut in flight, or waiting for its retry.

    Args:
        closed: Sub-queues that it keeps closed until it is settled, because it failed.
        why: Why it failed, until it is settled.
        kind: The type of that error.
        verdict: Both, of the last time that its record failed by itself.
        held: It failed because something is unavailable, which is no attempt.
        refusals: How often in a row it was held.
        place: Where it comes among all batches; the halves of a batch come in its place.
        failures: How often its record has failed by itself.
        failed_ns: When it failed last; `first_failed_ns`, when its record first did by itself.
        served_before: How many batches its agent had done when it failed last, or was started.
        exhausted: Its record has failed as often as it may. It becomes a dead letter as soon
            as anything else shows that the agent works.
        passing: It may go before those that are exhausted and failed from `passes_from_ns` on.
        doomed: It is on its way to the dead letters, or waits to go there.
        nacked: The agent came back from it, and wants some of its records again.
        rest: What waits behind it until it is known which of them holds the record that fails.
        leader: What it is the rest of.
        suspects: Among so many of its first records is one that fails, if none of the leader
            does.
    """

    cut: Cut
    parts: list[Part]
    seated: bool = False
    closed: set[int] = field(default_factory=set)
    why: str = ""
    kind: str = ""
    verdict: tuple[str, str] = ("", "")
    held: bool = False
    refusals: int = 0
    place: tuple[int, ...] = ()
    failures: int = 0
    failed_ns: int = -1
    first_failed_ns: int = -1
    served_before: int = 0
    exhausted: bool = False
    passing: bool = False
    passes_from_ns: int = -1
    doomed: bool = False
    nacked: bool = False
    rest: Flight | None = None
    leader: Flight | None = None
    suspects: int = 0

    @property
    def failed(self) -> bool:
        """Tell whether it failed and is not settled."""
        return bool(self.why)

    @property
    def aside(self) -> bool:
        """Tell whether nothing waits for it: its dead letter is on its way, and was not refused."""
        return self.doomed and not self.refusals

    @property
    def queues(self) -> set[int]:
        """Return the sub-queues that its records came from."""
        return {part.queue for part in self.parts}

    @property
    def revoking(self) -> bool:
        """Tell whether a partition of it may go away."""
        return any(part.partition.revoking for part in self.parts)

    @property
    def live(self) -> list[Part]:
        """Return the parts whose partition is still ours."""
        return [part for part in self.parts if part.live]

    def holds(self, partition: Partition) -> bool:
        """Tell whether records of a partition, in this assignment, are among it."""
        return any(part.partition is partition for part in self.parts)

    def let_go(self) -> list[Part]:
        """Let go of the parts whose partition is not ours any more, and return them."""
        gone = [part for part in self.parts if not part.live]
        self.keep(self.live)
        return gone

    def keep(self, parts: list[Part]) -> None:
        """Go on with these records."""
        self.parts = parts
        self.suspects = 0
        self.cut.slices = tuple(part.piece for part in parts)
