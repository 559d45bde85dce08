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
from typing import Any, Final

from mode.timers import Timer

from flowguard.errors import SimulationError
from flowguard.testing.loop import NO_SOCKETS, VirtualClock
from flowguard.units import SECOND

__all__ = ["Outside"]

READINGS: Final = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter",
                   "perf_counter_ns", "sleep")  # fmt: skip

#: Their threads and timers are none of the harness's, so they keep the real clock.
LEFT_ALONE: Final = frozenset(
    {*sys.stdlib_module_names, "_pytest", "pytest", "pluggy", "hypothesis", "coverage", "polars",
     "pyarrow", "numpy"}
)  # fmt: skip

NO_THREADS: Final = (
    "the thread {name!r} at {at:.3f} s of the harness: there are no threads in it; use "
    "`await asyncio.to_thread(f)`, which runs f on the spot, or start the thread before the harness"
)


class Outside:
    """Stand-ins for what a harness must not reach, put in place while it runs.

    Args:
        clock: The virtual clock.
        seed: Of the global generator of `random`.
    """

    def __init__(self, clock: VirtualClock, seed: int) -> None:
        self._clock = clock
        self._thread = threading.get_ident()
        self._random = random.Random(seed).getstate()
        self._readings = self._virtual_readings()
        self._places: dict[str, list[str]] = {}  # module → names in it that are readings
        self._looked_at: set[str] = set()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Keep the outside out for as long as the context lasts."""
        self._thread = threading.get_ident()
        before = random.getstate()
        random.setstate(self._random)
        replaced = [*self._replace_readings(), *self._replace_doors()]
        try:
            yield
        finally:
            for owner, name, real in reversed(replaced):
                if real is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, real)
            self._random = random.getstate()
            random.setstate(before)

    # The clock.

    def _virtual_readings(self) -> dict[Any, Callable[..., Any]]:
        clock = self._clock
        virtual: dict[str, Callable[[], float]] = {
            "time": lambda: clock.epoch_ns() / SECOND,
            "time_ns": clock.epoch_ns,
            "monotonic": lambda: clock.now_ns() / SECOND,
            "monotonic_ns": clock.now_ns,
            "perf_counter": lambda: clock.now_ns() / SECOND,
            "perf_counter_ns": clock.now_ns,
        }
        found = {getattr(time, name): self._here(getattr(time, name), virtual[name])
                 for name in virtual}  # fmt: skip
        found[time.sleep] = self._here(time.sleep, self._sleep)
        return found

    def _sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self._clock.pass_by(round(seconds * SECOND))

    def _here(self, real: Callable[..., Any], virtual: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is virtual on the harness's thread and real on all others."""

        def reading(*args: Any) -> Any:
            return (virtual if threading.get_ident() == self._thread else real)(*args)

        return reading

    def _replace_readings(self) -> Iterator[tuple[Any, str, Any]]:
        for name in READINGS:
            real = getattr(time, name)
            setattr(time, name, self._readings[real])
            yield time, name, real
        defaults = Timer.__init__.__kwdefaults__ or {}  # it has the clock from when it was defined
        real_defaults = dict(defaults)
        Timer.__init__.__kwdefaults__ = {
            name: self._reading_for(value) or value for name, value in defaults.items()
        }
        yield Timer.__init__, "__kwdefaults__", real_defaults
        self._look_at_modules()
        for module_name, names in self._places.items():
            module = sys.modules.get(module_name)
            for name in names if module is not None else ():
                real = getattr(module, name, None)
                if (virtual := self._reading_for(real)) is not None:
                    setattr(module, name, virtual)
                    yield module, name, real

    def _look_at_modules(self) -> None:
        """Find the modules that have a reading under a name of their own."""
        for module_name in sys.modules.keys() - self._looked_at:
            self._looked_at.add(module_name)
            if module_name.partition(".")[0] in LEFT_ALONE:
                continue
            values = getattr(sys.modules.get(module_name), "__dict__", None) or {}
            names = [name for name, value in list(values.items()) if self._reading_for(value)]
            if names:
                self._places[module_name] = names

    def _reading_for(self, value: Any) -> Callable[..., Any] | None:
        builtin = type(value) is type(time.get_clock_info)
        return self._readings.get(value) if builtin else None

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
            if threading.get_ident() != self._thread:
                return real(*args, **kwargs)
            raise SimulationError(why(*args))

        return refuse

    @property
    def _at_s(self) -> float:
        return self._clock.now_ns() / SECOND

    def _no_thread(self, thread: threading.Thread, *_: Any) -> str:
        return NO_THREADS.format(name=thread.name, at=self._at_s)

    def _no_connection(self, _: Any, address: Any, *__: Any) -> str:
        return NO_SOCKETS.format(what=f"a socket to {address}", at=self._at_s)

    def _no_look_up(self, host: Any, *_: Any) -> str:
        return NO_SOCKETS.format(what=f"a look-up of {host}", at=self._at_s)
