"""Watching a run: what happened is recorded, and shown to the checkers of the invariants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowguard.chunk import TopicPartition
from flowguard.commands import Cut, Unprocessed
from flowguard.engine import Engine
from flowguard.facts import CommitPoint
from flowguard.stress.recording import Recording
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.invariants import Checker
from flowguard.stress.simulator.log import EPOCH_MS
from flowguard.units import MILLISECOND
from flowguard.view import RECORD_COST

__all__ = ["Watch"]


class Watch:
    """Everything that is known of a run.

    Args:
        history: What became of each record.
        recording: What there is to see, second by second.
        checkers: What must hold.

    Attributes:
        peak_bytes: The most that was held.
        peak_spill_bytes: The most that was on disk.
        ended_records: How many records have come to an end.
        started_ns: When the last batch was started.
    """

    def __init__(self, history: History, recording: Recording, checkers: Sequence[Checker]) -> None:
        self.history = history
        self.recording = recording
        self.checkers = checkers
        self.peak_bytes = 0
        self.peak_spill_bytes = 0
        self.ended_records = 0
        self.started_ns = 0
        self.crashes = 0
        self._handed: dict[int, Handed] = {}
        self._started = self._hooks("started")
        self._observed = self._hooks("observed")
        self._returned = self._hooks("returned")
        self._settled = self._hooks("settled")

    def _hooks(self, name: str) -> list[Callable[..., Any]]:
        """Return who wants to know of something that happens often."""
        return [
            getattr(checker, name)
            for checker in self.checkers
            if getattr(type(checker), name) is not getattr(Checker, name)
        ]

    @property
    def violations(self) -> list[str]:
        """Return what was broken, for people."""
        found = []
        for checker in self.checkers:
            found += checker.violations
            if checker.count > len(checker.violations):
                more = checker.count - len(checker.violations)
                found.append(f"{checker.name}: and {more:,} more")
        return found

    def started(self, cut: Cut, now_ns: int, *, buried: bool = False) -> Handed:
        """A batch got its seat, or is on its way to the dead letters."""
        self.started_ns = now_ns
        if cut.degraded and not buried:
            self.recording.count(now_ns, cut.lane, "degraded", cut.num_records)
        spans = self.history.spans_of(cut.slices)
        batch = Handed(cut, spans, cut.num_bytes + RECORD_COST * cut.num_records, buried)
        self._handed[cut.batch_id] = batch
        for hook in self._started:
            hook(batch)
        return batch

    def observed(
        self, engine: Engine, started: Sequence[Handed], now_ns: int, *, spilled_bytes: int
    ) -> None:
        """The engine took in facts, and all it answered was done."""
        self.peak_bytes = max(self.peak_bytes, engine.memory.used_bytes)
        self.peak_spill_bytes = max(self.peak_spill_bytes, spilled_bytes)
        for hook in self._observed:
            hook(engine, started, now_ns)

    def returned(self, cut: Cut, now_ns: int) -> None:
        """The agent came back."""
        second = self.recording.second(now_ns)
        second.batches += 1
        second.service_ns += now_ns - cut.started_ns
        batch = self._handed[cut.batch_id]
        for hook in self._returned:
            hook(batch)

    def failed(self, cut: Cut, now_ns: int) -> None:
        """A batch failed."""
        self.recording.count(now_ns, cut.lane, "failed", cut.num_records)
        batch = self._handed.pop(cut.batch_id)
        for checker in self.checkers:
            checker.failed(batch)

    def settled(self, cut: Cut, now_ns: int, *, dead_letters: int = 0) -> None:
        """A batch is settled."""
        batch = self._settle(cut)
        epoch_ms = EPOCH_MS + now_ns // MILLISECOND
        lane = self.recording.second(now_ns).lanes[cut.lane]
        for span in batch.spans:
            lane.latency.record_since(span.timestamps, epoch_ms)
        fresh = self.history.settle(batch.spans)
        rejected = min(dead_letters, fresh)
        lane.counts["dead_letters"] += rejected
        lane.counts["settled"] += fresh - rejected
        self.ended_records += fresh

    def diverted(self, cut: Cut, now_ns: int) -> None:
        """A batch went to another topic."""
        fresh = self.history.settle(self._settle(cut).spans)
        self.recording.count(now_ns, cut.lane, "diverted", fresh)
        self.ended_records += fresh

    def _settle(self, cut: Cut) -> Handed:
        batch = self._handed.pop(cut.batch_id)
        for hook in self._settled:
            hook(batch)
        return batch

    def left(self, command: Unprocessed, now_ns: int) -> None:
        """A policy left records out; of what is diverted this is only the log."""
        if command.outcome == "diverted":
            return
        count, fresh = self.history.leave(command)
        self.recording.count(now_ns, command.lane, command.outcome, fresh)
        self.ended_records += fresh
        for checker in self.checkers:
            checker.left(command, count)

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """A partition is ours anew."""
        for checker in self.checkers:
            checker.assigned(name, watermarks)

    def committed(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """The broker has stored this."""
        for checker in self.checkers:
            checker.committed(points)

    def restarted(self) -> None:
        """The worker was lost, and there is a new one."""
        self.crashes += 1
        self._handed.clear()
        for checker in self.checkers:
            checker.restarted()

    def ended(self, *, idle: bool) -> None:
        """The run is over: look at what is left."""
        for checker in self.checkers:
            checker.ended(idle=idle)
        for rank in range(len(self.recording.lanes)):
            self.recording.duplicates[rank] = self.history.duplicates(rank)
