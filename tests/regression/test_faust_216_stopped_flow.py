"""faust-streaming/faust#216, #253: waiting until nothing is being fetched waits for nothing.

`Consumer.not_waiting_next_records` is set before a fetch as well as behind it, and never cleared:
`wait_for_stopped_flow` returns while records of the old assignment are still on their way, and the
rebalance that it should have held back goes on. A feed does not wait for what is on its way; it
knows it again by its epoch.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.builders import A, EngineDriver, chunk_of
from tests.regression.plain import ORDERS, PlainFaust


async def test_plain_faust_does_not_wait_for_a_fetch_that_is_under_way() -> None:
    consumer = PlainFaust().consumer
    consumer._set_active_tps({ORDERS})
    fetching, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def getmany(*args: Any, **kwargs: Any) -> Any:
        fetching.set()
        return await answer

    consumer._getmany = getmany
    fetch = asyncio.create_task(consumer._wait_next_records(1.0))
    await fetching.wait()

    await asyncio.wait_for(consumer.wait_for_stopped_flow(), timeout=5)  # else it fails here

    assert not fetch.done()
    answer.set_result({})
    await fetch


def test_records_of_a_feed_that_arrive_behind_a_seek_are_thrown_away_and_their_memory_is_free() -> (
    None
):
    d = EngineDriver()
    d.assign(A=0)
    _, before = d.reading[A]
    d.revoke(A)
    d.assign(A=7)

    assert d.fetch(A, chunk_of(range(3), lane=1), epoch=before) == []

    assert d.reading[A] == (7, d.reading[A][1])
    assert d.memory.used_bytes == 0
    assert d.commit() == {A: 7}
