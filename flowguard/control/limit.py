"""How many batches of one agent may be under way: windows of what finished, and their lesson.

    sample ─▶ ▓▓▓▓▓▓▓▓▓▓ window ─▶ algorithm ─▶ limit
               invalidate ─▶ thrown away: another loop moved something, so it teaches nothing

A window (`flowguard.control.window`) lasts for about two batches, and has enough of them.

Algorithms are in `flowguard.control.limits`; any object with `update(window) -> Step` is one.
"""

from __future__ import annotations

from collections import deque
from math import isfinite
from statistics import median
from typing import Final, NamedTuple, Protocol

from flowguard.control.cost import CostFit
from flowguard.control.window import Batches, Outcome, Sample, Window, WindowRule, window_of
from flowguard.units import SECOND

__all__ = ["Algorithm", "Change", "Limiter", "Outcome", "Step", "Window", "WindowRule"]

#: Where a limit starts unless the algorithm says otherwise: low, since slow start is quick.
LIMIT_FIRST: Final = 4.0

#: A change of the limit by more than this share is given one service time to take effect.
SETTLE_RATIO: Final = 0.1

#: Nothing was learnt for so long, though there was work: the limit is halved.
BLIND_NS: Final = 30 * SECOND

#: Batches take turns with windows: nothing is blind before so many batches had their time.
BLIND_SERVICES: Final = 10

#: A window teaches what batches cost unless its service time is this much above the first
#: quarter of the last ones: then batches wait for one another, whatever their size.
QUIET_RATIO: Final = 1.25
LATE_WINDOWS: Final = 32
RECENT_WINDOWS: Final = 5

#: A window is no longer than if batches took this many times as long as they did lately.
LONGER_MAX: Final = 2.0

#: So many windows of batches of a new size teach what they cost, and nothing else.
NEW_SIZE_WINDOWS: Final = 3


class Step(NamedTuple):
    """What an algorithm makes of a window.

    Args:
        limit: The new limit, a fraction; it is kept within bounds by whoever asks.
        action: `up`, `down`, `hold`, `probe`, `restore` and the like.
        why: The reason, for people, with figures.
    """

    limit: float
    action: str
    why: str


class Algorithm(Protocol):
    """What moves a limit. It may also have `first: float` and `windows: WindowRule`."""

    def update(self, window: Window) -> Step:
        """Return the limit after a window. Called once a window, in order."""
        ...


class Change(NamedTuple):
    """A step with the limit before and after it, within bounds."""

    action: str
    before: float
    after: float
    why: str


