"""A bulk backlog on disk, and real-time records that share its partitions, on Apache Kafka.

    python benchmarks/bench_backlog.py --broker HOST:PORT [--gib 1,5] [--memory 256MiB]
                                       [--seconds 30] [--restart]

    backlog of so many GiB ─▶ topic ─┐
    sender, 500/s ──────────▶ topic ─┴─▶ contender ─▶ sink ─▶ reader

Everything is in the same four partitions, and a header tells real-time records apart. The agent
takes 20 µs for each bulk record, so the backlog outlasts the run, and forwards the real-time
ones. flowguard reads on behind the backlog, which waits on disk. In the same run the bare loop
on confluent-kafka, which skips bulk, is the floor of two hops; it does no bulk work at all.

Caught up: the read position has reached the end that the log had at the start, since when
real-time latency counts, from the instant a record was due to be sent to the instant the reader
of the sink has it. Before that, the records read a second are shown. Stalls: how late a task
on the worker's event loop is, that wants to run every millisecond, while it catches up and
after. Resident is the kernel's peak; the limit is what an idle worker weighs + 1.1 × memory +
96 MiB.

--restart: the worker is killed after it has caught up, and started again with the same spill
directory; shown is how long it takes from its start until it is ready and has records, how many
of them are on disk, and how many it reads from Kafka.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import programs
from bench_memory import peak_rss

from flowguard.bench.cluster import leaders_of, topics
from flowguard.bench.wire import fill
from flowguard.units import MIB, format_size, size_bytes

PARTITIONS = 4
RATE = 500
RECORD_BYTES = 230  # of a record in the log, with what the batch adds
BULK_RECORD_S = 20e-6
URGENT = "urgent"

ALLOWED = 1.1
MORE_BYTES = 96 * MIB
TARGET_MS = 25.0
STALL_MS = 5.0
REPORT_S = 0.25
WARM_UP_S = 3.0
CATCH_UP_WITHIN_S = 600.0


def work(
    broker: str, topic: str, sink: str, group: str, memory: str, directory: str, pipe: Connection
) -> None:
    """Run the worker; it tells how far it has read, what is on disk, and how late its loop was."""
    import flowguard as fg

    realtime = fg.Lane("rt", target="25ms", reserve=0.5)
    bulk = fg.Lane("bulk", overflow=fg.Spill("20GiB"))
    app = fg.App(
        group, lanes=[realtime, bulk], memory=memory, spill_dir=directory,
        **programs.app_options(broker),
    )  # fmt: skip
    feed = app.feed(topic, codec="raw", lanes=fg.by_header("lane", {URGENT: realtime}, bulk))
    out = app.feed(sink, codec="raw")

    @app.agent(feed, sink=[out], concurrency=2)
    async def forward(batches: Any) -> Any:
        async for batch in batches:
            if batch.lane.name == "rt":
                yield batch.to_polars()
            else:
                await asyncio.sleep(len(batch) * BULK_RECORD_S)

    @app.task
    async def tell() -> None:
        loop = asyncio.get_running_loop()
        late_ms: list[float] = []
        said_s = loop.time()
        while True:
            due_s = loop.time() + 0.001
            await asyncio.sleep(0.001)
            late_ms.append((loop.time() - due_s) * 1e3)
            if loop.time() - said_s > REPORT_S:
                engine = app.runtime.engine
                counts = engine.books[1].counts
                pipe.send(
                    {
                        "positions": {
                            name.partition: each.ledger.position
                            for name, each in engine.partitions.items()
                        },
                        "spilled": counts.spilled,
                        "read": counts.read,
                        "bytes": engine.spilling.spilled_bytes(1),
                        "late_ms": late_ms,
                    }
                )
                late_ms, said_s = [], loop.time()

    programs.run_worker(app)


def listen(pipe: Connection, told: SimpleQueue[dict[str, Any]]) -> None:
    """Take what a worker tells at once: its event loop stands still while the pipe is full."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            told.put(pipe.recv())


