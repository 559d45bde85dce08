"""Several agents on one feed: each at its own pace, and an offset is done when all are."""

from __future__ import annotations

from flowguard.lanes.lane import Lane
from flowguard.view import AgentPlan
from tests.builders import A, B, EngineDriver, only_offsets

ORDERS = frozenset({"orders"})


def driver(*plans: AgentPlan) -> EngineDriver:
    d = EngineDriver(
        lanes=(Lane("only"),),
        agents=plans or (plan("fast"), plan("slow")),
    )
    d.assign(A=0, B=0)
    return d


def plan(name: str, **options: object) -> AgentPlan:
    return AgentPlan(name=name, topics=ORDERS, **options)  # type: ignore[arg-type]


def test_every_agent_gets_every_record():
    d = driver()

    started = d.records(A, range(10), 0)

    assert {cut.agent: only_offsets(cut) for cut in started} == {
        "fast": [*range(10)],
        "slow": [*range(10)],
    }


def test_an_offset_is_committed_when_all_agents_have_finished_it():
    d = driver()
    fast, slow = d.records(A, range(10), 0)

    d.finish(fast)
    assert d.commit()[A] == 0
    assert d.counts(0) == {"read": 10, "in_flight": 10}
    d.finish(slow)

    assert d.commit()[A] == 10
    assert d.counts(0) == {"read": 10, "settled": 10}


def test_a_slow_agent_does_not_hold_up_a_fast_one():
    d = driver()
    fast, slow = d.records(A, range(10), 0)
    d.finish(fast)

    for first in range(10, 100, 10):
        (fast,) = d.records(A, range(first, first + 10), 0)
        assert fast.agent == "fast"
        d.finish(fast)

    assert d.running == [slow]
    assert d.counts(0) == {"read": 100, "in_flight": 10, "held": 90}


def test_an_agent_that_fails_holds_up_only_itself():
    d = driver()
    fast, slow = d.records(A, [0], 0)

    d.fail(slow)
    d.finish(fast)
    (fast,) = d.records(A, range(1, 10), 0)

    assert fast.agent == "fast"
    d.finish(fast)
    (retry,) = d.wait(200)
    assert (retry.agent, retry.attempt, only_offsets(retry)) == ("slow", 2, [0])
    assert d.commit()[A] == 0


def test_memory_is_released_when_the_last_agent_is_done():
    d = driver()
    fast, slow = d.records(A, range(10), 0)

    d.finish(slow)
    assert d.memory.held_bytes > 0
    d.finish(fast)

    assert d.memory.held_bytes == 0


def test_what_is_revoked_is_released_once():
    d = driver()
    d.records(A, range(10), 0)
    d.records(A, range(10, 20), 0)

    d.revoke(A)

    assert d.counts(0) == {"read": 20, "released": 20}
    assert d.memory.held_bytes == 0


def test_agents_may_differ_in_all_that_is_theirs():
    d = driver(plan("one", records_max=3), plan("two", order="none", seats=2, records_max=5))
    started = d.records(A, range(10), 0)

    assert [(cut.agent, cut.num_records) for cut in started] == [("one", 3), ("two", 5), ("two", 5)]
    for _ in range(10):
        if d.running:
            d.finish(d.running[0])
    assert d.commit() == {A: 10, B: 0}


def test_dead_letters_are_counted_once():
    d = driver()
    fast, slow = d.records(A, range(10), 0)

    d.finish(fast, dead_letters=2)
    d.finish(slow)

    assert d.counts(0) == {"read": 10, "settled": 8, "dead_letters": 2}
