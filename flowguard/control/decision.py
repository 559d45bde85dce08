"""Decisions of control loops, kept with their reason.

Every loop says what it changed and why, or, in shadow mode, what it would have changed. The
latest are shown in `/api/state`, so that nobody has to guess why a lane waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["KEPT_MAX", "Decision", "DecisionLog"]

#: So many decisions are kept; the oldest goes first.
KEPT_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One step of one loop.

    Args:
        at_ns: When, on the monotonic clock.
        loop: `concurrency`, `batch-size`, `queue-delay`, `memory`, `ladder`, `brownout`, `shed`.
        subject: The agent or lane it is about, "" for the worker as a whole.
        action: What it did: `up`, `down`, `hold`, `probe`, `restore`, `invalid` and the like.
        before: The actuator before, in its own unit.
        after: The actuator after.
        why: The reason, for people, with the figures that led to it.
        shadow: It was not carried out.
    """

    at_ns: int
    loop: str
    subject: str
    action: str
    before: float
    after: float
    why: str
    shadow: bool = False

    def as_dict(self, *, now_ns: int) -> dict[str, Any]:
        """Return it as in the JSON, with its age in seconds."""
        return {
            "age": max(0, now_ns - self.at_ns) / 1e9,
            "loop": self.loop,
            "subject": self.subject,
            "action": self.action,
            "before": self.before,
            "after": self.after,
            "why": self.why,
            "shadow": self.shadow,
        }


class DecisionLog:
    """The latest decisions, oldest first."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept: deque[Decision] = deque(maxlen=kept_max)
        self.total = 0

    def add(self, decision: Decision) -> None:
        """Keep a decision; the oldest one goes if there are too many."""
        self._kept.append(decision)
        self.total += 1

    def __iter__(self) -> Iterator[Decision]:
        return iter(tuple(self._kept))

    def __len__(self) -> int:
        return len(self._kept)
