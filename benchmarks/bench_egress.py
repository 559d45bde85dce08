"""Records a second that go out at acks=all, and what a record costs; then consume → agent → sink.

Each turn is a process of its own, and the turns of all contenders take place in rotation.

    limit             finished batches of 1 MB on a bare socket, five requests under way
    confluent-kafka   `produce`, idempotent, tuned for throughput
    flowguard         `feed.send` of Arrow tables with ready keys and values, four at a time

    limit-through     a bare fetch loop and a bare produce loop at the same time
    flowguard-through a feed, an agent that passes its frame on, a sink
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import median
from typing import Any, Final

import pyarrow as pa

from flowguard.bench.cluster import leaders_of, topics
from flowguard.bench.meter import Reading, cpu_seconds, peak_memory
from flowguard.bench.records import make_key, make_value, wire_batch
from flowguard.bench.wire import (
    IN_FLIGHT_MAX,
    PRODUCE,
    PRODUCE_VERSION,
    Link,
    check_produced,
    fetch,
    fill,
    links_of,
    produce_body,
)

ACKS_ALL: Final = b"\xff\xff"
DISTINCT: Final = 100_000
WARM_UP: Final = 20_000
SENDS_AT_ONCE: Final = 4

#: The part of a topic that is read; waiting for its end would be measured too.
READ_SHARE: Final = 0.9


@dataclass(frozen=True)
class Turn:
    """What a contender is told."""

    broker: str
    source: str
    sink: str
    leaders: Mapping[str, str]
    records: int
    frame: int


class Stopwatch:
    """Wall and CPU time from now on."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s = time.perf_counter(), cpu_seconds()

    def reading(self, records: int) -> Reading:
        """Return what was done since."""
        seconds = time.perf_counter() - self.wall_s
        return Reading(
            records=records,
            seconds=seconds,
            cpu_seconds=cpu_seconds() - self.cpu_s,
            peak_memory=peak_memory(),
        )


def rows() -> tuple[list[bytes], list[bytes]]:
    """Return keys and values of about 8 and 185 bytes."""
    return [make_key(i) for i in range(DISTINCT)], [make_value(i) for i in range(DISTINCT)]


# Out.


def produce_at_the_limit(turn: Turn, records: int) -> int:
    """Write finished batches to all partitions in turn; return how many records."""
    batches = [wire_batch(i * 5_000, 5_000, 1_700_000_000_000) for i in range(8)]
    leaders = {int(partition): address for partition, address in turn.leaders.items()}
    links = {address: Link(address, buffer_bytes=1 << 20) for address in set(leaders.values())}
    waiting = dict.fromkeys(links, 0)
    written = 0
    for (batch, count), partition in zip(cycle(batches), cycle(sorted(leaders)), strict=False):
        address = leaders[partition]
        if waiting[address] == IN_FLIGHT_MAX:
            check_produced(links[address].receive(), turn.sink)
            waiting[address] -= 1
        head, body = produce_body(turn.sink, partition, batch)
        links[address].send(PRODUCE, PRODUCE_VERSION, head[:2] + ACKS_ALL + head[4:], body)
        waiting[address] += 1
        written += count
        if written >= records:
            break
    for address, link in links.items():
        for _ in range(waiting[address]):
            check_produced(link.receive(), turn.sink)
        link.close()
    return written


def limit(turn: Turn) -> Reading:
    """Finished batches on a bare socket."""
    produce_at_the_limit(turn, WARM_UP)
    watch = Stopwatch()
    return watch.reading(produce_at_the_limit(turn, turn.records))


def confluent(turn: Turn) -> Reading:
    """confluent-kafka's producer, with large batches and a large queue."""
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": turn.broker,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "batch.num.messages": 100_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "partitioner": "murmur2_random",
        }
    )
    keys, values = rows()

    def send(records: int) -> None:
        for number in range(records):
            row = number % DISTINCT
            while True:
                try:
                    producer.produce(turn.sink, values[row], keys[row])
                    break
                except BufferError:
                    producer.poll(0.01)
            if not number % 10_000:
                producer.poll(0)
        assert producer.flush(120) == 0

    send(WARM_UP)
    watch = Stopwatch()
    send(turn.records)
    return watch.reading(turn.records)


def flowguard(turn: Turn) -> Reading:
    """Frames through `feed.send`, a few at a time."""
    app = make_app(turn)
    sink = app.feed(turn.sink, codec="raw")
    keys, values = rows()
    table = pa.table({"_key": pa.array(keys), "value": pa.array(values)})
    frames = [table.slice(at, turn.frame) for at in range(0, DISTINCT, turn.frame)]

    async def send(records: int) -> int:
        left = records
        turns = cycle(frames)

        async def keep_sending() -> None:
            nonlocal left
            while left > 0:
                frame = next(turns)
                left -= len(frame)
                await sink.send(frame)

        await asyncio.gather(*(keep_sending() for _ in range(SENDS_AT_ONCE)))
        return records - left

    async def run() -> Reading:
        app.finalize()
        await send(WARM_UP)
        watch = Stopwatch()
        reading = watch.reading(await send(turn.records))
        await app.producer.stop()
        return reading

    return asyncio.run(run())


