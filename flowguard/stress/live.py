"""A live run: a real broker, a real worker, and records that come when they are meant to.

    sender, one a stream ─▶ topics ─▶ worker ─▶ sink ─▶ reader: latency, ids
                                        │
                                        └─▶ /api/state
                                               │
                          this process: view, timeline, faults

Every box is a process of its own, started here and ended here, whatever happens. Nothing
is measured in this process, so drawing the view disturbs nothing. What the outcome means is
decided elsewhere: in `demo` and in `real`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import polars as pl

from flowguard.stress.brief import BEGIN_FILE, RUN_VARIABLE
from flowguard.stress.cluster import committed_offsets, delete_topics, make_topics
from flowguard.stress.embedded import EmbeddedBroker
from flowguard.stress.load import ReadTask, Task
from flowguard.stress.moments import LEFT_OUT, LaneMoment, Moment, Show
from flowguard.stress.processes import Child, CpuMeter, Worker

__all__ = [
    "ARRIVALS_FILE", "LaneSetup", "LiveRun", "Outcome", "Phase", "SenderSetup", "Setup", "Trouble",
    "total",
]  # fmt: skip

#: Between the moment when all are ready and the first record.
LEAD_S: Final = 0.5

#: How often it is looked whether the worker has done everything.
SETTLE_POLL_S: Final = 0.05

#: Where the reader leaves what arrived, in the directory of the run.
ARRIVALS_FILE: Final = "arrivals.arrow"

#: What a record has come to when nobody needs to wait for it any more.
DONE: Final = ("settled", "dead_letters", "diverted", "shed", "conflated", "expired", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSetup:
    """A lane, as far as a run must know it.

    Args:
        topic: Where its records are.
        target: In seconds.
        must_finish: The run waits for its records before the worker is stopped.
    """

    name: str
    topic: str
    target: float | None = None
    must_finish: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSetup:
    """One process that sends, to one lane."""

    lane: str
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is going on from an instant on.

    Args:
        begin_s: Since the run began.
        text: For people.
        disturbed: The worker is put to the test.
    """

    begin_s: float
    text: str
    disturbed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a live run consists of.

    Args:
        group: The worker's consumer group.
        command: What runs the worker, after `python`.
        environment: Variables of the worker, beside ours.
        topics: Topic → partitions, of all that must exist.
        lanes: Highest first.
        senders: What sends.
        reader: What reads the sink; None if nobody knows where the output goes.
        seconds: How long there is load.
        settle_s: How long the worker has for what is left then.
        phases: In order; the first begins at 0.
        keep_topics: Topics are somebody else's, and are neither made nor deleted.
        read: The topics that the worker reads; () for those of the lanes.
        worker_directory: Where the worker is started; None: in a directory of the run.
    """

    group: str
    command: Sequence[str]
    environment: Mapping[str, str]
    topics: Mapping[str, int]
    lanes: Sequence[LaneSetup]
    senders: Sequence[SenderSetup]
    reader: ReadTask | None
    seconds: float
    settle_s: float
    phases: Sequence[Phase]
    read: Sequence[str] = ()
    keep_topics: bool = False
    worker_directory: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that is known when everything has ended.

    Args:
        begin_ms: The instant of the beginning, as Kafka counts.
        sent: Lane → what each of its senders says.
        committed: Topic → partition → offset.
        arrivals: One row an arrival in the sink; None without a reader.
        ids: Arrivals have the ids of what was sent; else they are only numbered.
        counts: Lane → its counts over all lives of the worker.
        exit_code: Of the worker, None if it had to be killed.
        others_cpu: Share of the CPU that other programs took.
    """

    begin_ms: int
    sent: Mapping[str, Sequence[Mapping[str, Any]]]
    committed: Mapping[str, Mapping[int, int]]
    arrivals: pl.DataFrame | None
    ids: bool
    counts: Mapping[str, Mapping[str, int]]
    exit_code: int | None
    others_cpu: float


class Trouble(Protocol):
    """Makes things go wrong during a run."""

    def current(self, t: float) -> tuple[str, ...]:
        """Return what is wrong at this moment, for people."""
        ...

    async def make(self, run: LiveRun) -> None:
        """Do it all; cancelled when the load has ended."""
        ...

    async def undo(self, run: LiveRun) -> None:
        """Put right what is still wrong."""
        ...


