"""What a harness knows of each record: which agent has it, who finished it, how often.

It watches from outside of the engine: batches as they are handed out and reported back,
what is sent meanwhile, and what the log of unprocessed records says. So it can tell when the
engine's own accounts are wrong.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowguard.agents.delivered import current_delivered
from flowguard.chunk import Slice, TopicPartition
from flowguard.commands import BuryBatch, Command, Cut, DivertBatch, StartBatch, Unprocessed
from flowguard.facts import Found, Nack, Stored
from flowguard.runtime import FeedRuntime
from flowguard.testing.log import Log

__all__ = ["LatencySummary", "Watch", "WatchedRuntime"]

Offsets = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int32]
Place = tuple[str, TopicPartition]  # an agent and a partition that it reads

GROWS_BY: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """From the timestamp of a record until it was settled, in seconds; None without records."""

    count: int
    p50: float | None
    p99: float | None
    p999: float | None
    max: float | None

    @classmethod
    def of(cls, latencies_ms: Iterable[Offsets]) -> LatencySummary:
        """Return the summary of all these latencies."""
        parts = list(latencies_ms)
        if not parts:
            return cls(count=0, p50=None, p99=None, p999=None, max=None)
        all_ms = np.sort(np.concatenate(parts))
        p50, p99, p999, most = (
            float(all_ms[min(len(all_ms) - 1, int(len(all_ms) * part))]) / 1e3
            for part in (0.5, 0.99, 0.999, 1.0)
        )
        return cls(count=len(all_ms), p50=p50, p99=p99, p999=p999, max=most)


class Tally:
    """A number for each offset of a partition, 0 at first."""

    def __init__(self) -> None:
        self._counts = np.zeros(GROWS_BY, np.int32)

    def add(self, offsets: Offsets, times: Times | int = 1) -> None:
        """Count these offsets once more, or so many times more; each stands in it once."""
        if len(offsets):
            self._counts = self.up_to(int(offsets[-1]) + 1)
            self._counts[offsets] += times

    def up_to(self, end: int) -> npt.NDArray[np.int32]:
        """Return the counts, at least as many as this."""
        if end <= len(self._counts):
            return self._counts
        grown = np.zeros(max(end, 2 * len(self._counts)), np.int32)
        grown[: len(self._counts)] = self._counts
        return grown


@dataclass(slots=True, eq=False)
class Attempt:
    """One batch in an agent's hands.

    Args:
        diverted: It goes to another topic, or to the dead letters, instead of to its agent.
        parts: With which of its rows the agent was called again, after all of them failed.
        sends: What was sent for it and is not acknowledged yet → in which call.
        wrote: In which calls of the agent something was sent that is in the log now.
    """

    cut: Cut
    diverted: bool = False
    parts: Sequence[range] = ()
    sends: dict[asyncio.Future[Any], int] = field(default_factory=dict)
    wrote: set[int] = field(default_factory=set)

    @property
    def calls(self) -> list[range]:
        """Return the rows that the agent had in each call."""
        return [range(self.cut.num_records), *self.parts]

    def effects(self, done: Rows) -> Times:
        """Return how often each row took effect.

        In a call that wrote something, each of its rows did; the last call for a row that is
        done also if it wrote nothing.

        Args:
            done: Rows that are done.
        """
        times = np.zeros(self.cut.num_records, np.int32)
        silent = done.copy()
        for number, rows in enumerate(self.calls):
            calls = slice(rows.start, rows.stop)
            times[calls] += number in self.wrote
            silent[calls] = done[calls] & (number not in self.wrote)
        return times + silent


class Watch:
    """What became of each record, over all lives of the worker.

    Args:
        log: The log that the records are in.
        lanes: Names of the lanes, by rank.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._attempts: dict[int, Attempt] = {}  # of the worker that lives
        self._done: dict[Place, Tally] = defaultdict(Tally)  # finished, or left as a policy says
        self._took_effect: dict[Place, Tally] = defaultdict(Tally)
        self._latencies: dict[int, list[Offsets]] = defaultdict(list)
        self._readers: dict[str, frozenset[str]] = {}
        self.peak_bytes = 0
        self.allowed = 0  # repeats that the promise permits, so far
        self._finished_total = 0
        self._snapshot_total = 0  # finished when what is being committed was read off
        self._committed_total = 0

    def begin(self, readers: Mapping[str, frozenset[str]]) -> None:
        """Begin another life.

        Args:
            readers: Feed topic → names of the agents that read it.
        """
        self._attempts = {}
        self._readers = dict(readers)

    def died(self) -> None:
        """Note that the worker is gone, with all that it had in its hands.

        What it was writing may be in the log, so it counts as written.
        """
        for attempt in self._attempts.values():
            self.allowed += attempt.cut.num_records
            attempt.wrote.update(attempt.sends.values())
            self._failed(attempt)
        self._attempts = {}
        self.given_back()

    # What may be repeated: what is in flight, and what was settled since the last commit.

    def read_off(self) -> None:
        """Note that a commit begins; what is finished from now on is not in it."""
        self._snapshot_total = self._finished_total

    def committed(self) -> None:
        """Note that the broker has stored the commit."""
        self._committed_total = self._snapshot_total

    def taken_away(self, partitions: frozenset[TopicPartition]) -> None:
        """Note that partitions go, with what is still in flight of them."""
        self.allowed += sum(
            piece.count
            for attempt in self._attempts.values()
            for piece in attempt.cut.slices
            if piece.chunk.partition in partitions
        )

    def given_back(self) -> None:
        """Note that reading begins where it was committed."""
        self.allowed += self._finished_total - self._committed_total
        self._committed_total = self._finished_total

    # Batches.

    def started(self, cut: Cut, *, diverted: bool) -> None:
        """Note that a batch was handed out."""
        self._attempts[cut.batch_id] = Attempt(copy(cut), diverted)

    def sent(
        self, batch_id: int, sending: asyncio.Future[Any], parts: Sequence[range] = ()
    ) -> None:
        """Note that something is sent for a batch.

        Args:
            parts: With which of its rows the agent was called again, after all of them failed;
                the last of them is what it sends for. It grows with each such call.
        """
        attempt = self._attempts.get(batch_id)
        if attempt is None:
            return
        attempt.parts = parts
        attempt.sends[sending] = len(parts)

        def acknowledged(future: asyncio.Future[Any]) -> None:
            call = attempt.sends.pop(future)
            if not future.cancelled() and future.exception() is None:
                attempt.wrote.add(call)

        sending.add_done_callback(acknowledged)

    def finished(self, batch_id: int, epoch_ms: int, nacked: Collection[int] = ()) -> None:
        """Note that a batch is settled, but for the rows that its agent wants again."""
        attempt = self._attempts.pop(batch_id, None)
        if attempt is None:
            return
        done = np.ones(attempt.cut.num_records, np.bool_)
        done[list(nacked)] = False
        # What it sent was hardly for rows that it wants again.
        self._finished(attempt, epoch_ms, done, attempt.effects(done) * done)

    def done_in_part(self, batch_id: int, epoch_ms: int, num_done: int) -> None:
        """Note that a batch goes back, but for its first records, which are settled."""
        attempt = self._attempts.pop(batch_id, None)
        if attempt is None:
            return
        done = np.arange(attempt.cut.num_records) < num_done
        self._finished(attempt, epoch_ms, done, attempt.effects(done))

    def failed(self, batch_id: int) -> None:
        """Note that a batch goes back."""
        attempt = self._attempts.pop(batch_id, None)
        if attempt is not None:
            self._failed(attempt)

    def unprocessed(self, command: Unprocessed) -> None:
        """Note which records leave without an agent."""
        if command.outcome == "diverted":
            return  # they do when they are written
        for first, end in command.ranges:
            offsets = np.arange(first, end)
            for agent in self._readers.get(command.partition.topic, ()):
                self._done[agent, command.partition].add(offsets)

    def _finished(self, attempt: Attempt, epoch_ms: int, done: Rows, effects: Times) -> None:
        cut = attempt.cut
        add(self._done, cut, done.astype(np.int32))
        self._finished_total += int(done.sum())
        if attempt.diverted:
            return
        add(self._took_effect, cut, effects)
        timestamps = np.concatenate([column_of(piece, 1) for piece in cut.slices])
        self._latencies[cut.lane].append(np.maximum(0, epoch_ms - timestamps[done]))

    def _failed(self, attempt: Attempt) -> None:
        none_done = np.zeros(attempt.cut.num_records, np.bool_)
        add(self._took_effect, attempt.cut, attempt.effects(none_done))

    # Answers.

    @property
    def lost(self) -> int:
        """Return how many records are committed although nobody has finished them."""
        return sum(
            int(np.count_nonzero(self._done[place].up_to(end)[:end] == 0))
            for place, end in self._ends(lambda name: committed_of(self._log.committed, name))
        )

    @property
    def unfinished(self) -> int:
        """Return how many records are in the log and not finished by each of their agents."""
        return sum(
            int(np.count_nonzero(self._done[place].up_to(end)[:end] == 0))
            for place, end in self._ends(lambda name: self._log.partition(name).end)
        )

    @property
    def duplicates(self) -> int:
        """Return how often the effect of a record was repeated."""
        return sum(
            int(np.maximum(tally.up_to(0) - 1, 0).sum()) for tally in self._took_effect.values()
        )

    def _ends(self, end_of: Any) -> Iterable[tuple[Place, int]]:
        for topic, agents in self._readers.items():
            for number in range(len(self._log.topic(topic))):
                name = TopicPartition(topic, number)
                for agent in agents:
                    yield (agent, name), end_of(name)

    def latency(self, rank: int | None) -> LatencySummary:
        """Return how long the records of a lane took; of all lanes without one."""
        if rank is not None:
            return LatencySummary.of(self._latencies[rank])
        return LatencySummary.of(part for parts in self._latencies.values() for part in parts)


