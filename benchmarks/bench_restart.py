"""A worker is killed and started again: how long until records flow; rolling restart, elasticity.

    python benchmarks/bench_restart.py [--broker HOST:PORT] [--turns 5] [--only NAME,…]

Records are sent at an even rate to all partitions. One of the workers gets SIGKILL and is started
again at once; the time is from the kill until a record that was sent after it is settled in every
partition. `static` is flowguard as it is, `dynamic` is flowguard with its data directory in
memory, `faust` is plain Faust; `for good` is a worker of three that does not come back.

Then three workers are restarted one after the other under load, with SIGTERM: the longest time
without a settled record of any partition, what is lost, and what came twice.

`elastic` is a flash crowd: 50 real-time records a second to each partition throughout; on a lane
below as many, and then six times as many, which is more than one worker gets done. Two workers
join that one during the crowd, and leave it again after the crowd: together or in turn, with
SIGINT, which is how to scale down. Each step ends one second after the partitions are spread evenly
and records flow in all of them. A partition stayed in a step if one worker settled all its
real-time records meanwhile; the gap is the longest time without a settled real-time record of a
partition. The quiet time and the beginning of the crowd are steps in which nobody joins or leaves:
what is found there is the machine's.

With SIGTERM, and nobody who comes back, partitions wait for the end of the session, 10 s. A lane
with a target serves the oldest record first, so what came meanwhile goes before what is newer, of
partitions that stayed, too. That gap is printed, and there is no mark for it.

Exits 1 if flowguard takes longer than 5 s after a kill, 15 s for good, if a rolling restart leaves
a partition without records for more than 5 s, or if anything is lost; in `elastic` also if a
partition that stays has no records for more than 1 s, or if anything comes twice.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import programs
from brokers import kafka
from confluent_kafka import Producer

from flowguard.bench.cluster import topics

PARTITIONS = 6
EVERY_S = 0.02  # a record to each partition
PATIENCE_S = 180.0
IN_MEMORY = "/dev/shm"

RESTART_S = 5.0
FOR_GOOD_S = 15.0
GAP_S = 5.0
STAYING_GAP_S = 1.0

CROWD = 6  # times as many on the lane below
BUSY_S = 0.001  # a record takes an agent's time, and none of a core's
SEATS = 2
BATCH = 100  # 0.1 s: what moves is finished long before the grace of 3 s is over
STEADY_S = 5.0
CALM_S = 1.0

#: How two workers join and leave, and the signal that they leave with.
WAYS = {
    "together, SIGINT": (False, signal.SIGINT),
    "in turn, SIGINT": (True, signal.SIGINT),
    "together, SIGTERM": (False, signal.SIGTERM),
}

TURNS_OF_FAUST = 1  # each takes a minute


def work(
    kind: str, broker: str, topic: str, group: str, notes: str, datadir: str, pipe: Connection
) -> None:
    """Run a worker whose agent notes what it is done with."""
    out = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(partitions: list[int], numbers: list[int]) -> None:
        told = {"at": time.time(), "partitions": partitions, "numbers": numbers}
        os.write(out, json.dumps(told).encode() + b"\n")

    options = programs.app_options(broker) | {"datadir": datadir}
    options["topic_allow_declare"] = True  # of the control topic
    if kind == "faust":
        import faust

        plain = faust.App(group, **options)

        @plain.agent(plain.topic(topic, value_serializer="raw"))
        async def see(stream: Any) -> None:
            async for event in stream.events():
                note([event.message.partition], [int(event.value)])

        os.write(out, json.dumps({"up": time.time()}).encode() + b"\n")
        programs.run_worker(plain)
        return
    import flowguard as fg

    app = fg.App(group, **options)

    @app.agent(app.feed(topic, codec="raw"), concurrency=2)
    async def see_batch(batches: Any) -> None:
        async for batch in batches:
            values = batch.records["value"].to_pylist()
            note(batch.records["partition"].to_pylist(), [int(value) for value in values])

    os.write(out, json.dumps({"up": time.time()}).encode() + b"\n")
    run(app)


def run(app: Any) -> None:
    """Run an app as `flowguard worker` does."""
    import asyncio

    from flowguard.worker import Worker

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    Worker(app, loglevel="warn", loop=loop).execute_from_commandline()


def work_elastic(
    broker: str, realtime: str, bulk: str, group: str, notes: str, datadir: str, pipe: Connection
) -> None:
    """Run a worker with a lane for each topic, whose agent notes what it is done with."""
    import asyncio

    import flowguard as fg

    out = {
        lane: os.open(f"{notes}.{lane}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for lane in ("realtime", "bulk")
    }
    lanes = [fg.Lane("realtime", target="100ms", reserve=0.5), fg.Lane("bulk")]
    options = programs.app_options(broker) | {"datadir": datadir}
    options["topic_allow_declare"] = True  # of the control topic
    app = fg.App(group, lanes=lanes, **options)
    rule = fg.by_topic({realtime: lanes[0]}, default=lanes[1])

    @app.agent(
        app.feed(realtime, bulk, codec="raw", lanes=rule), concurrency=SEATS,
        batch=fg.BatchSize(max=BATCH),
    )  # fmt: skip
    async def see_batch(batches: Any) -> None:
        async for batch in batches:
            await asyncio.sleep(BUSY_S * len(batch))
            told = {
                "at": time.time(),
                "worker": os.getpid(),
                "partitions": batch.records["partition"].to_pylist(),
                "numbers": [int(value) for value in batch.records["value"].to_pylist()],
            }
            os.write(out[batch.lane.name], json.dumps(told).encode() + b"\n")

    run(app)


class Settled(NamedTuple):
    """A record that an agent is done with.

    Args:
        at: Seconds since 1970.
        worker: Its process id, 0 if it did not tell.
    """

    at: float
    number: int
    worker: int


@dataclass
class Seen:
    """What all workers of a group have noted, in the order of their notes.

    Args:
        at: What was settled, by partition.
        times: How often each was settled.
        up_at: When the last worker had imported what it needs, and began to join the group.
    """

    path: Path
    at: dict[int, list[Settled]] = field(default_factory=lambda: defaultdict(list))
    times: Counter[tuple[int, int]] = field(default_factory=Counter)
    up_at: float = 0.0
    _read: int = 0

    def update(self) -> Seen:
        """Read what was added."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                told = json.loads(line)
                if "up" in told:
                    self.up_at = told["up"]
                    continue
                for place in zip(told["partitions"], told["numbers"], strict=True):
                    settled = Settled(told["at"], place[1], told.get("worker", 0))
                    self.at[place[0]].append(settled)
                    self.times[place] += 1
        return self

    def first_after(self, number: int) -> float | None:
        """Return when, in the last of the partitions, a record from this number on was settled."""
        firsts = [
            next((each.at for each in self.at[partition] if each.number >= number), None)
            for partition in range(PARTITIONS)
        ]
        return None if None in firsts else max(at for at in firsts if at is not None)

    def gaps(self, since: float, until: float = math.inf) -> dict[int, float]:
        """Return the longest time without a settled record then, in seconds, by partition."""
        return {
            partition: max(
                later.at - earlier.at
                for earlier, later in itertools.pairwise(around(settled, since, until))
            )
            for partition, settled in self.at.items()
        }

    def stayed(self, since: float, until: float) -> set[int]:
        """Return the partitions whose records one worker settled all that time."""
        return {
            partition
            for partition, settled in self.at.items()
            if len({each.worker for each in around(settled, since, until)}) == 1
        }

    def owners(self) -> Counter[int]:
        """Return how many partitions each worker has, by who settled the latest record."""
        return Counter(max(settled).worker for settled in self.at.values() if settled)

    def repeated(self, partitions: set[int]) -> int:
        """Return how often records of these partitions were settled once more."""
        return sum(times - 1 for (number, _), times in self.times.items() if number in partitions)


