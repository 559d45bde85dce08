"""A worker is killed and started again: how long until records flow; and a rolling restart.

    python benchmarks/bench_restart.py [--broker HOST:PORT] [--turns 5] [--only NAME,…]

Records are sent at an even rate to all partitions. One of the workers gets SIGKILL and is started
again at once; the time is from the kill until a record that was sent after it is settled in every
partition. `static` is flowguard as it is, `dynamic` is flowguard with its data directory in
memory, `faust` is plain Faust; `for good` is a worker of three that does not come back.

Then three workers are restarted one after the other under load, with SIGTERM: the longest time
without a settled record of any partition, what is lost, and what came twice.

Exits 1 if flowguard takes longer than 5 s after a kill, 15 s for good, if a rolling restart leaves
a partition without records for more than 5 s, or if anything is lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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
    programs.run_worker(app)


@dataclass
class Seen:
    """What all workers of a group have noted, in the order of their notes.

    Args:
        at: By partition, when a record was settled, with its number.
        times: How often each was settled.
        up_at: When the last worker had imported what it needs, and began to join the group.
    """

    path: Path
    at: dict[int, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
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
                    self.at[place[0]].append((told["at"], place[1]))
                    self.times[place] += 1
        return self

    def first_after(self, number: int) -> float | None:
        """Return when, in the last of the partitions, a record from this number on was settled."""
        firsts = [
            next((at for at, each in self.at[partition] if each >= number), None)
            for partition in range(PARTITIONS)
        ]
        return None if None in firsts else max(at for at in firsts if at is not None)

    def longest_gap(self, since: float) -> tuple[float, int]:
        """Return the longest time without a settled record, and its partition."""
        gaps = []
        for partition, found in self.at.items():
            times = sorted(at for at, _ in found if at >= since)
            gaps += [(later - at, partition) for at, later in itertools.pairwise(times)]
        return max(gaps)


class Load:
    """Sends numbers to all partitions, the same to each, at an even rate."""

    def __init__(self, broker: str, topic: str) -> None:
        self.sent = 0
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        due_s = time.monotonic()
        while not self._ending.is_set():
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
        gap, partition = group.seen.update().longest_gap(began)
        print(f"  {way}: longest gap {gap:.2f} s, in partition {partition}")
        load.__exit__()
        sent = {(partition, n) for partition in range(PARTITIONS) for n in range(load.sent)}
        until = time.monotonic() + 30
        while sent - group.seen.update().times.keys() and time.monotonic() < until:
            time.sleep(0.2)
        times = group.seen.times
        return gap, len(sent - times.keys()), sum(times.values()) - len(times)


def main() -> int:
    """Measure, and say whether the targets are held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="names with commas: static, dynamic, faust, "
                        "for-good, rolling")  # fmt: skip
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
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
