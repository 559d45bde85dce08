"""Algorithms on scripted windows, and what must hold of each whatever it is shown."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.control.limit import Limiter, Step, Window
from flowguard.control.limits import ALGORITHMS, make_algorithm
from flowguard.control.limits.aimd import Aimd
from flowguard.control.limits.goodput import Goodput
from flowguard.control.limits.gradient import Gradient
from flowguard.control.limits.vegas import Vegas
from flowguard.stress.grid.arc import Arc
from flowguard.units import MILLISECOND, SECOND

MAKERS = {**ALGORITHMS, "arc": Arc}


def window(limit: float, *, service_ms: float = 100.0, **other) -> Window:
    """Return a window in which all seats were used."""
    seats = int(limit)
    values = {
        "at_ns": SECOND, "length_ns": 300 * MILLISECOND, "limit": limit, "limit_min": 1,
        "limit_max": 256, "seats": seats, "in_flight_max": seats, "in_flight_mean": seats,
        "completions": 100, "successes": 100, "drops": 0, "dropped_share": 0.0,
        "service_ns": service_ms * MILLISECOND, "goodput_per_s": seats * 1000 / service_ms,
        "service_error": 0.02, "goodput_error": 0.03,
    }  # fmt: skip
    return Window(**(values | other))


class Loop:
    """An algorithm and a provider that answers window by window, without chance."""

    def __init__(self, algorithm, *, servers: float = 32, degradation: float = 0.01) -> None:
        self.algorithm = algorithm
        self.servers = servers
        self.degradation = degradation
        self.limit = algorithm.first
        self.steps: list[Step] = []

    def service_ms(self, seats: int) -> float:
        beyond = max(0.0, seats - self.servers)
        return 100.0 * max(1.0, seats / self.servers) * (1.0 + self.degradation * beyond)

    def run(self, count: int, change: Callable[[dict], None] = lambda shown: None) -> list[int]:
        """Show so many windows; return the limits that came of them."""
        limits = []
        for _ in range(count):
            shown = {"service_ms": self.service_ms(int(self.limit))}
            change(shown)
            step = self.algorithm.update(window(self.limit, **shown))
            self.steps.append(step)
            self.limit = min(256.0, max(1.0, step.limit))
            limits.append(int(self.limit))
        return limits

    @property
    def usual(self) -> float:
        """Return the limit between trials, over the last windows."""
        return sorted(self.run(60))[30]


# The default.


def test_it_doubles_until_more_gets_no_more_done():
    loop = Loop(Goodput(), servers=32)

    limits = loop.run(5)

    assert limits == [8, 16, 32, 64, 32]


def test_one_slow_window_does_not_end_the_doubling():
    loop = Loop(Goodput(), servers=64)
    loop.run(2)

    loop.run(1, lambda shown: shown.update(service_ms=1.6 * shown["service_ms"]))

    assert max(loop.run(5)) >= 64


def test_one_clear_window_of_growth_is_enough_to_go_on_doubling():
    loop = Loop(Goodput(), servers=200)

    noisy = lambda shown: shown.update(service_error=0.1, goodput_error=0.1)  # noqa: E731

    assert loop.run(6, noisy) == [8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("servers", [2, 3, 8, 20, 32, 100, 200])
def test_it_settles_at_the_knee(servers):
    loop = Loop(Goodput(), servers=servers)
    loop.run(100)

    assert 0.85 * servers <= loop.usual <= 1.1 * servers


def test_it_never_asks_for_more_than_it_was_allowed():
    loop = Loop(Goodput(), servers=1_000)

    assert max(loop.run(100)) == 256


def test_what_starts_far_too_high_comes_down_within_twenty_windows():
    loop = Loop(Goodput(), servers=16)
    loop.limit = 128.0

    assert loop.run(20)[-1] <= 20


def test_a_loss_of_three_quarters_is_followed_within_ten_windows():
    loop = Loop(Goodput(), servers=32)
    loop.run(60)

    loop.servers = 8

    assert loop.run(10)[-1] <= 10


def test_what_comes_back_is_found_again():
    loop = Loop(Goodput(), servers=8)
    loop.run(100)

    loop.servers = 32

    assert max(loop.run(60)) >= 29


def test_one_lucky_window_changes_nothing():
    loop = Loop(Goodput(), servers=32)
    loop.run(60)
    before = loop.usual

    loop.run(1, lambda shown: shown.update(service_ms=10.0))

    assert loop.usual == pytest.approx(before, rel=0.1)


def test_service_that_becomes_slower_for_other_reasons_does_not_cost_seats():
    """Twice the time a batch at any limit: fewer batches at once would only get less done."""
    loop = Loop(Goodput(), servers=32)
    loop.run(60)

    slower = lambda shown: shown.update(service_ms=2 * shown["service_ms"])  # noqa: E731
    limits = loop.run(100, slower)

    assert sum(limits[20:]) / 80 >= 28


def test_where_less_is_wanted_than_the_limit_it_holds_and_comes_down_to_twice_that():
    loop = Loop(Goodput(), servers=200)
    loop.run(8)
    assert loop.limit > 100

    limits = loop.run(10, lambda shown: shown.update(in_flight_mean=6.0, in_flight_max=10))

    assert limits[-1] == 20


def test_when_there_is_much_to_do_again_it_doubles_as_at_first():
    loop = Loop(Goodput(), servers=64)
    loop.run(60)
    loop.run(40, lambda shown: shown.update(in_flight_mean=1.0, in_flight_max=2))
    assert loop.limit == 4

    assert max(loop.run(6)) >= 64


def test_a_single_error_is_ignored():
    loop = Loop(Goodput(), servers=32)
    loop.run(60)
    before = loop.usual

    loop.run(1, lambda shown: shown.update(drops=1, dropped_share=0.01))

    assert loop.usual == pytest.approx(before, rel=0.1)


def test_errors_that_come_anyway_do_not_bring_the_limit_down():
    loop = Loop(Goodput(), servers=32)
    loop.run(60)

    def some_fail(shown: dict) -> None:
        seats = int(loop.limit)
        shown.update(
            drops=6, dropped_share=0.06, goodput_per_s=0.94 * seats * 1000 / shown["service_ms"]
        )

    limits = loop.run(100, some_fail)

    assert sum(limits) / 100 >= 28


def test_refusals_that_fewer_batches_avoid_bring_it_down_to_what_is_taken():
    """Above 20 batches at once the rest is refused, and what is done stays the same."""
    loop = Loop(Goodput(), servers=100)
    loop.run(3)

    def refuse(shown: dict) -> None:
        refused = max(0, int(loop.limit) - 20)
        shown.update(
            drops=5 * refused,
            dropped_share=refused / int(loop.limit),
            goodput_per_s=10.0 * min(20, int(loop.limit)),
        )

    limits = loop.run(60, refuse)

    assert 18 <= sorted(limits)[30] <= 22


def test_in_an_outage_it_falls_to_the_least_and_doubles_once_it_is_over():
    loop = Loop(Goodput(), servers=32)
    loop.run(60)

    down = loop.run(
        5, lambda shown: shown.update(successes=0, drops=100, dropped_share=1.0, goodput_per_s=0.0)
    )
    assert down[-1] == 1

    assert max(loop.run(8)) >= 32


def test_no_refusal_at_all_is_needed_to_find_the_knee_when_nothing_degrades():
    loop = Loop(Goodput(), servers=32, degradation=0.0)
    loop.run(60)

    assert 28 <= loop.usual <= 40


def test_every_step_has_a_reason():
    loop = Loop(Goodput())
    loop.run(100)

    assert all(step.why and step.action for step in loop.steps)


# The others.


def test_aimd_adds_one_and_takes_a_tenth_after_a_refusal():
    aimd = Aimd()

    assert aimd.update(window(20)).limit == 21
    assert aimd.update(window(20, drops=1)).limit == 18
    assert aimd.update(window(20, service_ms=6_000)).limit == 18
    assert aimd.update(window(20, in_flight_max=9)).limit == 20


def test_vegas_keeps_a_few_batches_waiting():
    vegas = Vegas()
    vegas.update(window(20, service_ms=100))

    assert vegas.update(window(20, service_ms=101)).limit == 26
    assert vegas.update(window(20, service_ms=110)).limit == 21
    assert vegas.update(window(20, service_ms=125)).limit == 20
    assert vegas.update(window(20, service_ms=200)).limit == 19
    assert vegas.update(window(20, drops=1, service_ms=101)).limit == 19


def test_gradient_shrinks_while_batches_take_longer_than_in_the_long_run():
    gradient = Gradient()
    for _ in range(10):
        gradient.update(window(20))

    assert gradient.update(window(20)).limit == pytest.approx(20.8)
    assert gradient.update(window(20, service_ms=400)).limit < 20
    assert gradient.update(window(20, in_flight_max=9)).limit == 20


def test_arc_adds_one_while_batches_take_no_longer_and_takes_a_tenth_once_they_do():
    arc = Arc()
    arc.update(window(20))

    assert arc.update(window(20, service_ms=99)).limit == 21
    assert arc.update(window(20, service_ms=300)).limit == 18
    assert arc.update(window(20, drops=1)).limit == 18


# All of them.


shown = st.fixed_dictionaries(
    {
        "service_ms": st.floats(1e-3, 1e6),
        "drops": st.integers(0, 100),
        "dropped_share": st.floats(0.0, 1.0),
        "successes": st.sampled_from([0, 1, 100]),
        "service_error": st.floats(0.0, 2.0),
        "goodput_error": st.floats(0.0, 2.0),
        "restarted": st.booleans(),
        "used": st.floats(0.05, 1.0),
    }
)


def limits_of(name: str, windows: list[dict]) -> list[float]:
    limiter = Limiter(make_algorithm(MAKERS[name]()), limit_min=2, limit_max=50)
    limits = []
    for each in windows:
        values = dict(each)
        used = values.pop("used") * limiter.seats
        values |= {"in_flight_mean": used, "in_flight_max": max(1, int(used))}
        if not values["successes"]:
            values |= {"service_ns": 0.0, "goodput_per_s": 0.0}
        step = limiter.algorithm.update(window(limiter.limit, limit_min=2, limit_max=50, **values))
        assert isfinite(step.limit)
        limiter.limit = limiter._bounded(step.limit)
        limits.append(limiter.limit)
    return limits


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None)
@given(windows=st.lists(shown, max_size=60))
def test_a_limit_is_always_a_number_within_its_bounds_and_repeatable(name, windows):
    limits = limits_of(name, windows)

    assert all(2.0 <= limit <= 50.0 for limit in limits)
    assert limits_of(name, windows) == limits


@pytest.mark.parametrize("name", MAKERS)
def test_chance_never_drives_a_limit_out_of_its_bounds(name):
    rng = random.Random(7)
    limiter = Limiter(MAKERS[name](), limit_min=1, limit_max=40)
    now_ns = 0
    for _ in range(20_000):
        now_ns += rng.randint(1, 30) * MILLISECOND
        limiter.sample(
            records=rng.choice([1, 10, 4096]),
            service_ns=rng.randint(0, 10**9),
            outcome=rng.choice(["ok", "ok", "ok", "failed", "unavailable", "timeout", "throttled"]),
            in_flight=rng.randint(1, 40),
            at_ns=now_ns,
        )
        if rng.random() < 0.01:
            limiter.invalidate("chance")
        limiter.tick(now_ns, in_flight=rng.randint(0, 40))
        assert 1 <= limiter.seats <= 40
