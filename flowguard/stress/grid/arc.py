"""Vector's adaptive request concurrency, for comparison only.

Source: vectordotdev/vector, src/sinks/util/adaptive_concurrency; its defaults.
"""

from __future__ import annotations

from typing import Final

from flowguard.control.limit import Step, Window, WindowRule

__all__ = ["Arc"]

SHARE: Final = 0.4  # of the present in the mean, and in the variance
DEVIATIONS: Final = 2.5
DECREASE: Final = 0.9


class Arc:
    """One more while batches take no longer than before, a tenth less once they clearly do."""

    first: float = 1.0
    #: It decides once a mean service time, whatever number of batches that is.
    windows = WindowRule(services=1.0, min_ns=0, completions=1, completions_slow=1, settle=False)

    def __init__(self) -> None:
        self._mean_ns = 0.0
        self._variance = 0.0

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        limit, present_ns = int(window.limit), window.service_ns
        if self._mean_ns == 0.0:
            self._mean_ns = present_ns
            return Step(limit, "hold", "the first window")
        late_ns = self._mean_ns + DEVIATIONS * self._variance**0.5
        step = Step(limit, "hold", "")
        reached = window.in_flight_max >= limit
        if reached and not window.drops and window.successes and present_ns <= self._mean_ns:
            step = Step(limit + 1, "up", "")
        elif window.drops or (window.successes and present_ns >= late_ns):
            step = Step(max(1, int(limit * DECREASE)), "down", "")
        if window.successes:
            apart = present_ns - self._mean_ns
            self._mean_ns += SHARE * apart
            self._variance = (1 - SHARE) * (self._variance + SHARE * apart * apart)
        return step
