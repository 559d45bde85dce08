"""An agent that raises is started anew at once; two failures within 10 ms make the app exit.

Each start takes one more record from the queue, and acknowledges it
(`test_faust_189_ack_on_exception.py`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from mode import Service
from mode.supervisors import OneForOneSupervisor

from flowguard.settle.retry import Retry
from tests.builders import A, EngineDriver
from tests.regression.plain import PlainFaust
from tests.unit.agents.app import serving


async def test_plain_faust_starts_an_agent_anew_without_a_pause_and_exits_when_that_is_often() -> (
    None
):
    async def agent(values: Any) -> None: ...

    supervisor = PlainFaust().app.agent(name="poisoned")(agent)._new_supervisor()
    assert isinstance(supervisor, OneForOneSupervisor)
    starts: list[Service] = []

    async def start(service: Service, index: int) -> Service:
        starts.append(service)
        return Service()

    supervisor.replacement = start
    dead = Service()
    supervisor.add(dead)

    async def fail_again_and_again() -> None:
        for _ in range(1_000):
            await supervisor.restart_service(supervisor._services[0])

    with pytest.raises(SystemExit):
        await fail_again_and_again()

    assert 0 < len(starts) < 1_000


async def test_the_agent_of_a_feed_is_entered_again_and_never_gives_up() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            raise RuntimeError("poison")

    async with serving(agent) as served:
        for number in range(1, 301):
            served.deliver()
            await served.outcomes.until("failed", number)

    assert [each[0] for each in served.outcomes.told] == ["failed"] * 300


def test_a_record_that_fails_is_tried_again_after_a_wait_that_grows() -> None:
    d = EngineDriver(retries=Retry(10, "100ms..10s"))
    d.assign(A=0)
    (cut,) = d.records(A, [0])
    waits_ns: list[int] = []

    for _ in range(8):
        d.fail(cut)
        assert d.running == [], "it was tried again at once"
        due_ns = d.engine.due_ns
        assert due_ns is not None
        waits_ns.append(due_ns - d.now_ns)
        d.wait(waits_ns[-1] / 1e6 + 1)
        (cut,) = d.running

    assert d.commit() == {A: 0}
    assert all(wait >= 50e6 for wait in waits_ns)
    assert sum(b > a for a, b in pairwise(waits_ns)) >= 4, waits_ns
    assert sum(waits_ns) > 20e9
