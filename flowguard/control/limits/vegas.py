"""Batches that seem to wait at the provider, from the least service time ever seen.

    waiting = limit * (1 - least / present)

Source: Netflix/concurrency-limits, VegasLimit; its defaults. The jitter of its probes is a
fixed sequence here, so that a run can be repeated.
"""

from __future__ import annotations

from math import ceil, log10
from typing import Final

from flowguard.control.limit import Step, Window

__all__ = ["Vegas"]

#: In units of the whole logarithm of the limit, at least 1.
WAITING_LOW: Final = 3
WAITING_HIGH: Final = 6

#: The least service time is taken anew after so many windows for each seat of the limit.
PROBE_WINDOWS: Final = 30
JITTER_STEP: Final = 0.618  # of the golden ratio: an even spread


class Vegas:
    """Keep a few batches waiting at the provider."""

    first: float = 20.0

    def __init__(self) -> None:
        self._least_ns = 0.0
        self._windows = 0
        self._jitter = 0.75

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        limit, present_ns = window.limit, window.service_ns
        if window.restarted:
            self._least_ns = 0.0
        if not window.successes:
            return self._step(window, 0)
        self._windows += 1
        if self._jitter * PROBE_WINDOWS * limit <= self._windows:
            self._windows = 0
            self._jitter = 0.5 + (self._jitter + JITTER_STEP / 2) % 0.5
            self._least_ns = present_ns
            return Step(limit, "probe", "the least service time is taken anew")
        if self._least_ns == 0.0 or (0.0 < present_ns < self._least_ns):
            self._least_ns = present_ns
            return Step(limit, "hold", "the least service time so far")
        return self._step(window, ceil(limit * (1 - self._least_ns / present_ns)))

    def _step(self, window: Window, waiting: int) -> Step:
        limit = window.limit
        unit = max(1, int(log10(limit)))
        why = f"about {waiting} batches wait"
        if window.drops:
            return Step(limit - unit, "down", f"{window.drops} batches were refused")
        if window.in_flight_max * 2 < limit:
            return Step(limit, "hold", f"only {window.in_flight_max} batches at once are needed")
        if waiting <= unit:
            return Step(limit + WAITING_HIGH * unit, "up", why)
        if waiting < WAITING_LOW * unit:
            return Step(limit + unit, "up", why)
        if waiting > WAITING_HIGH * unit:
            return Step(limit - unit, "down", why)
        return Step(limit, "hold", why)
