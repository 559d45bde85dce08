"""When a failed batch is tried again."""

from __future__ import annotations

from typing import Final

from flowguard.commands import Cut
from flowguard.units import MILLISECOND, SECOND

__all__ = ["ATTEMPTS_MAX", "RetryQueue", "backoff_ns"]

#: A batch that failed so often is given to the agent's fallback, if it has one.
ATTEMPTS_MAX: Final = 5

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
        self._due_ns: dict[Cut, int] = {}

    def __len__(self) -> int:
        return len(self._due_ns)

    def __contains__(self, cut: Cut) -> bool:
        return cut in self._due_ns

    def add(self, cut: Cut, *, due_ns: int) -> None:
        """Keep a batch until it is due."""
        self._due_ns[cut] = due_ns

    def items(self) -> list[tuple[int, Cut]]:
        """Return all, with the instant each is due, the next one first."""
        items = [(due_ns, cut) for cut, due_ns in self._due_ns.items()]
        return sorted(items, key=lambda item: (item[0], item[1].batch_id))

    def remove(self, cut: Cut) -> None:
        """Forget a batch."""
        self._due_ns.pop(cut, None)
