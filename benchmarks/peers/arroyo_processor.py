"""Arroyo (sentry-arroyo): a stream processor with one strategy, which counts and commits.

One strategy and no more, as every step costs each record a call; it commits once a second, the
policy that Arroyo has by default. librdkafka is tuned as for confluent-kafka. (Arroyo's queue
is small by default to save memory.)
"""

from __future__ import annotations

from collections.abc import Mapping

from arroyo.backends.kafka import KafkaConsumer, KafkaPayload
from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
from arroyo.commit import ONCE_PER_SECOND
from arroyo.processing.processor import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, ProcessingStrategyFactory
from arroyo.types import Commit, Message, Partition, Topic

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.confluent import TUNING

__all__ = ["setup"]

#: These two have arguments of their own in Arroyo.
QUEUE_SIZES = ("queued.min.messages", "queued.max.messages.kbytes")


def setup(context: Context) -> Run:
    """Declare the consumer."""
    consumer = KafkaConsumer(
        build_kafka_consumer_configuration(
            {},
            bootstrap_servers=[context.broker],
            group_id=context.group,
            auto_offset_reset="earliest",
            queued_min_messages=TUNING["queued.min.messages"],
            queued_max_messages_kbytes=TUNING["queued.max.messages.kbytes"],
            override_params={
                name: value for name, value in TUNING.items() if name not in QUEUE_SIZES
            },
        )
    )

    def run(n: int) -> Reading:
        meter = Meter(n)
        factory = Counting(meter)
        processor = StreamProcessor(consumer, Topic(context.topic), factory, ONCE_PER_SECOND)
        factory.stop = processor.signal_shutdown
        processor.run()
        return meter.reading

    return run


class Counting(ProcessingStrategyFactory[KafkaPayload]):
    """Makes the strategy whenever partitions are assigned."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.stop = lambda: None

    def create_with_partitions(self, commit: Commit, partitions: Mapping[Partition, int]) -> Count:
        """Return the strategy."""
        return Count(commit, self)


class Count(CommitOffsets):
    """Count each record and commit it."""

    def __init__(self, commit: Commit, factory: Counting) -> None:
        super().__init__(commit)
        self._factory = factory

    def submit(self, message: Message[KafkaPayload]) -> None:
        """Take one record."""
        super().submit(message)
        if self._factory.meter.add(1):
            self._factory.stop()
