"""The processes that a run starts: the worker under test, and the load around it.

Each has a session of its own, so that a terminal's Ctrl-C reaches only the run, which
decides the order of stopping; Linux kills them when the run itself is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil  # type: ignore[import-untyped]

from flowguard.errors import FlowguardError
from flowguard.snapshot import COUNTS
from flowguard.stress.checkers import imbalances
from flowguard.stress.embedded import die_with_parent, free_port, log_tail
from flowguard.stress.load import Task, as_argument

__all__ = ["LAST_STATE_FILE", "Child", "CpuMeter", "Worker", "end_process"]

STATE_EVERY_S: Final = 0.2
READY_WITHIN_S: Final = 60.0
DRAIN_WITHIN_S: Final = 30.0
LOG_LINES: Final = 200

#: Where a worker may leave its last state document, in the directory it is started in.
LAST_STATE_FILE: Final = "last-state.json"

#: What is counted over several lives, and what of it is nobody's when one has ended.
LIFE_COUNTS: Final = (*COUNTS, "degraded")
HELD: Final = ("in_flight", "held", "spilled", "refetching")

#: The results of a sender come as one line.
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class Child:
    """A process of `flowguard.stress.load`: orders in, lines of JSON out."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self.latest: dict[str, Any] = {}
        self.ready = asyncio.Event()
        self._process = process
        self._result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, name: str, task: Task, log: Path) -> Child:
        """Start the process."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "flowguard.stress.load", as_argument(task)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=LINE_BYTES_MAX,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        return cls(name, process, log)

    def order(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def result(self) -> Any:
        """Wait for what it says when it is done.

        Raises:
            FlowguardError: It ended without a word.
        """
        return await self._result

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self.ready.set()
            elif "done" in message:
                self._result.set_result(message["done"])
            else:
                self.latest = message
        self.ready.set()
        if not self._result.done():
            self._result.set_exception(
                FlowguardError(f"the {self.name} ended early: {log_tail(self.log, 1)}")
            )
            self._result.exception()  # whoever waits gets it; if nobody does, that is fine

    async def end(self) -> None:
        """End it, if it has not ended."""
        self._listening.cancel()
        await end_process(self._process)


class Worker:
    """The worker under test, and what its state page says.

    Args:
        command: What runs it, after `python`; `--broker` and `--web-port` are added.
        environment: Variables beside ours.
        directory: Where its log is.
        started_in: Where it is started, if not there.
        partitions: How many it must have until it counts as started.

    Attributes:
        watch: Called with each state document.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        bootstrap: str,
        environment: Mapping[str, str],
        directory: Path,
        partitions: int,
        started_in: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.command = [
            *(sys.executable, *command),
            *("--broker", f"kafka://{bootstrap}", "--web-port", str(self.port)),
        ]
        self.environment = environment
        self.directory = directory
        self.started_in = started_in or directory
        self.partitions = partitions
        self.log = directory / "worker.log"
        self.state: dict[str, Any] = {}
        self.peak_memory = 0
        self.peak_rss = 0
        self.peak_spill = 0
        self.imbalances: list[str] = []
        self.watch: Callable[[Mapping[str, Any]], None] = lambda state: None
        self._past: dict[str, dict[str, int]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Return where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss(self) -> int:
        """Return its resident memory now, in bytes; 0 when it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss) if self._process else 0
        except psutil.Error:
            return 0

    @property
    def running(self) -> bool:
        """Tell whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def lane(self, name: str) -> Mapping[str, Any]:
        """Return the latest state of a lane."""
        lanes: Mapping[str, Mapping[str, Any]] = self.state.get("lanes", {})
        return lanes.get(name, {})

    def count(self, lane: str, count: str) -> int:
        """Return the latest value of a lane's count."""
        return int(self.lane(lane).get(count, 0))

    def counts_of_all_lives(self, lane: str) -> dict[str, int]:
        """Return a lane's counts, those before it was killed included."""
        past = self._past.get(lane, {})
        return {name: past.get(name, 0) + self.count(lane, name) for name in LIFE_COUNTS}

    def bury(self) -> None:
        """Keep the counts of a life that has ended; what it held, others will read."""
        for lane in self.state.get("lanes", {}):
            counts = self.counts_of_all_lives(lane)
            counts["released"] += sum(counts[name] for name in HELD)
            self._past[lane] = counts | dict.fromkeys(HELD, 0)
        self.state = {}

    async def start(self) -> None:
        """Start it, and return when it has its partitions.

        Raises:
            FlowguardError: It did not get there; the message has its output.
        """
        await self.spawn()
        deadline = time.monotonic() + READY_WITHIN_S
        while len(self.state.get("partitions", ())) < self.partitions:
            if not self.running or time.monotonic() > deadline:
                raise FlowguardError(
                    f"the worker did not get its partitions within {READY_WITHIN_S:.0f} s and was "
                    f"stopped; it said: {self.last_words()}"
                )
            await asyncio.sleep(0.05)

    async def spawn(self) -> None:
        """Start it, and return at once."""
        self.bury()
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.started_in,
                env=self._whole_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._watching = asyncio.create_task(self._watch())

    def last_words(self) -> str:
        """Return why it ended, as far as its log tells."""
        said = log_tail(self.log, LOG_LINES).splitlines()
        errors = [line for line in said if "ERROR" in line or "Error" in line]
        return (errors or said or ["nothing"])[-1]

    def _whole_environment(self) -> dict[str, str]:
        """Return ours and the worker's; pipelines are found where flowguard itself is."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        return {**os.environ, **self.environment, "PYTHONPATH": path}

    async def _watch(self) -> None:
        """Read the state page again and again, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(f"{self.url}/api/state") as answer:
                        self._take_in(await answer.json())
                except (aiohttp.ClientError, TimeoutError, ValueError):
                    pass  # not up yet, or no longer
                self.peak_rss = max(self.peak_rss, self.rss)
                await asyncio.sleep(STATE_EVERY_S)

    def _take_in(self, state: dict[str, Any]) -> None:
        if "lanes" not in state:
            return
        self.state = state
        self.peak_memory = max(self.peak_memory, int(state["memory"]["used"]))
        self.peak_spill = max(self.peak_spill, spilled_bytes(state["lanes"]))
        self.imbalances = self.imbalances or imbalances(state["lanes"])
        self.watch(state)

    def send(self, what: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self.running:
            try:
                self._process.send_signal(what)
            except ProcessLookupError:
                pass  # it has just ended

    async def drain(self) -> int | None:
        """Let it finish and leave; return its exit code, None if it had to be killed."""
        if self._process is None:
            return None
        if self.running:
            self.send(signal.SIGINT)  # SIGTERM would keep its place in the group for a restart
        try:
            code = await asyncio.wait_for(self._process.wait(), DRAIN_WITHIN_S)
            self._read_last_state()
            return code
        except TimeoutError:
            return None
        finally:
            await self.end()

    def _read_last_state(self) -> None:
        """Take in what it wrote at its end, if it did; the pages are a moment behind."""
        try:
            self._take_in(json.loads((self.directory / LAST_STATE_FILE).read_text()))
        except (OSError, ValueError):
            pass

    async def end(self) -> None:
        """End it, if it has not ended."""
        if self._watching is not None:
            self._watching.cancel()
        if self._process is not None:
            await end_process(self._process)


def spilled_bytes(lanes: Mapping[str, Mapping[str, Any]]) -> int:
    """Return what all lanes have on disk; a worker of an earlier version does not say."""
    return sum(int(lane.get("spilled_bytes") or 0) for lane in lanes.values())


class CpuMeter:
    """Tells what share of the machine's CPU was used by programs that are not ours.

    Ours are this process, everything below it, and nothing else.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._all_s, self._ours_s = busy_seconds(), own_seconds()

    def taken_by_others(self) -> float:
        """Return the share since the meter was made, 0..1."""
        whole_s = (time.monotonic() - self._began) * (psutil.cpu_count() or 1)
        others_s = (busy_seconds() - self._all_s) - (own_seconds() - self._ours_s)
        return float(min(1.0, max(0.0, others_s / whole_s)))


def busy_seconds() -> float:
    """Return the CPU time that everything on this machine has used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def own_seconds() -> float:
    """Return the CPU time that this process and those it started have used."""
    this = psutil.Process()
    seconds = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        seconds += times.user + times.system
    return seconds


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Kill a process with its whole session, if it has not ended."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself, and nobody has told us yet
    await process.wait()
