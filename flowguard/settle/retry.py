"""When a failed batch is tried again."""

from __future__ import annotations

import heapq
from typing import Final

from flowguard.commands import Cut
from flowguard.units import MILLISECOND, SECOND

__all__ = ["RetryQueue", "backoff_ns"]

BACKOFF_NS_MIN: Final = 100 * MILLISECOND
BACKOFF_NS_MAX: Final = 10 * SECOND


def backoff_ns(attempt: int) -> int:
    """Return how long to wait after an attempt failed: 0.1 s, doubled up to 10 s.

    Args:
        attempt: 1 for the first.
    """
    return min(BACKOFF_NS_MAX, BACKOFF_NS_MIN << min(attempt - 1, 16))


class RetryQueue:
    """Failed batches, by the instant they are due."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Cut]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, cut: Cut, *, due_ns: int) -> None:
        """Keep a batch until it is due."""
        heapq.heappush(self._heap, (due_ns, cut.batch_id, cut))

    @property
    def due_ns(self) -> int | None:
        """Return when the next one is due, None without any."""
        return self._heap[0][0] if self._heap else None

    def take(self, now_ns: int) -> Cut | None:
        """Return a batch that is due, or None."""
        if self._heap and self._heap[0][0] <= now_ns:
            return heapq.heappop(self._heap)[2]
        return None

    def items(self) -> list[tuple[int, Cut]]:
        """Return all, with the instant each is due, the next one first."""
        return [(due_ns, cut) for due_ns, _, cut in sorted(self._heap)]

    def remove(self, cut: Cut) -> None:
        """Forget a batch."""
        self._heap = [item for item in self._heap if item[2] is not cut]
        heapq.heapify(self._heap)
