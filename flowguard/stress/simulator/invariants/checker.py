"""What all checkers of invariants have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from flowguard.chunk import TopicPartition
from flowguard.commands import Unprocessed
from flowguard.engine import Engine
from flowguard.facts import CommitPoint
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.log import Segment

__all__ = ["Checker", "where", "written"]

#: So many violations of one invariant are told in full.
KEPT: Final = 3


class Checker:
    """The base of all: it is told everything, and looks at what it needs.

    Args:
        history: What became of each record.

    Attributes:
        violations: The first few, for people.
        count: How many there are.
    """

    name: ClassVar[str] = ""

    def __init__(self, history: History) -> None:
        self.history = history
        self.violations: list[str] = []
        self.count = 0

    def broken(self, text: str) -> None:
        """Note a violation."""
        self.count += 1
        if self.count <= KEPT:
            self.violations.append(f"{self.name}: {text}")

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """A partition is ours anew; what lies below the watermarks was finished before."""

    def started(self, batch: Handed) -> None:
        """A batch got its seat."""

    def observed(self, engine: Engine, started: Sequence[Handed], now_ns: int) -> None:
        """The engine took in facts, and all it answered was done."""

    def returned(self, batch: Handed) -> None:
        """The agent came back; called before the engine knows."""

    def failed(self, batch: Handed) -> None:
        """A batch failed; called before the engine knows."""

    def settled(self, batch: Handed) -> None:
        """A batch is settled; called before the engine knows, and before it is marked."""

    def left(self, command: Unprocessed, count: int) -> None:
        """A policy left records out; the log of it names so many."""

    def committed(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """The broker has stored this."""

    def restarted(self) -> None:
        """The worker was lost with all it knew, and there is a new one."""

    def ended(self, *, idle: bool) -> None:
        """The run is over; idle: the worker had nothing to do any more."""


def where(segment: Segment) -> str:
    """Return a segment as people write it."""
    return f"{written(segment.partition)} lane {segment.lane}"


def written(name: TopicPartition) -> str:
    """Return a partition as people write it."""
    return f"{name.topic}[{name.partition}]"
