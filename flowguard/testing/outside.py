"""What is beyond a harness while it runs: the clock of the machine, sockets, threads.

`time.time`, `time.monotonic`, `time.perf_counter` and their `_ns` forms tell virtual time,
also where a module imported them by name; `time.sleep` lets virtual time pass; the global
generator of `random` is seeded. Threads and sockets raise. All of it holds for the thread that
runs the harness, and only while it runs.

`datetime.now()` and the generators of numpy are not covered: they are compiled.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final

from flowguard.errors import SimulationError
from flowguard.testing.loop import NO_SOCKETS, VirtualClock
from flowguard.units import SECOND

__all__ = ["Outside"]

#: Their threads and timers are none of the harness's, so they keep the real clock.
LEFT_ALONE: Final = frozenset(
    {*sys.stdlib_module_names, "_pytest", "pytest", "pluggy", "hypothesis", "coverage", "polars",
     "pyarrow", "numpy"}
)  # fmt: skip

NO_THREADS: Final = (
    "the thread {name!r} at {at:.3f} s of the harness: there are no threads in it; use "
    "`await asyncio.to_thread(f)`, which runs f on the spot, or start the thread before the harness"
)


#: The one that is shut now, if any; of several, one inside of another, the last.
shut_now: list[Outside] = []


class Outside:
    """Stand-ins for what a harness must not reach, put in place while it runs.

    Args:
        clock: The virtual clock.
        seed: Of the global generator of `random`.
    """

    def __init__(self, clock: VirtualClock, seed: int) -> None:
        self.clock = clock
        self.thread = threading.get_ident()
        self._random = random.Random(seed).getstate()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Keep the outside out for as long as the context lasts."""
        self.thread = threading.get_ident()
        before = random.getstate()
        random.setstate(self._random)
        replaced = [*replace_readings(), *self._replace_doors()]
        shut_now.append(self)
        try:
            yield
        finally:
            shut_now.pop()
            for owner, name, real in reversed(replaced):
                if real is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, real)
            self._random = random.getstate()
            random.setstate(before)

    # The doors.

    def _replace_doors(self) -> Iterator[tuple[Any, str, Any]]:
        doors: list[tuple[Any, str, Callable[..., str]]] = [
            (threading.Thread, "start", self._no_thread),
            (socket.socket, "connect", self._no_connection),
            (socket.socket, "connect_ex", self._no_connection),
            (socket.socket, "bind", self._no_connection),
            (socket, "getaddrinfo", self._no_look_up),
        ]
        for owner, name, why in doors:
            own = vars(owner).get(name)
            setattr(owner, name, self._closed(getattr(owner, name), why))
            yield owner, name, own

    def _closed(self, real: Callable[..., Any], why: Callable[..., str]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                return real(*args, **kwargs)
            raise SimulationError(why(*args))

        return refuse

    @property
    def _at_s(self) -> float:
        return self.clock.now_ns() / SECOND

    def _no_thread(self, thread: threading.Thread, *_: Any) -> str:
        return NO_THREADS.format(name=thread.name, at=self._at_s)

    def _no_connection(self, _: Any, address: Any, *__: Any) -> str:
        return NO_SOCKETS.format(what=f"a socket to {address}", at=self._at_s)

    def _no_look_up(self, host: Any, *_: Any) -> str:
        return NO_SOCKETS.format(what=f"a look-up of {host}", at=self._at_s)


# The clock.


def virtual(real: Callable[..., Any], read: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is virtual in a harness, and real on other threads and afterwards.

    There is one for all harnesses: a module that is imported while one runs takes it for good.
    """

    def reading(*args: Any) -> Any:
        if shut_now and shut_now[-1].thread == threading.get_ident():
            return read(shut_now[-1].clock, *args)
        return real(*args)

    return reading


def let_pass(clock: VirtualClock, seconds: float) -> None:
    """Let time pass, as `time.sleep` does."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    clock.pass_by(round(seconds * SECOND))


#: What is in place of each reading of the clock.
VIRTUAL: Final[dict[Any, Callable[..., Any]]] = {
    time.time: virtual(time.time, lambda clock: clock.epoch_ns() / SECOND),
    time.time_ns: virtual(time.time_ns, VirtualClock.epoch_ns),
    time.monotonic: virtual(time.monotonic, lambda clock: clock.now_ns() / SECOND),
    time.monotonic_ns: virtual(time.monotonic_ns, VirtualClock.now_ns),
    time.perf_counter: virtual(time.perf_counter, lambda clock: clock.now_ns() / SECOND),
    time.perf_counter_ns: virtual(time.perf_counter_ns, VirtualClock.now_ns),
    time.sleep: virtual(time.sleep, let_pass),
}

#: Module → names in it that are readings, of the modules that were looked at.
places: dict[str, list[str]] = {}
looked_at: set[str] = set()
#: Functions of those modules that take a reading as an argument by default.
with_defaults: list[FunctionType] = []


def replace_readings() -> Iterator[tuple[Any, str, Any]]:
    """Put virtual readings in place; yield owner, name and what was there."""
    for real, reading in VIRTUAL.items():
        if getattr(time, real.__name__) is real:
            setattr(time, real.__name__, reading)
            yield time, real.__name__, real
    look_at_modules()
    for function in with_defaults:  # they have the clock from when they were defined
        defaults = function.__kwdefaults__ or {}
        yield function, "__kwdefaults__", defaults
        function.__kwdefaults__ = {
            name: reading_for(value) or value for name, value in defaults.items()
        }
    for module_name, names in places.items():
        module = sys.modules.get(module_name)
        for name in names if module is not None else ():
            real = getattr(module, name, None)
            if (stand_in := reading_for(real)) is not None:
                setattr(module, name, stand_in)
                yield module, name, real


def look_at_modules() -> None:
    """Find the modules that have a reading under a name of their own."""
    for module_name in sys.modules.keys() - looked_at:
        looked_at.add(module_name)
        if module_name.partition(".")[0] in LEFT_ALONE:
            continue
        values = getattr(sys.modules.get(module_name), "__dict__", None) or {}
        names = [name for name, value in list(values.items()) if reading_for(value)]
        if module_name == __name__:
            continue
        if names:
            places[module_name] = names
            with_defaults.extend(functions_with_readings(module_name, values))


def functions_with_readings(module_name: str, values: dict[str, Any]) -> Iterator[FunctionType]:
    """Yield the functions of a module, and of its classes, that default to a reading."""
    for value in list(values.values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for each in members:
            each = getattr(each, "__wrapped__", each)
            if (
                isinstance(each, FunctionType)
                and each.__module__ == module_name
                and any(map(reading_for, (each.__kwdefaults__ or {}).values()))
            ):
                yield each


def reading_for(value: Any) -> Callable[..., Any] | None:
    """Return what is in a reading's place, None for everything else."""
    builtin = type(value) is type(time.get_clock_info)
    return VIRTUAL.get(value) if builtin else None
