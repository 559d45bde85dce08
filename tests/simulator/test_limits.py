"""The limit of concurrency against providers that are slow, noisy, or break: what must come of it.

Each scenario is one of the grid, with one seed; the ranges are wide enough for others. A
failure is looked at with `flowguard stress grid --only NAME --seeds 1`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import mean

import pytest

from flowguard.stress.grid.run import Stretch
from flowguard.stress.grid.scenarios import HELD_OUT, SCENARIOS, Scenario
from flowguard.stress.grid.score import OURS, Cell, judge, stretches_of, within

BY_NAME: dict[str, Scenario] = {each.name: each for each in (*SCENARIOS, *HELD_OUT)}
SEED = 11

#: Scenario → [least, most] of the limit in steady state, least goodput, most latency.
EXPECTED = {
    "servers-2": ((1.8, 2.6), 0.93, 1.3),
    "servers-32": ((29, 36), 0.95, 1.15),
    "steep": ((28, 35), 0.90, 1.2),
    "noisy": ((25, 42), 0.85, 1.3),
    "no-degradation": ((29, 40), 0.94, 1.25),
    "bimodal-hidden": ((24, 42), 0.75, 1.3),
    "bimodal-sizes": ((26, 38), 0.88, 1.2),
    "heavy-tail": ((27, 37), 0.90, 1.2),
    "boiling-frog": ((8, 33), 0.93, 1.3),
    "starts-overloaded": ((14, 19), 0.90, 1.2),
    "lucky-sample": ((28, 36), 0.92, 1.2),
    "worker-stalls": ((26, 36), 0.88, 1.2),
    "one-off-errors": ((28, 36), 0.92, 1.2),
    "oscillating-errors": ((27, 36), 0.92, 1.2),
    "all-errors-20s": ((26, 36), 0.85, 1.2),
    "outage-20s": ((26, 36), 0.85, 1.3),
    "stable-timeout": ((10, 19), 0.60, 1.3),
    "refuses-above-24": ((21, 27), 0.90, 1.1),
    "refuses-rate-200": ((17, 26), 0.93, 1.1),
    "little-to-do": ((15, 64), 0.98, 1.1),
}


@cache
def stretches(name: str, seed: int = SEED) -> list[Stretch]:
    return list(stretches_of(BY_NAME[name], OURS, seed))


def cell_of(name: str, seed: int = SEED) -> Cell:
    return judge(stretches(name, seed), BY_NAME[name], OURS, seed)


def mean_limit(spent: list[Stretch]) -> float:
    return sum(each.seats * (each.until_s - each.since_s) for each in spent) / sum(
        each.until_s - each.since_s for each in spent
    )


def between(name: str, since_s: float, until_s: float) -> list[Stretch]:
    return [each for each in stretches(name) if since_s <= each.since_s and each.until_s <= until_s]


@pytest.mark.parametrize("name", EXPECTED)
def test_limit_goodput_and_latency_stay_in_their_ranges(name: str):
    (least, most), goodput_min, latency_max = EXPECTED[name]
    scenario = BY_NAME[name]
    steady = [each for span in scenario.steady for each in within(stretches(name), scenario, span)]

    cell = cell_of(name)

    assert least <= mean_limit(steady) <= most
    assert cell.goodput >= goodput_min
    assert cell.latency <= latency_max


def test_a_cold_start_reaches_nine_tenths_within_ten_windows():
    cell = cell_of("servers-32")

    assert cell.converged is not None
    assert cell.converged <= 10


def test_a_fourfold_loss_of_capacity_is_followed_within_twenty_windows():
    cell = cell_of("capacity-32-8-32")

    assert cell.recovered is not None
    assert cell.recovered <= 20
    assert 7 <= mean_limit(between("capacity-32-8-32", 75.0, 119.0)) <= 10
    assert 27 <= mean_limit(between("capacity-32-8-32", 145.0, 180.0)) <= 36


@pytest.mark.parametrize("name", ["size-step-up", "size-step-down"])
def test_batches_of_eight_times_the_size_do_not_move_the_limit(name: str):
    moved = mean(cell_of(name, seed).moved for seed in (SEED, SEED + 1))

    assert abs(moved) <= 0.1


def test_a_limit_that_is_hardly_used_does_not_grow_so_that_a_flood_finds_it_small():
    quiet = between("little-then-flood", 20.0, 60.0)

    assert max(each.seats for each in quiet) <= 64
    assert 27 <= mean_limit(between("little-then-flood", 80.0, 120.0)) <= 37


def test_the_same_seed_gives_the_same_run():
    scenario = BY_NAME["noisy-8"]
    short = replace(scenario, load=replace(scenario.load, duration_s=20.0))

    assert stretches_of(short, OURS, 3) == stretches_of(short, OURS, 3)
    assert stretches_of(short, OURS, 3) != stretches_of(short, OURS, 4)
