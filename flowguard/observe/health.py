"""Health for an orchestrator: restart this process? Send work to it?

The first never depends on a broker: restarting a healthy worker because Kafka is away makes an
outage longer. The second does, as without one no work is done. A rebalance is no trouble for
either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["AWAY_MAX_S", "SILENCE_MAX_S", "Absence", "Health", "Pulse", "liveness", "readiness"]

#: A loop that has not run a callback for this long hangs.
SILENCE_MAX_S: Final = 10.0

#: A group finds its coordinator again within seconds when brokers change roles or restart.
AWAY_MAX_S: Final = 10.0


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


class Absence:
    """For how long something has been away, as far as anybody asked."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def away_s(self, away: bool, now_s: float | None = None) -> float:
        """Note whether it is away now, and return for how long it has been, in seconds."""
        now_s = time.monotonic() if now_s is None else now_s
        if not away:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return 0.0 if self._since_s is None else now_s - self._since_s


def liveness(
    silences: Sequence[tuple[str, float]],
    *,
    idle_s: float,
    idle_max_s: float,
    place: str | None = None,
) -> Health:
    """Tell whether the process works at all.

    Args:
        silences: Each event loop, and for how long it has not answered; the first is the one
            on which agents run.
        idle_s: How long ago the consumer last polled; polls of paused partitions count.
        idle_max_s: Longest such pause.
        place: Where the first of the loops is blocked, if that is known.
    """
    for number, (name, silence_s) in enumerate(silences):
        if silence_s > SILENCE_MAX_S:
            where = f"; it is in {place}" if place is not None and number == 0 else ""
            return Health(False, f"{name} has not answered for {silence_s:.0f} s{where}")
    if idle_s > idle_max_s:
        return Health(False, f"the consumer has not polled for {idle_s:.0f} s")
    return Health(True)


def readiness(*, joined: bool, stopping: bool, away_s: float = 0.0) -> Health:
    """Tell whether the worker does its share of the group's work.

    Args:
        joined: The group has told it once which partitions it has, none included.
        stopping: It finishes what is in flight and starts nothing more.
        away_s: For how long no broker has spoken for the group, in seconds.
    """
    if stopping:
        return Health(False, "the worker is stopping")
    if not joined:
        return Health(False, "the worker has not joined its group yet")
    if away_s > AWAY_MAX_S:
        return Health(False, f"no broker has spoken for the group for {away_s:.0f} s")
    return Health(True)
