"""faust-streaming/faust#189, #315, robinhood/faust#604, #527: a record that raises is acknowledged.

The iterator of a stream acknowledges in a `finally`, also when the agent raised; `take` does the
same; `stream_ack_exceptions` has no effect any longer. What failed is committed and never seen
again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tests.builders import A, EngineDriver
from tests.regression.plain import PlainFaust
from tests.unit.agents.app import serving


class BadRecord(Exception):
    """What an agent finds wrong with a record."""


async def raise_on_the_third(values: AsyncIterator[bytes]) -> None:
    async for value in values:
        if value == b"2":
            raise BadRecord


async def raise_at_once(values: AsyncIterator[Any]) -> None:
    async for _ in values:
        raise BadRecord


async def test_plain_faust_commits_a_record_that_made_its_agent_raise() -> None:
    faust = PlainFaust()

    await faust.let_fail(raise_on_the_third, faust.stream(map(faust.event, range(5))))

    assert await faust.commit() == 3, "0 and 1 were done, 2 was not"


async def test_plain_faust_commits_all_of_a_take_that_made_its_agent_raise() -> None:
    faust = PlainFaust()

    await faust.let_fail(raise_at_once, faust.stream(map(faust.event, range(5))).take(5, within=60))

    assert await faust.commit() == 5, "none was done"


async def test_plain_faust_has_a_way_out_that_acknowledges_nothing() -> None:
    """`noack` is honoured by now; it takes an acknowledgement by hand for each record."""
    faust = PlainFaust()

    await faust.let_fail(raise_on_the_third, faust.stream(map(faust.event, range(5))).noack())

    assert await faust.commit() is None


async def test_a_batch_that_made_its_agent_raise_is_told_as_failed_and_never_as_finished() -> None:
    async with serving(raise_at_once) as served:
        served.deliver()
        await served.outcomes.until("failed", 1)

    assert served.outcomes.names(1) == ["failed"]


def test_a_feed_commits_nothing_of_a_batch_that_failed_and_tries_it_again() -> None:
    d = EngineDriver()
    d.assign(A=0)
    (cut,) = d.records(A, range(5))

    d.fail(cut)

    assert d.commit() == {A: 0}
    assert d.running, "nothing is tried again"
