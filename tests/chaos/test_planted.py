"""Bugs that are planted in the worker under test: the checker finds each, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.plan import Plan, Setup, Step
from tests.chaos.planted import ACKNOWLEDGE_ON_EXCEPTION, COMMIT_TOO_FAR, FORGET_A_REVOKE
from tests.chaos.rig import Result

#: Little in flight, so that too much that is repeated is much more than may be.
SETUP = Setup(
    order="partition", lanes=1, seats=1, batch_records=10, workers=1, poison_every=199,
    garbage_every=701, rate_per_s=400, batch_s=0.005, backlog_records=200,
)  # fmt: skip

FLOW = Plan(seed=0, seconds=4.0, setup=SETUP, steps=(Step(at_s=1.5, what="slow", for_s=1.5),))
JOIN = Plan(seed=0, seconds=14.0, setup=SETUP, steps=(Step(at_s=0.5, what="join"),))

#: What is settled while a commit is under way: little, as above.
COMMIT_MS = 500


@pytest.mark.parametrize("plan", [FLOW, JOIN], ids=["flow", "join"])
def test_without_a_bug_nothing_is_found(suffer: Callable[..., Result], plan: Plan):
    result = suffer(plan, commit_ms=COMMIT_MS)

    assert result.is_good, "\n".join(result.lines)
    assert result.verdict.letters > 0


def test_a_commit_one_offset_too_far_is_found(suffer: Callable[..., Result]):
    result = suffer(FLOW, planted=COMMIT_TOO_FAR, commit_ms=COMMIT_MS)

    assert "committed-past-unfinished" in result.verdict.names, "\n".join(result.lines)


def test_a_batch_that_is_acknowledged_though_the_agent_raised_is_found(
    suffer: Callable[..., Result],
):
    result = suffer(FLOW, planted=ACKNOWLEDGE_ON_EXCEPTION, commit_ms=COMMIT_MS)

    assert {"lost-write", "committed-past-unfinished"} <= result.verdict.names, "\n".join(
        result.lines
    )


def test_work_that_goes_on_after_the_fence_is_found(suffer: Callable[..., Result]):
    result = suffer(JOIN, planted=FORGET_A_REVOKE, commit_ms=COMMIT_MS)

    assert "duplicate" in result.verdict.names, "\n".join(result.lines)
