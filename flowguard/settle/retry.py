"""When what failed is tried again, and how often."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from flowguard.commands import Cut
from flowguard.errors import ConfigError
from flowguard.suggest import reject_unknown
from flowguard.units import MILLISECOND, SECOND, Duration, duration_ns

__all__ = ["Retry", "RetryQueue", "backoff_ns", "jittered"]

#: A record that has failed so often by itself becomes a dead letter, unless an agent says more.
FAILURES_MAX: Final = 5

BACKOFF_NS_MIN: Final = 100 * MILLISECOND
BACKOFF_NS_MAX: Final = 10 * SECOND
BACKOFF: Final = "100ms..10s"

#: A wait is between this share of its backoff and the whole, so that what failed together
#: does not come back together.
JITTER_FROM: Final = 0.5


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often a record that fails is tried, and how long it waits in between.

    Only its own failures count: a batch that fails is split until the record that fails is
    alone. What is `fg.Unavailable` never counts.

    Args:
        max: A record that has failed so often becomes a dead letter; 1 for at the first
            failure, None for never.
        backoff: The first wait and the longest, `"100ms..10s"`; each is twice the one before,
            less up to a half by chance. One duration is every wait.

    Raises:
        ConfigError: That is no number, or no duration.
    """

    max: int | None
    backoff_ns_min: int
    backoff_ns_max: int

    def __init__(
        self, max: int | None = FAILURES_MAX, backoff: Duration = BACKOFF, **unknown: object
    ) -> None:
        reject_unknown(unknown, known=("max", "backoff"), owner="Retry")
        if max is not None and (isinstance(max, bool) or not isinstance(max, int) or max < 1):
            raise ConfigError(
                f"Retry.max={max!r} is no number of failures; use 1 or more, or None for no limit"
            )
        first, longest = parse_backoff(backoff)
        object.__setattr__(self, "max", max)
        object.__setattr__(self, "backoff_ns_min", first)
        object.__setattr__(self, "backoff_ns_max", longest)

    def wait_ns(self, failures: int, chance: float) -> int:
        """Return how long to wait after so many failures.

        Args:
            failures: 1 or more.
            chance: 0..1.
        """
        wait_ns = min(self.backoff_ns_max, self.backoff_ns_min << min(failures - 1, 40))
        return jittered(wait_ns, chance)


def parse_backoff(backoff: Duration) -> tuple[int, int]:
    """Return the first wait and the longest, ns.

    Raises:
        ConfigError: They are no durations, or the first is longer than the longest.
    """
    first, longest = backoff, backoff
    if isinstance(backoff, str) and ".." in backoff:
        first, _, longest = backoff.partition("..")
    ends = (
        duration_ns(first, name="Retry.backoff"),
        duration_ns(longest, name="Retry.backoff"),
    )
    if ends[0] > ends[1]:
        raise ConfigError(
            f"Retry.backoff={backoff!r} begins with its longest wait; write {longest}..{first}"
        )
    return ends


def jittered(wait_ns: int, chance: float) -> int:
    """Return a part of a wait, at least half of it.

    Args:
        chance: 0..1.
    """
    return round(wait_ns * (JITTER_FROM + (1.0 - JITTER_FROM) * chance))


def backoff_ns(attempt: int) -> int:
    """Return how long to wait for what is unavailable: 0.1 s, doubled up to 10 s.

    Args:
        attempt: 1 for the first.
    """
    return min(BACKOFF_NS_MAX, BACKOFF_NS_MIN << min(attempt - 1, 16))


class RetryQueue:
    """Failed batches, in the order in which they are due; O(log n) to find, a move to insert."""

    def __init__(self) -> None:
        self._keys: dict[Cut, tuple[int, int]] = {}
        self._waiting: list[tuple[tuple[int, int], Cut]] = []  # by due_ns and batch_id

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, cut: Cut) -> bool:
        return cut in self._keys

    def add(self, cut: Cut, *, due_ns: int) -> None:
        """Keep a batch until it is due."""
        self.remove(cut)
        key = self._keys[cut] = (due_ns, cut.batch_id)
        insort(self._waiting, (key, cut), key=key_of)

    def items(self) -> Iterator[tuple[int, Cut]]:
        """Yield all, with the instant each is due, the next one first."""
        return ((due_ns, cut) for (due_ns, _), cut in self._waiting)

    def due(self, now_ns: int) -> Iterator[Cut]:
        """Yield those that are due, the first first."""
        return (cut for _, cut in takewhile(lambda each: each[0][0] <= now_ns, self._waiting))

    def remove(self, cut: Cut) -> None:
        """Forget a batch."""
        if (key := self._keys.pop(cut, None)) is not None:
            del self._waiting[bisect_left(self._waiting, key, key=key_of)]


def key_of(waiting: tuple[tuple[int, int], Cut]) -> tuple[int, int]:
    """Return what a batch is ordered by."""
    return waiting[0]
