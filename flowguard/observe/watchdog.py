"""A thread that notices what the event loop cannot notice itself: that it does not run.

An agent that computes or waits without `await` stops everything: other agents, commits, pages.
Each look leaves a callback in the loop. While it has not run for longer than `STALL_S`, the
thread says once where the loop's thread is, and once when it runs again.

What kept the whole process from running, a SIGSTOP or native code that holds the interpreter,
keeps this thread from running too; then it says so instead of blaming whoever is there now.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flowguard.observe.stall import place_of, stack_of_thread

__all__ = ["STALL_S", "Stalls", "Watchdog"]

#: A loop that has not run for this long is worth a line: targets of lanes are some 50 ms, and
#: nothing that a worker itself does on its loop takes as long.
STALL_S: Final = 1.0

#: How often the thread looks. A look costs some microseconds.
LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Stalls:
    """What was noticed in this worker's life.

    Args:
        count: How often the loop did not run for longer than `STALL_S`.
        blocked_s: For how long in all; the stall under way counts.
        place: Where the last one was: file, line and function.
        under_way: It has not run again yet.
    """

    count: int = 0
    blocked_s: float = 0.0
    place: str | None = None
    under_way: bool = False


class Watchdog:
    """Look after an event loop on a thread of its own.

    Args:
        loop: The loop; `start` is called on its thread.
        log: Where stalls are said.
        beside: Called at each look, for what else should not depend on the loop.
        stall_s: A loop that does not run for longer stalls.
        clock: Seconds of a clock that never goes back.

    Thread-safety: `stalls` and `silence_s` may be read on any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: logging.Logger,
        *,
        beside: Callable[[], None] = lambda: None,
        stall_s: float = STALL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._log = log
        self._beside = beside
        self._stall_s = stall_s
        self._clock = clock
        self._ident = 0
        self._ended = threading.Event()
        self._asked_s: float | None = None
        self._looked_s: float | None = None
        self._stalling = False
        self._count = 0
        self._past_s = 0.0
        self._place: str | None = None

    def start(self) -> None:
        """Begin to look; on the loop's own thread."""
        self._ident = threading.get_ident()
        threading.Thread(target=self._run, name="flowguard watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    @property
    def stalls(self) -> Stalls:
        """Return what was noticed so far."""
        under_way_s = self.silence_s if self._stalling else 0.0
        return Stalls(self._count, self._past_s + under_way_s, self._place, self._stalling)

    @property
    def silence_s(self) -> float:
        """Return for how long the loop has not answered, in seconds."""
        asked_s = self._asked_s
        return 0.0 if asked_s is None else max(0.0, self._clock() - asked_s)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self.look()
                self._beside()
            except Exception:  # a mistake in here must not end the watch
                self._log.exception("the watchdog failed, and goes on")

    def look(self) -> None:
        """Ask the loop if nothing is asked; say what has changed."""
        now_s = self._clock()
        slept_s = 0.0 if self._looked_s is None else now_s - self._looked_s - LOOK_S
        self._looked_s = now_s
        if slept_s > self._stall_s:
            self._nothing_ran(slept_s)
            return
        asked_s = self._asked_s
        if asked_s is None:
            self._answered()
            self._ask(now_s)
        elif not self._stalling and now_s - asked_s > self._stall_s:
            self._stalled(now_s - asked_s)

    def _ask(self, now_s: float) -> None:
        self._asked_s = now_s
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed
            self._asked_s = None

    def _answer(self) -> None:
        """Note that the loop runs; on the loop."""
        asked_s, self._asked_s = self._asked_s, None
        if self._stalling and asked_s is not None:
            self._past_s += self._clock() - asked_s

    def _stalled(self, silence_s: float) -> None:
        self._stalling = True
        self._count += 1
        self._place = place_of(self._ident)
        self._log.warning(
            "the event loop has not run for %.1f s, because of %s; nothing else happens meanwhile. "
            "Await there, or put it on a thread with asyncio.to_thread(…). It is in %s",
            silence_s, self._place, stack_of_thread(self._ident),
        )  # fmt: skip

    def _answered(self) -> None:
        if self._stalling:
            self._stalling = False
            self._log.warning("the event loop runs again; it was in %s", self._place)

    def _nothing_ran(self, slept_s: float) -> None:
        self._count += 1
        self._past_s += slept_s
        self._asked_s = None if not self._stalling else self._asked_s
        self._place = place_of(self._ident)
        self._log.warning(
            "nothing in this process ran for %.1f s: it was suspended, got no processor, or native "
            "code held the interpreter, by now in %s", slept_s, self._place,
        )  # fmt: skip