class LiveRun:
    """A whole run, as long as its `async with` block.

    Args:
        plan: Makes its setup, given the broker and a directory for files.
        show: Where it shows itself.
        bootstrap: Of a broker that is there; None starts the embedded one.
        trouble: What goes wrong meanwhile.
    """

    def __init__(
        self,
        plan: SetupMaker,
        show: Show,
        *,
        bootstrap: str | None = None,
        trouble: Trouble | None = None,
    ) -> None:
        self.show = show
        self.timeline: list[Moment] = []
        self.began_s: float | None = None
        self.trouble = trouble
        self.bootstrap = bootstrap or ""
        self.broker: EmbeddedBroker | None = None
        self._plan = plan
        self._before: dict[str, Mapping[str, int]] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="flowguard-stress-"))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # Starting.

    async def _start(self) -> None:
        if not self.bootstrap:
            self.show.say("starting the embedded broker")
            self.broker = self._stack.enter_context(EmbeddedBroker())
            self.bootstrap = self.broker.bootstrap
        self.setup = await self._plan(self.bootstrap, self.directory)
        await self._make_topics()
        self.show.say("starting the worker, and loading what is sent")
        self.senders: dict[str, list[Child]] = {lane.name: [] for lane in self.setup.lanes}
        for number, sender in enumerate(self.setup.senders):
            child = await self._start_child(f"sender of {sender.lane}", sender.task, number)
            self.senders[sender.lane].append(child)
        self.reader: Child | None = None
        if self.setup.reader is not None:
            self.reader = await self._start_child("reader", self.setup.reader, 0)
        self.workers: list[Worker] = []
        self.worker = self.new_worker()
        await self.worker.start()
        for child in self._children:
            await child.ready.wait()

    def new_worker(self) -> Worker:
        """Return one more worker of the app; it is not started yet."""
        read = set(self.setup.read) or {lane.topic for lane in self.setup.lanes}
        directory = self.directory / f"worker-{len(self.workers)}"
        directory.mkdir()
        worker = Worker(
            self.setup.command,
            bootstrap=self.bootstrap,
            environment={**self.setup.environment, RUN_VARIABLE: str(self.directory)},
            directory=directory,
            started_in=self.setup.worker_directory,
            partitions=sum(self.setup.topics[topic] for topic in read),
        )
        if not self.workers:
            worker.watch = self.saw
        self.workers.append(worker)
        self._stack.push_async_callback(worker.end)
        return worker

    def saw(self, state: Mapping[str, Any]) -> None:
        """Take in what the worker says of itself, several times a second."""

    def counts(self, lane: str) -> dict[str, int]:
        """Return a lane's counts, over all workers and their lives."""
        found: Counter[str] = Counter()
        for worker in self.workers:
            found.update(worker.counts_of_all_lives(lane))
        return dict(found)

    async def _make_topics(self) -> None:
        if self.setup.keep_topics:
            return
        await make_topics(self.bootstrap, self.setup.topics)
        if self.broker is None:  # a broker that stays should not keep what we made
            self._stack.push_async_callback(delete_topics, self.bootstrap, self.setup.topics)

    async def _start_child(self, name: str, task: Task, number: int) -> Child:
        log = self.directory / f"{name.replace(' ', '-')}-{number}.log"
        child = await Child.start(name, task, log)
        self._stack.push_async_callback(child.end)
        return child

    @property
    def _children(self) -> list[Child]:
        readers = [] if self.reader is None else [self.reader]
        return [*(each for group in self.senders.values() for each in group), *readers]

    # Running.

    async def run(self) -> Outcome:
        """Send, watch, drain, and return what came of it."""
        self.began_s = time.time() + LEAD_S
        begin_ms = int(self.began_s * 1e3)
        announce(self.directory, begin_ms)
        for child in self._children:
            child.order(f"begin {begin_ms}")
        self.show.say(self.setup.phases[0].text)
        cpu = CpuMeter()
        await self._load()
        others_cpu = cpu.taken_by_others()
        sent = {
            name: [await each.result() for each in group] for name, group in self.senders.items()
        }
        self.show.say("the senders are done: the worker finishes what is left")
        await self._settle({name: total(each, "sent") for name, each in sent.items()})
        self.show.say("draining the worker")
        exit_code = await self.worker.drain()
        committed = await committed_offsets(self.bootstrap, self.setup.group)
        self.show.say("counting what arrived")
        return Outcome(
            begin_ms=begin_ms,
            sent=sent,
            committed=committed,
            arrivals=await self._arrivals(),
            ids=self.setup.reader is not None and self.setup.reader.ids,
            counts={lane.name: self.counts(lane.name) for lane in self.setup.lanes},
            exit_code=exit_code,
            others_cpu=others_cpu,
        )

    async def _load(self) -> None:
        """Watch until the load has ended, while things go wrong."""
        if self.trouble is None:
            await self._watch_until(self.setup.seconds)
            return
        making = asyncio.create_task(self.trouble.make(self))
        try:
            await self._watch_until(self.setup.seconds)
        finally:
            making.cancel()
            await asyncio.wait({making})
            await self.trouble.undo(self)
        if not making.cancelled() and (error := making.exception()) is not None:
            raise error

    async def _arrivals(self) -> pl.DataFrame | None:
        if self.reader is None:
            return None
        self.reader.order("stop")
        await self.reader.result()
        return pl.read_ipc(self.directory / ARRIVALS_FILE)

    @property
    def elapsed_s(self) -> float:
        """Return for how long there has been load."""
        assert self.began_s is not None
        return time.time() - self.began_s

    async def _watch_until(self, seconds: float) -> None:
        """Take one moment a second."""
        for second in range(len(self.timeline) + 1, int(seconds) + 1):
            await asyncio.sleep(max(0.0, second - self.elapsed_s))
            if not self.worker.running and self.trouble is None:
                return
            self._take_moment()

    def _take_moment(self) -> None:
        t = self.elapsed_s
        elapsed_s = t - (self.timeline[-1].t if self.timeline else 0.0)
        state = self.worker.state
        memory = state.get("memory", {})
        phase = [each for each in self.setup.phases if each.begin_s < t][-1]
        moment = Moment(
            t=t,
            seconds=self.setup.seconds,
            phase=phase.text,
            disturbed=phase.disturbed,
            lanes={lane.name: self._lane_moment(lane, elapsed_s) for lane in self.setup.lanes},
            memory_used=memory.get("used"),
            memory_budget=memory.get("budget"),
            rss=self.worker.rss,
            agents=state.get("agents", {}),
            rung=state.get("rung"),
            rung_name=state.get("rung_name"),
            pressure=state.get("pressure"),
            faults=() if self.trouble is None else self.trouble.current(t),
        )
        self.timeline.append(moment)
        self.show.moment(moment)

    def _lane_moment(self, lane: LaneSetup, elapsed_s: float) -> LaneMoment:
        counts = self.counts(lane.name)
        now = {
            **{key: counts.get(key, 0) for key in ("settled", *LEFT_OUT)},
            "offered": sum(int(each.latest.get("sent", 0)) for each in self.senders[lane.name]),
            "done": sum(counts.get(key, 0) for key in DONE),
        }
        before = self._before.get(lane.name, {})
        self._before[lane.name] = now
        rates = {key: (value - before.get(key, 0)) / elapsed_s for key, value in now.items()}
        seen = {} if self.reader is None else self.reader.latest.get("lanes", {})
        latencies = seen.get(lane.name, self.worker.lane(lane.name) if self.reader is None else {})
        return LaneMoment(
            offered_per_s=rates["offered"],
            settled_per_s=rates["settled"],
            waiting=max(0, now["offered"] - now["done"]),
            p50=latencies.get("p50"),
            p99=latencies.get("p99"),
            target=lane.target,
            left_out={key: rates[key] for key in LEFT_OUT},
        )

    async def _settle(self, sent: Mapping[str, int]) -> None:
        """Wait until what must be finished is, for as long as the setup allows."""
        names = [lane.name for lane in self.setup.lanes if lane.must_finish]
        deadline = time.monotonic() + self.setup.settle_s
        while self.worker.running and time.monotonic() < deadline:
            if all(self._done(name) >= sent[name] for name in names):
                return
            await asyncio.sleep(SETTLE_POLL_S)
            if self.elapsed_s >= len(self.timeline) + 1:
                self._take_moment()

    def _done(self, lane: str) -> int:
        counts = self.counts(lane)
        return sum(counts.get(key, 0) for key in DONE)

    async def restart_worker(self) -> None:
        """Start the worker again, to work off what waits."""
        await self.worker.start()


class SetupMaker(Protocol):
    """Makes the setup of a run, once its broker is known."""

    async def __call__(self, bootstrap: str, directory: Path) -> Setup:
        """Return the setup; files of the run go into the directory."""
        ...


def announce(directory: Path, begin_ms: int) -> None:
    """Leave the instant of the beginning for the worker, all of it at once."""
    written = directory / f"{BEGIN_FILE}.new"
    written.write_text(str(begin_ms))
    written.rename(directory / BEGIN_FILE)


def total(results: Sequence[Mapping[str, Any]], key: str) -> int:
    """Return a count over all senders of a lane."""
    return sum(int(each[key]) for each in results)
