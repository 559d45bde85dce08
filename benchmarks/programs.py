"""Programs that benchmarks run in processes of their own: senders, workers, a sink's reader.

Every function here is the whole of one process, started with `start`. What it found out goes
back through a pipe.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

SPAWN = multiprocessing.get_context("spawn")  # a fork would take our memory and locks along

DIRECTORY = "BENCH_DIRECTORY"

#: A flood is sent in small bursts; of what is real-time every record on its own.
FLOOD_TICK_S = 0.002

#: Between the moment when all senders are ready and the first record.
BEGIN_AFTER_US = 500_000

TUNED = {"queued.min.messages": 200_000, "fetch.queue.backoff.ms": 10}


def start(program: Callable[..., None], **arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Start a program; it gets the far end of the pipe as `pipe`."""
    directory()
    near, far = SPAWN.Pipe()
    process = SPAWN.Process(target=program, kwargs={**arguments, "pipe": far}, daemon=True)
    process.start()
    far.close()
    return process, near


def directory() -> str:
    """Return a directory of this run; a program that is killed cannot clean up after itself."""
    if DIRECTORY not in os.environ:
        os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="flowguard-bench-")
        atexit.register(shutil.rmtree, os.environ[DIRECTORY], ignore_errors=True)
    return os.environ[DIRECTORY]


def end(process: SpawnProcess, seconds: float = 40.0) -> int:
    """End a program as a supervisor would; return its exit code."""
    process.terminate()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode or 0


def now_us() -> int:
    return time.time_ns() // 1000


# Senders and readers.


def value_of(number: int, due_us: int) -> bytes:
    """Return a value of about 185 bytes that says when it was due."""
    return (
        b'{"id":%d,"due_us":%d,"account":"acc-%08d","amount":"%d.%02d","currency":"EUR",'
        b'"note":"a payment like many others, with a few words about what it was for, or not"}'
        % (number, due_us, number % 100_000, number % 10_000, number % 100)
    )


def send_paced(
    broker: str, topic: str, lane: str, rate: int, begin_us: int, seconds: float, pipe: Connection
) -> None:
    """Send at an even rate, each record with the time it was due; report what was sent.

    A late record carries the time it was due and not the time it was sent: whoever waits
    for it has waited since then.
    """
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 0 if lane == "rt" else 5,
         "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    headers = [("lane", lane.encode())]
    total = int(rate * seconds)
    latest_us = sent = 0
    while sent < total:
        due = max(sent, min(total, int((now_us() - begin_us) * rate / 1e6) + 1))
        for number in range(sent, due):
            due_us = begin_us + int(number * 1e6 / rate)
            latest_us = max(latest_us, now_us() - due_us)
            producer.produce(
                topic, value_of(number, due_us), b"k%07d" % (number % 5000), headers=headers
            )
        sent = due
        producer.poll(0)
        next_us = begin_us + int(sent * 1e6 / rate) - now_us()
        time.sleep(max(next_us / 1e6, 0 if lane == "rt" else FLOOD_TICK_S))
    unsent = producer.flush(30)
    pipe.send({"sent": total - unsent, "seconds": (now_us() - begin_us) / 1e6, "late": latest_us})


@dataclass(frozen=True)
class Surge:
    """An even rate that is `factor` times as high for a while.

    Args:
        rate: Records a second, outside of the surge.
        begin_s: When it begins.
        end_s: When it is over.
    """

    rate: float
    factor: float = 1.0
    begin_s: float = 0.0
    end_s: float = 0.0

    def due(self, elapsed_s: float) -> int:
        """Return how many records are due before that."""
        inside_s = min(max(0.0, elapsed_s - self.begin_s), self.end_s - self.begin_s)
        return ceil(self.rate * (max(0.0, elapsed_s) + (self.factor - 1) * inside_s) - 1e-6)

    def at_s(self, number: int) -> float:
        """Return when a record is due."""
        before = self.rate * self.begin_s
        inside = self.rate * self.factor * (self.end_s - self.begin_s)
        if number <= before:
            return number / self.rate
        if number <= before + inside:
            return self.begin_s + (number - before) / (self.rate * self.factor)
        return self.end_s + (number - before - inside) / self.rate


def send_surging(
    broker: str, topic: str, lane: str, surge: Surge, seconds: float, pipe: Connection,
    header: str = "",
) -> None:  # fmt: skip
    """Send at a rate that surges; each record has the time it was due as its timestamp, too.

    Says "ready", is told when to begin (in microseconds since 1970), and reports what was sent,
    what was planned, and how late the worst of 100 ticks was.
    """
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 0 if lane == "rt" else 5,
         "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    headers = [("lane", (header or lane).encode())]
    planned = surge.due(seconds)
    producer.list_topics(topic, timeout=30)
    pipe.send("ready")
    begin_us = pipe.recv()
    late_ms = array("d")
    sent = 0
    while sent < planned:
        elapsed_s = (now_us() - begin_us) / 1e6
        due = min(planned, surge.due(elapsed_s))
        if due > sent:
            late_ms.append((elapsed_s - surge.at_s(sent)) * 1e3)
        for number in range(sent, due):
            due_us = begin_us + int(surge.at_s(number) * 1e6)
            producer.produce(
                topic, value_of(number, due_us), b"k%07d" % (number % 5000), headers=headers,
                timestamp=due_us // 1000,
            )  # fmt: skip
        sent = due
        producer.poll(0)
        next_s = surge.at_s(sent) - (now_us() - begin_us) / 1e6
        time.sleep(max(0.0, next_s, 0.0 if lane == "rt" else FLOOD_TICK_S))
    unsent = producer.flush(60)
    pipe.send(
        {"sent": sent - unsent, "planned": planned,
         "late_p99_ms": percentile(sorted(late_ms), 0.99) if late_ms else 0.0}
    )  # fmt: skip


