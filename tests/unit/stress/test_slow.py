"""The provider on a real clock: calls end, fail and time out as the scenario says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import flowguard as fg
from flowguard.stress.faults import Fault, Outage, Slow
from flowguard.stress.scenario import ProviderPlan
from flowguard.stress.simulator.provider import Answer
from flowguard.stress.slow import CallFailed, SlowProvider, failure
from flowguard.units import MILLISECOND, SECOND

UNAVAILABLE = getattr(fg, "Unavailable", CallFailed)


def provider(**plan: Any) -> SlowProvider:
    return SlowProvider(ProviderPlan(**{"call_ns": MILLISECOND, **plan}))


async def test_a_call_ends() -> None:
    slow = provider(capacity=2)

    await asyncio.gather(*(slow.call(10) for _ in range(5)))

    assert slow.provider.under_way == 0


async def test_a_short_call_overtakes_a_long_one() -> None:
    slow = provider(record_ns=MILLISECOND)
    ended: list[int] = []

    async def call(records: int) -> None:
        await slow.call(records)
        ended.append(records)

    await asyncio.gather(call(20), call(1))

    assert ended == [1, 20]


async def test_a_call_that_fails_raises() -> None:
    with pytest.raises(CallFailed, match="the provider failed"):
        await provider(errors=1.0).call(1)


async def test_a_refusal_says_that_the_provider_is_not_there() -> None:
    slow = provider(calls_max=1, call_ns=SECOND)
    first = asyncio.create_task(slow.call(1))
    await asyncio.sleep(0)

    with pytest.raises(UNAVAILABLE):
        await slow.call(1)

    first.cancel()


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    slow = provider(call_ns=60 * SECOND, timeout_ns=MILLISECOND)

    with pytest.raises(CallFailed, match="in time"):
        await slow.call(1)

    assert slow.provider.under_way == 0


async def test_a_cancelled_call_leaves_the_provider() -> None:
    slow = provider(call_ns=60 * SECOND)
    call = asyncio.create_task(slow.call(1))
    await asyncio.sleep(0)

    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert slow.provider.under_way == 0


async def test_a_fault_that_has_begun_is_in_force_at_once() -> None:
    slow = provider()
    outage = Fault(at_ns=0, until_ns=60 * SECOND, target="provider", type="outage", kind=Outage())

    slow.follow([outage], began_ago_ns=SECOND)

    with pytest.raises(UNAVAILABLE):
        await slow.call(1)


async def test_a_fault_that_is_over_leaves_nothing() -> None:
    slow = provider()
    gone = Fault(at_ns=0, until_ns=SECOND, target="provider", type="slow", kind=Slow(factor=9.0))

    slow.follow([gone], began_ago_ns=2 * SECOND)

    assert slow.provider.factor == 1.0


def test_what_is_wrong_with_the_batch_is_no_outage() -> None:
    assert isinstance(failure(Answer("the provider failed")), CallFailed)
