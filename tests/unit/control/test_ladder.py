"""One rung at a time, up within seconds, down slowly, and never for ever."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.control.ladder import ENTER, HYSTERESIS, RUNG_NAMES, Ladder
from flowguard.units import MILLISECOND, SECOND

TICK_NS = 100 * MILLISECOND
ALL = frozenset(range(1, 7))

#: What the worker promises for all rungs together.
CLEAR_S = 60.0

actuated_sets = st.frozensets(st.integers(1, 6))
pressures = st.floats(0.0, 1.0)


def climb(ladder: Ladder, pressures: Iterable[float], *, start_s: float = 0.0) -> list[int]:
    """Return the rung after each tick, a tick each 100 ms."""
    rungs = []
    for number, pressure in enumerate(pressures):
        ladder.tick(round(start_s * SECOND) + number * TICK_NS, pressure)
        rungs.append(ladder.rung)
    return rungs


def seconds(pressure: float, length_s: float) -> list[float]:
    return [pressure] * round(length_s * 10)


def reversals(rungs: Iterable[int]) -> int:
    """Return how often a ladder turned."""
    steps = [after - before for before, after in pairwise(rungs) if after != before]
    return sum(one != other for one, other in pairwise(steps))


def test_names_are_stable() -> None:
    assert RUNG_NAMES == (
        "normal", "bulk", "pause-bulk", "spill", "brownout", "shed", "standard",
    )  # fmt: skip


def test_it_begins_with_two_ticks_above_the_threshold_and_takes_two_seconds_a_rung() -> None:
    rungs = climb(Ladder(ALL), seconds(1.0, 12))
    first = {rung: rungs.index(rung) / 10 for rung in range(1, 7)}
    assert first == {1: 0.1, 2: 2.1, 3: 4.1, 4: 6.1, 5: 8.1, 6: 10.1}


def test_a_single_tick_above_the_threshold_changes_nothing() -> None:
    assert set(climb(Ladder(ALL), [1.0, 0.0] * 100)) == {0}


@pytest.mark.parametrize(
    ("pressure", "rung"), [(0.59, 0), (0.60, 0), (0.65, 1), (0.72, 3), (0.85, 3), (0.86, 6)]
)
def test_a_constant_pressure_leads_to_the_rung_of_its_threshold(pressure: float, rung: int) -> None:
    assert climb(Ladder(ALL), seconds(pressure, 60))[-1] == rung


def test_between_the_thresholds_a_rung_is_kept() -> None:
    ladder = Ladder(ALL)
    climb(ladder, seconds(1.0, 20))
    assert set(climb(ladder, seconds(0.71, 300), start_s=20)) == {6}


def test_rungs_without_an_actuator_are_passed_at_the_next_tick() -> None:
    ladder = Ladder({1, 4})
    up = climb(ladder, seconds(1.0, 4))
    assert up[20:25] == [1, 2, 3, 4, 4]
    down = climb(ladder, seconds(0.0, 30), start_s=4)
    at = down.index(3)
    assert down[at : at + 4] == [3, 2, 1, 1]


def test_it_goes_no_further_than_the_last_rung_that_changes_anything() -> None:
    assert max(climb(Ladder({1, 2}), seconds(1.0, 60))) == 2
    assert max(climb(Ladder(()), seconds(1.0, 60))) == 0


def test_a_rung_that_only_leads_to_one_with_a_higher_threshold_is_not_entered() -> None:
    assert max(climb(Ladder({1, 2, 4}), seconds(0.75, 60))) == 2


def test_a_rung_whose_actuator_is_in_use_is_kept() -> None:
    ladder = Ladder(ALL)
    climb(ladder, seconds(1.0, 7))
    assert ladder.rung == 4
    for tick in range(600):
        ladder.tick(7 * SECOND + tick * TICK_NS, 0.0, in_use=4)
    assert ladder.rung == 4
    ladder.tick(68 * SECOND, 0.0)
    assert ladder.rung == 3


def test_a_rung_that_is_needed_again_is_held_for_longer() -> None:
    ladder, rungs, pressure = Ladder({1, 2}), [], 1.0
    for tick in range(3_000):  # bulk that is fetched again is too much each time
        ladder.tick(tick * TICK_NS, pressure)
        rungs.append(ladder.rung)
        pressure = 0.0 if ladder.rung == 2 else 1.0
    per_minute = [reversals(rungs[start : start + 600]) for start in range(0, 3_000, 600)]
    assert max(per_minute[1:]) <= 6


def worst_clearing(ladder: Ladder, now_ns: int) -> float:
    """Return how long it takes from now on without any pressure, in seconds."""
    tick = 0
    while ladder.rung:
        tick += 1
        ladder.tick(now_ns + tick * TICK_NS, 0.0)
        assert tick < 10_000
    return tick / 10


histories = st.lists(st.tuples(pressures, st.integers(1, 200)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(actuated=actuated_sets, history=histories)
def test_whatever_happens_rungs_change_by_one_and_clear_in_time(
    actuated: frozenset[int], history: list[tuple[float, int]]
) -> None:
    ladder = Ladder(actuated)
    rungs = climb(ladder, [each for pressure, ticks in history for each in [pressure] * ticks])
    assert all(abs(after - before) <= 1 for before, after in pairwise([0, *rungs]))
    assert worst_clearing(ladder, len(rungs) * TICK_NS) < CLEAR_S


@settings(max_examples=150, deadline=None)
@given(actuated=actuated_sets, lower=pressures, higher=pressures)
def test_more_pressure_never_means_a_lower_rung(
    actuated: frozenset[int], lower: float, higher: float
) -> None:
    lower, higher = sorted((lower, higher))
    below = climb(Ladder(actuated), seconds(lower, 30))
    above = climb(Ladder(actuated), seconds(higher, 30))
    assert all(one <= other for one, other in zip(below, above, strict=True))


@settings(max_examples=100, deadline=None)
@given(pressure=pressures)
def test_a_constant_pressure_never_turns_it(pressure: float) -> None:
    assert reversals(climb(Ladder(ALL), seconds(pressure, 120))) == 0


def noise(kind: str, rng: random.Random) -> Callable[[int], float]:
    centre = rng.uniform(0.3, 1.0)
    return {
        "uniform": lambda tick: rng.random(),
        "near a threshold": lambda tick: min(1.0, max(0.0, rng.gauss(0.6, 0.1))),
        "around": lambda tick: min(1.0, max(0.0, rng.gauss(centre, 0.2))),
        "square": lambda tick: float(tick // 45 % 2),  # the worst for these dwell times
        "slow square": lambda tick: float(tick // 120 % 2),
    }[kind]


@pytest.mark.parametrize("kind", ["uniform", "near a threshold", "around", "square", "slow square"])
@pytest.mark.parametrize("seed", range(5))
def test_noise_turns_it_a_few_times_a_minute_at_most(kind: str, seed: int) -> None:
    make = noise(kind, random.Random(seed))
    rungs = climb(Ladder(ALL), [make(tick) for tick in range(6_000)])
    per_minute = [reversals(rungs[start : start + 600]) for start in range(0, 6_000, 600)]
    assert max(per_minute) <= 8


class Slow:
    """The rules of the ladder, in the plainest words, for a ladder with all rungs."""

    def __init__(self) -> None:
        self.rung = 0
        self.history: list[tuple[int, float]] = []
        self.steps: list[tuple[int, int, int]] = []  # when, from, to

    def tick(self, now_ns: int, pressure: float) -> None:
        self.history.append((now_ns, pressure))
        since_ns = self.steps[-1][0] if self.steps else -(10**18)
        seen = [each for at_ns, each in self.history if at_ns > since_ns]
        if (
            self.rung < 6
            and len(seen) >= 2
            and min(seen[-2:]) > ENTER[self.rung + 1]
            and now_ns - since_ns >= 2 * SECOND
        ):
            self.move(now_ns, 1)
        elif (
            self.rung > 0
            and len(seen) >= 5
            and max(seen[-5:]) < ENTER[self.rung] - HYSTERESIS
            and now_ns - since_ns >= self.hold_ns()
        ):
            self.move(now_ns, -1)

    def move(self, now_ns: int, step: int) -> None:
        self.steps.append((now_ns, self.rung, self.rung + step))
        self.rung += step

    def hold_ns(self) -> int:
        """Replay who was entered again soon after it was left: 7, 14, then 20 s; one at a time."""
        held, hold_ns, left = 0, 7 * SECOND, {}
        for at_ns, before, after in self.steps:
            if after < before:
                left[before] = at_ns
            elif after in left and at_ns - left[after] < 30 * SECOND:
                hold_ns = min(20 * SECOND, 2 * (hold_ns if held == after else 7 * SECOND))
                held = after
            elif held == after:
                held = 0
        return hold_ns if held == self.rung else 7 * SECOND


@settings(max_examples=60, deadline=None)
@given(history=st.lists(st.tuples(pressures, st.integers(1, 80)), min_size=1, max_size=25))
def test_it_does_what_the_plain_rules_say(history: list[tuple[float, int]]) -> None:
    ladder, slow = Ladder(ALL), Slow()
    ticks = [each for pressure, length in history for each in [pressure] * length]
    for number, pressure in enumerate(ticks):
        ladder.tick(number * TICK_NS, pressure)
        slow.tick(number * TICK_NS, pressure)
        assert ladder.rung == slow.rung
