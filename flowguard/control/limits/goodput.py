"""More batches at once while that gets more done, and no more than that.

Every change of the limit is a trial. What is measured at the new limit is compared with what
was measured at the old one, and decides whether the change stays:

    payoff = growth of goodput / growth of the limit        1 below the knee, 0 or less above

           ┌── trial up: in vain ──┐        ┌── trial down: would cost ──┐
    ───────┘                       └────────┘                            └──────── the knee

There is no normal service time that a lucky sample could poison, that drifts up under lasting
load, or that is wrong once batches are larger: only the recent past is compared, on both
sides of the present limit. How far a trial goes, and how long it takes, follows from how much
windows differ by chance. The first trials double the limit; a change of service time is
answered with a trial that would undo it.

Origin: the payoff test and the down-probe of the first design, made the whole
algorithm; its baseline, bands and cuts are gone. Constants without a reason of their own were
tuned on seeds 1 to 4 of the grid (`flowguard stress grid`), which says what all that is worth;
those of the start also on its noisy providers with 90 to 260 servers, with the same seeds.
That the start goes all or nothing was decided on seed 7 of `noisy-200`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Final, NamedTuple

from flowguard.control.limit import Step, Window
from flowguard.control.limits.evidence import Level, Noise, Reading, combine

__all__ = ["Goodput"]

#: The first trials double the limit; no trial does more, and none less than 6 %.
SIZE_MAX: Final = log(2.0)
SIZE_MIN: Final = 0.06

#: A trial goes so far that its payoff can be known to this deviation within eight windows. One
#: up to what lies before a limit that was in vain costs little, so it may tell less: half as far
#: finds the knee where windows differ much. After a longer wait things may have changed, and
#: then it goes as far as others.
ERROR_WANTED: Final = 0.25
ERROR_WANTED_BEFORE_WALL: Final = 0.5
WAIT_BEFORE_WALL: Final = 16
PER_WINDOW: Final = (1 / 8 + 1 / 10) ** 0.5  # beside ten at the limit itself

#: More has to pay so much to be worth it.
PAYS: Final = 0.55

#: A trial ends when the payoff is so many deviations away from that: on either side for a
#: change, or against it; when it is known to so little; or when more windows would not tell
#: more, and then less is enough for a change. To do less without any sign that it is time for
#: that costs more if it is wrong.
SURE: Final = 1.5
SURE_OF_LESS: Final = 2.0
SURE_OF_NONE: Final = 1.0
SURE_ENOUGH: Final = 0.75
SURE_ENOUGH_OF_LESS: Final = 1.25
ERROR_SMALL: Final = 0.15
WINDOWS_MIN: Final = 2
WINDOWS_MAX: Final = 10

#: While the limit is doubled there is more to win than to lose, so doubt is in its favour: one
#: window is enough to go on, and to stop it takes one that is this many deviations below
#: `NOTHING`, or so many windows. The last level had one window; a lucky one looks like a knee.
START_PAYS: Final = 0.35
START_SURE_OF_NONE: Final = 1.5
START_WINDOWS: Final = 3

#: A payoff outside of this is taken for all or nothing; within, the knee lies between, if it
#: is known as well as this (on the way up; `ERROR_SMALL` on the way down).
NOTHING: Final = 0.3
ALL: Final = 0.7
ERROR_BETWEEN: Final = 0.3

#: From here on a trial that pays is followed by one that goes further.
PAYS_FULLY: Final = 0.85

#: What was known before of the limit that a trial goes to counts for so much.
KEEP_STALE: Final = 0.4

#: Windows from a trial to the next one of its direction: soon while trials get narrower, then
#: each in vain doubles the wait.
WAIT_SOON: Final = 1
WAIT_FIRST: Final = 4
WAIT_UP_MAX: Final = 24  # twice that after one that did harm
WAIT_DOWN_MAX: Final = 96

#: A trial that was in vain is remembered for so many windows between trials.
WALL_AGE_MAX: Final = 30

#: A window so many deviations off is a surprise; two in a row are a change.
SURPRISE: Final = 3.0
SURPRISE_MIN: Final = 0.15

#: So is a drift of the last windows away from the last decision.
DRIFT: Final = 1.5
DRIFT_MIN: Final = 0.08
DRIFT_SHARE: Final = 0.25

#: Refusals that take less of the time than this say nothing; beyond a half it is an outage.
REFUSED_MIN: Final = 0.02
REFUSED_MORE: Final = 1.5
REFUSED_KEEP: Final = 0.985
OUTAGE: Final = 0.5
OUTAGE_CUT: Final = 0.25


@dataclass(slots=True)
class Direction:
    """When the next trial of a direction is due, and how far it goes."""

    sign: int
    wait_max: int
    wait: int = WAIT_FIRST
    size: float = 0.0
    since: int = 0
    rest: int = 0  # the wait after trials that have become as narrow as they can, 0 before
    wall: int = 0  # the limit that was tried in vain last, 0 when that is long ago
    wall_age: int = 0
    harmful: bool = False  # it did not only get no more done there, but less

    @property
    def due(self) -> bool:
        return self.since >= self.wait

    def pass_by(self) -> None:
        """Note that a window passed without a trial."""
        self.since += 1
        self.wall_age += 1
        if self.wall_age > WALL_AGE_MAX:
            self.wall = 0

    def reach(self, seats: int) -> float:
        """Return how far the next trial goes: half the way to what was in vain, at most."""
        return min(self.size, abs(log(self.wall / seats)) / 2) if self.wall else self.size

    def paid(self, size: float, limit: int) -> None:
        self.wait, self.since, self.size, self.rest = WAIT_FIRST, 0, size, 0
        if self.sign * (limit - self.wall) >= 0:
            self.wall = 0

    def in_vain(self, size: float, least: float, limit: int, *, harmful: bool) -> None:
        """Go half as far next; once that would tell nothing, wait longer each time."""
        self.wall, self.wall_age, self.harmful = limit, 0, harmful
        wait_max = self.wait_max * (2 if harmful else 1)
        if size <= 1.5 * least or self.rest:
            self.rest = min(max(WAIT_FIRST, 2 * self.rest), wait_max)
        self.wait = self.rest or WAIT_SOON
        self.size, self.since = size / 2, 0


class Trial(NamedTuple):
    """A change of the limit that is looked at."""

    before: int
    after: int
    refused: float = 0.0  # the share of refusals that it is about
    unasked: bool = False  # to do less, without any sign that it is time for that

    @property
    def sign(self) -> int:
        return 1 if self.after > self.before else -1

    @property
    def size(self) -> float:
        return abs(log(self.after / self.before))


class Goodput:
    """Find the knee: the least limit at which a larger one gets no more done."""

    first: float = 4.0

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._levels: dict[int, Level] = {}
        self._noise = Noise()
        self._deviation = 0.0  # of a window
        self._trial: Trial | None = None
        self._windows = 0  # of the trial
        self._anchor: Reading | None = None  # at the last decision
        self._drift = 0.0
        self._surprised = 0
        self._refused = 0.0  # what is refused anyway, however few batches there are
        self._start()

    def _start(self) -> None:
        """Double the limit as long as that pays."""
        self._up = Direction(1, WAIT_UP_MAX, wait=0, size=SIZE_MAX)
        self._down = Direction(-1, WAIT_DOWN_MAX)
        self._tried = False  # a trial was in vain, so the limit is not doubled any more
        self._queued = False  # one that went up has left batches that wait for one another

    def update(self, window: Window) -> Step:
        """Return the limit after a window."""
        if window.restarted:
            self._forget()
        for level in self._levels.values():
            level.forget()
        self._levels = {seats: each for seats, each in self._levels.items() if each.counts}
        self._refused *= REFUSED_KEEP
        if window.dropped_share > OUTAGE:
            return self._outage(window)
        if not window.successes:
            return Step(window.limit, "hold", "no batch ended well")
        if not window.saturated:
            return self._unsaturated(window)
        reading = self._noise.read(window)
        _, self._deviation = combine(reading)
        if self._trial is not None and self._trial.after != window.seats:
            self._trial = None  # somebody else has moved the limit, or nobody follows it
        if self._trial is not None:
            level = self._level(self._trial.after)
            if self._windows:
                self._noise.learn(reading.minus(level.reading))
            level.add(reading)
            return self._judge(window, self._trial)
        return self._look(window, reading)

    def _level(self, seats: int) -> Level:
        return self._levels.setdefault(seats, Level())

    def _outage(self, window: Window) -> Step:
        self._trial = None
        self._levels.clear()
        self._anchor = None
        self._start()
        share = window.dropped_share
        why = f"{share:.0%} of the time went to batches that were refused"
        return Step(window.limit * max(OUTAGE_CUT, 1.0 - share), "down", why)

    def _unsaturated(self, window: Window) -> Step:
        if self._trial is not None:
            before, self._trial = self._trial.before, None
            return Step(before, "restore", "there is too little to do for a trial")
        most = max(2.0 * window.in_flight_max, self.first)
        if window.limit > most:
            self._start()  # once there is more to do again
            return Step(most, "down", f"{window.in_flight_max} batches at once are all there are")
        return Step(window.limit, "hold", f"only {window.in_flight_mean:.1f} at once are needed")

    # Between trials.

    def _look(self, window: Window, reading: Reading) -> Step:
        """Compare a window with what is known of its limit."""
        if self._queued:
            self._queued = False
            return Step(window.limit, "hold", "what the trial left behind is worked off")
        level = self._level(window.seats)
        if not level.known or self._anchor is None:
            level.add(reading)
            self._settle(window.seats)
            return self._next(window)
        off = reading.minus(level.reading)
        late, deviation = combine(off)
        self._noise.learn(off)
        if abs(late) > max(SURPRISE_MIN, SURPRISE * deviation):
            return self._wonder(window, reading, late)
        self._surprised = 0
        level.add(reading)
        since, _ = combine(reading.minus(self._anchor))
        self._drift += DRIFT_SHARE * (since - self._drift)
        if abs(self._drift) > max(DRIFT_MIN, DRIFT * self._deviation):
            return self._shift(window, level, self._drift)
        return self._next(window)

    def _settle(self, seats: int) -> None:
        """Take what is known of this limit as what the next windows are compared with."""
        level = self._levels.get(seats)
        self._anchor = level.reading if level is not None and level.known else None
        self._drift = 0.0

    def _wonder(self, window: Window, reading: Reading, late: float) -> Step:
        """Let one surprise pass; two are a change."""
        sign = 1 if late > 0 else -1
        if self._surprised != sign:
            self._surprised = sign
            return Step(window.limit, "hold", f"batches took {exp(late):.2f} times as long once")
        level = Level()
        level.add(reading)
        return self._shift(window, level, late)

    def _shift(self, window: Window, level: Level, late: float) -> Step:
        """Begin anew where things have changed, with a trial that would undo the change."""
        self._surprised = 0
        self._levels = {window.seats: level}
        self._settle(window.seats)
        self._up, self._down = Direction(1, WAIT_UP_MAX), Direction(-1, WAIT_DOWN_MAX)
        why = f"batches take {exp(late):.2f} times as long"
        return self._try(window, -1 if late > 0 else 1, abs(late), why)

    def _next(self, window: Window) -> Step:
        self._up.pass_by()
        self._down.pass_by()
        share = window.dropped_share
        if window.drops >= 2 and share > max(REFUSED_MIN, REFUSED_MORE * self._refused):
            why = f"{share:.1%} of the time went to refused batches"
            return self._try(window, -1, -log(1.0 - share), why, refused=share)
        if self._up.due and window.seats < window.limit_max:
            return self._try(window, 1, self._up.reach(window.seats), "would more pay?")
        if self._down.due and window.seats > window.limit_min:
            size = self._down.reach(window.seats)
            return self._try(window, -1, size, "would less do?", unasked=True)
        return Step(window.limit, "hold", "between trials")

    # Trials.

    def _least(self, seats: int, sign: int) -> float:
        """Return how far a trial must go to tell anything."""
        up = self._up
        near = sign > 0 and up.wall and up.harmful and up.wait <= WAIT_BEFORE_WALL
        error = ERROR_WANTED_BEFORE_WALL if near else ERROR_WANTED
        wanted = self._deviation * PER_WINDOW / error
        one_seat = abs(log(max(0.5, seats + sign) / seats))
        return max(SIZE_MIN, min(wanted, SIZE_MAX), one_seat)

    def _try(
        self,
        window: Window,
        sign: int,
        size: float,
        why: str,
        *,
        refused: float = 0.0,
        unasked: bool = False,
    ) -> Step:
        seats = window.seats
        size = max(self._least(seats, sign), min(size, SIZE_MAX))
        after = round(seats * exp(sign * size))
        after = max(after, seats + 1) if sign > 0 else min(after, seats - 1)
        after = max(window.limit_min, min(window.limit_max, after))
        if after == seats:
            return Step(window.limit, "hold", "the limit is at its bound")
        self._level(after).forget(KEEP_STALE)
        self._trial, self._windows = Trial(seats, after, refused, unasked), 0
        return Step(after, "probe", why)

    def _judge(self, window: Window, trial: Trial) -> Step:
        self._windows += 1
        before, after = self._level(trial.before).reading, self._level(trial.after).reading
        slower, deviation = combine(after.minus(before))
        payoff, error = 1.0 - trial.sign * slower / trial.size, deviation / trial.size
        change = trial.sign * (payoff - PAYS) / error
        why = f"from {trial.before} to {trial.after} pays {payoff:.2f} ± {error:.2f}"
        starting = self._is_start(trial)
        if starting:
            told = payoff > ALL or payoff < NOTHING - START_SURE_OF_NONE * error
            told = told or self._windows >= START_WINDOWS
        else:
            sure = SURE_OF_LESS if trial.unasked else SURE
            told = error < ERROR_SMALL or not -SURE_OF_NONE < change < sure
            told = told or self._more_would_not_tell(before, after)
        if not told:
            return Step(window.limit, "probe", why)
        self._trial = None
        share = 0.0 if payoff < NOTHING else 1.0 if payoff > ALL else payoff
        if starting:  # all or nothing: the knee between is found afterwards
            share = float(payoff > START_PAYS)
        elif error > (ERROR_BETWEEN if trial.sign > 0 else ERROR_SMALL):
            enough = SURE_ENOUGH_OF_LESS if trial.unasked else SURE_ENOUGH
            paid = change > enough  # a change needs evidence
            share = float(paid if trial.sign > 0 else not paid)
        return self._decide(window, trial, payoff, error, share, why)

    def _is_start(self, trial: Trial) -> bool:
        """Tell whether the limit is still being doubled."""
        return trial.sign > 0 and not self._tried

    def _more_would_not_tell(self, before: Reading, after: Reading) -> bool:
        """Tell whether more windows of a trial would hardly say more than those it had."""
        if self._windows < WINDOWS_MIN:
            return False
        return self._windows >= WINDOWS_MAX or combine(after)[1] < 0.7 * combine(before)[1]

    def _decide(
        self, window: Window, trial: Trial, payoff: float, error: float, share: float, why: str
    ) -> Step:
        """Keep the change, undo it, or go to what lies between."""
        low, high = sorted((trial.before, trial.after))
        limit = round(low * (high / low) ** share)
        self._settle(limit)
        direction = self._up if trial.sign > 0 else self._down
        if limit == trial.after:
            if trial.sign > 0:
                fully = payoff > (ALL if self._is_start(trial) else PAYS_FULLY)
            else:
                fully = payoff < 1.0 - PAYS_FULLY
            if fully and trial.sign > 0:  # batches take no longer: what was known still holds
                self._level(limit).add(self._level(trial.before).reading)
            direction.paid(trial.size * (2.0 if fully else 0.5), limit)
            return self._try(window, trial.sign, direction.reach(limit), why)
        self._refused = max(self._refused, trial.refused)
        self._tried = True
        self._queued = trial.sign > 0
        least = self._least(trial.before, trial.sign)
        harmful = trial.sign > 0 and payoff < -error
        direction.in_vain(trial.size, least, trial.after, harmful=harmful)
        return Step(limit, "restore" if limit == trial.before else "hold", why)