def add(tallies: dict[Place, Tally], cut: Cut, times: Times) -> None:
    """Count the records of a batch so many times more each, by its agent and where they are."""
    before = 0
    for piece in cut.slices:
        rows = slice(before, before + piece.count)
        tallies[cut.agent, piece.chunk.partition].add(column_of(piece, 0), times[rows])
        before += piece.count


def committed_of(committed: Mapping[TopicPartition, Stored], name: TopicPartition) -> int:
    """Return up to where a partition is committed, 0 if it never was."""
    return committed[name].offset if name in committed else 0


def column_of(piece: Slice, index: int) -> Offsets:
    """Return offsets or timestamps of a slice, which are never null; nothing is copied."""
    column = piece.columns.column(index)
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column)]


class WatchedRuntime(FeedRuntime):
    """flowguard's runtime, with somebody who looks on."""

    watch: Watch
    dead = False

    def observe(self, *facts: Any) -> None:
        """Tell the engine, and look at the memory."""
        if self.dead:
            return
        super().observe(*facts)
        self.watch.peak_bytes = max(self.watch.peak_bytes, self.memory.used_bytes)

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        """Take in that a batch is settled."""
        if not self.dead:
            self.watch.finished(batch_id, self.clock.epoch_ms(), (nacked or {}).keys())
            super().finished(batch_id, dead_letters, nacked)

    def failed(self, batch_id: int, *args: Any, found: Found | None = None, **kwargs: Any) -> None:
        """Take in that a batch, or what is left of it, must be tried again."""
        if not self.dead:
            if found is None:
                self.watch.failed(batch_id)
            else:
                self.watch.done_in_part(batch_id, self.clock.epoch_ms(), found.done)
            super().failed(batch_id, *args, found=found, **kwargs)

    def commit_points(self, names: Any) -> Any:
        """Return how far partitions may be committed."""
        if not self.dead:
            self.watch.read_off()
        return super().commit_points(names)

    def committed(self, points: Any) -> None:
        """Take in that the broker stored this."""
        if not self.dead:
            self.watch.committed()
        super().committed(points)

    async def revoking(self, partitions: frozenset[TopicPartition]) -> None:
        """Let partitions finish for a short while."""
        await super().revoking(partitions)
        if not self.dead:
            self.watch.taken_away(partitions)

    def assigned(self, positions: Any) -> None:
        """Take in the partitions that are ours now."""
        if not self.dead:
            self.watch.given_back()
        super().assigned(positions)

    def sending(self, future: asyncio.Future[Any]) -> None:
        """Take in that something is sent by whoever runs now."""
        delivered = current_delivered()
        if delivered is not None and not self.dead:
            self.watch.sent(delivered._batch_id, future, delivered.parts)

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartBatch(cut):
                self.watch.started(cut, diverted=False)
            case DivertBatch(cut, _) | BuryBatch(cut):
                self.watch.started(cut, diverted=True)
            case Unprocessed():
                self.watch.unprocessed(command)
        super()._carry_out(command)

    async def on_start(self) -> None:
        """Leave the interpreter as it is: it belongs to the tests."""
