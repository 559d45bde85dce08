"""faust-streaming/faust#596 and its kin: what a stream skips after a rebalance.

`Stream` passes over events of an older generation of the group, and over those that come while the
flow is suspended. In Python it acknowledges them as if they had been worked on, and they may be
committed; in Cython it never does, and nothing behind them is committed ever again.
"""

from __future__ import annotations

from typing import Any

import faust.streams
import pytest

from tests.builders import A, EngineDriver, chunk_of
from tests.regression.plain import PlainFaust


async def work_through(plain: PlainFaust, *generations: int) -> list[bytes]:
    """Let an agent of generation 2 have events of these, from offset 5 on; return what it saw."""
    plain.app.consumer_generation_id = 2
    seen: list[bytes] = []

    async def agent(values: Any) -> None:
        async for value in values:
            seen.append(value)
            if len(seen) == generations.count(2):
                raise RuntimeError("enough")

    events = [plain.event(5 + i, generation=each) for i, each in enumerate(generations)]
    await plain.let_fail(agent, plain.stream(events))
    return seen


async def test_plain_faust_in_python_commits_records_that_no_agent_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faust.streams, "_CStreamIterator", None)
    plain = PlainFaust(committed=5)

    seen = await work_through(plain, 1, 1, 2)

    assert seen == [b"7"]
    assert await plain.commit() == 8


@pytest.mark.skipif(faust.streams._CStreamIterator is None, reason="Faust has no Cython here")
async def test_plain_faust_in_cython_commits_nothing_any_longer_behind_records_it_skipped() -> None:
    plain = PlainFaust(committed=5)

    seen = await work_through(plain, 1, 1, 2, 2)

    assert seen == [b"7", b"8"]
    assert await plain.commit() is None


def test_what_a_feed_read_for_an_earlier_assignment_is_neither_worked_on_nor_committed() -> None:
    d = EngineDriver()
    d.assign(A=0)
    _, epoch = d.reading[A]
    d.revoke(A)
    d.assign(A=0)

    started = d.fetch(A, chunk_of(range(3), lane=1), epoch=epoch)

    assert started == []
    assert d.commit() == {A: 0}


def test_a_batch_that_ends_after_its_partition_left_and_came_back_commits_nothing() -> None:
    d = EngineDriver()
    d.assign(A=0)
    (cut,) = d.records(A, range(3))
    d.revoke(A)
    d.assign(A=0)

    d.finish(cut)

    assert d.commit() == {A: 0}
