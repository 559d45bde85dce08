"""The process that reads the sink, and takes the time of every arrival."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from flowguard.stress.orders import REPORT_EVERY_S, Orders, say
from flowguard.units import MILLISECOND

__all__ = ["LANE_HEADER", "SinkReader"]

LANE_HEADER: Final = "fg-lane"

#: The sink is asked this often: a small embedded broker answers at once even when there
#: is nothing new, and asking without pause would cost a core.
READ_EVERY_S: Final = 0.005


class SinkReader:
    """Takes the time of every arrival.

    Args:
        topics: Name → partitions.
        result: The file to write what arrived to.
        ids: Keys are ids; else arrivals are only numbered.
        earliest: From the beginning of the topics; else from now on.
    """

    def __init__(
        self,
        *,
        bootstrap: str,
        topics: Mapping[str, int],
        result: str,
        ids: bool = True,
        earliest: bool = True,
    ) -> None:
        self.bootstrap = bootstrap
        self.partitions = [
            TopicPartition(topic, each) for topic, count in topics.items() for each in range(count)
        ]
        self.result = result
        self.keys_are_ids = ids
        self.earliest = earliest
        self.count = 0
        self.ids: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self.latencies_ms: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.timestamps_ms: dict[str, array[int]] = defaultdict(lambda: array("q"))

    async def run(self, orders: Orders) -> None:
        """Read until told to stop, and then to the end of the topic."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign(self.partitions)
            if not self.earliest:
                await consumer.seek_to_end(*self.partitions)
                for each in self.partitions:  # or "now" would be when it is first read
                    await consumer.position(each)
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
                self.count += 1
                self.ids[lane].append(int(record.key) if self.keys_are_ids else self.count)
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
        pl.concat(frames).write_ipc(self.result)


def seconds_at(latencies_ms: pl.Series, quantile: float) -> float | None:
    """Return a quantile in seconds, None of nothing."""
    value = latencies_ms.quantile(quantile, interpolation="higher")
    return None if value is None else value / 1e3
