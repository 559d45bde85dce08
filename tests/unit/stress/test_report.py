"""The scorecard: its JSON is the contract's, its verdict follows from its objectives."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from flowguard.snapshot import COUNTS
from flowguard.stress.report import LaneCard, Objective, Scorecard, judge

#: As the contract lists them, in its order.
KEYS = (
    "schema", "scenario", "result", "why", "offered", "settled", "lost", "duplicates", "shed",
    "conflated", "expired", "diverted", "dead_letters", "skipped", "peak_memory", "peak_rss",
    "peak_spill", "recovery_seconds", "objectives", "lanes", "timeline",
)  # fmt: skip
LANE_KEYS = (
    *COUNTS, "degraded", "p50", "p99", "p999", "unloaded_p99", "target", "on_time",
)  # fmt: skip


@pytest.fixture
def card() -> Scorecard:
    realtime = LaneCard(
        counts={"read": 10, "settled": 9, "dead_letters": 1}, p50=0.004, p99=0.02, target=0.05
    )
    backfill = LaneCard(counts={"read": 500, "settled": 100, "held": 400}, waiting=4_000)
    return Scorecard(
        scenario="demo",
        result="pass",
        why="all 1 objectives held",
        offered=4_510,
        lost=0,
        duplicates=0,
        peak_memory=1_000,
        peak_rss=2_000,
        objectives=[Objective(name="lost", limit=0, value=0)],
        lanes={"realtime": realtime, "backfill": backfill},
        timeline=[{"t": 1.0, "offered": {}, "settled": {}, "p99": {}, "memory": 5}],
        notes=["a note"],
    )


def test_the_keys_are_exactly_those_of_the_contract(card: Scorecard) -> None:
    document = card.as_dict()

    assert tuple(document) == KEYS
    assert document["schema"] == "flowguard.scorecard/v1"
    assert all(tuple(lane) == LANE_KEYS for lane in document["lanes"].values())
    assert tuple(document["objectives"][0]) == ("name", "limit", "value", "passed")


def test_totals_are_sums_over_the_lanes(card: Scorecard) -> None:
    document = card.as_dict()

    assert document["settled"] == 109
    assert document["dead_letters"] == 1


def test_unknown_is_null_in_the_json(card: Scorecard) -> None:
    document = json.loads(json.dumps(card.as_dict()))

    assert document["peak_spill"] is None
    assert document["lanes"]["backfill"]["target"] is None


def test_people_see_verdict_lanes_objectives_and_notes(card: Scorecard) -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(card)

    text = captured.get()

    assert "pass: all 1 objectives held" in text
    assert "4,000" in text, "what waits in Kafka"
    assert "20.0 ms" in text
    assert "a note" in text


def test_an_objective_without_a_value_has_not_passed() -> None:
    assert not Objective(name="realtime p99", limit=0.05, value=None).passed


@pytest.mark.parametrize(("value", "passed"), [(2.9, False), (3.0, True), (4.2, True)])
def test_an_objective_may_be_a_least_value(value: float, passed: bool) -> None:
    objective = Objective(name="flood factor", limit=3, value=value, at_least=True)

    assert objective.passed is passed


def test_a_missed_objective_fails_and_says_which() -> None:
    late = Objective(name="realtime p99", limit=0.05, value=0.08)

    result, why = judge([late], broken=[], invalid=[])

    assert (result, why) == ("fail", "realtime p99 is 80.0 ms, most allowed 50.0 ms")


def test_a_broken_promise_fails_although_all_objectives_held() -> None:
    result, why = judge(
        [Objective(name="lost", limit=0, value=0)], broken=["lane x: +1"], invalid=[]
    )

    assert (result, why) == ("fail", "lane x: +1")


def test_an_objective_missed_in_a_disturbed_run_says_nothing() -> None:
    late = Objective(name="realtime p99", limit=0.05, value=0.08)

    result, why = judge([late], broken=[], invalid=["other programs took 60 % of the CPU"])

    assert result == "invalid"
    assert "80.0 ms" in why
    assert "other programs" in why


def test_a_disturbed_run_that_holds_everything_passes() -> None:
    held = Objective(name="lost", limit=0, value=0)

    assert judge([held], broken=[], invalid=["too slow"])[0] == "pass"


def test_a_broken_promise_is_broken_on_a_busy_machine_too() -> None:
    late = Objective(name="realtime p99", limit=0.05, value=0.08)

    assert judge([late], broken=["7 records are lost"], invalid=["too slow"])[0] == "fail"


def test_a_run_that_was_not_offered_what_was_planned_says_nothing() -> None:
    held = Objective(name="lost", limit=0, value=0)

    result, why = judge([held], broken=[], invalid=[], lagging=["the sender sent half"])

    assert (result, why) == ("invalid", "the sender sent half")


def test_a_broken_promise_is_broken_whatever_was_offered() -> None:
    assert judge([], broken=["7 records are lost"], invalid=[], lagging=["too slow"])[0] == "fail"
