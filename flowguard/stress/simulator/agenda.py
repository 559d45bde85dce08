"""Virtual time: it jumps from event to event, and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["Agenda"]


class Agenda:
    """What will happen, in the order of time; at one instant in the order it was planned.

    Attributes:
        now_ns: The present, from the beginning of the scenario.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._planned = 0

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at an instant, now if that has passed."""
        self._planned += 1
        heappush(self._events, (max(at_ns, self.now_ns), self._planned, event))

    def after(self, wait_ns: int, event: Callable[[], None]) -> None:
        """Let something happen later."""
        self.at(self.now_ns + wait_ns, event)

    def run(self, until_ns: int, *, enough: Callable[[], bool] | None = None) -> None:
        """Let time pass until an instant, or until `enough` says so."""
        events = self._events
        while events and events[0][0] <= until_ns:
            self.now_ns, _, event = heappop(events)
            event()
            if enough is not None and enough():
                return
        self.now_ns = until_ns
