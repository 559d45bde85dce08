"""Pressure: how near a worker is to what it cannot do, 0..1, and of what.

    delay         queue delay that lasts, against half of the lane's target
    memory        the fullest partition that cannot be paused away, against what it may hold
    bulk_memory   the same of those that can, up to the first rung only
    loop_lag      how late the event loop mostly is, against 100 ms
    errors        share of the batches that met something unavailable
    spill         the fullest lane on disk, against its quota

Pressure is the largest of these parts. A backlog of bulk in Kafka is no emergency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flowguard.control.ladder import BULK, ENTER, PAUSE_BULK
from flowguard.units import MILLISECOND, SECOND

__all__ = ["COMPONENTS", "LagWindow", "LaneDelay", "Part", "highest"]

COMPONENTS: Final = ("delay", "memory", "bulk_memory", "loop_lag", "errors", "spill")

#: What bulk alone can make of the pressure: between the first rung and the second.
BULK_RATIO_MAX: Final = (ENTER[BULK] + ENTER[PAUSE_BULK]) / 2

#: A target is shared between the queue and the work; a quarter of it, which one batch of a
#: lower lane may take, is half of what the queue has.
QUEUE_PART: Final = 2

#: A delay lasts if nothing in this time was shorter: ten ticks of a target, in these bounds.
WINDOW_TARGETS: Final = 10
WINDOW_NS_MIN: Final = 100 * MILLISECOND
WINDOW_NS_MAX: Final = SECOND
TICK_NS: Final = 100 * MILLISECOND

#: A loop that has too much to do is late at most of its ticks; one that stood still for a
#: moment (a collection of garbage, a call that blocks) is late at one, and no rung helps it.
LAG_NS_MAX: Final = 100 * MILLISECOND
LAG_TICKS: Final = 20


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the pressure.

    Args:
        component: One of `COMPONENTS`.
        ratio: 0..1.
        why: What it comes from, with its figures.
    """

    component: str
    ratio: float
    why: str


def highest(parts: Sequence[Part]) -> Part:
    """Return the part that decides."""
    return max(parts, key=lambda part: part.ratio)


class LaneDelay:
    """The queue delay of one lane that does not go away: the least of a short while.

    A queue that empties now and then is doing its work; one that never does is too long.

    Args:
        target_ns: The lane's target, or None.
        max_age_ns: Its `max_age`, which counts where it has no target.
    """

    def __init__(self, *, target_ns: int | None, max_age_ns: int | None) -> None:
        limit_ns = max_age_ns if target_ns is None else target_ns // QUEUE_PART
        self.limit_ns = limit_ns
        span_ns = WINDOW_TARGETS * (target_ns or WINDOW_NS_MAX)
        span_ns = max(WINDOW_NS_MIN, min(WINDOW_NS_MAX, span_ns))
        self._samples: deque[int] = deque(maxlen=-(-span_ns // TICK_NS))

    def sample(self, wait_ns: int | None) -> None:
        """Take in how long the oldest record waits at this tick, None if none does."""
        self._samples.append(wait_ns or 0)

    @property
    def standing_ns(self) -> int:
        """Return the delay that lasts; 0 until a whole window was seen."""
        if len(self._samples) < (self._samples.maxlen or 0):
            return 0
        return min(self._samples)

    @property
    def ratio(self) -> float:
        """Return it against its limit; may exceed 1. 0 for a lane that has none."""
        return self.standing_ns / self.limit_ns if self.limit_ns else 0.0


class LagWindow:
    """How late the event loop mostly was in the last two seconds."""

    def __init__(self) -> None:
        self._lags_ns: deque[int] = deque(maxlen=LAG_TICKS)

    def sample(self, lag_ns: int) -> None:
        """Take in the lag of one tick."""
        self._lags_ns.append(lag_ns)

    @property
    def usual_ns(self) -> int:
        """Return the lag that half of the ticks exceed."""
        ordered = sorted(self._lags_ns)
        return ordered[len(ordered) // 2] if ordered else 0

    @property
    def ratio(self) -> float:
        """Return it as a part of the pressure."""
        return min(1.0, self.usual_ns / LAG_NS_MAX)
