"""How long an agent's code holds the event loop at a time: nothing else runs meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from flowguard.units import SECOND

__all__ = ["LoopTime"]


class LoopTime(Coroutine[Any, Any, None]):
    """A coroutine, and the longest time that it ran without awaiting what was not there yet.

    Args:
        coroutine: What a task runs.
        clock: The event loop's time, in seconds.
    """

    __slots__ = ("_began_s", "_clock", "_coroutine", "_longest_s")

    def __init__(self, coroutine: Coroutine[Any, Any, None], clock: Callable[[], float]) -> None:
        self._coroutine = coroutine
        self._clock = clock
        self._began_s = self._longest_s = 0.0

    def begin(self) -> None:
        """Forget how long it ran until now; called by the coroutine itself."""
        self._began_s, self._longest_s = self._clock(), 0.0

    @property
    def longest_ns(self) -> int:
        """Return the longest it ran since it began, until now; asked by the coroutine itself."""
        return round(self._held_s * SECOND)

    @property
    def _held_s(self) -> float:
        return max(self._longest_s, self._clock() - self._began_s)

    def send(self, value: Any) -> Any:
        """Run until it awaits something."""
        return self._run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """Run from an error until it awaits something."""
        return self._run(self._coroutine.throw, *error)

    def _run(self, step: Callable[..., Any], *given: Any) -> Any:
        self._began_s = self._clock()
        try:
            return step(*given)
        finally:
            self._longest_s = self._held_s

    def close(self) -> None:
        """End it where it is."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Await it without looking at the time."""
        return self._coroutine.__await__()
