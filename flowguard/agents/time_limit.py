"""How long an agent may work on one batch."""

from __future__ import annotations

import asyncio

from flowguard.errors import ConfigError
from flowguard.observe.stall import stack_of
from flowguard.units import SECOND, Duration, duration_ns, format_duration

__all__ = ["TimeLimit", "timeout_of"]


class TimeLimit:
    """Interrupt a function of an agent that takes too long for a batch.

    It is interrupted where it awaits something, as `asyncio.timeout` does. What it runs on
    another thread goes on there.

    Args:
        limit_s: How long it may take; None for as long as it likes.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._stack: str | None = None

    def begin(self) -> None:
        """Note that the function that runs now got a batch."""
        if self._limit_s is not None:
            self._task = asyncio.current_task()
            self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._interrupt)

    def end(self) -> None:
        """Note that it has come back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _interrupt(self) -> None:
        self._timer = None
        if self._task is not None and not self._task.done():
            self._stack = stack_of(self._task)
            self._task.cancel()

    def passed(self) -> TimeoutError | None:
        """Return what it failed with if it was interrupted; it may go on then."""
        if self._stack is None or self._limit_s is None or self._task is None:
            return None
        self._task.uncancel()
        where, self._stack = self._stack, None
        return TimeoutError(
            f"it took longer than timeout={format_duration(self._limit_s)}; it was at {where}"
        )


def timeout_of(timeout: Duration) -> float:
    """Return how long a batch may take, in seconds.

    Raises:
        ConfigError: It is no duration, or none at all.
    """
    timeout_ns = duration_ns(timeout, name="timeout")
    if timeout_ns <= 0:
        raise ConfigError(f"timeout={timeout!r} leaves no time; use more, or None for no limit")
    return timeout_ns / SECOND
