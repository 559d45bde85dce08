"""The processes around a worker under test: senders, and the reader of its sink.

Each is a process of its own, so that neither a busy worker nor the live view delays an
instant that is measured. It takes one task as JSON on its command line and orders as
lines on standard input, and answers in lines of JSON on standard output:

    begin EPOCH_MS ─▶ │ process │ ─▶ {"ready": true}, then one line a second, then
    stop ───────────▶ │         │ ─▶ {"done": …}

The end of its input ends it, so it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import polars as pl
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from flowguard.stress.checkers import SentRun
from flowguard.stress.flights import bodies, departures, value_of
from flowguard.stress.workload import ConstantRate, Schedule, Spread, warp
from flowguard.units import MILLISECOND, SECOND

__all__ = ["LANE_HEADER", "ReadTask", "SendTask"]

LANE_HEADER: Final = "fg-lane"

#: How often a sender looks for records that are due.
REALTIME_TICK_S: Final = 0.004
FLOOD_TICK_S: Final = 0.02

#: A record sent later than this is late, and the run says nothing about the worker if more
#: than a few are: beside real-time targets little is allowed, a flood may stutter.
REALTIME_LATE_S: Final = 0.025
FLOOD_LATE_S: Final = 0.25

#: A request larger than this is refused by a broker with Kafka's defaults.
REQUEST_BYTES_MAX: Final = 1024 * 1024
BATCH_BYTES: Final = 256 * 1024

#: The sink is asked this often: a small embedded broker answers at once even when there
#: is nothing new, and asking without pause would cost a core.
READ_EVERY_S: Final = 0.005

REPORT_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTask:
    """Send departures to a topic.

    Args:
        kind: `warped`: in their real rhythm, `speed` times faster; `flood`: over and over
            at `per_s`.
        begin_s: When to begin, from the beginning of the run.
        seconds: When to end, from the beginning of the run.
    """

    kind: Literal["warped", "flood"]
    bootstrap: str
    topic: str
    partitions: int
    seconds: float
    begin_s: float = 0.0
    speed: float = 1.0
    per_s: float = 0.0

    def as_json(self) -> str:
        """Return it as a command line argument."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTask:
    """Read a topic from its beginning; write what arrived to the file `result`."""

    bootstrap: str
    topic: str
    partitions: int
    result: str
    kind: Literal["read"] = "read"

    def as_json(self) -> str:
        """Return it as a command line argument."""
        return json.dumps(asdict(self))


class Orders:
    """What comes in on standard input.

    Attributes:
        stopped: Set by `stop`.
    """

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self._begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        """Take orders until the input ends."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            if line[0] == "stop":
                self.stopped.set()
            elif line[0] == "begin" and not self._begin.done():
                self._begin.set_result(int(line[1]))

    async def begin_ms(self) -> int:
        """Wait until the instant of the beginning is known, and return it."""
        say({"ready": True})
        return await self._begin


def say(message: Mapping[str, Any]) -> None:
    """Tell whoever started this process."""
    print(json.dumps(message), flush=True)


# Sending.


class Sender:
    """Sends what is due, one batch a partition and tick."""

    def __init__(self, task: SendTask, schedule: Schedule, values: list[bytes]) -> None:
        self.task = task
        self.schedule = schedule
        self.values = values
        self.spread = Spread(task.partitions)
        self.flood = task.kind == "flood"
        self.sent = 0
        self.late = 0
        self.acknowledged: list[SentRun] = []
        self.failed: list[str] = []
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self, orders: Orders) -> None:
        """Send until the end of the schedule, or until told to stop."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.task.bootstrap,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
        )
        await producer.start()
        try:
            begin_ms = await orders.begin_ms()
            reporter = asyncio.create_task(self._report(begin_ms))
            try:
                await self._send_all(producer, begin_ms, orders.stopped)
                await asyncio.gather(*self._waiting)
            finally:
                reporter.cancel()
        finally:
            await producer.stop()
        say({"done": self.result()})

    async def _send_all(
        self, producer: AIOKafkaProducer, begin_ms: int, stopped: asyncio.Event
    ) -> None:
        tick_s = FLOOD_TICK_S if self.flood else REALTIME_TICK_S
        late_ns = int((FLOOD_LATE_S if self.flood else REALTIME_LATE_S) * SECOND)
        while not stopped.is_set() and self.sent < self.schedule.total:
            elapsed_ns = time.time_ns() - begin_ms * MILLISECOND
            due = self.schedule.due(elapsed_ns)
            self.late += max(0, self.schedule.due(elapsed_ns - late_ns) - self.sent)
            if due > self.sent:
                await self._send(producer, due, begin_ms)
            await asyncio.sleep(tick_s)

    async def _send(self, producer: AIOKafkaProducer, due: int, begin_ms: int) -> None:
        for partition in range(self.task.partitions):
            indices = self.spread.of(partition, self.sent, due)
            while indices:
                indices = await self._send_batch(producer, partition, indices, begin_ms)
        self.sent = due

    async def _send_batch(
        self, producer: AIOKafkaProducer, partition: int, indices: range, begin_ms: int
    ) -> range:
        """Send as many as one batch takes; return the rest."""
        batch = producer.create_batch()
        count = 0
        for index in indices:
            record_id = self.spread.id(index)
            appended = batch.append(
                key=b"%d" % record_id,
                value=value_of(record_id, self.values[index % len(self.values)]),
                timestamp=begin_ms + self.schedule.at_ns(index) // MILLISECOND,
            )
            if appended is None:
                break
            count += 1
        stored = await producer.send_batch(batch, self.task.topic, partition=partition)
        number = self.spread.number(indices[0])
        task = asyncio.create_task(self._take_note(stored, partition, number, count))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return indices[count:]

    async def _take_note(
        self, stored: asyncio.Future[Any], partition: int, number: int, count: int
    ) -> None:
        try:
            metadata = await stored
        except Exception as error:  # whatever it is, these records were not offered
            self.failed.append(f"{type(error).__name__}: {error}")
        else:
            self.acknowledged.append(SentRun(partition, metadata.offset, number, count))

    async def _report(self, begin_ms: int) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            planned = self.schedule.due(time.time_ns() - begin_ms * MILLISECOND)
            say({"planned": planned, "sent": self.sent})

    def result(self) -> dict[str, Any]:
        """Return what became of it."""
        runs = [(run.partition, run.offset, run.number, run.count) for run in self.acknowledged]
        return {
            "planned": self.schedule.total,
            "sent": self.sent,
            "late": self.late,
            "runs": runs,
            "failed": self.failed,
        }