def make_app(turn: Turn) -> Any:
    import flowguard as fg

    return fg.App(
        f"bench-{uuid.uuid4().hex[:8]}",
        broker=f"kafka://{turn.broker}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        datadir=tempfile.mkdtemp(prefix="flowguard-bench-"),
    )


# Through.


def limit_through(turn: Turn) -> Reading:
    """A bare fetch loop beside a bare produce loop; both take part in every record."""
    leaders = {int(partition): address for partition, address in turn.leaders.items()}

    def read() -> None:
        left = turn.records
        links = [(link, dict.fromkeys(led, 0)) for link, led in links_of(leaders)]
        while left > 0:
            left -= sum(fetch(link, turn.source, offsets) for link, offsets in links)

    watch = Stopwatch()
    reader = threading.Thread(target=read)
    reader.start()
    produce_at_the_limit(turn, turn.records)
    reader.join()
    return watch.reading(turn.records)


def flowguard_through(turn: Turn) -> Reading:
    """A worker whose agent passes its frames on."""
    from flowguard.bench.peers.worker import run_worker, stop_worker

    app = make_app(turn)
    source, sink = app.feed(turn.source, codec="raw"), app.feed(turn.sink, codec="raw")
    found: list[Reading] = []

    @app.agent(source, sink=[sink])
    async def forward(batches: Any) -> Any:
        async for batch in batches:
            yield batch.to_polars()

    @app.task
    async def watch_settled() -> None:
        settled = first = 0
        watch: Stopwatch | None = None
        while settled < turn.records:
            await asyncio.sleep(0.005)
            settled = sum(lane.counts.settled for lane in app.runtime.snapshot().lanes)
            if settled and watch is None:
                watch, first = Stopwatch(), settled
        assert watch is not None
        found.append(watch.reading(settled - first))
        stop_worker()

    run_worker(app)
    return found[0]


CONTENDERS: Final[dict[str, Callable[[Turn], Reading]]] = {
    "limit": limit,
    "confluent-kafka": confluent,
    "flowguard": flowguard,
    "limit-through": limit_through,
    "flowguard-through": flowguard_through,
}


# Turns.


def take_turn(name: str, turn: Turn) -> Reading:
    """Let a contender take its turn in a process of its own."""
    command = [sys.executable, __file__, "--turn", name, json.dumps(asdict(turn))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stdout[-500:]}{done.stderr[-3000:]}")
    return Reading(**json.loads(done.stdout.splitlines()[-1]))


def run(given: argparse.Namespace) -> dict[str, list[Reading]]:
    """Let everybody take turns in rotation, each on a sink of its own."""
    names = [each for each in CONTENDERS if not given.only or each in given.only]
    readings: dict[str, list[Reading]] = {name: [] for name in names}
    source = f"flowguard-egress-{uuid.uuid4().hex[:8]}"
    with topics(given.broker, source, partitions=given.partitions):
        source_leaders = leaders_of(given.broker, source)
        if any(name.endswith("through") for name in names):
            fill(source, source_leaders, int(given.records / READ_SHARE))
        for number in range(given.turns):
            for name in names:
                sink = f"{source}-{number}-{name}"
                with topics(given.broker, sink, partitions=given.partitions):
                    leaders = {
                        str(partition): address
                        for partition, address in leaders_of(given.broker, sink).items()
                    }
                    turn = Turn(given.broker, source, sink, leaders, given.records, given.frame)
                    reading = take_turn(name, turn)
                readings[name].append(reading)
                print(f"turn {number + 1}: {name} {reading.per_second:,.0f} /s", file=sys.stderr)
    return readings


def print_table(readings: Mapping[str, list[Reading]]) -> None:
    """Print medians, and each turn's ratio to the limit and to confluent-kafka in that turn."""
    print(f"{'':18} {'records/s':>12} {'CPU us':>8} {'of limit':>9} {'x confluent':>12}")
    for name, turns in readings.items():
        through = name.endswith("through")
        shown = [f"{median(each.per_second for each in turns):12,.0f}",
                 f"{median(each.cpu_us_per_record for each in turns):8.3f}"]  # fmt: skip
        for other, width in (("limit-through" if through else "limit", 9), ("confluent-kafka", 12)):
            ratios = [
                mine.per_second / theirs.per_second
                for mine, theirs in zip(turns, readings.get(other, ()), strict=False)
            ]
            shown.append(f"{median(ratios) if ratios else float('nan'):{width}.2f}")
        print(f"{name:18} {' '.join(shown)}")


def main() -> None:
    """Measure, and print a row a contender."""
    if sys.argv[1:2] == ["--turn"]:
        _, _, name, text = sys.argv
        print(json.dumps(asdict(CONTENDERS[name](Turn(**json.loads(text))))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--frame", type=int, default=10_000, help="rows of a frame")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, metavar="NAME")
    print_table(run(parser.parse_args()))


if __name__ == "__main__":
    main()
