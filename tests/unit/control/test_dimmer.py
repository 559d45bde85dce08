"""As little as keeps the queue short, without turning back and forth."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.control.dimmer import Diffusion, Dimmer, Pace
from flowguard.control.pressure import LaneDelay
from flowguard.units import MILLISECOND, SECOND

SET_POINT = 0.5
TARGET_MS = 50
STEP_S = 0.01


@dataclass(frozen=True)
class Moment:
    """What was seen in one second."""

    t: int
    ratio: float
    delay_ms: float


def fluid(
    offered: Callable[[float], float],
    capacity: Callable[[float], float] = lambda t: 100.0,
    *,
    sheds: bool,
    seconds: int,
    noise: float = 0.0,
    seed: int = 1,
) -> list[Moment]:
    """Run a queue whose inflow is shed, or whose work gets five times as fast, by the ratio."""
    rng = random.Random(seed)
    delay = LaneDelay(target_ns=TARGET_MS * MILLISECOND, max_age_ns=None)
    pace, dimmer = Pace(), Dimmer(most=0.95 if sheds else 1.0)
    queue, waited, seen = 0.0, False, []
    for step in range(round(seconds / STEP_S)):
        t = step * STEP_S
        ratio, flow = dimmer.ratio, offered(t)
        able = max(1.0, capacity(t) * (1 + noise * rng.gauss(0, 1.7)))
        inflow = flow * (1 - ratio) if sheds else flow
        outflow = able if sheds else able / (1 - ratio + ratio / 5)
        queue = max(0.0, queue + (inflow - outflow) * STEP_S)
        if step % 10 == 9:
            idle = queue == 0 and rng.random() > inflow / outflow
            wait_ns = None if idle else round(queue / outflow * SECOND)
            waited |= wait_ns is not None
            delay.sample(wait_ns)
        if step % 100 == 99:
            now_ns = round((t + STEP_S) * SECOND)
            move = pace.step(delay.ratio / SET_POINT - 1, idle=not waited)
            waited, before = False, dimmer.ratio
            if move > 0:
                dimmer.raise_by(move, now_ns, load=flow)
            elif move < 0:
                dimmer.lower_by(-move, now_ns, load=flow)
                if dimmer.ratio == before:
                    pace.rest()
            seen.append(Moment(step // 100, dimmer.ratio, delay.standing_ns / MILLISECOND))
    return seen


def turns(seen: list[Moment]) -> int:
    moves = [after.ratio - before.ratio for before, after in pairwise(seen)]
    moves = [each for each in moves if each]
    return sum((one > 0) != (other > 0) for one, other in pairwise(moves))


@pytest.mark.parametrize("sheds", [True, False], ids=["shed", "brownout"])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("factor", [1.05, 1.2, 1.5, 2, 3])
def test_a_constant_overload_turns_it_twice_a_minute_at_most(
    factor: float, noise: float, sheds: bool
) -> None:
    seen = fluid(lambda t: factor * 100, sheds=sheds, noise=noise, seconds=300)
    assert max(turns(seen[start : start + 60]) for start in range(240)) <= 2
    late = [each for each in seen[60:] if each.delay_ms > TARGET_MS / 2]
    assert len(late) <= 0.05 * len(seen[60:]), "the delay is what it should be"


@pytest.mark.parametrize("factor", [1.2, 2, 3])
def test_it_settles_near_what_is_needed(factor: float) -> None:
    seen = fluid(lambda t: factor * 100, sheds=True, seconds=300)[120:]
    needed = 1 - 1 / factor
    assert all(needed - 0.1 < each.ratio < needed + 0.15 for each in seen)
    assert max(each.ratio for each in seen) - min(each.ratio for each in seen) <= 0.10


@pytest.mark.parametrize("sheds", [True, False], ids=["shed", "brownout"])
@pytest.mark.parametrize("factor", [1.2, 2, 4, 10])
def test_it_clears_soon_after_the_load_is_gone(factor: float, sheds: bool) -> None:
    def offered(t: float) -> float:
        return factor * 100 if t < 60 else 60.0

    seen = fluid(offered, sheds=sheds, seconds=400)
    drained = next(each.t for each in seen if each.t >= 60 and each.delay_ms < TARGET_MS / 4)
    clear = max((each.t for each in seen if each.ratio > 0), default=0)
    assert clear - drained <= 40


@pytest.mark.parametrize("factor", [1.5, 3])
def test_it_clears_when_the_capacity_is_back(factor: float) -> None:
    seen = fluid(lambda t: factor * 100, lambda t: 100 if t < 60 else 500, sheds=True, seconds=200)
    assert max(each.t for each in seen if each.ratio > 0) - 60 <= 60


def test_a_short_spike_is_not_worth_a_step() -> None:
    seen = fluid(lambda t: 200 if 10 <= t < 10.1 else 50, sheds=True, seconds=30)
    assert all(each.ratio == 0 for each in seen)


# One step.


def test_inside_the_dead_zone_nothing_moves() -> None:
    pace = Pace()
    assert all(pace.step(error, idle=False) == 0.0 for error in (0.0, 0.25, -0.25, 0.1))


def test_raising_is_faster_than_lowering_and_grows_with_the_error() -> None:
    assert Pace().step(2.0, idle=False) == pytest.approx(0.24)
    assert Pace().step(0.5, idle=False) == pytest.approx(0.06)
    assert Pace().step(1e9, idle=False) == pytest.approx(0.24), "errors are bounded"
    assert Pace().step(-1.0, idle=False) == pytest.approx(-0.02)
    assert Pace().step(-1.0, idle=True) == pytest.approx(-0.04)


def test_the_sum_of_errors_is_bounded_and_forgotten() -> None:
    pace = Pace()
    steps = [pace.step(2.0, idle=False) for _ in range(100)]
    assert steps[-1] == pytest.approx(0.4)
    pace.step(0.0, idle=False)
    assert pace.step(2.0, idle=False) == pytest.approx(0.24)


def test_a_delay_that_falls_fast_enough_is_left_alone() -> None:
    pace = Pace()
    pace.step(10.0, idle=False)
    assert pace.step(8.0, idle=False) == 0.0, "at its set point in 4 s"
    assert pace.step(7.9, idle=False) > 0.0, "at this pace it would take 79 s"


def test_lowering_gets_faster_while_it_goes_well_and_begins_anew_after_a_rest() -> None:
    pace = Pace()
    steps = [pace.step(-1.0, idle=False) for _ in range(40)]
    assert [steps[0], steps[8], steps[16], steps[24], steps[39]] == pytest.approx(
        [-0.02, -0.04, -0.08, -0.16, -0.16]
    )
    pace.rest()
    assert pace.step(-1.0, idle=False) == pytest.approx(-0.02)


def test_a_trial_that_fails_goes_back_to_what_was_enough() -> None:
    dimmer = Dimmer(ratio=0.5)
    for second in range(6):
        dimmer.lower_by(0.02, second * SECOND, load=100)
    assert dimmer.ratio == pytest.approx(0.38)
    dimmer.raise_by(0.24, 6 * SECOND, load=100)
    assert dimmer.ratio == pytest.approx(0.46), "the delay of now was made four steps ago"
    for second in range(7, 66):
        dimmer.lower_by(0.02, second * SECOND, load=100)
        assert dimmer.ratio == pytest.approx(0.46)
    dimmer.lower_by(0.02, 66 * SECOND, load=100)
    assert dimmer.ratio == pytest.approx(0.44), "a minute later it is tried again"


def test_with_less_to_do_what_failed_says_nothing() -> None:
    dimmer = Dimmer(ratio=0.5)
    dimmer.lower_by(0.02, 0, load=100)
    dimmer.raise_by(0.24, SECOND, load=100)
    assert not dimmer.lower_by(0.1, 2 * SECOND, load=85)
    assert dimmer.ratio == pytest.approx(0.5)
    dimmer.lower_by(0.1, 3 * SECOND, load=79)
    assert dimmer.ratio == pytest.approx(0.4)


def test_what_one_ratio_cannot_take_is_left_for_the_next() -> None:
    dimmer = Dimmer(most=0.95, ratio=0.9)
    assert dimmer.raise_by(0.24, 0, load=1) == pytest.approx(0.19)
    assert dimmer.ratio == 0.95
    assert dimmer.raise_by(0.24, 0, load=1) == pytest.approx(0.24)


@given(share=st.floats(0.0, 1.0), count=st.integers(1, 500))
def test_a_share_is_taken_exactly_and_evenly(share: float, count: int) -> None:
    diffusion, taken = Diffusion(), 0
    for number in range(1, count + 1):
        taken += diffusion.take(share)
        assert abs(taken - share * number) <= 1.0


def test_the_same_share_always_takes_the_same_ones() -> None:
    first, second = Diffusion(), Diffusion()
    assert [first.take(0.3) for _ in range(50)] == [second.take(0.3) for _ in range(50)]
    assert all(Diffusion().take(1.0) for _ in range(10))
    assert not any(Diffusion().take(0.0) for _ in range(10))
