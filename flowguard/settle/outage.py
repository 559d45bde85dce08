"""Something that an agent depends on is not there: hold, and look again now and then.

    refused ──▶ out ──(backoff)──▶ probe ──▶ answered: all goes on
       │         ▲                   │
       │         └──── refused ◀─────┘  the next backoff is twice as long
       └─ while others are answered: that batch alone waits

One batch at a time is the probe; whatever else failed meanwhile waits behind it. It is an
ordinary batch, so nothing is asked of a dependency that a user would not ask.

What refuses some and answers others is there. To hold everything for each refusal would cost
most of what it can do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flowguard.settle.retry import backoff_ns, jittered
from flowguard.units import SECOND

__all__ = ["Outage"]

#: It is there if it answered so lately, and has not refused so many in a row since. More in a
#: row happen by chance to one that refuses every fifth batch once in a thousand.
ANSWERED_NS: Final = SECOND
REFUSED_IN_ROW: Final = 5

#: What was asked for with `retry_after` is a minimum; up to this share is added.
RETRY_AFTER_JITTER: Final = 0.1


class Outage:
    """Whether what one function of an agent depends on is there.

    Args:
        chance: Returns a number, 0..1, for the jitter.

    Attributes:
        since_ns: When it began; None if nothing is missing.
        why: What is missing, "" if nothing is.
        probe: The batch that tries whether it is back, or None.
        total: How many outages there were; `last_why` says what was missing in the last.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self.since_ns: int | None = None
        self.why = ""
        self.total = 0
        self.last_why = ""
        self.probe: object | None = None
        self._due_ns = 0
        self._refusals = 0
        self._in_row = 0
        self._answered_ns: int | None = None
        self._chance = chance

    @property
    def over(self) -> bool:
        """Tell whether nothing is known to be missing."""
        return self.since_ns is None

    @property
    def gate_ns(self) -> int | None:
        """Return from when on something may be started; None if the probe must end first."""
        if self.over:
            return 0
        return self._due_ns if self.probe is None else None

    def is_open(self, now_ns: int) -> bool:
        """Tell whether something may be started now, be it as the probe."""
        gate_ns = self.gate_ns
        return gate_ns is not None and gate_ns <= now_ns

    def started(self, flight: object) -> None:
        """Note that a batch was started; while something is missing it is the probe."""
        if not self.over:
            self.probe = flight

    def refused(
        self, flight: object, now_ns: int, *, why: str, retry_after_ns: int | None = None
    ) -> None:
        """Note that a batch met nothing."""
        if self.over and retry_after_ns is None and self._is_there(now_ns):
            return
        self.why = self.last_why = why
        self.total += self.over
        if self.over or flight is self.probe:
            self._refusals = 0 if self.over else self._refusals + 1
            self.since_ns = now_ns if self.since_ns is None else self.since_ns
            self.probe = None
            self._due_ns = now_ns + self._backoff_ns()
        if retry_after_ns is not None:
            extra = 1.0 + RETRY_AFTER_JITTER * self._chance()
            self._due_ns = max(self._due_ns, now_ns + round(retry_after_ns * extra))

    def _is_there(self, now_ns: int) -> bool:
        """Tell whether it has only refused a few of many."""
        self._in_row += 1
        return (
            self._answered_ns is not None
            and now_ns - self._answered_ns <= ANSWERED_NS
            and self._in_row < REFUSED_IN_ROW
        )

    def answered(self, flight: object, now_ns: int) -> None:
        """Note that a batch met what it needs; the probe's word ends an outage."""
        if self.over or flight is self.probe:
            self._answered_ns, self._in_row = now_ns, 0
        if flight is self.probe:
            self.probe = self.since_ns = None
            self.why = ""

    def _backoff_ns(self) -> int:
        return jittered(backoff_ns(self._refusals + 1), self._chance())
