"""How much of a lane is degraded or left out: as little as keeps the queue short.

    error = delay / its set point - 1, within [-1, 2]

     > .25   raise by .10 error + .02 sum(error) a second, unless it falls fast enough already
     < -.25  lower by .02 a second, faster the longer it goes well
     between: hold

Lowering is a trial. If the delay comes back, the ratio goes to where it was sufficient and is
not lowered below that for a minute, unless there is less to do by then: so it turns twice a
minute at most while the load is constant, and clears at once when the load is gone.

Source: semian's adaptive breaker and Cinnamon (proportional-integral, dead zone, bounded
sum), DAGOR (five times faster to act than to recover).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from flowguard.units import SECOND

__all__ = ["DEAD_ZONE", "Diffusion", "Dimmer", "Pace"]

DEAD_ZONE: Final = 0.25
ERROR_MIN: Final = -1.0
ERROR_MAX: Final = 2.0

GAIN: Final = 0.10
SUM_GAIN: Final = 0.02
SUM_MAX: Final = 10.0

#: A delay that will be back at its set point within so many seconds needs nothing more.
SOON_S: Final = 5.0

#: How fast a ratio is lowered: this a second, twice as much after each such while.
LOWER_PER_S: Final = 0.02
LOWER_FASTER_S: Final = 8
LOWER_PER_S_MAX: Final = 0.16
#: Where nothing waits at all there is room to spare.
LOWER_IDLE_PER_S: Final = 0.04

#: A delay is seen so many steps after what caused it: what was enough is the ratio of then.
#: A trial has succeeded when the delay did not come back by then.
LATE_STEPS: Final = 4
TRIAL_NS: Final = 30 * SECOND

#: After a trial that failed: how much it is raised at once, how long the failure is believed,
#: and below which share of the load of then it is forgotten.
STEP_MAX: Final = 0.05
BELIEVED_NS: Final = 60 * SECOND
LESS_LOAD: Final = 0.8


class Diffusion:
    """Choose this share of what comes, evenly and without chance."""

    def __init__(self) -> None:
        self._owed = 0.0

    def take(self, share: float) -> bool:
        """Tell whether the next one is among the chosen."""
        if share <= 0.0:
            self._owed = 0.0
            return False
        self._owed += share
        if self._owed < 1.0 - 1e-9:
            return False
        self._owed -= 1.0
        return True


class Pace:
    """How much to raise or lower in this second."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._before: float | None = None
        self._easy_s = 0

    def step(self, error: float, *, idle: bool) -> float:
        """Return what to add to the ratios now; call it once a second.

        Args:
            error: Delay over its set point, less 1; anything from -1 on.
            idle: Nothing has waited in this second.
        """
        falls = self._falls(error)
        self._before = error
        error = max(ERROR_MIN, min(ERROR_MAX, error))
        if error > DEAD_ZONE:
            self._easy_s = 0
            if falls:
                return 0.0
            self._sum = min(SUM_MAX, self._sum + error)
            return GAIN * error + SUM_GAIN * self._sum
        self._sum = 0.0
        if error >= -DEAD_ZONE:
            self._easy_s = 0
            return 0.0
        slowest = LOWER_IDLE_PER_S if idle else LOWER_PER_S
        faster = 2.0 ** (self._easy_s // LOWER_FASTER_S)
        self._easy_s += 1
        return -min(LOWER_PER_S_MAX, slowest * faster)

    def rest(self) -> None:
        """Begin slowly again: nothing could be lowered in this second."""
        self._easy_s = 0

    def _falls(self, error: float) -> bool:
        """Tell whether the delay is on its way to the set point, fast enough."""
        if self._before is None:
            return False
        fallen = self._before - error
        return fallen > 0 and error <= fallen * SOON_S


@dataclass(slots=True)
class Dimmer:
    """One ratio, with the memory of what was not enough.

    Args:
        most: What it never exceeds.
    """

    most: float = 1.0
    ratio: float = 0.0
    _floor: float = 0.0
    _failed_ns: int | None = None
    _failed_load: float = 0.0
    _trial: deque[float] = field(default_factory=lambda: deque(maxlen=LATE_STEPS))
    _trial_ns: int = 0

    def raise_by(self, step: float, now_ns: int, *, load: float) -> float:
        """Raise it, and return what is left of the step.

        Args:
            load: What there is to do, in any unit; only compared with itself.
        """
        if self._trial and now_ns - self._trial_ns < TRIAL_NS:
            self._fail(self._trial[0], now_ns, load)
            return 0.0
        self._trial.clear()
        if self._believes(now_ns, load):
            step = min(step, STEP_MAX)
        before = self.ratio
        self.ratio = min(self.most, before + step)
        if self._failed_ns is not None:
            self._floor = max(self._floor, self.ratio)
        return max(0.0, before + step - self.most)

    def lower_by(self, step: float, now_ns: int, *, load: float) -> bool:
        """Lower it as far as it may be; True if it is at nothing."""
        floor = self._floor if self._believes(now_ns, load) else 0.0
        after = max(floor, self.ratio - step, 0.0)
        if after < self.ratio:
            self._trial.append(self.ratio)
            self._trial_ns = now_ns
            self.ratio = after
        return self.ratio <= 0.0

    def _fail(self, enough: float, now_ns: int, load: float) -> None:
        """Go back to what was enough, and believe for a while that it is needed."""
        self.ratio = self._floor = min(self.most, enough)
        self._failed_ns, self._failed_load = now_ns, load
        self._trial.clear()

    def _believes(self, now_ns: int, load: float) -> bool:
        if self._failed_ns is not None and (
            now_ns - self._failed_ns >= BELIEVED_NS or load < LESS_LOAD * self._failed_load
        ):
            self._failed_ns, self._floor = None, 0.0
        return self._failed_ns is not None
