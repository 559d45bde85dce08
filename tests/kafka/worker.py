"""Workers as a user runs them: an app module in a directory, a process, a state page.

worker = workers.start(SOURCE, ORDERS=topic)      # until it has partitions
worker.until(lambda: worker.lane("bulk")["settled"] == 100)
assert worker.stop() == 0
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from flowguard.stress.embedded import end, free_port, log_tail, spawn

__all__ = ["FAUST", "FLOWGUARD", "Worker", "Workers", "eventually"]

FLOWGUARD = (sys.executable, "-c", "from flowguard.cli import main; main()")
FAUST = (sys.executable, "-m", "faust")

#: Far more than anything takes; only a failure waits as long.
PATIENCE_S = 60.0
POLL_S = 0.05

PREAMBLE = """\
import asyncio
import os
import pathlib

import faust
import polars as pl

import flowguard as fg

HERE = pathlib.Path(__file__).parent
"""

Found = TypeVar("Found")


def eventually(
    condition: Callable[[], Found],
    *,
    within_s: float = PATIENCE_S,
    why: Callable[[], str] = lambda: "",
) -> Found:
    """Ask again and again until the answer is true, and return it.

    Raises:
        AssertionError: It was not in time; `why` is called for the message.
    """
    end_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end_s, f"not within {within_s:.0f} s: {why()}"
        time.sleep(POLL_S)
    return found


class Worker:
    """One worker process at a time; `start` after its end starts the same app again.

    Args:
        command: `FLOWGUARD` or `FAUST`.
        directory: Where its module `app.py` is.
        group: The id of the app.
        index: Number among the workers of the app; each has a log of its own.
        options: More of the command line.
        level: From which on it logs.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        directory: Path,
        group: str,
        index: int = 0,
        options: tuple[str, ...] = (),
        level: str = "info",
    ) -> None:
        self.directory = directory
        self.group = group
        self.log = directory / f"worker-{index}.log"
        self.port = free_port()
        address = ("--web-port", str(self.port))
        self._command = [*command, *("-A", "app", "worker", "-l", level), *address, *options]
        self._index = index
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Worker:
        """Start the process; it may still be joining the group."""
        before = os.getcwd()
        os.chdir(self.directory)  # the process begins where we are
        try:
            self._process = spawn(self._command, self.log)
        finally:
            os.chdir(before)
        return self

    def twin(self) -> Worker:
        """Start another worker of the same app, with the same options."""
        command = FAUST if "faust" in self._command else FLOWGUARD
        index, options = self._index + 1, self._options
        return Worker(command, self.directory, self.group, index, options).start()

    # What it says.

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the process that runs, or ran last."""
        assert self._process is not None, "the worker was not started"
        return self._process

    @property
    def said(self) -> str:
        """Return all that it logged."""
        return self.log.read_text(errors="replace")

    def page(self, path: str) -> Any:
        """Return a page of the worker as JSON, None as long as there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as page:
                return json.load(page)
        except (OSError, urllib.error.URLError):
            return None

    @property
    def state(self) -> dict[str, Any]:
        """Return the state document; without partitions as long as there is none."""
        return self.page("/api/state") or {"partitions": [], "lanes": {}}

    def lane(self, name: str) -> dict[str, Any]:
        """Return the state of one lane; nothing was counted as long as there is none."""
        nothing = {"read": 0, "settled": 0, "in_flight": 0, "state": "ok", "why": None}
        return dict(self.state["lanes"].get(name, nothing))

    def partition(self, topic: str, number: int) -> dict[str, Any]:
        """Return the state of one partition; empty as long as the worker does not have it."""
        return next(
            (
                each
                for each in self.state["partitions"]
                if (each["topic"], each["partition"]) == (topic, number)
            ),
            {},
        )

    @property
    def rss_peak(self) -> int:
        """Return the most memory that it had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def until(
        self, condition: Callable[[], Found], *, within_s: float = PATIENCE_S, what: str = ""
    ) -> Found:
        """Wait for something that only a worker that lives can do."""

        def alive_and_true() -> Found:
            assert self.process.poll() is None, f"the worker ended: {self._last_words}"
            return condition()

        return eventually(
            alive_and_true,
            within_s=within_s,
            why=lambda: f"{what}\n{json.dumps(self.state, indent=1)}\n{self._last_words}",
        )

    @property
    def _last_words(self) -> str:
        return log_tail(self.log, 40)

    # How it ends.

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{how.name} did not stop it: {self._last_words}") from None

    def freeze(self) -> None:
        """Let it do nothing more, so that what it did can be looked at; `kill` it then."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, as a power failure does."""
        if self._process is not None:
            end(self._process, grace="0s")


class Workers:
    """The workers of one test; none outlives it."""

    def __init__(self, directory: Path, bootstrap: str, name: Callable[[str], str]) -> None:
        self._directory = directory
        self._bootstrap = bootstrap
        self._name = name
        self._all: list[Worker] = []

    def start(
        self,
        source: str,
        *,
        command: tuple[str, ...] = FLOWGUARD,
        bootstrap: str | None = None,
        joined: bool = True,
        options: tuple[str, ...] = (),
        level: str = "info",
        **constants: Any,
    ) -> Worker:
        """Start a worker of a new app.

        Args:
            source: Its module; `APP`, `BROKER`, `HERE` and the constants are there, as are
                the imports of `PREAMBLE`.
            command: What runs it.
            joined: Wait until the worker has partitions.
            options: More of its command line.
            level: From which on it logs.
        """
        directory = self._directory / f"app-{len(self._all)}"
        directory.mkdir()
        group = self._name("app")
        servers = (bootstrap or self._bootstrap).replace(",", ";")  # as Faust has several
        constants |= {"APP": group, "BROKER": f"kafka://{servers}"}
        lines = [PREAMBLE, *(f"{name} = {value!r}" for name, value in constants.items()), ""]
        (directory / "app.py").write_text("\n".join(lines) + textwrap.dedent(source))
        worker = self.adopt(Worker(command, directory, group, options=options, level=level).start())
        if joined:
            worker.until(lambda: worker.state["partitions"], what="it has no partitions")
        return worker

    def adopt(self, worker: Worker) -> Worker:
        """Kill this one, too, at the end of the test."""
        self._all.append(worker)
        return worker

    def end(self) -> None:
        """Kill what still runs."""
        for worker in self._all:
            worker.kill()