@dataclass
class Seen:
    """What a contender did.

    Args:
        catch_up_s: From its first record to the end of the backlog.
        latencies_us: Of real-time records from then on.
        late_ms: How late the loop was, while it caught up and after that.
        spilled_bytes: Most on disk.
    """

    catch_up_s: float
    latencies_us: list[int]
    missing: int
    late_ms: tuple[list[float], list[float]] = ((), ())  # type: ignore[assignment]
    spilled_bytes: int = 0
    resident: int = 0


class Run:
    """One backlog, and those who read it."""

    def __init__(self, given: argparse.Namespace, gib: float) -> None:
        self.broker, self.memory, self.seconds = given.broker, given.memory, given.seconds
        self.records = int(gib * 1024 * MIB / RECORD_BYTES)
        self.run = f"flowguard-backlog-{uuid.uuid4().hex[:8]}"
        self.topic, self.sink = f"{self.run}-in", f"{self.run}-out"
        self.directory = os.path.join(os.environ[programs.DIRECTORY], self.run)

    def group(self) -> str:
        return f"{self.run}-{uuid.uuid4().hex[:4]}"

    def worker(self, group: str) -> tuple[Any, SimpleQueue[dict[str, Any]]]:
        """Start a worker; return its process, and what it tells."""
        process, pipe = programs.start(
            work, broker=self.broker, topic=self.topic, sink=self.sink, group=group,
            memory=self.memory, directory=self.directory,
        )  # fmt: skip
        told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        threading.Thread(target=listen, args=(pipe, told), daemon=True).start()
        return process, told

    def bare(self) -> Seen:
        """Let the bare loop read."""
        group = self.group()
        contender, _ = programs.start(
            programs.two_hops_confluent, broker=self.broker, realtime=self.topic, bulk=self.topic,
            sink=self.sink, group=group, urgent=URGENT,
        )  # fmt: skip
        ends = programs.ends(self.broker, self.topic, PARTITIONS)
        begin_s = time.monotonic()
        try:
            while programs.committed(self.broker, group, self.topic, PARTITIONS) < ends:
                assert time.monotonic() - begin_s < CATCH_UP_WITHIN_S, "it does not catch up"
                time.sleep(REPORT_S)
            caught_s = time.monotonic() - begin_s
            latencies, missing = self.offer()
            return Seen(caught_s, latencies, missing)
        finally:
            programs.end(contender)

    def flowguard(self, *, restart: bool) -> Seen:
        """Let a worker read."""
        group = self.group()
        worker, tells = self.worker(group)
        ends = programs.ends(self.broker, self.topic, PARTITIONS)
        before: list[float] = []
        begin_s = 0.0
        try:
            while True:
                told = tells.get()
                if told["read"] and not begin_s:
                    begin_s = time.monotonic()
                    before = []
                before += told["late_ms"]
                if told["positions"] and [told["positions"][p] for p in range(PARTITIONS)] >= ends:
                    break
            caught_s = time.monotonic() - begin_s
            spilled = told["bytes"]
            latencies, missing = self.offer()
            after: list[float] = []
            while not tells.empty():
                after += tells.get()["late_ms"]
            seen = Seen(
                caught_s, latencies, missing, (sorted(before), sorted(after)), spilled,
                peak_rss(worker.pid),
            )  # fmt: skip
        finally:
            worker.kill()
            programs.end(worker)
        if restart:
            self.show_restart(group)
        shutil.rmtree(self.directory, ignore_errors=True)
        return seen

    def show_restart(self, group: str) -> None:
        """Start the worker again, once the group has forgotten the one that was killed."""
        print("  waiting 65 s for the group to forget the killed worker", flush=True)
        time.sleep(65)
        begin_s = time.monotonic()
        worker, tells = self.worker(group)
        try:
            told = tells.get()
            while not told["positions"]:
                told = tells.get()
            ready_s = time.monotonic() - begin_s
            spilled, number = told["spilled"], told["bytes"]
            time.sleep(3)
            while not tells.empty():
                told = tells.get()
            from_kafka = told["read"] - spilled
            print(
                f"  restart: {ready_s:.1f} s from its start until it has its partitions; "
                f"{spilled:,} records ({format_size(number)}) are on disk and were not fetched "
                f"again; {from_kafka:,} bulk records were fetched from Kafka in 3 s",
                flush=True,
            )
        finally:
            worker.kill()
            programs.end(worker)

    def offer(self) -> tuple[list[int], int]:
        """Send real-time records, and return their latencies and how many are missing."""
        reader, from_reader = programs.start(
            programs.read_sink, broker=self.broker, topic=self.sink, partitions=PARTITIONS
        )
        seconds, surge = WARM_UP_S + self.seconds, programs.Surge(RATE)
        _, sender = programs.start(
            programs.send_surging, broker=self.broker, topic=self.topic, lane="rt",
            surge=surge, seconds=seconds, header=URGENT,
        )  # fmt: skip
        begin_us = programs.begin([sender])
        sender.recv()
        time.sleep(2)
        from_reader.send("stop")
        stopped_us = programs.now_us()
        while (answer := from_reader.recv()) == "first":
            pass
        programs.end(reader)
        read_at = dict(reversed(list(zip(*answer, strict=True))))
        numbers = range(int(RATE * WARM_UP_S), int(RATE * seconds))
        due = [begin_us + int(surge.at_s(number) * 1e6) for number in numbers]
        latencies = sorted(read_at.get(each, stopped_us) - each for each in due)
        return latencies, sum(each not in read_at for each in due)


