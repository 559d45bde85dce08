"""FastStream on confluent-kafka: a batch subscriber of raw bytes, automatic commits.

As its documentation advises for throughput: `batch=True` with a large `max_records`, commits by
the client (`ACK_FIRST`, its default), no validation (`apply_types=False`), and a decoder that
leaves the body as it is. Of its two Kafka brokers the other one is aiokafka, which alone reads
less than this one does. librdkafka is tuned as for confluent-kafka.
"""

from __future__ import annotations

import asyncio
import logging

from faststream import AckPolicy
from faststream.confluent import KafkaBroker
from faststream.confluent.message import KafkaMessage

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.confluent import BATCH, TUNING

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Declare the broker."""
    broker = KafkaBroker(
        context.broker, config=TUNING, allow_auto_create_topics=False, logger=None,
        apply_types=False,
        log_level=logging.ERROR,
    )  # fmt: skip

    async def undecoded(message: KafkaMessage) -> list[bytes]:
        return message.body

    async def read(n: int) -> Reading:
        meter = Meter(n)
        over = asyncio.Event()

        @broker.subscriber(
            context.topic, batch=True, max_records=BATCH, group_id=context.group,
            auto_offset_reset="earliest", ack_policy=AckPolicy.ACK_FIRST, decoder=undecoded,
            auto_commit_interval_ms=1000,
        )  # fmt: skip
        async def handle(values: list[bytes]) -> None:
            if meter.add(len(values)):
                over.set()

        await broker.start()
        await over.wait()
        await broker.stop()
        return meter.reading

    return lambda n: asyncio.run(read(n))
