"""Every shipped scenario holds what it asserts with its seed, and breaks no invariant."""

from __future__ import annotations

from functools import cache

import pytest

from flowguard.stress.report import Scorecard
from flowguard.stress.scenario import find_scenario, shipped_scenarios
from flowguard.stress.simulator.run import simulate

#: `trace` offers nothing without a file.
NAMES = sorted(shipped_scenarios().keys() - {"trace"})

OVERLOADS = ("overload-2x", "overload-5x", "overload-10x")

#: The overloads judge from the end of their warm-up to the end of what is offered.
JUDGED_S = slice(10, 40)

#: What says little that others do not say, or takes long: with -m slow.
LONG = frozenset({"diurnal", "oscillating-errors", "slow-decay", "stable-timeout"})

#: No congestion collapse: of the best goodput under any overload, each keeps so much.
KEPT = 0.95


@cache
def scorecard(name: str) -> Scorecard:
    return simulate(find_scenario(name))


def goodput_per_s(name: str) -> float:
    seconds = scorecard(name).timeline[JUDGED_S]
    return sum(each["settled"]["bulk"] for each in seconds) / len(seconds)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in NAMES],
)
def test_a_shipped_scenario_passes_with_its_seed_and_loses_nothing(name: str) -> None:
    outcome = scorecard(name)
    # A broken invariant fails a run, whatever it asserts.
    assert outcome.result == "pass", outcome.why
    assert outcome.lost == 0


def test_goodput_under_any_overload_is_95_percent_of_the_best() -> None:
    goodputs = {name: goodput_per_s(name) for name in OVERLOADS}
    assert min(goodputs.values()) >= KEPT * max(goodputs.values()), goodputs


def test_the_timeline_shows_how_the_ladder_climbs_and_why() -> None:
    timeline = scorecard("viral").timeline
    highest = max(timeline, key=lambda entry: entry["rung"] or 0)
    assert (highest["rung"], highest["rung_name"]) == (4, "brownout")
    decided = [each for entry in timeline for each in entry["decisions"]]
    assert any(each["loop"] == "ladder" for each in decided)
