"""Time as an object, so that it can be an argument.

Thread-safety: `SystemClock` may be read from any thread.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What flowguard needs to know about time."""

    def now_ns(self) -> int:
        """Return a monotonic instant in nanoseconds."""
        ...

    def epoch_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970, as Kafka counts."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_ns(self) -> int:
        """Return a monotonic instant in nanoseconds."""
        return time.monotonic_ns()

    def epoch_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970."""
        return time.time_ns() // 1_000_000
