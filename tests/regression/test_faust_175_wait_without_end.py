"""faust-streaming/faust#175, #640, #523, #532, robinhood/faust#402, #517: waits without an end.

`Consumer.wait_empty` waits until every record is acknowledged, however long an agent has it. The
group gives such a member up, it joins again, and the next rebalance waits for it again: consumers
"slowly die over time". The wait of a feed has an end; what is in flight then is not committed.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest

from flowguard import runtime as runtime_module
from flowguard.chunk import TopicPartition
from flowguard.clock import Clock
from flowguard.facts import Assigned, Fetched, Ticked
from flowguard.runtime import FeedRuntime
from flowguard.units import SECOND
from tests.builders import chunk_of
from tests.contract.test_faust_hooks import app_with_feed
from tests.regression.plain import PlainFaust

HEARTBEATS = 600  # of `_wait_for_ack`, a second each: twice what a group waits for a member
F = TopicPartition("orders", 0)


class Enough(Exception):
    """It would still be waiting."""


async def test_plain_faust_waits_as_long_as_an_agent_has_a_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faust = PlainFaust()
    in_flight = faust.message(0)
    faust.consumer.track_message(in_flight)
    waited: list[float] = []

    async def wait_for_ack(timeout: float) -> None:  # noqa: ASYNC109
        waited.append(timeout)
        if len(waited) == HEARTBEATS:
            raise Enough

    faust.consumer._wait_for_ack = wait_for_ack
    monkeypatch.setattr(gc, "collect", lambda: 0)  # it does, at each turn

    with pytest.raises(Enough):
        await faust.consumer.wait_empty()

    assert in_flight in faust.consumer.unacked


async def test_plain_faust_waits_for_nothing_of_a_topic_without_acks() -> None:
    """Which is how others build on it: then nobody waits for what is in flight."""
    faust = PlainFaust()
    faust.app.topics._acking_topics.clear()

    async def agent(values: Any) -> None:
        async for _ in values:
            assert not faust.consumer.unacked
            raise Enough

    assert isinstance(await faust.let_fail(agent, faust.stream([faust.event(0)])), Enough)


def in_flight(runtime: FeedRuntime, clock: Clock) -> None:
    """Let the agent have a record of a partition that is ours."""
    runtime.observe(Assigned(offsets={F: 0}, at_ns=clock.now_ns()))
    epoch = runtime.engine.partitions[F].epoch
    chunk = chunk_of([0])
    runtime.memory.charge((F, epoch), chunk.num_bytes, runtime.memory.reserve([]))
    runtime.observe(
        Fetched(partition=F, epoch=epoch, chunks=[chunk], next_offset=1, at_ns=clock.now_ns())
    )
    runtime.observe(Ticked(at_ns=clock.now_ns() + SECOND))  # it has lingered
    assert runtime.engine.records_in_flight(frozenset({F})) == 1


async def test_a_revoked_partition_of_a_feed_is_waited_for_so_long_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime_module, "REVOKE_GRACE_S", 0.01)
    runtime = app_with_feed().runtime
    in_flight(runtime, runtime.clock)

    await runtime.revoking(frozenset({F}))

    assert "1 records are still in flight" in caplog.text
    assert runtime.engine.commit_points()[F].offset == 0
    assert runtime_module.REVOKE_GRACE_S < 10  # Faust's session is 60 s, its heartbeat 20 s
