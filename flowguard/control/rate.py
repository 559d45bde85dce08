"""The most records a second of a lane."""

from __future__ import annotations

from typing import Final

from flowguard.units import SECOND

__all__ = ["RateLimit"]

#: Unused permission is kept for this long at most, and no batch takes more than that.
BURST_NS: Final = SECOND // 10


class RateLimit:
    """A token bucket that may go into debt by one batch, so that the rate is exact.

    Args:
        rate_per_s: Records a second, > 0.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._tokens_per_ns = rate_per_s / SECOND
        self.burst_records = max(1, int(self._tokens_per_ns * BURST_NS))
        self._tokens = float(self.burst_records)
        self._at_ns: int | None = None

    def allows(self, now_ns: int) -> bool:
        """Tell whether a batch may be started now."""
        if self._at_ns is not None:
            earned = (now_ns - self._at_ns) * self._tokens_per_ns
            self._tokens = min(float(self.burst_records), self._tokens + earned)
        self._at_ns = now_ns
        return self._tokens >= 1.0

    def spend(self, records: int) -> None:
        """Note that records were started."""
        self._tokens -= records

    @property
    def due_ns(self) -> int:
        """Return when a batch may be started again."""
        missing = max(0.0, 1.0 - self._tokens)
        return (self._at_ns or 0) + round(missing / self._tokens_per_ns) + 1
