"""A Kafka log in memory: topics, partitions, wire batches, committed offsets.

What is appended are record batches as they are on the wire, and what is read are the same
bytes, so parser, lane rules and codecs are the real ones.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiokafka.record.memory_records import MemoryRecords

from flowguard.chunk import TopicPartition
from flowguard.facts import Stored

__all__ = ["OK", "Log", "Partition", "Read"]

#: Where a record batch of format v2 has what the broker reads or sets.
BASE_OFFSET: Final = struct.Struct(">q")
LAST_DELTA: Final = struct.Struct(">i")
LAST_DELTA_AT: Final = 23
PRODUCER: Final = struct.Struct(">qhi")  # id, epoch, base sequence
PRODUCER_AT: Final = 43

#: Kafka's codes for a batch.
OK: Final = 0
OUT_OF_ORDER_SEQUENCE: Final = 45

#: A broker remembers the sequences of so many batches of a producer.
SEQUENCES_KEPT: Final = 5


class Read(NamedTuple):
    """One record as the log has it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Appended(NamedTuple):
    """A wire batch in the log."""

    first_offset: int
    next_offset: int
    wire: bytes
    number: int  # in the order of writing, through all topics


@dataclass
class Recent:
    """What a partition remembers of a producer."""

    sequences: list[tuple[int, int]] = field(default_factory=list)  # epoch, base sequence
    next_sequence: int = 0


@dataclass
class Partition:
    """One partition of a topic."""

    batches: list[Appended] = field(default_factory=list)
    end: int = 0
    _producers: dict[int, Recent] = field(default_factory=dict)

    def append(self, batch: bytes, number: int) -> int:
        """Append a record batch, and return 0 or Kafka's code of what is wrong with it.

        As with Kafka, what an idempotent producer sends again is there once, and what comes
        after a batch that was refused is refused too.
        """
        count = LAST_DELTA.unpack_from(batch, LAST_DELTA_AT)[0] + 1
        producer, epoch, sequence = PRODUCER.unpack_from(batch, PRODUCER_AT)
        if producer >= 0:
            recent = self._producers.setdefault(producer, Recent())
            if (epoch, sequence) in recent.sequences:
                return OK
            if recent.sequences and sequence != recent.next_sequence:
                return OUT_OF_ORDER_SEQUENCE
            recent.sequences.append((epoch, sequence))
            del recent.sequences[:-SEQUENCES_KEPT]
            recent.next_sequence = sequence + count
        first, self.end = self.end, self.end + count
        self.batches.append(Appended(first, self.end, BASE_OFFSET.pack(first) + batch[8:], number))
        return OK

    def bytes_from(self, offset: int, max_bytes: int) -> bytes:
        """Return the wire batches at and after an offset; the first one whole, however large."""
        found: list[bytes] = []
        size = 0
        for batch in self.batches[self._index_of(offset) :]:
            if found and size + len(batch.wire) > max_bytes:
                break
            found.append(batch.wire)
            size += len(batch.wire)
        return b"".join(found)

    def _index_of(self, offset: int) -> int:
        low, high = 0, len(self.batches)
        while low < high:
            middle = (low + high) // 2
            if self.batches[middle].next_offset <= offset:
                low = middle + 1
            else:
                high = middle
        return low

    def records(self, first: int = 0) -> Iterator[Read]:
        """Yield the records at and after an offset."""
        for batch in self.batches[self._index_of(first) :]:
            yield from (each for each in records_of(batch.wire) if each.offset >= first)


class Log:
    """All topics of one cluster, and what its groups have committed.

    Args:
        partitions: Topic → partitions it is created with.
        default_partitions: Partitions of every other topic; each exists as soon as it is asked
            for.
    """

    def __init__(self, partitions: Mapping[str, int], default_partitions: int) -> None:
        self._wanted = dict(partitions)
        self._default = default_partitions
        self.topics: dict[str, list[Partition]] = {}
        self.committed: dict[TopicPartition, Stored] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of asking
        self._numbers = itertools.count()

    def topic(self, name: str, partitions: int | None = None) -> list[Partition]:
        """Return the partitions of a topic, which is created if it is new."""
        if name not in self.topics:
            count = self._wanted.get(name) or partitions or self._default
            self.topics[name] = [Partition() for _ in range(count)]
        return self.topics[name]

    def partition(self, name: TopicPartition) -> Partition:
        """Return one partition."""
        return self.topic(name.topic)[name.partition]

    def append(self, name: TopicPartition, batch: bytes) -> int:
        """Append a record batch, wake whoever waits for records, and return Kafka's code."""
        code = self.partition(name).append(batch, next(self._numbers))
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return code

    def changed(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return what is done when something is appended next."""
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = None
        return future

    def forget_waiting(self) -> None:
        """Forget who waits: they belong to a worker that is gone."""
        self._waiting.clear()

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """Return the records of a topic with their partition, in the order of writing."""
        batches = sorted(
            (batch.number, number, batch)
            for number, partition in enumerate(self.topics.get(topic, ()))
            for batch in partition.batches
        )
        return [
            {"partition": number, **record._asdict()}
            for _, number, batch in batches
            for record in records_of(batch.wire)
        ]


def records_of(batch: bytes) -> Iterator[Read]:
    """Yield the records of a wire batch."""
    wire = MemoryRecords(batch)
    while (records := wire.next_batch()) is not None:
        for record in records:
            yield Read(
                record.offset, record.timestamp, record.key, record.value,
                tuple((name, value) for name, value in record.headers),
            )  # fmt: skip
