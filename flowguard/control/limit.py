"""How many batches of one agent may be under way: windows of what finished, and their lesson.

    sample ─▶ ▓▓▓▓▓▓▓▓▓▓ window ─▶ algorithm ─▶ limit
               invalidate ─▶ thrown away: another loop moved something, so it teaches nothing

A window lasts for about two batches, and has enough of them. What it shows of service time is
normalised by what batches of their size cost, so that larger batches do not look like
congestion; what it shows of goodput is measured, not estimated from service time.

Algorithms are in `flowguard.control.limits`; any object with `update(window) -> Step` is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from operator import truediv
from statistics import median
from typing import Final, Literal, NamedTuple, Protocol

from flowguard.control.cost import CostFit
from flowguard.units import MILLISECOND, SECOND

__all__ = ["Algorithm", "Change", "Limiter", "Outcome", "Step", "Window", "WindowRule"]

Outcome = Literal["ok", "failed", "unavailable", "timeout", "throttled"]

#: Outcomes that say "less, please". A batch that failed for its own reasons says nothing.
DROPS: Final = frozenset({"unavailable", "timeout", "throttled"})

#: Where a limit starts unless the algorithm says otherwise: research/overload.md a.2.
LIMIT_FIRST: Final = 4.0

#: A change of the limit by more than this share is given one service time to take effect.
SETTLE_RATIO: Final = 0.1

#: A batch that took longer than this many medians counts as that long: a few stragglers say
#: little about congestion.
CLIPPED_AT: Final = 4.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRule:
    """How long windows are.

    Args:
        services: Length in median service times.
        min_ns: Shortest window.
        max_ns: Longest window, unless it takes longer to get enough batches.
        completions: Fewest batches of a window.
        completions_slow: The same where a batch takes more than a second.
        settle: Whether a large change of the limit is given time before the next window.
    """

    services: float = 2.0
    min_ns: int = 250 * MILLISECOND
    max_ns: int = 5 * SECOND
    completions: int = 10
    completions_slow: int = 3
    settle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one window has shown.

    Args:
        at_ns: Its end.
        length_ns: How long it was.
        limit: The limit it had, a fraction; `seats` is what it amounts to.
        limit_min: The least limit that may be asked for.
        limit_max: The most.
        seats: Batches that could be under way at once.
        in_flight_max: Most batches that were under way at once.
        in_flight_mean: Batches under way, on average over those that finished.
        completions: Batches that ended in any way.
        successes: Those of them that ended well.
        drops: Those that were refused: throttled, timed out, or something was unavailable.
        dropped_share: The share of all seats' time that went to them, 0..1.
        service_ns: Mean service time of the successes, in batches of normal cost; 0 without.
        goodput_per_s: Successes a second, in batches of normal cost.
        service_error: Standard error of `service_ns`, as a share of it, from how much batches
            differ; what all batches of the window have in common is not in it.
        goodput_error: The same for `goodput_per_s`, from batches half done at both ends.
        restarted: Nothing could be learnt for so long that the limit was halved, or this is
            the first window: what is known of normal service time is void.
    """

    at_ns: int
    length_ns: int
    limit: float
    limit_min: int
    limit_max: int
    seats: int
    in_flight_max: int
    in_flight_mean: float
    completions: int
    successes: int
    drops: int
    dropped_share: float
    service_ns: float
    goodput_per_s: float
    service_error: float = 0.0
    goodput_error: float = 0.0
    restarted: bool = False

    @property
    def drop_ratio(self) -> float:
        """Return the share of batches that were refused, 0..1."""
        return self.drops / self.completions if self.completions else 0.0

    @property
    def saturated(self) -> bool:
        """Tell whether the limit was what held work back; if not, it says nothing of more."""
        return self.in_flight_mean >= 0.9 * self.seats


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


