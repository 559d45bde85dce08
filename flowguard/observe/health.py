"""Health for an orchestrator: restart this process? Send work to it?

Neither answer depends on a broker: restarting a healthy worker because Kafka is away makes
an outage longer. Neither does a rebalance count as trouble.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["SILENCE_MAX_S", "Health", "Pulse", "liveness", "readiness"]

#: A loop that has not run a callback for this long hangs.
SILENCE_MAX_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """An answer, and the reason if it is no."""

    ok: bool
    why: str | None = None

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return 200 if self.ok else 503

    def document(self) -> dict[str, Any]:
        """Return the answer as JSON."""
        return {"ok": self.ok, "why": self.why}


class Pulse:
    """Whether an event loop still runs callbacks.

    Each question leaves a callback in the loop; the next question looks whether it has run.
    Nothing runs between two questions.

    Args:
        name: What the loop does, for the reason.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_s: float | None = None

    def silence_s(self, loop: asyncio.AbstractEventLoop, now_s: float | None = None) -> float:
        """Ask, and return for how long the last question has been without an answer."""
        now_s = time.monotonic() if now_s is None else now_s
        if loop is not self._loop:  # the thread was replaced, and its loop with it
            self._loop, self._asked_s = loop, None
        if self._asked_s is None and not loop.is_closed():
            self._asked_s = now_s
            loop.call_soon_threadsafe(self._answer, loop)
        return 0.0 if self._asked_s is None else now_s - self._asked_s

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            self._asked_s = None


def liveness(silences: Sequence[tuple[str, float]], *, idle_s: float, idle_max_s: float) -> Health:
    """Tell whether the process works at all.

    Args:
        silences: Each event loop, and for how long it has not answered.
        idle_s: How long ago the consumer last polled; polls of paused partitions count.
        idle_max_s: Longest such pause.
    """
    for name, silence_s in silences:
        if silence_s > SILENCE_MAX_S:
            return Health(False, f"{name} has not answered for {silence_s:.0f} s")
    if idle_s > idle_max_s:
        return Health(False, f"the consumer has not polled for {idle_s:.0f} s")
    return Health(True)


def readiness(*, joined: bool, stopping: bool) -> Health:
    """Tell whether the worker does its share of the group's work.

    Args:
        joined: The group has told it once which partitions it has, none included.
        stopping: It finishes what is in flight and starts nothing more.
    """
    if stopping:
        return Health(False, "the worker is stopping")
    if not joined:
        return Health(False, "the worker has not joined its group yet")
    return Health(True)
