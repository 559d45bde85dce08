"""Virtual time: nothing waits, nothing reaches the outside."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from flowguard.errors import SimulationError
from flowguard.testing.loop import EPOCH_MS, VirtualClock, VirtualLoop
from flowguard.testing.outside import Outside
from flowguard.units import SECOND


def run(main: Callable[[], Coroutine[Any, Any, Any]], *, seconds: int = 60) -> Any:
    """Run a coroutine for so much virtual time and return its result."""
    clock = VirtualClock()
    loop = VirtualLoop(clock)
    try:
        with Outside(clock, 1).shut():
            task = loop.create_task(main())
            loop.run_until(seconds * SECOND)
            return task.result()
    finally:
        loop.forget()
        loop.close()


def test_an_hour_passes_without_waiting() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    before_s = time.monotonic()
    assert run(main, seconds=4000) == pytest.approx(3600)
    assert time.monotonic() - before_s < 60


def test_timers_come_in_the_order_of_their_time() -> None:
    seen: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (3, 1, 2):
            loop.call_later(delay, seen.append, delay)
        await asyncio.sleep(5)

    run(main)
    assert seen == [1, 2, 3]


def test_all_clocks_of_python_tell_virtual_time() -> None:
    async def main() -> tuple[float, ...]:
        before = time.time(), time.monotonic(), time.perf_counter(), time.time_ns() / SECOND
        await asyncio.sleep(7)
        after = time.time(), time.monotonic(), time.perf_counter(), time.time_ns() / SECOND
        assert before[0] * 1e3 == pytest.approx(EPOCH_MS)
        return tuple(b - a for a, b in zip(before, after, strict=True))

    assert run(main) == pytest.approx((7, 7, 7, 7))


def test_clocks_are_real_again_afterwards() -> None:
    async def main() -> None:
        await asyncio.sleep(1)

    reading = time.monotonic
    run(main)
    assert time.monotonic is reading and abs(time.time() * 1e3 - EPOCH_MS) > 1000


def test_a_function_on_a_thread_takes_as_long_as_it_sleeps_while_others_go_on() -> None:
    steps: list[tuple[str, float]] = []

    async def other() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        steps.append(("other", loop.time()))

    async def main() -> str:
        loop = asyncio.get_running_loop()
        beside = loop.create_task(other())
        result = await asyncio.to_thread(lambda: (time.sleep(2), "done")[1])
        steps.append(("thread", loop.time()))
        await beside
        return result

    assert run(main) == "done"
    assert [name for name, _ in steps] == ["other", "thread"]
    assert [at_s for _, at_s in steps] == pytest.approx([1, 2])


def test_an_error_on_a_thread_comes_through() -> None:
    async def main() -> None:
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        run(main)


def test_sleeping_on_the_loop_holds_up_everything_as_it_does_in_a_worker() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        loop.call_later(0.1, lambda: late.append(loop.time()))
        time.sleep(3)  # noqa: ASYNC251
        await asyncio.sleep(0.01)
        return late[0]

    assert run(main) >= 3


def test_a_thread_is_refused_with_what_to_do_instead() -> None:
    async def main() -> None:
        threading.Thread(target=print, name="mine").start()

    with pytest.raises(SimulationError, match=r"'mine'.*asyncio\.to_thread"):
        run(main)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: asyncio.open_connection("127.0.0.1", 9092),
        lambda: asyncio.start_server(lambda *_: None, "127.0.0.1", 0),
        lambda: asyncio.create_subprocess_exec("true"),
    ],
)
def test_asynchronous_sockets_and_programs_are_refused(reach: Any) -> None:
    async def main() -> None:
        await reach()

    with pytest.raises(SimulationError, match="no sockets"):
        run(main)


def test_blocking_sockets_are_refused_also_on_a_thread() -> None:
    async def main() -> None:
        await asyncio.to_thread(socket.create_connection, ("127.0.0.1", 9092))

    with pytest.raises(SimulationError, match="no sockets"):
        run(main)


def test_sockets_and_threads_work_again_afterwards() -> None:
    async def main() -> None:
        return None

    run(main)
    ran = threading.Event()
    thread = threading.Thread(target=ran.set)
    thread.start()
    thread.join()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
    assert ran.is_set()


def test_what_spins_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowguard.testing.loop.TURNS_MAX", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match="spins"):
        run(main)


def test_chance_is_seeded_and_given_back() -> None:
    async def main() -> float:
        return random.random()

    state = random.getstate()
    first, second = run(main), run(main)
    assert first == second
    assert random.getstate() == state


async def test_it_runs_inside_of_another_loop() -> None:
    outer = asyncio.get_running_loop()

    async def main() -> bool:
        await asyncio.sleep(10)
        return asyncio.get_running_loop() is not outer

    assert run(main)
    assert asyncio.get_running_loop() is outer
