"""A process that was told to stop ends, whatever its event loop does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import asyncio, os, signal, sys, threading, time
from flowguard.ending import Ending

class Stopping:
    def patience_s(self): return {patience}
    def stop_in_order(self, received): print("in order", received.name, flush=True); {in_order}
    def say_at_once(self, received): print("at once", received.name, flush=True)
    def say_given_up(self): print("given up", flush=True); {last_words}

async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, print)  # as Faust does: it wakes the loop
    Ending(Stopping(), on_loop=loop.call_soon_threadsafe).install(signal.SIGTERM, signal.SIGINT)
    print("ready", flush=True)
    {work}

asyncio.run(main())
"""
RUNS = "await asyncio.sleep(60)"
BLOCKED = "time.sleep(60)"
BUSY = "\n    while True: pass"
DONE = "os._exit(0)"


@pytest.fixture
def start(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Start a process that stops in some way; it does not outlive the test."""
    started = []

    def start(work: str, **options: object) -> subprocess.Popen[str]:
        usual = {"in_order": "None", "patience": 60.0, "last_words": "None"}
        source = SCRIPT.format(work=work, **(usual | options))
        process = subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[str], *signals: signal.Signals) -> tuple[int, list[str]]:
    """Send signals, and return the exit code and what was said."""
    for number, each in enumerate(signals):
        if number:
            time.sleep(0.6)  # one that follows at once is taken for the same
        process.send_signal(each)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said.splitlines()


def test_the_first_signal_stops_in_order(start) -> None:  # type: ignore[no-untyped-def]
    process = start(RUNS, in_order=DONE)
    assert end_of(process, signal.SIGTERM) == (0, ["in order SIGTERM"])


@pytest.mark.parametrize("work", [RUNS, BLOCKED, BUSY])
def test_what_does_not_stop_in_time_is_given_up(start, work: str) -> None:  # type: ignore[no-untyped-def]
    code, said = end_of(start(work, patience=0.2), signal.SIGINT)
    assert code == 0 and said[-1] == "given up"


@pytest.mark.parametrize("work", [RUNS, BLOCKED])
def test_a_second_signal_ends_it_at_once(start, work: str) -> None:  # type: ignore[no-untyped-def]
    code, said = end_of(start(work), signal.SIGTERM, signal.SIGINT)
    assert code == 130 and said[-1] == "at once SIGINT"


def test_what_it_says_last_does_not_keep_it(start) -> None:  # type: ignore[no-untyped-def]
    """Standard error may be a pipe that nobody reads."""
    process = start(BLOCKED, patience=0.2, last_words="time.sleep(60)")
    assert end_of(process, signal.SIGTERM) == (0, ["given up"])
