"""A client that has nothing to do with flowguard: librdkafka."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

__all__ = ["Outside", "Record", "headers_of", "json_of"]

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Record:
    """One record to produce; without a partition its key decides, as in Java."""

    value: bytes | Mapping[str, Any] | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    partition: int = -1
    timestamp: int = 0  # 0 is the present

    @property
    def wire_value(self) -> bytes | None:
        """Return the value as it is sent."""
        return json.dumps(self.value).encode() if isinstance(self.value, Mapping) else self.value


def json_of(message: Message) -> Any:
    """Return the value of a message that has one."""
    return json.loads(message.value())


def headers_of(message: Message) -> dict[str, bytes | None]:
    """Return the headers of a message by name; the last of a repeated one."""
    return dict(message.headers() or [])


class Outside:
    """Produce, read, and ask for offsets."""

    def __init__(self, bootstrap: str) -> None:
        self.settings = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.admin = AdminClient(self.settings)

    def producer(self, **settings: Any) -> Producer:
        """Return a producer; underscores in names of settings stand for dots."""
        dotted = {name.replace("_", "."): value for name, value in settings.items()}
        return Producer({**self.settings, "partitioner": "murmur2_random", "linger.ms": 5} | dotted)

    def produce(self, topic: str, records: Iterable[Record], **settings: Any) -> list[Message]:
        """Produce records, and return them as Kafka acknowledged them, in order."""
        producer = self.producer(**settings)
        acknowledged: list[Message] = []
        self.send(producer, topic, records, acknowledged)
        assert producer.flush(60) == 0, "not everything was acknowledged"
        return acknowledged

    def send(
        self,
        producer: Producer,
        topic: str,
        records: Iterable[Record],
        acknowledged: list[Message] | None = None,
    ) -> None:
        """Hand records to a producer."""

        def note(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            if acknowledged is not None:
                acknowledged.append(message)

        for record in records:
            place = {} if record.partition < 0 else {"partition": record.partition}
            producer.produce(
                topic,
                record.wire_value,
                record.key,
                headers=list(record.headers),
                timestamp=record.timestamp,
                on_delivery=note,
                **place,
            )
            producer.poll(0)

    def read(self, topic: str) -> list[Message]:
        """Return all committed records of a topic, in order within each partition."""
        consumer = Consumer(
            {
                **self.settings,
                "group.id": "nobody",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            open_partitions = {number for _, number in self._places(topic)}
            consumer.assign([TopicPartition(topic, number, 0) for number in open_partitions])
            messages = []
            while open_partitions:
                for message in consumer.consume(1000, 0.05):  # waits until it has them all
                    if message.error() is None:
                        messages.append(message)
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        open_partitions.discard(message.partition())
                    else:
                        raise AssertionError(message.error())
            return messages
        finally:
            consumer.close()

    def values(self, topic: str) -> list[Any]:
        """Return all values of a topic, from JSON."""
        return [json_of(message) for message in self.read(topic)]

    # Offsets.

    def _places(self, topic: str) -> list[tuple[str, int]]:
        found = self.admin.list_topics(topic, timeout=30).topics[topic]
        return [(topic, number) for number in sorted(found.partitions)]

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(*place): which for place in self._places(topic)}
        answers = self.admin.list_offsets(asked, request_timeout=30)
        return {place.partition: future.result().offset for place, future in answers.items()}

    def ends(self, topic: str) -> dict[int, int]:
        """Return where each partition ends; markers of transactions count."""
        return self._offsets(topic, OffsetSpec.latest())

    def count(self, topic: str) -> int:
        """Return how many offsets a topic has."""
        return sum(self.ends(topic).values()) - sum(
            self._offsets(topic, OffsetSpec.earliest()).values()
        )

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Return the committed offset of each partition, 0 where there is none."""
        places = [TopicPartition(*place) for place in self._places(topic)]
        asked = ConsumerGroupTopicPartitions(group, places)
        (answer,) = self.admin.list_consumer_group_offsets([asked]).values()
        found = answer.result().topic_partitions
        return {each.partition: max(0, each.offset) for each in found}

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Set the committed offsets of a group that has no members."""
        places = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
        asked = ConsumerGroupTopicPartitions(group, places)
        (answer,) = self.admin.alter_consumer_group_offsets([asked]).values()
        answer.result()

    def is_done(self, group: str, topic: str) -> bool:
        """Tell whether everything in a topic is committed."""
        try:
            return self.committed(group, topic) == self.ends(topic)
        except KafkaException:  # a broker that has just started loads its groups first
            return False
