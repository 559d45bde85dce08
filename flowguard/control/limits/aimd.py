"""One more while all goes well, a tenth less after a refusal.

Source: Netflix/concurrency-limits, AIMDLimit; its defaults, except that its least limit of 20
is given up. It steps once a window instead of once a request.
"""

from __future__ import annotations

from typing import Final

from flowguard.control.limit import Step, Window
from flowguard.units import SECOND

__all__ = ["Aimd"]

BACKOFF: Final = 0.9
TIMEOUT_NS: Final = 5 * SECOND


class Aimd:
    """Additive increase, multiplicative decrease; service time counts only as a time-out."""

    first: float = 20.0

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        limit = window.limit
        if window.drops:
            return Step(limit * BACKOFF, "down", f"{window.drops} batches were refused")
        if window.service_ns > TIMEOUT_NS:
            taken_s = window.service_ns / SECOND
            return Step(limit * BACKOFF, "down", f"batches take {taken_s:.1f} s")
        if window.in_flight_max * 2 < limit:
            return Step(limit, "hold", f"only {window.in_flight_max} batches at once are needed")
        return Step(limit + 1, "up", "nothing was refused")
