"""A worker is killed while its real-time lane is a million offsets ahead: what comes twice?

    python benchmarks/bench_crash.py [--broker HOST:PORT] [--ahead 1000000] [--partitions 2]

A client that is not flowguard fills a topic: one record in a hundred is for a lane whose batches
take seconds, all others are real-time. Once these are settled, to the end of each partition, the
worker gets SIGKILL, with the slow lane still at the beginning. Another worker of the same group,
not slow any more, finishes the topic. Both write down each batch when their agent gets it and
when the agent comes back.

Prints, by lane, what the agents saw once and what twice, and the bound: what was in flight when
the worker was killed, and what had settled within the last second. Exits 1 if more came twice,
or if anything is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import programs
from brokers import kafka
from confluent_kafka import Producer

from flowguard.bench.cluster import topics

LANES = ("rt", "bulk")
SLOW_ONE_IN = 100
SLOW_BATCH_S = 5.0
BATCH = 1_000
SEATS = 4

COMMIT_S = 0.5
UNCOMMITTED_S = 1.0  # an interval, and the time that a commit takes
PATIENCE_S = 180.0
QUIET_S = 5.0  # what comes twice comes at once, or a little after all else

PARTITION_BITS = 40  # a place is a partition and an offset in one number: there are millions


def work(broker: str, topic: str, group: str, notes: str, pause_s: float, pipe: Connection) -> None:
    """Run the worker; it notes what its agent gets, and what it has finished."""
    import asyncio

    import flowguard as fg

    realtime, bulk = fg.Lane("rt", reserve=0.5), fg.Lane("bulk")
    app = fg.App(
        group, lanes=[realtime, bulk], broker_commit_interval=COMMIT_S,
        broker_session_timeout=6.0, broker_heartbeat_interval=1.0, **programs.app_options(broker),
    )  # fmt: skip
    rule = fg.by_header("lane", {"rt": realtime}, default=bulk)
    feed = app.feed(topic, codec="raw", lanes=rule)
    out = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(what: str, batch: Any) -> None:
        told = {
            "what": what, "at": time.time(), "lane": batch.lane.name,
            "partitions": batch.records["partition"].to_pylist(),
            "offsets": batch.records["offset"].to_pylist(),
        }  # fmt: skip
        os.write(out, json.dumps(told).encode() + b"\n")  # in one piece, or not at all

    @app.agent(feed, concurrency=SEATS, batch=fg.BatchSize(max=BATCH))
    async def see(batches: Any) -> None:
        async for batch in batches:
            note("begun", batch)
            if batch.lane.name == "bulk":
                await asyncio.sleep(pause_s)
            note("done", batch)

    programs.run_worker(app)


@dataclass
class Notes:
    """What a worker has written down so far, by lane.

    Args:
        path: The file.
        begun: Records that its agent got.
        done_at: Records that its agent came back from, with the time.
        handed_over: How often its agent got one.
    """

    path: Path
    begun: dict[str, set[int]] = field(default_factory=lambda: {lane: set() for lane in LANES})
    done_at: dict[str, dict[int, float]] = field(
        default_factory=lambda: {lane: {} for lane in LANES}
    )
    handed_over: int = 0
    _read: int = 0

    def update(self) -> Notes:
        """Read what was added; half a line is left for the next time."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    self._take(json.loads(line))
        return self

    def _take(self, told: dict[str, Any]) -> None:
        lane = told["lane"]
        places = [
            partition << PARTITION_BITS | offset
            for partition, offset in zip(told["partitions"], told["offsets"], strict=True)
        ]
        if told["what"] == "begun":
            self.begun[lane].update(places)
            self.handed_over += len(places)
        else:
            self.done_at[lane].update(dict.fromkeys(places, told["at"]))


