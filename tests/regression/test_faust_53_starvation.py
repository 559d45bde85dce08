"""faust-streaming/faust#53, robinhood/faust#80, #563: one slow agent holds up all the others.

Records of all topics go through one loop, which waits for the queue of the agent that is full; and
the queue of an agent is one for all partitions, first come first served.
"""

from __future__ import annotations

import asyncio

from flowguard.chunk import TopicPartition
from flowguard.view import AgentPlan
from tests.builders import A, B, EngineDriver
from tests.regression.plain import ORDERS, OTHER, PlainFaust

QUEUE_RECORDS = 4


async def test_plain_faust_delivers_nothing_to_anyone_while_the_queue_of_one_agent_is_full() -> (
    None
):
    faust = PlainFaust(stream_buffer_maxsize=QUEUE_RECORDS)
    slow = faust.topic.clone(is_iterator=True)
    deliver = faust.app.topics._compiler.build(faust.app.topics, ORDERS, {slow})
    for offset in range(QUEUE_RECORDS):
        await deliver(faust.message(offset))

    # `Consumer._drain_messages` awaits this before it looks at any other partition.
    blocked = asyncio.create_task(deliver(faust.message(QUEUE_RECORDS)))
    for _ in range(100):
        await asyncio.sleep(0)

    assert not blocked.done()
    slow.queue.get_nowait()
    await blocked


async def test_plain_faust_lets_a_record_wait_behind_all_of_another_partition() -> None:
    faust = PlainFaust()
    channel = faust.topic.clone(is_iterator=True)
    for tp, offsets in ((ORDERS, range(1_000)), (OTHER, [0])):
        deliver = faust.app.topics._compiler.build(faust.app.topics, tp, {channel})
        for offset in offsets:
            await deliver(faust.message(offset, tp))

    arrived = [channel.queue.get_nowait().message.partition for _ in range(1_001)]

    assert arrived.index(1) == 1_000


def test_a_slow_agent_of_one_feed_holds_up_no_other() -> None:
    other = TopicPartition("returns", 0)
    d = EngineDriver(
        agents=[
            AgentPlan(name="slow", topics=frozenset({"orders"}), records_max=QUEUE_RECORDS),
            AgentPlan(name="quick", topics=frozenset({"returns"}), records_max=QUEUE_RECORDS),
        ]
    )
    d.own({A: 0, other: 0})
    (stuck,) = d.records(A, range(1_000))

    for first in range(0, 100, 4):
        (cut,) = d.records(other, range(first, first + 4))
        d.finish(cut)

    assert d.running == [stuck]
    assert d.commit() == {A: 0, other: 100}


def test_a_partition_of_a_feed_waits_for_a_few_batches_of_another_and_not_for_all_of_it() -> None:
    d = EngineDriver(records_max=100)
    d.assign(A=0, B=0)
    d.records(A, range(100_000))
    d.records(B, [0])

    for _ in range(3):
        (cut,) = d.running
        d.finish(cut)

    assert d.commit()[B] == 1
