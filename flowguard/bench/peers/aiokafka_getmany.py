"""aiokafka: `getmany` with automatic commits, with requests as large as flowguard's."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.units import MIB

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Return what reads; a consumer belongs to the loop that runs it."""

    async def read(n: int) -> Reading:
        consumer = AIOKafkaConsumer(
            context.topic,
            bootstrap_servers=context.broker,
            group_id=context.group,
            auto_offset_reset="earliest",
            enable_auto_commit=True,
            max_partition_fetch_bytes=4 * MIB,
            fetch_max_wait_ms=10,
        )
        await consumer.start()
        try:
            meter = Meter(n)
            while True:
                records = await consumer.getmany(timeout_ms=100)
                if meter.add(sum(map(len, records.values()))):
                    return meter.reading
        finally:
            await consumer.stop()

    return lambda n: asyncio.run(read(n))
