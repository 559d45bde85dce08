"""Where code is that does not come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from flowguard.observe.stall import place_of, stack_of, stack_of_thread

HERE = __file__


async def one_step() -> None:
    """Let everything that can run do so once."""
    for _ in range(3):
        await asyncio.sleep(0)


async def stack_while_it_waits(coroutine: Any) -> str:
    task = asyncio.get_running_loop().create_task(coroutine)
    await one_step()
    try:
        return stack_of(task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def test_a_stack_reads_from_where_it_waits_outwards() -> None:
    stack = await stack_while_it_waits(outer(asyncio.Event()))
    assert stack.startswith("waits for Future in locks.py:")
    places = [each.split(":")[-1].split(" ")[1] for each in stack.split(" ← ")]
    assert places == ["Event.wait", "inner", "outer"] or places == ["wait", "inner", "outer"]
    assert f"{HERE}:" in stack and "\n" not in stack


async def test_it_sees_through_a_task_that_is_waited_for() -> None:
    async def wait_for_a_task() -> None:
        await asyncio.get_running_loop().create_task(inner(asyncio.Event()))

    stack = await stack_while_it_waits(wait_for_a_task())
    assert stack.index(" inner") < stack.index("wait_for_a_task")


async def numbers(event: asyncio.Event) -> AsyncIterator[int]:
    yield 1
    await inner(event)
    yield 2


async def read(event: asyncio.Event) -> None:
    async for _ in numbers(event):
        pass


async def test_it_sees_through_asynchronous_generators_as_agents_are() -> None:
    stack = await stack_while_it_waits(read(asyncio.Event()))
    names = ("inner", "numbers", "read")
    assert all(f" {name}" in stack for name in names)
    assert stack.index(" inner") < stack.index(" numbers") < stack.index(" read")


async def test_a_task_that_waits_for_a_thread_says_for_whom_it_waits() -> None:
    leave = threading.Event()

    async def work() -> None:
        await asyncio.to_thread(leave.wait, 10)

    try:
        stack = await stack_while_it_waits(work())
    finally:
        leave.set()
    assert stack.startswith("waits for Future in threads.py:")
    assert "work" in stack


async def test_a_task_that_ended_or_has_not_begun() -> None:
    task = asyncio.get_running_loop().create_task(one_step())
    assert "one_step" in stack_of(task) or stack_of(task) == "it has not begun"
    await task
    assert stack_of(task) == "it has ended"


async def endless(depth: int, event: asyncio.Event) -> None:
    await (inner(event) if depth == 0 else endless(depth - 1, event))


async def test_a_deep_stack_is_cut() -> None:
    stack = await stack_while_it_waits(endless(50, asyncio.Event()))
    assert stack.endswith(" more") and stack.count(" ← ") == 12


def test_the_place_of_a_thread_is_where_the_users_code_is() -> None:
    begun, leave = threading.Event(), threading.Event()

    def wait_for_good() -> None:
        begun.set()
        leave.wait(10)

    thread = threading.Thread(target=wait_for_good)
    thread.start()
    begun.wait(10)
    try:
        assert thread.ident is not None
        place, stack = place_of(thread.ident), stack_of_thread(thread.ident)
    finally:
        leave.set()
        thread.join()
    assert place is not None and stack is not None
    assert place.startswith(f"{HERE}:") and place.endswith("wait_for_good")
    assert "wait_for_good" in stack and "threading.py:" in stack


def test_a_thread_that_is_not_there_has_no_stack() -> None:
    assert stack_of_thread(-1) is None and place_of(-1) is None
