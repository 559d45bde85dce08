"""The end of a process that was told to stop, whatever its event loop does by then.

asyncio handles signals on its loop: an agent that never comes back would make a worker that
only SIGKILL stops. Here a signal is noted between two instructions of the main thread, and a
thread ends the process when its time is up.

    1st signal ──▶ stop in order on the loop ┄┄ deadline ──▶ end, by the thread
    2nd signal ──▶ stop at once on the loop  ┄┄ 0.5 s ─────▶ end, by the thread
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Final, Protocol, runtime_checkable

__all__ = ["SAME_SIGNAL_S", "Ending", "Stopping"]

#: Signals to a group of processes arrive twice where a parent passes its own on as well.
SAME_SIGNAL_S: Final = 0.5

#: A loop that runs has ended the process by then, and has said so better.
AT_ONCE_S: Final = 0.5

LOOK_S: Final = 0.1
SAY_WITHIN_S: Final = 2.0

#: Exit codes of a worker that was told to stop, and of one that was told twice.
OK: Final = 0
INTERRUPTED: Final = 130


@runtime_checkable
class Stopping(Protocol):
    """What is stopped."""

    def patience_s(self) -> float:
        """Return how long stopping in order may take, in seconds."""

    def stop_in_order(self, received: signal.Signals) -> None:
        """Finish and stop; on the loop."""

    def say_at_once(self, received: signal.Signals) -> None:
        """Say that the process ends now; on the loop, or on a thread if that does not run."""

    def say_given_up(self) -> None:
        """Say that stopping in order takes too long, and the process ends; on a thread."""


class Ending:
    """Take signals, and see to it that the process ends.

    Args:
        stopping: What is stopped.
        on_loop: Lets something run on the loop, from any thread; may raise RuntimeError if
            that is closed.
    """

    def __init__(self, stopping: Stopping, *, on_loop: Callable[..., object]) -> None:
        self._stopping = stopping
        self._on_loop = on_loop
        self._end_s: float | None = None
        self._first_s = 0.0
        self._again: signal.Signals | None = None
        self._woken, self._wake = os.pipe()  # a lock could be held by whom the signal interrupts

    def install(self, *signals: signal.Signals) -> None:
        """Take these signals from now on; on the main thread."""
        threading.Thread(target=self._watch, name="flowguard ending", daemon=True).start()
        for each in signals:
            signal.signal(each, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; no lock is taken here, and nothing is written."""
        received, now_s = signal.Signals(number), time.monotonic()
        if self._end_s is None:
            self._first_s = now_s
            self._end_s = now_s + self._stopping.patience_s()
            self._tell(self._stopping.stop_in_order, received)
        elif now_s - self._first_s > SAME_SIGNAL_S and self._again is None:
            self._again = received
            self._end_s = now_s + AT_ONCE_S
            self._tell(self._end_at_once, received)

    def _tell(self, what: Callable[[signal.Signals], None], received: signal.Signals) -> None:
        with contextlib.suppress(RuntimeError):
            self._on_loop(what, received)
        os.write(self._wake, b".")

    def _end_at_once(self, received: signal.Signals) -> None:
        self._stopping.say_at_once(received)
        os._exit(INTERRUPTED)

    def _watch(self) -> None:
        os.read(self._woken, 1)
        while self._end_s is None or time.monotonic() < self._end_s:
            time.sleep(LOOK_S)
        again = self._again
        say: Callable[[], None] = self._stopping.say_given_up
        if again is not None:
            say = partial(self._stopping.say_at_once, again)
        # What it says may wait for a pipe that nobody reads.
        last_words = threading.Thread(target=say, name="flowguard last words", daemon=True)
        last_words.start()
        last_words.join(SAY_WITHIN_S)
        os._exit(OK if again is None else INTERRUPTED)