class Limiter:
    """Keep the limit of one agent.

    Args:
        algorithm: What moves it.
        limit_min: Least limit, >= 1.
        limit_max: Most, >= `limit_min`.
        enforced: Whether the limit is followed; if not, it stays at `limit_max`, and what is
            decided is only what would be done from there.
        cost: What batches cost; shared with whoever else wants to know.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        limit_min: int,
        limit_max: int,
        enforced: bool = True,
        cost: CostFit | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.limit_min = limit_min
        self.limit_max = limit_max
        self.cost = cost or CostFit()
        self.rule: WindowRule = getattr(algorithm, "windows", None) or WindowRule()
        self.enforced = enforced
        first = getattr(algorithm, "first", LIMIT_FIRST) if enforced else limit_max
        self.limit = self._bounded(float(first))
        self.window_ns = self.rule.min_ns
        self._samples: list[Sample] = []
        self._busy = False  # a batch has ended since the last tick
        self._opened_ns: int | None = None
        self._changed_ns = 0  # what began before is not compared with what came after
        self._taught_ns: int | None = None
        self._service_ns = 0.0  # median of the last window
        self._invalid = ""
        self._restarted = True
        self._late: deque[float] = deque(maxlen=LATE_WINDOWS)  # service times of windows
        self._medians: deque[float] = deque(maxlen=RECENT_WINDOWS)
        self._new_size = 0

    @property
    def seats(self) -> int:
        """Return how many batches may be under way now."""
        return int(self.limit)

    def sample(
        self, *, records: int, service_ns: int, outcome: Outcome, in_flight: int, at_ns: int
    ) -> None:
        """Note that a batch ended.

        Args:
            records: How many it had.
            service_ns: How long it had its seat.
            in_flight: Batches that were under way, itself among them.
        """
        if self._opened_ns is None:
            self._opened_ns = self._taught_ns = at_ns - service_ns
        if at_ns >= self._opened_ns:
            self._busy = True
            late = at_ns - service_ns < self._changed_ns
            self._samples.append(Sample(records, service_ns, outcome, in_flight, late))

    def invalidate(self, why: str) -> None:
        """Throw the current window away: something else moved, so it teaches nothing."""
        self._invalid = self._invalid or why

    def tick(self, now_ns: int, *, in_flight: int) -> Change | None:
        """Close the window if it is time, and move the limit.

        Returns:
            What was decided, None if nothing was.
        """
        if self._opened_ns is None:
            if in_flight:
                self._opened_ns = self._taught_ns = now_ns
            return None
        busy, self._busy = in_flight > 0 or self._busy, False
        if not busy:  # what is measured from here on has nothing to do with what was before
            self._samples.clear()
            self._opened_ns = self._taught_ns = now_ns
            self._invalid = ""
            return None
        change = self._change(now_ns)
        if not self.enforced and change is not None:
            self.limit = change.before
        return change

    def _change(self, now_ns: int) -> Change | None:
        if self._invalid:
            return self._throw_away(now_ns)
        if self._is_full(now_ns):
            return self._learn(now_ns)
        return self._when_blind(now_ns)

    def _is_full(self, now_ns: int) -> bool:
        assert self._opened_ns is not None
        samples, rule = self._samples, self.rule
        length_ns = now_ns - self._opened_ns
        if not samples or length_ns < rule.min_ns:
            return False
        good_ns = [each.service_ns for each in samples if each.outcome == "ok"]
        middle_ns = median(good_ns or [each.service_ns for each in samples])
        if self._medians:  # while batches take much longer than before, there is no time to lose
            middle_ns = min(middle_ns, LONGER_MAX * median(self._medians))
        self.window_ns = round(max(rule.min_ns, min(rule.services * middle_ns, rule.max_ns)))
        enough = rule.completions_slow if middle_ns > SECOND else rule.completions
        if length_ns < self.window_ns or len(samples) < enough:
            return False
        self._service_ns = middle_ns
        self._medians.append(middle_ns)
        return True

    def _throw_away(self, now_ns: int) -> Change | None:
        why, self._invalid = self._invalid, ""
        self._reopen(now_ns, settle=True)
        return self._when_blind(now_ns) or Change(
            "invalid", self.limit, self.limit, f"the window teaches nothing: {why}"
        )

    def _when_blind(self, now_ns: int) -> Change | None:
        """Halve the limit if nothing could be learnt for long, though there was work."""
        assert self._taught_ns is not None
        blind_ns = now_ns - self._taught_ns
        if blind_ns < max(BLIND_NS, BLIND_SERVICES * self._service_ns):
            return None
        before = self.limit
        self.limit = self._bounded(before / 2)
        self._restarted = True
        self._taught_ns = now_ns
        self._reopen(now_ns, settle=False)
        return Change("restart", before, self.limit, f"nothing learnt in {blind_ns / SECOND:.0f} s")

    def _learn(self, now_ns: int) -> Change | None:
        """Let the algorithm see the window, unless its batches are of a size never seen."""
        assert self._opened_ns is not None
        good, before = Batches.of(self._samples), self.limit
        if len(good) and (why := self._why_incomparable(good)):
            self._reopen(now_ns, settle=False)
            return Change("invalid", before, before, why)
        window = window_of(
            self._samples,
            self.cost,
            at_ns=now_ns,
            length_ns=now_ns - self._opened_ns,
            limit=self.limit,
            limit_min=self.limit_min,
            limit_max=self.limit_max,
            restarted=self._restarted,
        )
        if len(good):
            self._learn_cost(good, window.service_ns)
        try:
            step = self.algorithm.update(window)
            self.limit = self._bounded(step.limit)
        except Exception as error:  # an algorithm of the user's may raise anything
            self._reopen(now_ns, settle=False)
            return Change("invalid", before, before, f"the algorithm failed: {error!r}")
        self._taught_ns = now_ns
        self._restarted = False
        moved = abs(self.limit - before) > SETTLE_RATIO * before
        self._reopen(now_ns, settle=moved and self.rule.settle)
        return Change(step.action, before, self.limit, step.why)

    def _why_incomparable(self, good: Batches) -> str:
        """Tell why batches cannot be compared with those before; what they cost is learnt."""
        if not self._late:
            return ""
        if not self.cost.covers(good.mean_size):
            self._new_size = NEW_SIZE_WINDOWS
        if not self._new_size:
            return ""
        self._new_size -= 1
        late = list(self._late)
        usual_ns = median(late)  # 0 if the clock did not see any of them take time
        slowed = max(1.0, median(late[-RECENT_WINDOWS:]) / usual_ns) if usual_ns else 1.0
        self.cost.learn(good.sizes, good.times_ns, slowed=slowed)
        return f"what batches of {good.mean_size:.0f} records cost must be learnt first"

    def _learn_cost(self, good: Batches, service_ns: float) -> None:
        """Learn what batches cost while they do not wait for one another."""
        self._late.append(service_ns)
        if service_ns <= QUIET_RATIO * sorted(self._late)[len(self._late) // 4]:
            self.cost.learn(good.sizes, good.times_ns)

    def _reopen(self, now_ns: int, *, settle: bool) -> None:
        self._samples.clear()
        if settle:
            self._changed_ns = now_ns
        self._opened_ns = now_ns + (round(self._service_ns) if settle else 0)

    def _bounded(self, limit: float) -> float:
        if not isfinite(limit):
            raise ValueError(f"{limit!r} is no limit")
        return min(float(self.limit_max), max(float(self.limit_min), limit))
