"""An event loop whose time passes only when nothing is left to do.

When no callback is ready the loop jumps to its next timer, so an hour of waiting takes no
time, and the same program does the same steps at the same instants each time it runs. What
code computes takes no virtual time; what waits (`asyncio.sleep`, timers, `time.sleep`) takes
exactly as long as it says.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import events
from collections.abc import Callable
from typing import Any, Final, NoReturn

from flowguard.errors import SimulationError
from flowguard.units import MILLISECOND, SECOND

__all__ = ["EPOCH_MS", "VirtualClock", "VirtualLoop"]

#: The wall clock at the virtual instant 0: 2026-01-01 00:00 UTC.
EPOCH_MS: Final = 1_767_225_600_000

#: A loop that does not come to rest within so many turns at one instant never will.
TURNS_MAX: Final = 200_000

NO_SOCKETS: Final = (
    "{what} at {at:.3f} s of the harness: there are no sockets in it; give your code a stand-in "
    "for what it talks to, or test it against the real thing with `flowguard worker`"
)


class VirtualClock:
    """A clock that is told how much time has passed; it begins at 0.

    Thread-safety: none; everything in a harness runs on one thread.
    """

    def __init__(self) -> None:
        self._now_ns = 0
        self._aside_ns: int | None = None  # how long the function run aside has slept so far

    def now_ns(self) -> int:
        """Return the virtual instant in nanoseconds."""
        return self._now_ns + (self._aside_ns or 0)

    def epoch_ms(self) -> int:
        """Return the virtual wall clock in milliseconds since 1970."""
        return EPOCH_MS + self.now_ns() // MILLISECOND

    def epoch_ns(self) -> int:
        """Return the virtual wall clock in nanoseconds since 1970."""
        return EPOCH_MS * MILLISECOND + self.now_ns()

    def pass_by(self, duration_ns: int) -> None:
        """Let time pass; inside of `aside`, only for the function that runs aside."""
        if self._aside_ns is None:
            self._now_ns += duration_ns
        else:
            self._aside_ns += duration_ns

    def aside(self, function: Callable[[], Any]) -> tuple[Any, BaseException | None, int]:
        """Run what would be on another thread; return its result or error, and its time in ns."""
        before, self._aside_ns = self._aside_ns, 0
        try:
            return function(), None, self._aside_ns
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            return None, error, self._aside_ns
        finally:
            self._aside_ns = before


class Jump:
    """What stands in for the selector: instead of waiting for sockets it passes time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout_s: float | None) -> list[Any]:
        """Let the time pass until the next timer, or stop the loop if there is none."""
        if timeout_s is None:
            self._loop.stop()
            return []
        if timeout_s > 0:
            self._turns = 0
            self._loop.clock.pass_by(math.ceil(timeout_s * SECOND))
            return []
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            raise SimulationError(
                f"the app takes {TURNS_MAX:,} turns of the event loop at {self._loop.time():.3f} s "
                f"and no time passes; something in it spins, such as `while True: await "
                f"asyncio.sleep(0)`; let it wait for an event or a while"
            )
        return []

    def close(self) -> None:
        """Nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on a virtual clock, without sockets and threads.

    `asyncio.to_thread` and `run_in_executor` run their function on the spot; it has taken as
    long as it slept with `time.sleep`.

    Raises:
        SimulationError: By whatever would open a socket.
    """

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock
        self._clock_resolution = 1e-9
        self._selector = Jump(self)

    def time(self) -> float:
        """Return the virtual instant in seconds."""
        return self.clock.now_ns() / SECOND

    def run_until(self, at_ns: int) -> None:
        """Run until a virtual instant, also from code that another loop runs.

        What is due at that instant has been done when it returns.
        """
        outer = events._get_running_loop()
        events._set_running_loop(None)
        try:
            while self.clock.now_ns() < at_ns:
                timer = self.call_at(at_ns / SECOND, self.stop)
                try:
                    self.run_forever()
                finally:
                    timer.cancel()
        finally:
            events._set_running_loop(outer)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function soon, on this very thread, as if it were on another."""
        future: asyncio.Future[Any] = self.create_future()
        self.call_soon(self._run_aside, future, func, args)
        return future

    def _run_aside(
        self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        result, error, took_ns = self.clock.aside(lambda: func(*args))

        def done() -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(took_ns / SECOND, done)

    def turn(self) -> None:
        """Run what is ready now, and no more; no time passes."""
        outer = events._get_running_loop()
        events._set_running_loop(None)
        try:
            self.call_soon(self.stop)
            self.run_forever()
        finally:
            events._set_running_loop(outer)

    def forget(self) -> None:
        """Forget all that is under way or scheduled, without a word."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]

    # What a real loop does with its selector.

    def _check_closed(self) -> None:
        """Let a coroutine that is thrown away after the end schedule what will never run."""

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing to do: there are no sockets."""

    def _write_to_self(self) -> None:
        """Nothing to do: nobody else can wake this loop."""

    def _refuse(self, what: str) -> NoReturn:
        raise SimulationError(NO_SOCKETS.format(what=what, at=self.time()))

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no sockets."""
        self._refuse(f"a connection to {args[1:3] or kwargs.get('host')}")

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no sockets."""
        self._refuse(f"a server on {args[1:3] or kwargs.get('host')}")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no sockets."""
        self._refuse("a datagram socket")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no sockets."""
        self._refuse("a connection to a unix socket")

    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
        """Raise: there are no names."""
        self._refuse(f"a look-up of {host}")

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Raise: there are no sockets."""
        self._refuse(f"a connection to {address}")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no processes."""
        self._refuse(f"the program {args[1:2]}")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: there are no processes."""
        self._refuse(f"the program {args[1:2]}")

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., Any], *args: Any
    ) -> None:
        """Leave signals to whoever runs the test."""

    def remove_signal_handler(self, sig: int) -> bool:
        """Leave signals to whoever runs the test."""
        return False
