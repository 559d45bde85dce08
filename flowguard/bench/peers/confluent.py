"""confluent-kafka (librdkafka): `consume` of 10,000, tuned for throughput, automatic commits.

With librdkafka's defaults its queue backoff of one second would be measured. A queue of a
million records was tried too: it costs a third more CPU a record and is not faster.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import Consumer, KafkaException

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.units import MIB

__all__ = ["TUNING", "setup"]

TUNING: Final = {
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 1_000_000,
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 10,
    "fetch.max.bytes": 64 * MIB,
    "max.partition.fetch.bytes": 8 * MIB,
}

BATCH: Final = 10_000
TIMEOUT_S: Final = 0.1


def setup(context: Context) -> Run:
    """Subscribe."""
    consumer = Consumer(
        {
            "bootstrap.servers": context.broker,
            "group.id": context.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            **TUNING,
        }
    )
    consumer.subscribe([context.topic])

    def run(n: int) -> Reading:
        meter = Meter(n)
        while True:
            messages = consumer.consume(BATCH, TIMEOUT_S)
            if messages and (error := messages[0].error()):
                raise KafkaException(error)
            if meter.add(len(messages)):
                break
        consumer.close()
        return meter.reading

    return run
