"""Runs that belong to nobody for now: revoked partitions, and what a restart has found.

They are the first to go when room is short, and go by themselves after a while; whoever gets
the partition again may adopt them before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.spill.manifest import Run

__all__ = ["Parking"]


class Parking:
    """Parked runs.

    Args:
        park_ms: How long one is kept.
    """

    def __init__(self, park_ms: int) -> None:
        self._park_ms: Final = park_ms
        self._runs: list[Run] = []  # few: one for each lane and partition at most

    def add(self, run: Run) -> None:
        """Park a run."""
        self._runs.append(run)

    def remove(self, run: Run) -> None:
        """Take a run out.

        Raises:
            ValueError: It is not parked.
        """
        self._runs.remove(run)

    def runs(self, partition: TopicPartition | None = None) -> list[Run]:
        """Return the runs of a partition, or all."""
        return [run for run in self._runs if partition in (None, run.partition)]

    def stored_bytes(self, lane: str) -> int:
        """Return how much of a lane is parked."""
        return sum(run.frames.stored_bytes for run in self._runs if run.lane == lane)

    def oldest(self, fits: Callable[[Run], bool]) -> Run | None:
        """Return what goes first of the runs that fit; what is pinned never goes."""
        candidates = [run for run in self._runs if not run.pinned and fits(run)]
        return min(candidates, key=lambda run: run.parked_ms, default=None)

    def expired(self, now_ms: int) -> list[Run]:
        """Return the runs that were kept long enough."""
        oldest_ms = now_ms - self._park_ms
        return [run for run in self._runs if run.parked_ms < oldest_ms and not run.pinned]