def show(name: str, seen: Seen, records: int) -> float:
    """Print what a contender did; return the p99 in ms."""
    p50, p99, p999 = (programs.percentile(seen.latencies_us, q) / 1e3 for q in (0.5, 0.99, 0.999))
    rate = records / max(1e-9, seen.catch_up_s)
    print(
        f"  {name:16} caught up in {seen.catch_up_s:6.1f} s ({rate:>11,.0f} records/s)  "
        f"p50 {p50:7.1f}  p99 {p99:7.1f}  p999 {p999:7.1f} ms  missing {seen.missing}",
        flush=True,
    )
    return p99


def idle(given: argparse.Namespace) -> int:
    """Return what a worker weighs that has nothing to do."""
    run = Run(given, 0)
    with topics(given.broker, run.topic, run.sink, partitions=PARTITIONS):
        worker, _ = run.worker(run.group())
        time.sleep(8)
        try:
            return peak_rss(worker.pid)
        finally:
            worker.kill()
            programs.end(worker)


def main() -> int:
    """Measure each backlog; exit 1 if a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--gib", default="1,5", metavar="N,…", help="sizes of the backlog")
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--seconds", type=float, default=30.0, help="counted seconds of a turn")
    parser.add_argument("--restart", action="store_true", help="kill and restart the worker, too")
    given = parser.parse_args()
    programs.directory()
    base = idle(given)
    limit = base + ALLOWED * size_bytes(given.memory) + MORE_BYTES
    print(f"idle: {format_size(base)} resident; limit {format_size(limit)}", flush=True)
    held = True
    for gib in map(float, given.gib.split(",")):
        run = Run(given, gib)
        with topics(given.broker, run.topic, run.sink, partitions=PARTITIONS):
            print(f"backlog of {run.records:,} records, {gib:g} GiB in the log", flush=True)
            fill(run.topic, leaders_of(given.broker, run.topic), run.records)
            show("two hops", run.bare(), run.records)
            seen = run.flowguard(restart=given.restart)
            p99 = show("flowguard", seen, run.records)
        held &= programs.mark(f"real-time p99 ≤ {TARGET_MS:g} ms", p99 <= TARGET_MS, f"{p99:.1f}")
        rate = run.records / seen.catch_up_s
        held &= programs.mark("reading ≥ 1 M records/s", rate >= 1e6, f"{rate:,.0f}")
        held &= programs.mark(
            f"resident ≤ {format_size(limit)}", seen.resident <= limit, format_size(seen.resident)
        )
        for when, late_ms in zip(("catching up", "after"), seen.late_ms, strict=True):
            share = sum(each <= STALL_MS for each in late_ms) / max(1, len(late_ms))
            worst, p999 = late_ms[-1], programs.percentile(late_ms, 0.999)
            print(
                f"  loop late while {when}: p99.9 {p999:.1f}, worst {worst:.1f} ms; "
                f"{share:.2%} of looks within {STALL_MS:g} ms"
            )
        print(f"  most on disk when caught up: {format_size(seen.spilled_bytes)}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
