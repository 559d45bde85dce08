"""What a batch costs by its number of records.

    service time ≈ fixed + records * each

A batch that takes eight times as long because it has eight times the records says nothing
about congestion, so control loops compare batches by their cost in place of their time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["CostFit"]

#: What was learnt counts this much less with each window that is learnt after it.
KEEP: Final = 0.98

#: Sizes must differ by this share of their mean before a line is put through them.
SPREAD_MIN: Final = 0.1

#: A window whose sizes differ less than this from one another and from what is known tells
#: nothing of the line, and takes nothing away from it.
NEWS_MIN: Final = 0.05

#: Weight of one window in the level, which follows an agent that becomes slower or faster.
LEVEL_SHARE: Final = 0.1

#: Weight of one window in the size that batches have lately.
SIZE_SHARE: Final = 0.3

#: Beyond this factor of the sizes that were learnt from, the line is a guess.
KNOWN_FACTOR: Final = 1.5


class CostFit:
    """Fit a line through batches, and tell what a batch costs.

    Recursive least squares with forgetting, weighted so that relative errors count. A window
    of batches is one observation, however many they are. Cost has no unit of its own: it is
    scaled so that a new line changes nothing at the size that batches had lately.
    """

    def __init__(self) -> None:
        self.known = False  # batches of different sizes have been seen
        self._fixed, self._each = 1.0, 0.0
        self._scale = 1.0
        self._level = 0.0
        self._sizes: tuple[int, int] | None = None
        self._size = 0.0  # lately
        # Sums over batches, weighted: 1, records, records², time, records * time.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    @property
    def fixed_ns(self) -> float:
        """Return what a batch takes whatever its size, 0 while unknown."""
        return self._level * self._fixed if self.known else 0.0

    @property
    def record_ns(self) -> float:
        """Return what each record of a batch takes, 0 while unknown."""
        return self._level * self._each if self.known else 0.0

    def cost(self, records: float) -> float:
        """Return what a batch of this size costs; all cost the same while nothing is known."""
        return self._scale * (self._fixed + self._each * records)

    def costs(self, sizes: Sequence[int]) -> list[float]:
        """Return what batches of these sizes cost."""
        if not self._each:
            return [self._scale * self._fixed] * len(sizes)
        fixed, each = self._scale * self._fixed, self._scale * self._each
        return [fixed + each * size for size in sizes]

    def covers(self, records: float) -> bool:
        """Tell whether batches of about this size have been learnt from."""
        if self._sizes is None:
            return False
        low, high = self._sizes
        return low / KNOWN_FACTOR <= records <= high * KNOWN_FACTOR

    def learn(self, sizes: Sequence[int], times_ns: Sequence[int], *, slowed: float = 1.0) -> None:
        """Learn from the batches of one window; not empty.

        Args:
            sizes: How many records they had.
            times_ns: How long they took.
            slowed: By which factor they took longer than they would have alone.
        """
        low, high, mean = min(sizes), max(sizes), sum(sizes) / len(sizes)
        if self._is_news(low, high, mean):
            known_low, known_high = self._sizes or (low, high)
            self._sizes = (min(known_low, low), max(known_high, high))
            size = self._size or mean
            before = self.cost(size)
            self._add(sizes, times_ns, slowed)
            self._solve()
            self._scale *= before / self.cost(size)
        self._size += (mean - self._size) * (SIZE_SHARE if self._size else 1.0)
        # The level follows the batches; the shape of the line stays.
        ratio = sum(times_ns) / slowed / (len(sizes) * (self._fixed + self._each * mean))
        self._level += (ratio - self._level) * (LEVEL_SHARE if self._level else 1.0)

    def _is_news(self, low: int, high: int, mean: float) -> bool:
        """Tell whether a window says anything of how cost depends on size."""
        weight, records, *_ = self._sums
        if not weight:
            return True
        known = records / weight
        return max(high - low, abs(mean - known)) > NEWS_MIN * known

    def _add(self, sizes: Sequence[int], times_ns: Sequence[int], slowed: float) -> None:
        sums = [0.0] * 5
        for records, service_ns in zip(sizes, times_ns, strict=True):
            alone_ns = service_ns / slowed
            expected = self._level * (self._fixed + self._each * records) or alone_ns
            expected = max(1.0, expected)  # clocks of tests may see no time pass, and again none
            weight = 1.0 / (expected * expected * len(sizes))
            sums[0] += weight
            sums[1] += weight * records
            sums[2] += weight * records * records
            sums[3] += weight * alone_ns
            sums[4] += weight * records * alone_ns
        old = self._sums
        self._sums = (
            KEEP * old[0] + sums[0], KEEP * old[1] + sums[1], KEEP * old[2] + sums[2],
            KEEP * old[3] + sums[3], KEEP * old[4] + sums[4],
        )  # fmt: skip

    def _solve(self) -> None:
        """Put the line through what is known; no part of it is below zero."""
        weight = self._sums[0]
        n, nn, s, ns = (each / weight for each in self._sums[1:])
        variance = nn - n * n
        if variance < (SPREAD_MIN * n) ** 2:
            return
        each = (ns - n * s) / variance
        fixed = s - each * n
        if each < 0.0:
            each, fixed = 0.0, s
        elif fixed < 0.0:
            each, fixed = ns / nn, 0.0
        if fixed + each * n > 0.0:
            self._fixed, self._each, self._level = fixed, each, 1.0
            self.known = True