def around(settled: Iterable[Settled], since: float, until: float) -> list[Settled]:
    """Return what was settled then, in order, with the last before and the first after."""
    found = sorted(settled)
    first = bisect.bisect_left(found, since, key=lambda each: each.at)
    end = bisect.bisect_right(found, until, key=lambda each: each.at)
    return found[max(0, first - 1) : end + 1]


class Load:
    """Sends numbers to all partitions, the same to each, at an even rate.

    Args:
        at_once: How many a partition gets at a time; may be changed meanwhile.
    """

    def __init__(self, broker: str, topic: str, *, at_once: int = 1) -> None:
        self.sent = 0
        self.at_once = at_once
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        due_s = time.monotonic()
        while not self._ending.is_set():
            for _ in range(self.at_once):
                for partition in range(PARTITIONS):
                    self._producer.produce(self._topic, b"%d" % self.sent, partition=partition)
                self.sent += 1
            self._producer.poll(0)
            due_s += EVERY_S
            time.sleep(max(0.0, due_s - time.monotonic()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._producer.flush(30)


class Group:
    """Workers of one app."""

    def __init__(self, broker: str, topic: str, way: str, count: int, directory: Path) -> None:
        self.seen = Seen(directory / f"{topic}.notes")
        self.seen.path.touch()
        datadir = directory / f"{topic}-data"
        if way == "dynamic":
            datadir = Path(IN_MEMORY) / f"{topic}-data"
        self._task = {
            "kind": "faust" if way == "faust" else "flowguard", "broker": broker, "topic": topic,
            "group": topic, "notes": str(self.seen.path), "datadir": str(datadir),
        }  # fmt: skip
        self.workers = [programs.start(work, **self._task)[0] for _ in range(count)]

    def start_again(self, index: int) -> None:
        """Start the worker that is gone."""
        self.workers[index] = programs.start(work, **self._task)[0]

    def up_after(self, killed_at: float) -> float:
        """Wait until a process has started since then; return when that was."""
        wait_until(lambda: self.seen.update().up_at > killed_at, "the process starts")
        return self.seen.up_at

    def end(self) -> None:
        """Kill all."""
        for worker in self.workers:
            worker.kill()
            worker.join()
        shutil.rmtree(self._task["datadir"], ignore_errors=True)


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Ask twenty times a second; return the answer."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > until:
            raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.05)
    return found


@contextmanager
def running(broker: str, way: str, count: int, directory: Path) -> Iterator[tuple[Group, Load]]:
    """Start workers and load, and wait until all has settled down."""
    name = f"flowguard-restart-{uuid.uuid4().hex[:8]}"
    with topics(broker, name, partitions=PARTITIONS), Load(broker, name) as load:
        group = Group(broker, name, way, count, directory)
        try:
            wait_until(lambda: group.seen.update().first_after(0), "records flow at first")
            time.sleep(6.0 if count > 1 else 2.0)  # the others have joined by then
            yield group, load
        finally:
            group.end()


def flows_again(group: Group, load: Load, killed_at: float) -> float:
    """Return how long after a kill all partitions had records that were sent after it."""
    number = load.sent
    last = wait_until(lambda: group.seen.update().first_after(number), "records flow again")
    return float(last) - killed_at


def kill(
    broker: str, way: str, count: int, turns: int, directory: Path
) -> tuple[list[float], list[float]]:
    """Kill a worker and start it again, so many times.

    Returns:
        How long it took, and how much of that the process needed to start, in seconds.
    """
    took, started = [], []
    with running(broker, way, count, directory) as (group, load):
        for _ in range(turns):
            killed_at = time.time()
            group.workers[-1].kill()
            group.workers[-1].join()
            group.start_again(-1)
            took.append(flows_again(group, load, killed_at))
            started.append(group.up_after(killed_at) - killed_at)
            time.sleep(3.0)
    return took, started


def kill_for_good(broker: str, way: str, directory: Path) -> list[float]:
    """Kill one of three workers."""
    with running(broker, way, 3, directory) as (group, load):
        killed_at = time.time()
        group.workers[-1].kill()
        return [flows_again(group, load, killed_at)]


def roll(broker: str, way: str, directory: Path) -> tuple[float, int, int]:
    """Restart three workers one after the other; return longest gap, lost and twice."""
    with running(broker, way, 3, directory) as (group, load):
        began = time.time()
        for index, worker in enumerate(group.workers):
            restarted_at = time.time()
            programs.end(worker)
            group.start_again(index)
            took = flows_again(group, load, restarted_at)
            print(f"  {way}: worker {index} restarted, flowing after {took:.2f} s", flush=True)
            time.sleep(3.0)
        gaps = group.seen.update().gaps(began)
        partition, gap = max(gaps.items(), key=lambda each: each[1])
        print(f"  {way}: longest gap {gap:.2f} s, in partition {partition}")
        load.__exit__()
        sent = {(partition, n) for partition in range(PARTITIONS) for n in range(load.sent)}
        until = time.monotonic() + 30
        while sent - group.seen.update().times.keys() and time.monotonic() < until:
            time.sleep(0.2)
        times = group.seen.times
        return gap, len(sent - times.keys()), sum(times.values()) - len(times)


class Crowd:
    """Workers that come and go while two lanes are under load; one of them stays throughout.

    Args:
        way: What the lines that are printed begin with.
    """

    def __init__(self, broker: str, realtime: str, bulk: str, way: str, directory: Path) -> None:
        notes = directory / realtime
        self.realtime, self.bulk = Seen(Path(f"{notes}.realtime")), Seen(Path(f"{notes}.bulk"))
        for seen in (self.realtime, self.bulk):
            seen.path.touch()
        self.workers: list[SpawnProcess] = []
        self.staying_gap_s = self.moving_gap_s = 0.0
        self.moved: set[int] = set()
        self._way = way
        self._task = {
            "broker": broker, "realtime": realtime, "bulk": bulk, "group": realtime,
            "notes": str(notes), "datadir": f"{notes}-data",
        }  # fmt: skip

    def join(self, count: int) -> None:
        """Start so many workers."""
        self.workers += [programs.start(work_elastic, **self._task)[0] for _ in range(count)]

    def leave(self, count: int, how: signal.Signals) -> None:
        """Tell so many workers to stop, and wait until they have."""
        leaving = [self.workers.pop() for _ in range(count)]
        for worker in leaving:
            assert worker.pid is not None
            os.kill(worker.pid, how)
        for worker in leaving:
            worker.join(PATIENCE_S)
            if worker.exitcode != 0:
                raise SystemExit(f"a worker ended with exit code {worker.exitcode}")

    def until_spread(self, load: Load) -> None:
        """Wait until each worker has as many partitions as any other, and records flow in all."""
        shares = [PARTITIONS // len(self.workers)] * len(self.workers)
        wait_until(
            lambda: sorted(self.realtime.update().owners().values()) == shares,
            f"{len(self.workers)} workers share the partitions",
        )
        number = load.sent
        wait_until(lambda: self.realtime.update().first_after(number), "records flow")

    @contextmanager
    def step(self, what: str, load: Load, *, rebalance: bool = True) -> Iterator[None]:
        """Say what the gaps were meanwhile; those of a rebalance count."""
        began = time.time()
        yield
        self.until_spread(load)
        took_s = time.time() - began
        time.sleep(CALM_S)
        ended = time.time()
        gaps = self.realtime.update().gaps(began, ended)
        stayed = self.realtime.stayed(began, ended)
        staying = {number: gap for number, gap in gaps.items() if number in stayed}
        moving = {number: gap for number, gap in gaps.items() if number not in stayed}
        line = f"  {self._way}, {what}: {took_s:.1f} s; longest gap of those that stayed "
        line += longest(staying)
        if rebalance:
            line += f", of those that moved {longest(moving)}"
            self.staying_gap_s = max([self.staying_gap_s, *staying.values()])
            self.moving_gap_s = max([self.moving_gap_s, *moving.values()])
            self.moved |= moving.keys()
        print(line, flush=True)

    def outstanding(self, sent: tuple[int, int]) -> int:
        """Return how many records are not settled.

        Args:
            sent: To each partition of the real-time topic, and of the other.
        """
        settled = len(self.realtime.update().times) + len(self.bulk.update().times)
        return PARTITIONS * sum(sent) - settled

    def repeated(self, partitions: set[int]) -> int:
        """Return how often records of these partitions of both topics were settled once more."""
        return self.realtime.repeated(partitions) + self.bulk.repeated(partitions)

    def end(self) -> None:
        """Kill all."""
        for worker in self.workers:
            worker.kill()
            worker.join()
        shutil.rmtree(self._task["datadir"], ignore_errors=True)


def longest(gaps: dict[int, float]) -> str:
    """Return the longest gap, and of which partition it is."""
    if not gaps:
        return "none"
    partition, gap = max(gaps.items(), key=lambda each: each[1])
    return f"{gap:.2f} s ([{partition}] of {len(gaps)})"


def stretch(broker: str, way: str, directory: Path, *, in_turn: bool, how: signal.Signals) -> bool:
    """Go from one worker to three and back in a flash crowd; return whether the marks are held."""
    realtime = f"flowguard-elastic-{uuid.uuid4().hex[:8]}"
    bulk = f"{realtime}-bulk"
    at_once = [1, 1] if in_turn else [2]
    with topics(broker, realtime, bulk, partitions=PARTITIONS):
        crowd = Crowd(broker, realtime, bulk, way, directory)
        try:
            with Load(broker, realtime) as steady, Load(broker, bulk) as surging:
                crowd.join(1)
                wait_until(lambda: crowd.realtime.update().first_after(0), "records flow at first")
                time.sleep(STEADY_S)
                with crowd.step("quiet", steady, rebalance=False):
                    time.sleep(STEADY_S)
                surging.at_once = CROWD
                with crowd.step("the crowd comes", steady, rebalance=False):
                    time.sleep(STEADY_S)
                for count in at_once:
                    before = len(crowd.workers)
                    with crowd.step(f"{before} → {before + count}", steady):
                        crowd.join(count)
                surging.at_once = 1
                for count in at_once:
                    before = len(crowd.workers)
                    with crowd.step(f"{before} → {before - count}", steady):
                        crowd.leave(count, how)
            sent = (steady.sent, surging.sent)
            until = time.monotonic() + PATIENCE_S
            while crowd.outstanding(sent) and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            crowd.end()
    lost, repeated = crowd.outstanding(sent), crowd.repeated(set(range(PARTITIONS)))
    held = not lost and not repeated
    mark = ""
    if how == signal.SIGINT:
        held &= crowd.staying_gap_s <= STAYING_GAP_S
        mark = f", at most {STAYING_GAP_S:.0f} s"
    return programs.mark(
        f"elastic, {way}, 1 → 3 → 1 workers",
        held,
        f"longest gap {crowd.staying_gap_s:.2f} s of a partition that stays{mark} "
        f"({crowd.moving_gap_s:.2f} s of one that moves); of {PARTITIONS * sum(sent)} records "
        f"lost {lost}, repeated {repeated} ({crowd.repeated(crowd.moved)} in the "
        f"{len(crowd.moved)} partitions that came back)",
    )


def main() -> int:
    """Measure, and say whether the targets are held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="names with commas: static, dynamic, faust, "
                        "for-good, rolling, elastic")  # fmt: skip
    given = parser.parse_args()
    only = set(filter(None, given.only.split(",")))
    held = True

    def wanted(name: str) -> bool:
        return not only or name in only

    programs.directory()
    with kafka(given.broker) as broker, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for way, count in itertools.product(("static", "dynamic", "faust"), (1, 3)):
            if not wanted(way):
                continue
            turns = TURNS_OF_FAUST if way == "faust" else given.turns
            took, started = kill(broker, way, count, turns, directory)
            median = statistics.median(took)
            each = " ".join(f"{seconds:.2f}" for seconds in took)
            line = f"kill -9, {way}, {count} worker(s): median {median:.2f} s of {each}"
            line += f"; of it the process took {statistics.median(started):.2f} s to start"
            if way == "static":
                held &= programs.mark(line, median <= RESTART_S, f"at most {RESTART_S:.0f} s")
            else:
                print(f"       {line}", flush=True)
        if wanted("for-good"):
            (took_s,) = kill_for_good(broker, "static", directory)
            held &= programs.mark("kill -9 for good, 3 workers", took_s <= FOR_GOOD_S,
                                  f"{took_s:.2f} s, at most {FOR_GOOD_S:.0f} s")  # fmt: skip
        for way in ("static", "faust"):
            if not wanted("rolling") or (way == "faust" and only and "faust" not in only):
                continue
            gap, lost, twice = roll(broker, way, directory)
            line = f"rolling restart, {way}, 3 workers"
            value = f"longest gap {gap:.2f} s, lost {lost}, twice {twice}"
            if way == "static":
                held &= programs.mark(line, gap <= GAP_S and not lost, value)
            else:
                print(f"       {line}: {value}", flush=True)
        for way, (in_turn, how) in WAYS.items():
            if wanted("elastic"):
                held &= stretch(broker, way, directory, in_turn=in_turn, how=how)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