def begin(pipes: Iterable[Connection]) -> int:
    """Wait until all senders are ready, tell them when to begin, and return that."""
    pipes = list(pipes)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    begin_us = now_us() + BEGIN_AFTER_US
    for pipe in pipes:
        pipe.send(begin_us)
    return begin_us


def read_sink(broker: str, topic: str, partitions: int, pipe: Connection) -> None:
    """Read a sink from its beginning; note when each record came, and when it was due.

    Says "first" at the first record, and all it knows once it is asked to.
    """
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "unused", **TUNED})
    places = [TopicPartition(topic, each, OFFSET_BEGINNING) for each in range(partitions)]
    consumer.assign(places)
    due_us, read_us = array("q"), array("q")
    while not pipe.poll():
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        read_us.append(now_us())
        due_us.append(json.loads(message.value())["due_us"])
        if len(due_us) == 1:
            pipe.send("first")
    pipe.send((due_us, read_us))
    consumer.close()


# Two hops: what comes on the real-time topic goes to the sink, what comes on the other is done.


def two_hops_confluent(
    broker: str, realtime: str, bulk: str, sink: str, group: str, pipe: Connection,
    urgent: str = "rt",
) -> None:  # fmt: skip
    """The floor: a bare loop on confluent-kafka that looks at the header, nothing more."""
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest",
         "auto.commit.interval.ms": 1000}
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
    consumer.subscribe(list({realtime, bulk}))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            message = consumer.poll(0.1)
            if message is None or message.error():
                continue
            if dict(message.headers()).get("lane") == urgent.encode():
                producer.produce(sink, message.value(), message.key())
                producer.poll(0)
    finally:
        producer.flush(5)
        consumer.close()


def two_hops_flowguard(
    broker: str, realtime: str, bulk: str, sink: str, group: str, pipe: Connection
) -> None:
    """The same as an agent on a feed with two lanes."""
    import flowguard as fg

    urgent, rest = fg.Lane("rt", target="50ms"), fg.Lane("bulk")
    app = fg.App(group, lanes=[urgent, rest], **app_options(broker))
    rule: Any = fg.by_topic({realtime: urgent}, default=rest)
    if realtime == bulk:
        rule = fg.by_header("lane", {"rt": urgent}, default=rest)
    feed = app.feed(*{realtime, bulk}, codec="raw", lanes=rule)
    out = app.feed(sink, codec="raw")

    @app.agent(feed, sink=[out])
    async def forward(batches: Any) -> Any:
        async for batch in batches:
            if batch.lane.name == "rt":
                yield batch.to_polars()

    run_worker(app)


def two_hops_faust(
    broker: str, realtime: str, bulk: str, sink: str, group: str, pipe: Connection
) -> None:
    """The same with plain Faust."""
    import faust

    app = faust.App(group, **app_options(broker))
    raw = {"key_serializer": "raw", "value_serializer": "raw"}
    out = app.topic(sink, **raw)

    @app.agent(app.topic(*{realtime, bulk}, **raw))
    async def forward(stream: Any) -> None:
        async for event in stream.events():
            if event.headers.get("lane") == b"rt":
                await out.send(value=event.value)

    run_worker(app)


# Workers.


def adaptive(seats: int) -> Any:
    """Return seats that the worker finds out by itself, up to so many."""
    import flowguard as fg

    return fg.Adaptive(max=seats) if hasattr(fg, "Adaptive") else seats


def app_options(broker: str) -> dict[str, Any]:
    """Return what all apps here have in common."""
    return {
        "broker": f"kafka://{broker.replace(',', ';')}",  # as Faust has several
        "web_enabled": False,
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "datadir": os.environ[DIRECTORY],
    }


def run_worker(app: Any) -> None:
    """Run a worker in this process until it is told to stop."""
    from flowguard.bench.peers.worker import run_worker as run

    run(app)


# Topics and groups.


def committed(broker: str, group: str, topic: str, partitions: int) -> list[int]:
    """Return the committed offset of each partition, 0 without one."""
    asking = Consumer({"bootstrap.servers": broker, "group.id": group})
    places = [TopicPartition(topic, each) for each in range(partitions)]
    try:
        return [max(0, place.offset) for place in asking.committed(places, timeout=10)]
    finally:
        asking.close()


def ends(broker: str, topic: str, partitions: int) -> list[int]:
    """Return the end offset of each partition."""
    asking = Consumer({"bootstrap.servers": broker, "group.id": "unused"})
    places = [TopicPartition(topic, each) for each in range(partitions)]
    try:
        return [asking.get_watermark_offsets(place, timeout=10)[1] for place in places]
    finally:
        asking.close()


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of all does not exceed."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


# Verdicts.

#: A sender whose worst record of 100 is later than this has measured itself. Two cores are
#: shared by broker, worker, reader and senders, so it is more than a sender alone needs.
SENDER_LATE_MS = 25.0
FLOOD_LATE_MS = 250.0
KEPT_UP = 0.99


def kept_up(report: dict[str, float], late_ms: float = FLOOD_LATE_MS) -> bool:
    """Tell whether a sender sent what it should, when it should."""
    return report["sent"] >= KEPT_UP * report["planned"] and report["late_p99_ms"] <= late_ms


def mark(what: str, held: bool, value: str) -> bool:
    """Print whether a target was held, and return it."""
    print(f"{'ok    ' if held else 'MISSED'} {what}: {value}", flush=True)
    return held
