"""More batches at once while that gets more done, and no more than that.

Source: research/overload.md a.2.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

from flowguard.control.limit import Step, Window

__all__ = ["Goodput"]

#: Growth a window while nothing is known.
START_FACTOR: Final = 1.5
START_GAIN: Final = 1.2
START_FLAT: Final = 2
START_RATIO: Final = 1.6

DROP_RATIO: Final = 0.01
DROP_FACTOR: Final = 0.7


class Goodput:
    """Find the knee: the least limit at which no more gets done with a larger one."""

    first: float = 4.0

    def __init__(self) -> None:
        self._base = 0.0
        self._best = 0.0
        self._flat = 0
        self._start = True
        self._last: deque[float] = deque(maxlen=5)
        self._tau = 0.0
        self._noise = 0.1

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        limit = window.limit
        if window.restarted:
            self.__init__()  # type: ignore[misc]
        if window.drop_ratio >= DROP_RATIO:
            self._start = False
            return Step(limit * DROP_FACTOR, "down", f"{window.drop_ratio:.1%} were refused")
        if not window.successes:
            return Step(limit, "hold", "no batch ended well")
        self._last.append(window.service_ns)
        middle = median(self._last)
        self._noise += 0.05 * (abs(window.service_ns - middle) / middle * 1.25 - self._noise)
        self._tau = middle if not self._tau else (self._tau + middle) / 2
        self._base = self._base or self._tau
        ratio = self._tau / self._base
        low, high = 0.10 + 0.25 * self._noise, 0.25 + 0.5 * self._noise
        if self._start:
            return self._slow_start(window, ratio)
        if ratio < 1 - low:
            self._base += 0.2 * (self._tau - self._base)
        elif ratio < 1 + low:
            self._base += 0.01 * (self._tau - self._base)
        if ratio > 1 + high:
            cut = 0.15 * min(1.0, (ratio - 1 - high) / high + 0.2)
            return Step(limit * (1 - cut), "down", f"batches take {ratio:.2f} times as long")
        if ratio < 1 + low and window.saturated:
            return Step(limit + max(0.5, 0.03 * limit), "up", "batches take no longer")
        return Step(limit, "hold", f"batches take {ratio:.2f} times as long")

    def _slow_start(self, window: Window, ratio: float) -> Step:
        limit = window.limit
        if not window.saturated:
            return Step(limit, "hold", f"{window.in_flight_mean:.1f} batches at once are needed")
        gain = window.goodput_per_s > START_GAIN * self._best
        self._flat = 0 if gain else self._flat + 1
        self._best = max(self._best, window.goodput_per_s)
        if ratio > START_RATIO or self._flat >= START_FLAT:
            self._start = False
            return Step(limit / START_FACTOR, "down", "more batches at once got no more done")
        return Step(limit * START_FACTOR, "up", "slow start")
