"""More batches at once while that gets more done, and no more than that.

Every change of the limit is a trial. What is measured at the new limit is compared with what
was measured at the old one, and decides whether the change stays:

    payoff = growth of goodput / growth of the limit        1 below the knee, 0 or less above

There is no normal service time that a lucky sample could poison, that drifts up under lasting
load, or that is wrong once batches are larger: only the recent past is compared, on both
sides of the present limit. How far a trial goes, and how long it takes, follows from the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, hypot, log
from typing import Final, NamedTuple

from flowguard.control.limit import Step, Window

__all__ = ["Goodput"]

#: The first trials double the limit; no trial does more.
STEP_MAX: Final = log(2.0)

#: The least a trial does, beside what noise asks for.
STEP_MIN: Final = 0.06

#: A trial goes so far that its payoff is known to this deviation after two windows or, once
#: trials of that size have changed nothing, after eight.
ERROR_WANTED: Final = 0.25
WINDOWS_QUICK: Final = 2
WINDOWS_FINE: Final = 8

#: It ends when the payoff is so many deviations away from a half, more for a change than
#: against it, or well enough known.
SURE_OF_CHANGE: Final = 2.0
SURE_OF_NONE: Final = 1.0
ERROR_SMALL: Final = 0.15
WINDOWS_MAX: Final = 10

#: A payoff outside of this is taken for all or nothing; within, the knee lies between.
NOTHING: Final = 0.3
ALL: Final = 0.7

#: What was known of the limit that a trial goes to counts as so many windows.
STALE_WEIGHT: Final = 1.0

#: Windows from a trial to the next one of its direction. One in vain halves the next; once
#: noise allows no smaller ones, each in vain doubles the wait.
WAIT_SOON: Final = 1
WAIT_FIRST: Final = 4
WAIT_UP_MAX: Final = 24
WAIT_DOWN_MAX: Final = 96

#: What was measured counts this much less with each window, and for so many at most.
KEEP: Final = 0.985
WEIGHT_MAX: Final = 20.0

#: Noise of a window: what is assumed at first, the least, and the weight of one window in it.
NOISE_FIRST: Final = 0.1
NOISE_MIN: Final = 0.02
NOISE_SHARE: Final = 0.05

#: A window so many deviations off is a surprise; two in a row are a change.
SURPRISE: Final = 3.0
SURPRISE_MIN: Final = 0.15

#: So is a drift of the mean of some windows since the last decision.
DRIFT: Final = 1.5
DRIFT_MIN: Final = 0.08
RECENT_SHARE: Final = 0.25

#: Refusals that take less of the time than this say nothing; beyond a half it is an outage.
REFUSED_MIN: Final = 0.02
REFUSED_MORE: Final = 1.5
OUTAGE: Final = 0.5
OUTAGE_CUT: Final = 0.25


class Reading(NamedTuple):
    """The time of a seat that a batch takes, as logarithms, by two witnesses.

    Goodput has the last word; service time is less noisy where batches are few or unequal.
    """

    by_goodput: float
    by_service: float

    @classmethod
    def of(cls, window: Window) -> Reading:
        busy = window.in_flight_mean * (1.0 - window.dropped_share)
        return cls(
            log(window.in_flight_mean / window.goodput_per_s),
            log(window.service_ns * window.in_flight_mean / max(busy, 1e-9) / 1e9),
        )

    def minus(self, other: Reading) -> Reading:
        return Reading(self.by_goodput - other.by_goodput, self.by_service - other.by_service)

    def towards(self, other: Reading, share: float) -> Reading:
        off = other.minus(self)
        return Reading(
            self.by_goodput + share * off.by_goodput, self.by_service + share * off.by_service
        )


@dataclass(slots=True)
class Level:
    """What was measured with so many seats."""

    mean: Reading = Reading(0.0, 0.0)
    weight: float = 0.0

    def add(self, reading: Reading) -> None:
        self.weight = min(self.weight + 1.0, WEIGHT_MAX)
        self.mean = self.mean.towards(reading, 1.0 / self.weight)


@dataclass(slots=True)
class Noise:
    """How much windows differ by chance, for each witness."""

    by_goodput: float = NOISE_FIRST
    by_service: float = NOISE_FIRST

    def add(self, off: Reading) -> None:
        for name, each in zip(Reading._fields, off, strict=True):
            known = getattr(self, name)
            # The mean deviation of chance is four fifths of its standard deviation.
            known += NOISE_SHARE * (1.25 * min(abs(each), 3 * known) - known)
            setattr(self, name, max(NOISE_MIN, known))

    def weigh(self, off: Reading) -> float:
        """Return what both say together, the quieter one more."""
        loud, quiet = self.by_goodput**2, self.by_service**2
        return (off.by_goodput * quiet + off.by_service * loud) / (loud + quiet)

    @property
    def together(self) -> float:
        loud, quiet = self.by_goodput**2, self.by_service**2
        return (self.by_goodput * quiet + self.by_service * loud) / (loud + quiet)


@dataclass(slots=True)
class Direction:
    """When the next trial of a direction is due, and how far it goes."""

    wait_max: int
    wait: int
    size: float
    since: int = 0

    @property
    def due(self) -> bool:
        return self.since >= self.wait

    def pays(self, size: float) -> None:
        self.wait, self.since, self.size = WAIT_FIRST, 0, min(2 * size, STEP_MAX)

    def in_vain(self, size: float, least: float) -> None:
        self.since, self.size = 0, size / 2
        self.wait = WAIT_SOON if size > 1.5 * least else max(WAIT_FIRST, self.wait)
        if size <= 1.5 * least:
            self.wait = min(2 * self.wait, self.wait_max)

    def anew(self, size: float) -> None:
        self.wait, self.since, self.size = WAIT_FIRST, 0, size


class Trial(NamedTuple):
    """A change of the limit that is looked at."""

    before: int
    after: int
    refused: float = 0.0  # the share of refusals that it is about

    @property
    def size(self) -> float:
        return log(self.after / self.before)


class Goodput:
    """Find the knee: the least limit at which a larger one gets no more done."""

    first: float = 4.0

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._levels: dict[int, Level] = {}
        self._noise = Noise()
        self._trial: Trial | None = None
        self._windows = 0  # of the trial
        self._up = Direction(WAIT_UP_MAX, 0, STEP_MAX)
        self._down = Direction(WAIT_DOWN_MAX, WAIT_FIRST, 0.0)
        self._surprised = 0
        self._anchor: Reading | None = None
        self._recent: Reading | None = None
        self._refused_floor = 0.0

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        if window.restarted:
            self._forget()
        for level in self._levels.values():
            level.weight *= KEEP
        self._refused_floor *= KEEP
        if window.dropped_share > OUTAGE:
            return self._outage(window)
        if not window.successes:
            return Step(window.limit, "hold", "no batch ended well")
        if not window.saturated:
            return self._unsaturated(window)
        reading = Reading.of(window)
        if self._trial is not None:
            self._level(self._trial.after).add(reading)
            return self._judge(window, self._trial)
        return self._look(window, reading)

    def _level(self, seats: int) -> Level:
        return self._levels.setdefault(seats, Level())

    def _outage(self, window: Window) -> Step:
        self._trial = None
        self._levels.clear()
        self._up = Direction(WAIT_UP_MAX, 0, STEP_MAX)
        share = window.dropped_share
        why = f"{share:.0%} of the time went to batches that were refused"
        return Step(window.limit * max(OUTAGE_CUT, 1.0 - share), "down", why)

    def _unsaturated(self, window: Window) -> Step:
        if self._trial is not None:
            before, self._trial = self._trial.before, None
            return Step(before, "restore", "there is too little to do for a trial")
        most = max(2.0 * window.in_flight_max, self.first)
        if window.limit > most:
            return Step(most, "down", f"{window.in_flight_max} batches at once are all there are")
        return Step(window.limit, "hold", f"only {window.in_flight_mean:.1f} at once are needed")

    # Between trials.

    def _look(self, window: Window, reading: Reading) -> Step:
        level = self._level(window.seats)
        if level.weight < 0.5 or self._anchor is None or self._recent is None:
            level.add(reading)
            self._anchor = self._recent = level.mean
            return self._next(window)
        off = reading.minus(level.mean)
        late, noise = self._noise.weigh(off), self._noise.together
        self._noise.add(off)
        if abs(late) > max(SURPRISE_MIN, SURPRISE * noise):
            sign = 1 if late > 0 else -1
            if self._surprised == sign:
                self._levels.clear()
                self._level(window.seats).add(reading)
                return self._shift(window, reading, late)
            self._surprised = sign
            return Step(window.limit, "hold", f"batches took {exp(late):.2f} times as long once")
        self._surprised = 0
        level.add(reading)
        self._recent = self._recent.towards(reading, RECENT_SHARE)
        drift = self._noise.weigh(self._recent.minus(self._anchor))
        if abs(drift) > max(DRIFT_MIN, DRIFT * noise):
            self._levels = {window.seats: Level(self._recent, 1 / RECENT_SHARE)}
            return self._shift(window, self._recent, drift)
        return self._next(window)

    def _shift(self, window: Window, reading: Reading, late: float) -> Step:
        """Begin anew where things have changed, with a trial that would undo the change."""
        self._surprised = 0
        self._anchor = self._recent = reading
        self._up.anew(0.0)
        self._down.anew(0.0)
        why = f"batches take {exp(late):.2f} times as long"
        return self._try(window, -1 if late > 0 else 1, abs(late), why)

    def _next(self, window: Window) -> Step:
        self._up.since += 1
        self._down.since += 1
        share = window.dropped_share
        if window.drops >= 2 and share > max(REFUSED_MIN, REFUSED_MORE * self._refused_floor):
            why = f"{share:.1%} of the time went to refused batches"
            return self._try(window, -1, -log(1.0 - share), why, refused=share)
        if self._up.due and window.seats < window.limit_max:
            return self._try(window, 1, self._up.size, "would more pay?")
        if self._down.due and window.seats > window.limit_min:
            return self._try(window, -1, self._down.size, "would less do?")
        return Step(window.limit, "hold", "between trials")

    # Trials.

    def _least(self, seats: int) -> float:
        """Return how far a trial must go to tell anything, if it takes its time."""
        weight = max(1.0, self._level(seats).weight)
        wanted = self._noise.together * hypot(weight**-0.5, WINDOWS_FINE**-0.5) / ERROR_WANTED
        return max(STEP_MIN, min(wanted, STEP_MAX))

    def _try(
        self, window: Window, sign: int, size: float, why: str, *, refused: float = 0.0
    ) -> Step:
        seats = window.seats
        size = max(self._least(seats), min(size, STEP_MAX))
        after = round(seats * exp(sign * size))
        after = max(after, seats + 1) if sign > 0 else min(after, seats - 1)
        after = max(window.limit_min, min(window.limit_max, after))
        if after == seats:
            return Step(window.limit, "hold", "the limit is at its bound")
        level = self._level(after)
        level.weight = min(level.weight, STALE_WEIGHT)
        self._trial, self._windows = Trial(seats, after, refused), 0
        return Step(after, "probe", why)

    def _judge(self, window: Window, trial: Trial) -> Step:
        self._windows += 1
        before, after = self._level(trial.before), self._level(trial.after)
        slower = self._noise.weigh(after.mean.minus(before.mean))
        payoff = 1.0 - slower / trial.size
        error = self._noise.together * hypot(before.weight**-0.5, after.weight**-0.5)
        error /= abs(trial.size)
        change = payoff - 0.5 if trial.size > 0 else 0.5 - payoff
        sure = change > SURE_OF_CHANGE * error or change < -SURE_OF_NONE * error
        why = f"from {trial.before} to {trial.after} pays {payoff:.2f} ± {error:.2f}"
        if not sure and error > ERROR_SMALL and self._windows < WINDOWS_MAX:
            return Step(window.limit, "probe", why)
        self._trial = None
        share = 0.0 if payoff < NOTHING else 1.0 if payoff > ALL else payoff
        if error > ERROR_WANTED:
            share = float(payoff > 0.5)
        return self._decide(window, trial, share, why)

    def _decide(self, window: Window, trial: Trial, share: float, why: str) -> Step:
        low, high = sorted((trial.before, trial.after))
        limit = round(low * (high / low) ** share)
        level = self._level(limit)
        self._anchor = self._recent = level.mean if level.weight else None
        sign = 1 if trial.size > 0 else -1
        direction = self._up if sign > 0 else self._down
        size = abs(trial.size)
        if limit == trial.after:
            direction.pays(size)
            return self._try(window, sign, direction.size, why)
        self._refused_floor = max(self._refused_floor, trial.refused)
        direction.in_vain(size, self._least(trial.before))
        return Step(limit, "restore" if limit == trial.before else "hold", why)
