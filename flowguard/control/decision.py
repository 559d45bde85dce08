"""Decisions of control loops, kept with their reason.

Every loop says what it changed and why, or, in shadow mode, what it would have changed. The
latest are shown in `/api/state`, so that nobody has to guess why a lane waits.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["KEPT_MAX", "LOOPS", "Decision", "DecisionLog"]

#: The control loops, as `App(shadow=…)` names them.
LOOPS: Final = (
    "concurrency", "batch-size", "queue-delay", "memory", "ladder", "brownout", "shed",
)  # fmt: skip

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
    """The latest decisions, oldest first; the first one ever made has number 1."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept: deque[Decision] = deque(maxlen=kept_max)
        self.total = 0
        self.counts: Counter[tuple[str, str, bool]] = Counter()  # loop, action, shadow

    def add(self, decision: Decision) -> None:
        """Keep a decision; the oldest one goes if there are too many."""
        self._kept.append(decision)
        self.total += 1
        self.counts[decision.loop, decision.action, decision.shadow] += 1

    def after(self, number: int) -> list[tuple[int, Decision]]:
        """Return the decisions after a number, each with its own, as far as they are kept.

        A number that was not reached yet is that of an earlier life of the worker: then all
        that are kept are returned.
        """
        first = self.total - len(self._kept) + 1
        number = 0 if number > self.total else number
        return [(n, each) for n, each in enumerate(self._kept, first) if n > number]

    def __iter__(self) -> Iterator[Decision]:
        return iter(tuple(self._kept))

    def __len__(self) -> int:
        return len(self._kept)
