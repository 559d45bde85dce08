"""The grid itself: what a provider can do, what a run measures, and who was better."""

from __future__ import annotations

from random import Random

import pytest

from flowguard.control.limit import Limiter
from flowguard.control.limits.fixed import Fixed
from flowguard.stress.grid.contest import Contest, Tally, Target, named
from flowguard.stress.grid.provider import Provider, Weather, between, steps
from flowguard.stress.grid.run import Load, Run
from flowguard.stress.grid.scenarios import HELD_OUT, SCENARIOS
from flowguard.stress.grid.score import Cell
from flowguard.stress.grid.table import table

QUIET = {"noise": 0.0, "jitter": 0.0}


def run_fixed(limit: int, provider: Provider, load: Load, seed: int = 1):
    """Run with a limit that stays where it is; return goodput and latency."""
    limiter = Limiter(Fixed(), limit_min=limit, limit_max=limit)
    stretches = Run(limiter, provider, load, seed).go()
    goodput = sum(each.work for each in stretches) / sum(each.peak for each in stretches)
    return goodput, sum(e.taken_s for e in stretches) / sum(e.alone_s for e in stretches)


def test_there_are_thirty_scenarios_and_more_with_names_of_their_own():
    names = [each.name for each in (*SCENARIOS, *HELD_OUT)]

    assert len(SCENARIOS) >= 30
    assert len(HELD_OUT) >= 5
    assert len(set(names)) == len(names)


def test_servers_change_in_steps_or_along_a_line():
    stepwise, line = steps((0, 32), (40, 8)), between((0, 32), (10, 32), (20, 12))

    assert [stepwise(at_s) for at_s in (0, 39.9, 40, 100)] == [32, 32, 8, 8]
    assert [line(at_s) for at_s in (0, 10, 15, 20, 99)] == [32, 32, 22, 12, 12]


@pytest.mark.parametrize(
    ("limit", "goodput", "latency"), [(4, 0.25, 1.0), (16, 1.0, 1.0), (32, 1.0, 2.0)]
)
def test_without_degradation_goodput_is_bounded_by_servers_and_the_rest_waits(
    limit: int, goodput: float, latency: float
):
    provider = Provider(servers=steps((0, 16)), degradation=0.0, **QUIET)

    measured = run_fixed(limit, provider, Load(duration_s=20.0))

    assert measured == (pytest.approx(goodput, rel=0.02), pytest.approx(latency, rel=0.02))


def test_each_batch_beyond_the_servers_costs_its_share():
    provider = Provider(servers=steps((0, 16)), degradation=0.05, **QUIET)

    goodput, _ = run_fixed(26, provider, Load(duration_s=20.0))

    assert goodput == pytest.approx(1 / 1.5, rel=0.05)


def test_peaks_follow_noise_so_that_nobody_is_better_than_the_peak_for_long():
    provider = Provider(servers=steps((0, 16)), noise=0.25, degradation=0.0)

    goodput, _ = run_fixed(20, provider, Load(duration_s=60.0))

    assert goodput == pytest.approx(1.0, abs=0.03)


def test_noise_takes_nothing_of_goodput_on_average():
    weather = Weather(Provider(servers=steps((0, 1)), noise=0.25), 5_000.0, Random(1))

    assert sum(1 / each for each in weather.noise) / len(weather.noise) == pytest.approx(
        1, abs=0.02
    )
    assert sum(weather.jitter) / len(weather.jitter) == pytest.approx(1.0)


def test_a_provider_that_refuses_is_not_slower_for_it():
    provider = Provider(servers=steps((0, 32)), refuses_above=8, **QUIET)

    assert run_fixed(16, provider, Load(duration_s=20.0)) == (
        pytest.approx(1.0, rel=0.02), pytest.approx(1.0, rel=0.02),
    )  # fmt: skip


def test_batches_that_are_given_up_keep_their_server_busy():
    provider = Provider(servers=steps((0, 4)), degradation=0.0, timeout_s=0.35, **QUIET)

    goodput, _ = run_fixed(32, provider, Load(duration_s=20.0))

    assert goodput < 0.1


def cell(player: str, seed: int, goodput: float, latency: float = 1.0) -> Cell:
    return Cell("servers-8", player, seed, goodput, latency, 3, None, 0.0)


def contest_of(*cells: Cell) -> Contest:
    contest = Contest(named("servers-8"), seeds=3)
    contest.cells = {(each.scenario, each.player, each.seed): each for each in cells}
    return contest


def test_latency_above_what_is_free_costs_in_proportion():
    assert cell("arc", 1, 0.9, 1.3).score == 0.9
    assert cell("arc", 1, 0.9, 2.6).score == pytest.approx(0.45)


def test_wins_ties_and_losses_are_counted_cell_by_cell():
    contest = contest_of(
        cell("goodput", 1, 0.95), cell("vegas", 1, 0.90),
        cell("goodput", 2, 0.95), cell("vegas", 2, 0.955),
        cell("goodput", 3, 0.80), cell("vegas", 3, 0.90),
    )  # fmt: skip

    tally = contest.tally("vegas", contest.ours())

    assert tally == Tally(wins=1, ties=1, losses=1)
    assert tally.share == pytest.approx(1 / 3)
    assert str(tally) == "1/1/1"


def test_a_target_that_was_not_measured_is_missed():
    assert not Target("x", 10, None, at_least=False).passed
    assert Target("x", 10, 10, at_least=False).passed
    assert not Target("x", 0.8, 0.79, at_least=True).passed


def test_a_target_names_the_scenario_that_decides_it():
    contest = Contest(named("servers"), seeds=1)
    for name, goodput, converged in (("servers-8", 0.9, 3), ("servers-64", 0.7, None)):
        it = Cell(name, "goodput", 1, goodput, 1.0, converged, None, 0.0)
        contest.cells[name, "goodput", 1] = it
        for peer in ("gradient", "vegas", "aimd", "arc"):
            contest.cells[name, peer, 1] = Cell(name, peer, 1, 0.5, 2.0, None, None, 0.0)

    targets = {each.name: each for each in contest.targets()}

    assert targets["goodput, worst scenario"].where == "servers-64"
    assert targets["windows from cold to 90 %"].where == "servers-64"
    assert not targets["windows from cold to 90 %"].passed


def test_the_table_shows_losses_as_they_are():
    players = ("gradient", "vegas", "aimd", "arc")
    contest = contest_of(cell("goodput", 1, 0.5), *(cell(player, 1, 0.9) for player in players))

    text = table(contest, targets=False)

    assert "0/0/1" in text
    assert "won/tied/lost, all: gradient 0/0/1 (0%)" in text