def sender_of(task: SendTask) -> Sender:
    """Load the data and return what sends it."""
    frame = departures()
    schedule: Schedule
    if task.kind == "flood":
        begin_ns, end_ns = int(task.begin_s * SECOND), int(task.seconds * SECOND)
        schedule = ConstantRate(task.per_s, begin_ns, end_ns)
    else:
        schedule = warp(frame["at"], speed=task.speed, seconds=task.seconds)
        frame = frame.head(schedule.total)
    return Sender(task, schedule, bodies(frame))


# Reading.


class SinkReader:
    """Takes the time of every arrival."""

    def __init__(self, task: ReadTask) -> None:
        self.task = task
        self.partitions = [TopicPartition(task.topic, each) for each in range(task.partitions)]
        self.ids: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self.latencies_ms: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.timestamps_ms: dict[str, array[int]] = defaultdict(lambda: array("q"))

    async def run(self, orders: Orders) -> None:
        """Read until told to stop, and then to the end of the topic."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.task.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            consumer.assign(self.partitions)
            await orders.begin_ms()
            reporter = asyncio.create_task(self._report())
            try:
                while not orders.stopped.is_set():
                    await self._read(consumer)
                    await asyncio.sleep(READ_EVERY_S)
                await self._read_to_end(consumer)
            finally:
                reporter.cancel()
        finally:
            await consumer.stop()
        self.write()
        say({"done": {name: len(ids) for name, ids in self.ids.items()}})

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Ask once and take in what there is."""
        consumer.resume(*self.partitions)
        fetched = await consumer.getmany(*self.partitions, timeout_ms=int(READ_EVERY_S * 1e3))
        consumer.pause(*self.partitions)
        now_ms = time.time_ns() / MILLISECOND
        for records in fetched.values():
            for record in records:
                lane = dict(record.headers).get(LANE_HEADER, b"").decode()
                self.ids[lane].append(int(record.key))
                self.latencies_ms[lane].append(now_ms - record.timestamp)
                self.timestamps_ms[lane].append(record.timestamp)

    async def _read_to_end(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(self.partitions)
        while any([await consumer.position(each) < end for each, end in ends.items()]):
            await self._read(consumer)

    async def _report(self) -> None:
        seen: dict[str, int] = defaultdict(int)
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            lanes = {}
            for name, latencies_ms in self.latencies_ms.items():
                recent = pl.Series(latencies_ms[seen[name] :], dtype=pl.Float64)
                seen[name] = len(latencies_ms)
                lanes[name] = {
                    "count": len(latencies_ms),
                    "p50": seconds_at(recent, 0.5),
                    "p99": seconds_at(recent, 0.99),
                }
            say({"lanes": lanes})

    def write(self) -> None:
        """Write all arrivals to the result file.

        Shape: lane, id, latency_ms, timestamp_ms; one row an arrival.
        """
        frames = [
            pl.DataFrame(
                {
                    "lane": [name] * len(ids),
                    "id": pl.Series(ids, dtype=pl.Int64),
                    "latency_ms": pl.Series(self.latencies_ms[name], dtype=pl.Float64),
                    "timestamp_ms": pl.Series(self.timestamps_ms[name], dtype=pl.Int64),
                },
                schema={"lane": pl.String, "id": pl.Int64, "latency_ms": pl.Float64,
                        "timestamp_ms": pl.Int64},
            )
            for name, ids in [*self.ids.items(), ("", array("q"))]
        ]  # fmt: skip
        pl.concat(frames).write_ipc(self.task.result)


def seconds_at(latencies_ms: pl.Series, quantile: float) -> float | None:
    """Return a quantile in seconds, None of nothing."""
    value = latencies_ms.quantile(quantile, interpolation="higher")
    return None if value is None else value / 1e3


# The process.


async def serve(argument: str) -> None:
    """Do one task, or end when nobody listens any more."""
    given = json.loads(argument)
    orders = Orders()
    listening = asyncio.create_task(orders.listen())
    worker: Sender | SinkReader
    if given["kind"] == "read":
        worker = SinkReader(ReadTask(**given))
    else:
        worker = sender_of(SendTask(**given))
    running = asyncio.create_task(worker.run(orders))
    await asyncio.wait({listening, running}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if not running.done():  # the input ended: so did whoever asked
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return
    running.result()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
