"""Plans of chaos: from the seed, and nothing else."""

from __future__ import annotations

import pytest

from tests.chaos.plan import SESSION_S, plan_of


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    assert plan_of(7, seconds=60) == plan_of(7, seconds=60)
    assert plan_of(7, seconds=60) != plan_of(8, seconds=60)


def test_a_longer_run_begins_like_a_shorter_one():
    short, long = plan_of(7, seconds=20), plan_of(7, seconds=60)

    assert long.steps[: len(short.steps)] == short.steps and long.setup == short.setup


def test_all_that_can_go_wrong_does_in_some_plan():
    plans = [plan_of(seed, seconds=60, broker=True) for seed in range(20)]

    done = sum((plan.counts for plan in plans), start=plans[0].counts)
    freezes = [step.for_s for plan in plans for step in plan.steps if step.what == "freeze"]
    assert done.keys() == {
        "kill", "kill-all", "freeze", "terminate", "join", "leave", "slow", "outage", "wipe",
        "broker",
    }  # fmt: skip
    assert min(freezes) < SESSION_S < max(freezes)
    assert {plan.setup.order for plan in plans} == {"partition", "key", "none"}
    assert {plan.setup.workers for plan in plans} == {1, 2, 3}


@pytest.mark.parametrize("seed", range(10))
def test_the_spill_directory_is_deleted_only_where_a_lane_spills(seed: int):
    plan = plan_of(seed, seconds=300)

    assert ("wipe" in plan.counts) == (plan.setup.lanes == 2)


def test_where_kills_are_asked_for_most_is_kills():
    counts = plan_of(1, seconds=600, kills=True).counts

    assert counts["kill"] + counts["kill-all"] > counts.total() / 2
