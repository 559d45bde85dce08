"""How long an agent's code holds the event loop at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from flowguard.agents.loop_time import LoopTime
from flowguard.observe.stall import stack_of
from flowguard.units import MILLISECOND


class Work:
    """Code that takes its time, on a clock of its own."""

    def __init__(self, function: Callable[[Work], Awaitable[None]]) -> None:
        self.now_s = 0.0
        self.seen_ms: list[float] = []
        self.timed = LoopTime(function(self), lambda: self.now_s)  # type: ignore[arg-type]

    def run(self, ms: float) -> None:
        """Hold the loop for so long."""
        self.now_s += ms / 1e3

    def look(self) -> None:
        """Note how long the loop was held at a time."""
        self.seen_ms.append(self.timed.longest_ns / MILLISECOND)


async def test_the_longest_time_between_two_waits_counts() -> None:
    async def function(work: Work) -> None:
        work.timed.begin()
        work.run(2)
        await asyncio.sleep(0)
        work.run(7)
        await asyncio.sleep(0)
        work.run(3)
        work.look()

    work = Work(function)
    await asyncio.create_task(work.timed)

    assert work.seen_ms == [pytest.approx(7)]


async def test_what_others_do_while_it_waits_does_not_count() -> None:
    async def function(work: Work) -> None:
        work.timed.begin()
        await asyncio.sleep(0)
        work.look()

    work = Work(function)
    task = asyncio.create_task(work.timed)
    await asyncio.sleep(0)
    work.run(500)
    await task

    assert work.seen_ms == [0]


async def test_what_runs_now_counts_and_what_was_before_it_began_does_not() -> None:
    async def function(work: Work) -> None:
        work.run(9)
        work.timed.begin()
        work.run(4)
        work.look()
        work.timed.begin()
        work.look()

    work = Work(function)
    await asyncio.create_task(work.timed)

    assert work.seen_ms == [pytest.approx(4), 0]


async def test_its_task_can_be_cancelled_and_its_place_is_told() -> None:
    waits = asyncio.Event()
    ended: list[str] = []

    async def function(work: Work) -> None:
        work.timed.begin()
        try:
            await waits.wait()
        except asyncio.CancelledError:
            work.run(6)
            await asyncio.sleep(0)
            work.look()
            ended.append("cancelled")
            raise

    work = Work(function)
    task = asyncio.create_task(work.timed)
    await asyncio.sleep(0)
    assert "function" in stack_of(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == ["cancelled"] and work.seen_ms == [pytest.approx(6)]
