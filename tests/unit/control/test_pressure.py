"""How near a worker is to what it cannot do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.control.memory import MemoryBudget
from flowguard.control.pressure import LagWindow, LaneDelay, Part, highest
from flowguard.units import MIB, MILLISECOND, SECOND


def delay_of(*waits_ms: float | None, target_ms: int | None = 50, **options: int) -> LaneDelay:
    target_ns = None if target_ms is None else target_ms * MILLISECOND
    delay = LaneDelay(target_ns=target_ns, max_age_ns=options.get("max_age_ns"))
    for each in waits_ms:
        delay.sample(None if each is None else round(each * MILLISECOND))
    return delay


def test_a_delay_lasts_if_nothing_in_the_window_was_shorter() -> None:
    assert delay_of(40, 30, 20, 25, 35).standing_ns == 20 * MILLISECOND
    assert delay_of(40, 30, 20, 25, None).standing_ns == 0, "the queue was empty"


def test_a_lower_batch_that_takes_its_quarter_is_half_of_the_pressure() -> None:
    assert delay_of(*[12.5] * 5).ratio == pytest.approx(0.5)
    assert delay_of(*[25] * 5).ratio == pytest.approx(1.0)


def test_before_a_whole_window_was_seen_nothing_lasts() -> None:
    assert delay_of(40, 40, 40, 40).standing_ns == 0


@pytest.mark.parametrize(("target_ms", "ticks"), [(5, 1), (10, 1), (50, 5), (80, 8), (5000, 10)])
def test_the_window_is_ten_targets_between_a_tick_and_a_second(target_ms: int, ticks: int) -> None:
    delay = delay_of(*[target_ms] * (ticks - 1), target_ms=target_ms)
    assert delay.standing_ns == 0
    delay.sample(target_ms * MILLISECOND)
    assert delay.standing_ns == target_ms * MILLISECOND


def test_without_a_target_the_age_limit_counts() -> None:
    delay = delay_of(*[3_000] * 10, target_ms=None, max_age_ns=30 * SECOND)
    assert delay.ratio == pytest.approx(0.1)


def test_a_lane_without_limits_has_no_pressure() -> None:
    assert delay_of(*[9_000] * 10, target_ms=None).ratio == 0.0


def test_a_loop_that_stands_still_now_and_then_has_no_lag_and_one_that_is_always_late_has() -> None:
    lag = LagWindow()
    assert lag.ratio == 0.0
    for number in range(100):
        lag.sample(0 if number % 10 else 5 * SECOND)
    assert lag.ratio == 0.0
    for _ in range(20):
        lag.sample(50 * MILLISECOND)
    assert lag.ratio == pytest.approx(0.5)


@given(st.lists(st.integers(0, 10 * SECOND), max_size=300))
def test_lag_is_a_ratio(lags: list[int]) -> None:
    window = LagWindow()
    for each in lags:
        window.sample(each)
    assert 0.0 <= window.ratio <= 1.0


def test_the_highest_part_decides() -> None:
    parts = [Part("delay", 0.2, ""), Part("memory", 0.7, "full"), Part("errors", 0.1, "")]
    assert highest(parts).why == "full"


def budget(held: dict[str, float]) -> MemoryBudget:
    """Return a budget of 16 MiB where partitions hold so many MiB."""
    memory = MemoryBudget(16 * MIB)  # 10 MiB for columns
    memory.assign(held)
    for name, mib in held.items():
        memory.charge(name, round(mib * MIB), memory.reserve([]))
    return memory


def test_fullness_is_what_is_held_against_what_may_be() -> None:
    memory = budget({"a": 5, "b": 0})
    assert memory.fullness(["a"]) == pytest.approx(5 / 7.5)
    assert memory.fullness(["b"]) == 0.0
    assert memory.fullness([]) == 0.0
    assert memory.fullness(["unknown"]) == 0.0


def test_room_of_other_partitions_is_none() -> None:
    memory = budget({"a": 7.5, "b": 0})
    assert memory.fullness(["a", "b"]) == pytest.approx(1.0)


def test_a_pool_that_others_have_filled_is_no_room() -> None:
    memory = budget({"a": 7.5, "b": 2.5})
    assert memory.fullness(["b"]) == pytest.approx(1.0)
