"""The process that sends: each record when it is meant to be sent, or as late as it must.

It never waits for an answer (an open loop), and a record that is late carries the instant at
which it should have been sent, so whoever waits for it has waited since then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from flowguard.stress.checkers import SentRun
from flowguard.stress.offers import Offer
from flowguard.stress.orders import REPORT_EVERY_S, Orders, say
from flowguard.stress.workload import record_id
from flowguard.units import MILLISECOND, SECOND

__all__ = ["Sender"]

#: How often a sender looks for records that are due.
URGENT_TICK_S: Final = 0.004
PATIENT_TICK_S: Final = 0.02

#: A record sent later than this is late, and the run says nothing about the worker if more
#: than 1 in 100 are: beside real-time targets little is allowed, a flood may stutter.
URGENT_LATE_S: Final = 0.025
PATIENT_LATE_S: Final = 0.25

#: A request larger than this is refused by a broker with Kafka's defaults.
REQUEST_BYTES_MAX: Final = 1024 * 1024
BATCH_BYTES: Final = 256 * 1024


class Sender:
    """Sends what is due, one batch a partition and tick.

    Args:
        offer: What is sent.
        urgent: Its lane has a target, so that little lateness is allowed.
        source: Number of this sender; no other of its lane has it.
    """

    def __init__(
        self,
        offer: Offer,
        *,
        bootstrap: str,
        topic: str,
        partitions: int,
        urgent: bool,
        source: int = 0,
    ) -> None:
        self.offer = offer
        self.bootstrap = bootstrap
        self.topic = topic
        self.partitions = partitions
        self.tick_s = URGENT_TICK_S if urgent else PATIENT_TICK_S
        self.late_ns = int((URGENT_LATE_S if urgent else PATIENT_LATE_S) * SECOND)
        self.source = source
        self.sent = 0
        self.late = 0
        self.acknowledged: list[SentRun] = []
        self.failed: list[str] = []
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self, orders: Orders) -> None:
        """Send until the end of the schedule, or until told to stop."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
        )
        await producer.start()
        try:
            await producer.partitions_for(self.topic)  # or the first records would wait for it
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
        schedule = self.offer.schedule
        while not stopped.is_set() and self.sent < schedule.total:
            elapsed_ns = time.time_ns() - begin_ms * MILLISECOND
            due = schedule.due(elapsed_ns)
            self.late += max(0, schedule.due(elapsed_ns - self.late_ns) - self.sent)
            if due > self.sent:
                await self._send(producer, due, begin_ms)
            await asyncio.sleep(self.tick_s)

    async def _send(self, producer: AIOKafkaProducer, due: int, begin_ms: int) -> None:
        for partition in range(self.partitions):
            indices = self.offer.of(partition, self.sent, due)
            while indices:
                indices = await self._send_batch(producer, partition, indices, begin_ms)
        self.sent = due

    async def _send_batch(
        self, producer: AIOKafkaProducer, partition: int, indices: Sequence[int], begin_ms: int
    ) -> Sequence[int]:
        """Send as many as one batch takes; return the rest."""
        batch = producer.create_batch()
        schedule, headers = self.offer.schedule, self.offer.headers
        number = self.offer.number(partition, indices[0])
        first = record_id(partition, number, self.source)
        count = 0
        for index in indices:
            key, value = self.offer.record(index, first + count)
            appended = batch.append(
                key=key,
                value=value,
                timestamp=begin_ms + schedule.at_ns(index) // MILLISECOND,
                headers=headers,
            )
            if appended is None:
                break
            count += 1
        stored = await producer.send_batch(batch, self.topic, partition=partition)
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
            self.acknowledged.append(
                SentRun(partition, metadata.offset, number, count, self.source)
            )

    async def _report(self, begin_ms: int) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            planned = self.offer.schedule.due(time.time_ns() - begin_ms * MILLISECOND)
            say({"planned": planned, "sent": self.sent})

    def result(self) -> dict[str, Any]:
        """Return what became of it."""
        runs = [
            (run.partition, run.offset, run.number, run.count, run.source)
            for run in self.acknowledged
        ]
        return {
            "planned": self.offer.schedule.total,
            "sent": self.sent,
            "late": self.late,
            "runs": runs,
            "failed": self.failed,
        }
