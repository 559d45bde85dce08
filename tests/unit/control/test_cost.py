"""What a batch costs by its number of records."""

from __future__ import annotations

import random

import pytest

from flowguard.control.cost import CostFit
from flowguard.units import MICROSECOND, MILLISECOND


def batches(
    *sizes: int, fixed_ms: float = 10, record_us: float = 100, times: float = 1.0
) -> tuple[list[int], list[int]]:
    """Return the sizes of batches, and how long they take exactly."""
    return list(sizes), [
        round(times * (fixed_ms * MILLISECOND + size * record_us * MICROSECOND)) for size in sizes
    ]


def ratio(cost: CostFit, more: int, less: int) -> float:
    return cost.cost(more) / cost.cost(less)


def test_all_batches_cost_the_same_while_nothing_is_known():
    cost = CostFit()

    assert not cost.known
    assert cost.cost(1) == cost.cost(10_000) == 1.0
    assert (cost.fixed_ns, cost.record_ns) == (0.0, 0.0)


def test_batches_of_one_size_say_nothing_of_others():
    cost = CostFit()
    for _ in range(50):
        cost.learn(*batches(64, 64, 65))

    assert not cost.known
    assert cost.covers(64)
    assert not cost.covers(512)


def test_a_line_is_put_through_batches_of_different_sizes():
    cost = CostFit()
    cost.learn(*batches(50, 100, 200, 400))

    assert cost.known
    assert cost.fixed_ns == pytest.approx(10 * MILLISECOND, rel=0.01)
    assert cost.record_ns == pytest.approx(100 * MICROSECOND, rel=0.01)


def test_a_step_of_the_size_is_learnt_without_changing_what_the_old_size_cost():
    cost = CostFit()
    for _ in range(10):
        cost.learn(*batches(*[64] * 20))

    cost.learn(*batches(*[512] * 20))

    assert cost.cost(64) == pytest.approx(1.0, rel=0.01)
    assert ratio(cost, 512, 64) == pytest.approx(61.2 / 16.4, rel=0.02)


def test_queueing_is_taken_out_of_what_a_new_size_costs():
    cost = CostFit()
    for _ in range(10):
        cost.learn(*batches(*[64] * 20))

    cost.learn(*batches(*[512] * 20, times=2.0), slowed=2.0)

    assert ratio(cost, 512, 64) == pytest.approx(61.2 / 16.4, rel=0.02)


def test_what_is_known_of_other_sizes_is_kept_while_batches_have_one_size():
    cost = CostFit()
    cost.learn(*batches(64, 512))
    before = ratio(cost, 512, 64)

    for _ in range(1_000):
        cost.learn(*batches(*[64] * 10))

    assert ratio(cost, 512, 64) == pytest.approx(before, rel=0.1)


def test_the_level_follows_an_agent_that_becomes_slower():
    cost = CostFit()
    cost.learn(*batches(64, 512))

    for _ in range(100):
        cost.learn(*batches(64, 512, times=3.0))

    assert cost.record_ns == pytest.approx(300 * MICROSECOND, rel=0.05)


def test_noise_does_not_make_a_part_of_the_line_negative():
    rng = random.Random(1)
    cost = CostFit()
    for _ in range(200):
        sizes = [rng.randint(1, 4096) for _ in range(20)]
        _, times_ns = batches(*sizes, fixed_ms=0.0, record_us=3)
        cost.learn(sizes, [round(each * rng.lognormvariate(0, 0.5)) for each in times_ns])
        assert cost.fixed_ns >= 0.0
        assert cost.record_ns >= 0.0
        assert cost.cost(1) > 0.0


@pytest.mark.parametrize("service_ns", [0, 1])
def test_batches_that_take_no_time_are_no_trouble(service_ns):
    cost = CostFit()

    cost.learn([1, 100], [service_ns, service_ns])
    cost.learn([1, 100], [10, 1000])

    assert cost.cost(50) > 0.0


def test_batches_for_which_the_clock_saw_no_time_pass_are_learnt_from_for_as_long_as_it_takes():
    cost = CostFit()
    cost.learn(*batches(50, 100, 200))
    for window in range(2000):
        cost.learn([1 + window % 7, 1000], [0, 0])

    cost.learn(*batches(50, 100, 200, 400))

    assert cost.known
