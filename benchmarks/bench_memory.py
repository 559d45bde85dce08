"""Does `memory` hold? What a worker weighs with a backlog behind a slow agent, and a bomb.

    python benchmarks/bench_memory.py [--broker HOST:PORT] [--records 5000000] [--memory 512MiB]

Four workers of the same app, one after the other, each in a process of its own:

- idle on an empty topic: the base, for Python and its packages weigh something too;
- after 20,000 records that it need not hold: what decoding once costs, for comparison;
- behind a backlog of millions of records, with an agent that takes half a second a batch;
- given a wire batch of 20 kB that unpacks to 270 MB, in one of two partitions.

Peaks are the kernel's (VmHWM), so no instant is missed. Prints base, peaks and the limit,
base + 1.1 × memory; exits 1 where a peak is above it, or where the bomb stops the partition
beside its own.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cramjam
import programs
from brokers import kafka

from flowguard._native.wire import crc32c
from flowguard.bench.cluster import leaders_of, topics
from flowguard.bench.records import COLUMNS, wire_batch
from flowguard.bench.wire import fill, produce
from flowguard.units import format_size, size_bytes

PARTITIONS = 4
IDLE_S = 8.0
SLOW_BATCH_S = 0.5
FEW = 20_000
ALLOWED = 1.1

BOMB_RECORDS = 1_000
BOMB_VALUE = bytes(270_000)
ZSTD = 4


def work(
    broker: str, topic: str, group: str, memory: str, codec: str, pause_s: float, pipe: Connection
) -> None:
    """Run the worker; it tells how many records its agent got, and what it holds."""
    import asyncio

    import flowguard as fg

    realtime, bulk = fg.Lane("rt", target="50ms"), fg.Lane("bulk")
    app = fg.App(group, lanes=[realtime, bulk], memory=memory, **programs.app_options(broker))
    feed = app.feed(
        topic, codec=codec, lanes=fg.by_header("lane", {"rt": realtime}, default=bulk),
        columns=COLUMNS if codec == "json" else None,
    )  # fmt: skip

    @app.agent(feed)
    async def slow(batches: Any) -> None:
        async for batch in batches:
            batch.to_polars()
            pipe.send((len(batch), app.runtime.memory.used_bytes))
            await asyncio.sleep(pause_s)

    programs.run_worker(app)


@dataclass
class Weight:
    """What a worker weighed.

    Args:
        peak: Most bytes resident at any instant.
        records: What its agent got.
        held: Most that it said feeds held, when its agent got a batch.
    """

    peak: int
    records: int
    held: int


def weigh(seconds: float, enough: Callable[[int], bool] = lambda _: False, **task: Any) -> Weight:
    """Run a worker for so long, or until its agent got enough; return what it weighed."""
    worker, pipe = programs.start(work, group=f"flowguard-memory-{uuid.uuid4().hex[:8]}", **task)
    records = held = 0
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until and not enough(records):
            while pipe.poll(0.1):
                count, held_now = pipe.recv()
                records, held = records + count, max(held, held_now)
        return Weight(peak_rss(worker.pid or 0), records, held)
    finally:
        worker.kill()  # what it holds need not be finished
        programs.end(worker)


def peak_rss(pid: int) -> int:
    """Return the most memory the process ever had resident, from its start on."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def bomb() -> bytes:
    """Return a wire batch of a few kB whose records are 270 MB.

    Source: Kafka protocol documentation, record batch v2.
    """
    records = cramjam.zstd.compress(
        b"".join(bomb_record(number) for number in range(BOMB_RECORDS)), level=19
    )
    now_ms = time.time_ns() // 1_000_000
    checked = struct.pack(
        ">hiqqqhii", ZSTD, BOMB_RECORDS - 1, now_ms, now_ms, -1, -1, -1, BOMB_RECORDS
    ) + bytes(records)
    body = struct.pack(">ibI", -1, 2, crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(body)) + body


def bomb_record(number: int) -> bytes:
    """Return attributes, timestamp and offset deltas, no key, the value, no headers."""
    body = b"\0\0" + zigzag(number) + zigzag(-1) + zigzag(len(BOMB_VALUE)) + BOMB_VALUE + b"\0"
    return zigzag(len(body)) + body


def zigzag(number: int) -> bytes:
    """Return a varint as Kafka writes signed numbers."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def main() -> int:
    """Weigh three workers, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--codec", choices=("raw", "json"), default="json")
    parser.add_argument("--seconds", type=float, default=40.0, help="behind the backlog")
    given = parser.parse_args()
    with kafka(given.broker) as broker:
        return measure(broker, given)


def measure(broker: str, given: argparse.Namespace) -> int:
    """Weigh all four."""
    run = f"flowguard-memory-{uuid.uuid4().hex[:8]}"
    empty, few, backlog, hostile = (f"{run}-{each}" for each in ("empty", "few", "all", "bomb"))
    task = {"broker": broker, "memory": given.memory, "codec": given.codec}
    with topics(broker, empty, few, backlog, hostile, partitions=PARTITIONS):
        base = weigh(IDLE_S, topic=empty, pause_s=0, **task)
        limit = base.peak + ALLOWED * size_bytes(given.memory)
        print(f"idle: {format_size(base.peak)} resident, the base", flush=True)
        print(f"limit: base + {ALLOWED} × {given.memory} = {format_size(limit)}", flush=True)
        fill(few, leaders_of(broker, few), FEW)
        show("after 20,000 records, held by nobody", weigh(IDLE_S, topic=few, pause_s=0, **task),
             base.peak, limit)  # fmt: skip
        fill(backlog, leaders_of(broker, backlog), given.records)
        slow = weigh(given.seconds, topic=backlog, pause_s=SLOW_BATCH_S, **task)
        holds = show(f"{given.records:,} records behind a slow agent", slow, base.peak, limit)
        return 0 if survives_bomb(hostile, task, base.peak, limit) and holds else 1


def survives_bomb(topic: str, task: dict[str, Any], base: int, limit: float) -> bool:
    """Put the bomb into partition 0 and ordinary records into the others, and weigh."""
    leaders = leaders_of(task["broker"], topic)
    batch = bomb()
    produce(topic, leaders[0], 0, batch)
    expected = 0
    for partition in range(1, PARTITIONS):
        ordinary, count = wire_batch(0, 5_000, time.time_ns() // 1_000_000)
        produce(topic, leaders[partition], partition, ordinary)
        expected += count
    weight = weigh(30.0, lambda records: records >= expected, topic=topic, pause_s=0, **task)
    unpacked = BOMB_RECORDS * len(BOMB_VALUE)
    what = f"a batch of {len(batch):,} bytes that unpacks to {unpacked:,}"
    beside = weight.records >= expected
    print(f"records beside the bomb: {min(weight.records, expected):,} of {expected:,}")
    return show(what, weight, base, limit) and beside


def show(what: str, weight: Weight, base: int, limit: float) -> bool:
    """Print what a worker weighed; return whether it is within the limit."""
    verdict = "within the limit" if weight.peak <= limit else "ABOVE THE LIMIT"
    print(
        f"{what}: peak {format_size(weight.peak)}, {format_size(weight.peak - base)} above the "
        f"base, {verdict}; it said it held {format_size(weight.held)} at most and its agent got "
        f"{weight.records:,} records",
        flush=True,
    )
    return weight.peak <= limit


if __name__ == "__main__":
    sys.exit(main())
