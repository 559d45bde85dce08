"""The Faust producer of an app with feeds.

Two things differ from Faust's: what is sent while a batch is current holds that batch, and
columns are sent as finished batches.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pyarrow as pa
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.transport.drivers.aiokafka import Producer

from flowguard.agents.delivered import current_delivered
from flowguard.errors import SettleError
from flowguard.settle.egress import Outgoing

__all__ = ["FeedProducer"]

#: aiokafka sends one batch a partition and request, so small ones waste round trips; the
#: broker takes 1 MiB at most unless told otherwise.
BATCH_BYTES_MAX: Final = 512 * 1024

#: So few records are sent one by one and share batches with others.
FEW_ROWS: Final = 32

#: Room for the request around a batch within `producer_max_request_size`.
REQUEST_OVERHEAD_BYTES: Final = 4096


class FeedProducer(Producer):
    """Faust's producer, which also knows which batch a send belongs to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # aiokafka takes a finished batch only once none waits for its partition; without these
        # what was sent later could slip in before it.
        self._turns: dict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def send(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Send one message; the current batch waits for its acknowledgement."""
        sent = await super().send(*args, **kwargs)
        hold(sent)
        return sent

    def send_soon(self, fut: Any) -> None:
        """Send one message later; the current batch waits for its acknowledgement."""
        super().send_soon(fut)
        hold(fut)

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has.

        Raises:
            SettleError: The broker does not have the topic.
        """
        try:
            return len(await self._ensure_producer().partitions_for(topic))
        except KafkaError as error:
            raise SettleError(
                f"cannot send to topic {topic!r}: {error!r}; create the topic, or check the broker"
            ) from error

    async def send_columns(
        self, topic: str, outgoing: Outgoing, begun: Callable[[], None] = lambda: None
    ) -> None:
        """Send records and wait until the broker has acknowledged all of them.

        Args:
            topic: Where to.
            outgoing: The records.
            begun: Called when what is sent from now on comes after them in each partition.

        Raises:
            SettleError: The broker refused some; the rest may have been written.
        """
        if len(outgoing.values) <= FEW_ROWS:
            await self._send_few(topic, outgoing, begun)
            return
        by_partition: dict[int, list[int]] = defaultdict(list)
        for row, partition in enumerate(outgoing.partitions.to_pylist()):
            by_partition[partition].append(row)
        sending = asyncio.gather(
            *(
                self._send_partition(topic, partition, outgoing, rows)
                for partition, rows in by_partition.items()
            ),
            return_exceptions=True,
        )
        begun()
        raise_first(topic, await sending)

    async def _send_few(self, topic: str, outgoing: Outgoing, begun: Callable[[], None]) -> None:
        """Send single records, which aiokafka puts into one batch with others that wait.

        A batch of ours would wait for its turn alone: one a partition and round trip.
        """
        producer = self._ensure_producer()
        keys, values = outgoing.keys.to_pylist(), outgoing.values.to_pylist()
        places = zip(outgoing.partitions.to_pylist(), outgoing.timestamps.to_pylist(), strict=True)
        acknowledgements = []
        try:
            for row, (partition, timestamp) in enumerate(places):
                async with self._turns[topic, partition]:
                    acknowledgements.append(
                        await producer.send(
                            topic,
                            values[row],
                            key=keys[row],
                            partition=partition,
                            timestamp_ms=timestamp,
                            headers=list(outgoing.headers_of(row)),
                        )
                    )
            begun()
            results = await asyncio.gather(*acknowledgements, return_exceptions=True)
        except KafkaError as error:
            results = [error]
        raise_first(topic, results)

    async def _send_partition(
        self, topic: str, partition: int, outgoing: Outgoing, rows: Sequence[int]
    ) -> None:
        producer = self._ensure_producer()
        async with self._turns[topic, partition]:
            acknowledgements = [
                await producer.send_batch(builder, topic, partition=partition)
                for builder in self._build(outgoing, rows)
            ]
        for acknowledgement in acknowledgements:
            await acknowledgement

    def _build(self, outgoing: Outgoing, rows: Sequence[int]) -> list[BatchBuilder]:
        indices = pa.array(rows)
        keys = outgoing.keys.take(indices).to_pylist()
        values = outgoing.values.take(indices).to_pylist()
        timestamps = outgoing.timestamps.take(indices).to_pylist()
        builders: list[BatchBuilder] = []
        for row, key, value, timestamp in zip(rows, keys, values, timestamps, strict=True):
            headers = outgoing.headers_of(row)
            if not builders or not append(builders[-1], timestamp, key, value, headers):
                builders.append(self._new_builder())
                append(builders[-1], timestamp, key, value, headers)
        for builder in builders:
            builder.close()
        return builders

    def _new_builder(self) -> BatchBuilder:
        accumulator = self._ensure_producer()._message_accumulator
        limit_bytes = max(self.max_batch_size, self.max_request_size - REQUEST_OVERHEAD_BYTES)
        return BatchBuilder(
            min(BATCH_BYTES_MAX, limit_bytes),
            accumulator._compression_type,
            is_transactional=False,
        )


def raise_first(topic: str, results: Sequence[object]) -> None:
    """Raise what went wrong first, if anything did."""
    for result in results:
        if isinstance(result, KafkaError):
            raise SettleError(f"topic {topic!r} did not take a batch: {result!r}") from result
        if isinstance(result, BaseException):
            raise result


def append(builder: BatchBuilder, timestamp: int, key: Any, value: Any, headers: Any) -> bool:
    """Add a record; False if the builder is full."""
    return builder.append(timestamp=timestamp, key=key, value=value, headers=headers) is not None


def hold(sent: Awaitable[Any]) -> None:
    """Let the current batch, if there is one, wait for an acknowledgement."""
    delivered = current_delivered()
    if delivered is not None:
        delivered.hold(sent)