def send(broker: str, topic: str, partitions: int, each: int) -> Counter[str]:
    """Fill the partitions; return the records of each lane."""
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 5, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    sent: Counter[str] = Counter()
    for number in range(each):
        lane = "rt" if number % SLOW_ONE_IN else "bulk"
        headers = [("lane", lane.encode())]
        for partition in range(partitions):
            while True:
                try:
                    producer.produce(topic, b"%d" % number, partition=partition, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        sent[lane] += partitions
    if unsent := producer.flush(60):
        raise SystemExit(f"the broker did not take {unsent:,} records; look at its log")
    return sent


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Ask four times a second."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.25)


def kill_ahead(sent: Counter[str], notes: Notes, **task: Any) -> float:
    """Run a worker until its real-time lane is at the end; kill it; return when that was."""
    notes.path.touch()
    worker, _ = programs.start(work, notes=str(notes.path), pause_s=SLOW_BATCH_S, **task)
    try:
        wait_until(
            lambda: len(notes.update().done_at["rt"]) == sent["rt"],
            "the real-time lane is not at its end",
        )
        time.sleep(2 * UNCOMMITTED_S)
    finally:
        worker.kill()
        killed_at = time.time()
        programs.end(worker)
    if len(notes.update().done_at["bulk"]) == sent["bulk"]:
        raise SystemExit("the slow lane was at its end, too; give more records with --ahead")
    return killed_at


def finish(sent: Counter[str], before: Notes, after: Notes, **task: Any) -> None:
    """Run another worker until each record was seen, and nothing comes any more."""
    after.path.touch()
    worker, _ = programs.start(work, notes=str(after.path), pause_s=0.0, **task)
    try:
        wait_until(lambda: not lost(sent, before, after.update()), "not all records were seen")
        seen = -1
        while seen != after.update().handed_over:
            seen = after.handed_over
            time.sleep(QUIET_S)
    finally:
        worker.kill()
        programs.end(worker)


def lost(sent: Counter[str], before: Notes, after: Notes) -> int:
    """Return how many records the first agent did not finish and the second did not get."""
    return sum(
        count - len(before.done_at[lane].keys() | after.begun[lane]) for lane, count in sent.items()
    )


def run(broker: str, ahead: int, partitions: int, directory: Path) -> bool:
    """Fill, kill, finish, count; return whether no more came twice than may."""
    group = f"flowguard-crash-{uuid.uuid4().hex[:8]}"
    before, after = Notes(directory / "before"), Notes(directory / "after")
    with topics(broker, group, partitions=partitions):
        sent = send(broker, group, partitions, ahead)
        task = {"broker": broker, "topic": group, "group": group}
        killed_at = kill_ahead(sent, before, **task)
        began = time.monotonic()
        finish(sent, before, after, **task)
        seconds = time.monotonic() - began - QUIET_S
    return judge(sent, before, after, killed_at, seconds)


def judge(
    sent: Counter[str], before: Notes, after: Notes, killed_at: float, seconds: float
) -> bool:
    """Print what came twice and what may have; return whether it is no more."""
    twice = after.handed_over - sum(map(len, after.begun.values()))  # twice in one life
    bound = 0
    for lane, count in sent.items():
        done_at = before.done_at[lane]
        again = len(before.begun[lane] & after.begun[lane])
        in_flight = len(before.begun[lane] - done_at.keys())
        recent = sum(1 for at in done_at.values() if at > killed_at - UNCOMMITTED_S)
        print(
            f"{lane:5} sent {count:,}, done before the kill {len(done_at):,}, again after it "
            f"{again:,}; in flight {in_flight:,} + settled in the last second {recent:,}"
        )
        twice += again
        bound += in_flight + recent
    missing = lost(sent, before, after)
    print(f"twice {twice:,} of at most {bound:,}; lost {missing:,}; finished in {seconds:.1f} s")
    return twice <= bound and not missing


def main() -> int:
    """Check, and say so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--ahead", type=int, default=1_000_000, help="records of each partition")
    parser.add_argument("--partitions", type=int, default=2)
    given = parser.parse_args()
    with kafka(given.broker) as broker, tempfile.TemporaryDirectory() as directory:
        passed = run(broker, given.ahead, given.partitions, Path(directory))
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