class Sample(NamedTuple):
    """One finished batch."""

    records: int
    service_ns: int
    outcome: Outcome
    in_flight: int
    late: bool  # it began before the limit was changed


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
        good = [(each.records, each.service_ns) for each in self._samples if each.outcome == "ok"]
        timely = [
            (each.records, each.service_ns)
            for each in self._samples
            if each.outcome == "ok" and not each.late
        ]
        before = self.limit
        if good and (why := self._why_incomparable(good)):
            self._reopen(now_ns, settle=False)
            return Change("invalid", before, before, why)
        window = self._window(good, timely or good, now_ns)
        if good:
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

    def _why_incomparable(self, good: Sequence[tuple[int, int]]) -> str:
        """Tell why batches cannot be compared with those before; what they cost is learnt."""
        mean = sum(records for records, _ in good) / len(good)
        if not self._late:
            return ""
        if not self.cost.covers(mean):
            self._new_size = NEW_SIZE_WINDOWS
        if not self._new_size:
            return ""
        self._new_size -= 1
        late = list(self._late)
        self.cost.learn(good, slowed=max(1.0, median(late[-RECENT_WINDOWS:]) / median(late)))
        return f"what batches of {mean:.0f} records cost must be learnt first"

    def _window(
        self, good: Sequence[tuple[int, int]], timely: Sequence[tuple[int, int]], now_ns: int
    ) -> Window:
        assert self._opened_ns is not None
        samples = self._samples
        costs = [self.cost.cost(records) for records, _ in good]
        length_ns = now_ns - self._opened_ns
        dropped_ns = [each.service_ns for each in samples if each.outcome in DROPS]
        service_ns, service_error = self._normal_service(timely)
        return Window(
            at_ns=now_ns,
            length_ns=length_ns,
            limit=self.limit,
            limit_min=self.limit_min,
            limit_max=self.limit_max,
            seats=self.seats,
            in_flight_max=max(each.in_flight for each in samples),
            in_flight_mean=sum(each.in_flight for each in samples) / len(samples),
            completions=len(samples),
            successes=len(good),
            drops=len(dropped_ns),
            dropped_share=sum(dropped_ns) / max(1, sum(each.service_ns for each in samples)),
            service_ns=service_ns,
            goodput_per_s=sum(costs) * SECOND / length_ns,
            service_error=service_error,
            goodput_error=hypot(service_error, self._edge_error(costs)),
            restarted=self._restarted,
        )

    def _normal_service(self, good: Sequence[tuple[int, int]]) -> tuple[float, float]:
        """Return the mean service time by cost, stragglers clipped, and its relative error."""
        if not good:
            return 0.0, 0.0
        costs = [self.cost.cost(records) for records, _ in good]
        times = [service_ns for _, service_ns in good]
        most = CLIPPED_AT * float(median(map(truediv, times, costs)))
        clipped = [min(each, most * own) for each, own in zip(times, costs, strict=True)]
        mean = sum(clipped) / sum(costs)
        off = sum((each - mean * own) ** 2 for each, own in zip(clipped, costs, strict=True))
        return mean, (off**0.5 / sum(clipped) if mean else 0.0)

    def _edge_error(self, costs: Sequence[float]) -> float:
        """Return by how much goodput is off because of batches half done at both ends.

        At each end every seat has a batch of which any part may be done. A costly one is
        met there more often.
        """
        if not costs:
            return 0.0
        total = sum(costs)
        met = sum(cost**3 for cost in costs) / total
        return float((self.seats * met / 6) ** 0.5 / total)

    def _learn_cost(self, good: Sequence[tuple[int, int]], service_ns: float) -> None:
        """Learn what batches cost while they do not wait for one another."""
        self._late.append(service_ns)
        if service_ns <= QUIET_RATIO * sorted(self._late)[len(self._late) // 4]:
            self.cost.learn(good)

    def _reopen(self, now_ns: int, *, settle: bool) -> None:
        self._samples.clear()
        if settle:
            self._changed_ns = now_ns
        self._opened_ns = now_ns + (round(self._service_ns) if settle else 0)

    def _bounded(self, limit: float) -> float:
        if not isfinite(limit):
            raise ValueError(f"{limit!r} is no limit")
        return min(float(self.limit_max), max(float(self.limit_min), limit))
