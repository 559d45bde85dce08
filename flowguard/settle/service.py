"""Sending: frames to feeds, and rejected records to dead letters."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import polars as pl

from flowguard.agents.delivered import Delivered, current, current_delivered
from flowguard.intake.codec import Codec
from flowguard.settle.egress import Header, Outgoing, make_outgoing, split_frame

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["EgressService", "LetterService"]

#: Encoding fewer rows than this costs less than handing them to another thread.
INLINE_ROWS: Final = 256

LANE_HEADER: Final = "fg-lane"


class Destination(Protocol):
    """The feed that a frame is sent to."""

    @property
    def codec(self) -> Codec:
        """Return how its values are written."""
        ...

    def get_topic_name(self) -> str:
        """Return the one topic of the feed."""
        ...


class EgressService:
    """Send frames; a frame is sent when the broker has acknowledged all of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._turn = itertools.count()
        self._begun: dict[str, asyncio.Event] = {}  # by topic: the latest send is on its way

    async def send(self, feed: Destination, frame: pl.DataFrame, *, key_by: str | None) -> int:
        """Send a frame and return its number of records.

        A send made while a batch is current holds that batch, even if nobody awaits it.
        Frames for one topic are written in the order in which they were sent.

        Raises:
            ConfigError: The frame has no such column.
            SettleError: The broker refused a record.
        """
        if frame.is_empty():
            return 0
        topic = feed.get_topic_name()
        before, begun = self._begun.get(topic), asyncio.Event()
        self._begun[topic] = begun
        sending = asyncio.get_running_loop().create_task(
            self._send(feed, frame, key_by, current.get(), before, begun)
        )
        sending.add_done_callback(lambda _: begun.set())  # nobody waits for one that failed
        delivered = current_delivered()
        if delivered is not None:
            delivered.hold(sending)
        return await asyncio.shield(sending)

    async def _send(
        self,
        feed: Destination,
        frame: pl.DataFrame,
        key_by: str | None,
        source: Delivered | None,
        before: asyncio.Event | None,
        begun: asyncio.Event,
    ) -> int:
        try:
            producer = await self._app.maybe_start_producer()
            outgoing = await self._outgoing(producer, feed, frame, key_by, source)
        finally:
            if before is not None:  # where it failed, too: the next one waits for this one only
                await before.wait()
        await producer.send_columns(feed.get_topic_name(), outgoing, begun.set)
        return len(frame)

    async def _outgoing(
        self,
        producer: Any,
        feed: Destination,
        frame: pl.DataFrame,
        key_by: str | None,
        source: Delivered | None,
    ) -> Outgoing:
        values_frame, keys = split_frame(frame, key_by)
        if len(frame) <= INLINE_ROWS and not feed.codec.waits:
            values = feed.codec.encode(values_frame)
        else:
            values = await asyncio.to_thread(feed.codec.encode, values_frame)
        partition_count = await producer.partition_count(feed.get_topic_name())
        return make_outgoing(
            frame,
            keys=keys,
            values=values,
            partition_count=partition_count,
            keyless_partition=next(self._turn) % partition_count,
            timestamp_ms=timestamp_of(source),
            headers=headers_of(source),
        )


def timestamp_of(source: Delivered | None) -> int:
    """Return the batch's oldest timestamp; outside of a batch, the present."""
    return time.time_ns() // 1_000_000 if source is None else source.batch.oldest_timestamp_ms


def headers_of(source: Delivered | None) -> list[Header]:
    """Return the headers that every record of an output gets."""
    return [] if source is None else [(LANE_HEADER, source.batch.lane.name.encode())]


class LetterService:
    """Write dead letters through the app's producer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def declare(self, topic: str) -> None:
        """Create the topic, if Faust may create topics and it does not exist."""
        if self._app.conf.topic_allow_declare:
            await self._app.topic(topic).maybe_declare()

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        producer = await self._app.maybe_start_producer()
        return int(await producer.partition_count(topic))

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        """Send records and wait until they are acknowledged."""
        producer = await self._app.maybe_start_producer()
        await producer.send_columns(topic, outgoing)
