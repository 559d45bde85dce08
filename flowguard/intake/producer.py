"""The Faust producer of an app with feeds.

Two things differ from Faust's: what is sent while a batch is current holds that batch, and
columns become finished record batches, which go out over connections of their own.

What Faust sends and what feeds send keep their order in a topic where one was sent before the
other was: each waits until the other's are acknowledged. Without both there is nothing to wait
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final, TypeAlias

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import Producer
from faust.types import FutureMessage

from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.agents.delivered import current_delivered
from flowguard.errors import SettleError
from flowguard.intake.client import FeedClient
from flowguard.intake.creation import create_patiently
from flowguard.intake.sender import BatchSender, Compression
from flowguard.settle.egress import Outgoing

__all__ = ["Encoded", "FeedProducer"]

#: The broker takes batches of 1 MiB unless told otherwise.
BATCH_BYTES_MAX: Final = 1000 * 1024

#: So few records share batches with others that wait.
FEW_ROWS: Final = 32

#: While output is waited for, it is looked so often at whether the producer still runs.
LOOK_AGAIN_S: Final = 0.5

#: Room around a batch within `producer_max_request_size`.
REQUEST_OVERHEAD_BYTES: Final = 4096

#: A dead letter may wait for its topic; whoever reads the status has to hear of it.
CREATE_WITHIN_S: Final = 60.0

#: Kafka's numbers of codecs, with the packers that aiokafka uses.
COMPRESSIONS: Final = {
    "gzip": Compression(1, gzip_encode),
    "snappy": Compression(2, snappy_encode),
    "lz4": Compression(3, lz4_encode),
    "zstd": Compression(4, zstd_encode),
}

#: Few rows, to share batches with others, or finished batches by partition.
Encoded: TypeAlias = Rows | Sequence[tuple[int, RecordBatch]]


class FeedProducer(Producer):
    """Faust's producer, which also knows which batch a send belongs to."""

    Sender: ClassVar[type[BatchSender]] = BatchSender

    _sender: BatchSender | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unsent: set[FutureMessage] = set()  # by `send_soon`, without an answer yet
        super().__init__(*args, **kwargs)

    async def on_start(self) -> None:
        """Start Faust's producer, and the sender of batches beside it."""
        await super().on_start()
        self._sender = self.Sender(
            self._ensure_producer().client,
            timeout_s=self.request_timeout,
            open_bytes=self.max_batch_size,
            compression=self._compression,
        )

    async def on_stop(self) -> None:
        """Let go out what was sent, for a while, and stop."""
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()
        await super().on_stop()

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer = super()._new_producer(transactional_id)
        FeedClient.adopt(producer.client, should_stop=self._is_stopping)
        return producer

    def _is_stopping(self) -> bool:
        return bool(self.should_stop or self.app.should_stop)

    async def flush(self) -> None:
        """Wait until all that was sent is acknowledged or has failed."""
        # Faust's buffer stops waiting when nothing of it went out for 0.1 s, and does not count
        # the message in its hand. What it forgets is a change of a table whose offset is committed.
        unsent = set(self._unsent)
        while unsent and not self.buffer.should_stop:
            _, unsent = await asyncio.wait(unsent, timeout=LOOK_AGAIN_S)
        await super().flush()
        if self._sender is not None:
            await self._sender.flush()

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Send one message; the current batch waits for its acknowledgement."""
        if self._sender is not None and (before := self._sender.unacknowledged(topic)):
            await asyncio.wait(before)
        sent = await super().send(topic, *args, **kwargs)
        hold(sent)
        return sent

    def send_soon(self, fut: Any) -> None:
        """Send one message later; the current batch waits for its acknowledgement."""
        super().send_soon(fut)
        if self.threaded_producer is None:  # Faust's other way, on a thread, may answer nobody
            self._unsent.add(fut)
            fut.add_done_callback(self._unsent.discard)
        hold(fut)

    def partition_count_now(self, topic: str) -> int | None:
        """Return how many partitions a topic has if records could be written to it right now."""
        if self._sender is None or self._sent_by_faust(topic):
            return None
        known = self._ensure_producer().client.cluster.partitions_for_topic(topic)
        return len(known) if known else None

    async def find_topic(self, topic: str) -> int:
        """Return how many partitions a topic has, after one look if it was not known.

        Raises:
            SettleError: The cluster does not have the topic, or nobody answers.
        """
        client = self._ensure_producer().client
        if not client.cluster.partitions_for_topic(topic):
            client.add_topic(topic)
            await client.force_metadata_update()
        if known := client.cluster.partitions_for_topic(topic):
            return len(known)
        raise SettleError(
            f"there is no topic {topic!r}; create it, or check the broker", topic=topic
        )

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has.

        Raises:
            SettleError: The broker does not have the topic.
        """
        try:
            return len(await self._ensure_producer().partitions_for(topic))
        except KafkaError as error:
            raise SettleError(
                f"cannot send to topic {topic!r}: {error!r}; create the topic, or check the broker",
                topic=topic,
                unavailable=True,
            ) from error

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Create a topic; where no broker takes it now, and Faust ends the app, wait a while."""
        await create_patiently(
            lambda: super(FeedProducer, self).create_topic(topic, *args, **kwargs),
            topic,
            lambda: self.should_stop,
            within_s=CREATE_WITHIN_S,
        )

    def encode(self, outgoing: Outgoing) -> Encoded:
        """Return records in the form that is sent; may run on any thread."""
        rows = outgoing.rows()
        if len(rows) <= FEW_ROWS and outgoing.num_bytes <= self.max_batch_size:
            return rows
        limit_bytes = max(self.max_batch_size, self.max_request_size - REQUEST_OVERHEAD_BYTES)
        batches = rows.encode(min(BATCH_BYTES_MAX, limit_bytes))
        if self._compression is not None:
            for _, batch in batches:
                self._compression.pack(batch)
        return batches

    async def send_encoded(
        self, topic: str, encoded: Encoded, begun: Callable[[], None] = lambda: None
    ) -> None:
        """Send records and wait until the broker has acknowledged all of them.

        Args:
            topic: Where to.
            encoded: The records.
            begun: Called when what is sent from now on comes after them in each partition.

        Raises:
            SettleError: The broker refused some; the rest may have been written.
        """
        if before := self._sent_by_faust(topic):
            await asyncio.wait(before)
        written = self.write(topic, encoded)
        begun()
        await asyncio.shield(written)

    def write(self, topic: str, encoded: Encoded) -> asyncio.Future[None]:
        """Let records go out behind all that was written before.

        Returns:
            What is done once all of them are acknowledged. Others may wait for it too, so it
            must not be cancelled.

        Raises:
            SettleError: The producer has stopped.
        """
        if self._sender is None:
            raise SettleError(f"cannot send to topic {topic!r}: the producer has stopped")
        if isinstance(encoded, Rows):
            written = self._sender.send_rows(topic, encoded)
        else:
            written = self._sender.send_batches(topic, encoded)
        return written[0] if len(written) == 1 else asyncio.ensure_future(all_done(written))

    def send_now(self) -> None:
        """Let what was written go out before whatever else the event loop has to do."""
        if self._sender is not None:
            self._sender.send_now()

    @property
    def _compression(self) -> Compression | None:
        return COMPRESSIONS[self.compression_type] if self.compression_type else None

    def _sent_by_faust(self, topic: str) -> list[asyncio.Future[Any]]:
        """Return what aiokafka has not got acknowledged for a topic yet."""
        accumulator = self._ensure_producer()._message_accumulator
        waiting = [
            batch
            for name, batches in accumulator._batches.items()
            if name.topic == topic
            for batch in batches
        ]
        under_way = [each for each in accumulator._pending_batches if each.tp.topic == topic]
        return [batch.future for batch in waiting + under_way]


async def all_done(written: Sequence[asyncio.Future[None]]) -> None:
    """Wait for all of them, and raise the first error."""
    if written:
        await asyncio.wait(written)
    for each in written:
        each.result()


def hold(sent: Awaitable[Any]) -> None:
    """Let the current batch, if there is one, wait for an acknowledgement."""
    delivered = current_delivered()
    if delivered is not None:
        delivered.hold(sent)
