"""Present service time against its long-term mean.

    limit = limit * (1.5 * long / present, 0.5..1) + 4, smoothed

Source: Netflix/concurrency-limits, Gradient2Limit; its defaults, except that its least limit
of 20 is given up. Like there, refused batches do not change the limit.
"""

from __future__ import annotations

from typing import Final

from flowguard.control.limit import Step, Window

__all__ = ["Gradient"]

#: The long-term mean is exponential with this age, after a plain mean of the first windows.
LONG_WINDOWS: Final = 600
WARMUP_WINDOWS: Final = 10

TOLERANCE: Final = 1.5
WAITING: Final = 4
SMOOTHING: Final = 0.2

#: The long-term mean comes down so much a window while it is twice the present one.
RECOVERY: Final = 0.95


class Gradient:
    """Shrink in proportion while batches take longer than they did in the long run."""

    first: float = 20.0

    def __init__(self) -> None:
        self._long_ns = 0.0
        self._windows = 0

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        limit, present_ns = window.limit, window.service_ns
        if window.restarted:
            self._long_ns, self._windows = 0.0, 0
        if not window.successes:
            return Step(limit, "hold", "no batch ended well")
        self._windows += 1
        share = 2 / (LONG_WINDOWS + 1)
        if self._windows <= WARMUP_WINDOWS:
            share = 1 / self._windows
        self._long_ns += share * (present_ns - self._long_ns)
        if self._long_ns > 2 * present_ns:
            self._long_ns *= RECOVERY
        if window.in_flight_max < limit / 2:
            return Step(limit, "hold", f"only {window.in_flight_max} batches at once are needed")
        gradient = max(0.5, min(1.0, TOLERANCE * self._long_ns / present_ns))
        wanted = limit * gradient + WAITING
        after = limit + SMOOTHING * (wanted - limit)
        action = "up" if after > limit else "down" if after < limit else "hold"
        return Step(after, action, f"gradient {gradient:.2f}")
