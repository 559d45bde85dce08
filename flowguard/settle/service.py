"""Sending: frames to feeds, and rejected records to dead letters."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa

from flowguard.agents.delivered import Delivered, current, current_delivered
from flowguard.control.memory import MemoryBudget
from flowguard.intake.codec import Codec
from flowguard.settle.egress import Frame, Header, Outgoing, make_outgoing, split_frame
from flowguard.trace_context import TRACEPARENT_HEADER

if TYPE_CHECKING:
    from flowguard.app import App
    from flowguard.intake.producer import FeedProducer

__all__ = ["EgressService", "LetterService", "OutputRoom"]

#: Encoding fewer rows than this costs less than handing them to another thread.
INLINE_ROWS: Final = 256

#: So is encoding fewer bytes.
INLINE_BYTES: Final = 64 * 1024

LANE_HEADER: Final = "fg-lane"
#: Why a fallback made it: brownout, failure or deadline.
DEGRADED_HEADER: Final = "fg-degraded"


class Destination(Protocol):
    """The feed that a frame is sent to."""

    @property
    def codec(self) -> Codec:
        """Return how its values are written."""
        ...

    def get_topic_name(self) -> str:
        """Return the one topic of the feed."""
        ...


class Stay:
    """Output that is held: counted from the moment it was sent until it is acknowledged."""

    def __init__(self, room: OutputRoom, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.granted = asyncio.get_running_loop().create_future()
        self._room = room

    def resize(self, num_bytes: int) -> None:
        """Note that it is as large as this now."""
        self._room.change(self, num_bytes)

    def leave(self) -> None:
        """Note that it is not held any more."""
        self._room.leave(self)


class OutputRoom:
    """The share of the memory that output may fill before it is acknowledged.

    Whoever sends more waits, first come, first served: a send that was granted never waits for
    one that was not, so none of them can block the others. What is larger than the share goes
    alone.
    """

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        self._waiting: deque[Stay] = deque()
        self._granted_bytes = 0
        self._changed = asyncio.Event()

    def enter(self, num_bytes: int) -> Stay:
        """Count output, and return it; it may go on once it is `granted`."""
        stay = Stay(self, num_bytes)
        self._memory.output_bytes += num_bytes
        self._waiting.append(stay)
        self._admit()
        return stay

    async def wait(self) -> None:
        """Wait until there is room for more, so that no more is made than can go out."""
        while self._waiting or self._granted_bytes >= self._memory.output_bytes_max:
            self._changed.clear()
            await self._changed.wait()

    def change(self, stay: Stay, num_bytes: int) -> None:
        """Count output that was granted at another size."""
        self._memory.output_bytes += num_bytes - stay.num_bytes
        self._granted_bytes += num_bytes - stay.num_bytes
        stay.num_bytes = num_bytes
        self._admit()

    def leave(self, stay: Stay) -> None:
        """Count output no longer."""
        self._memory.output_bytes -= stay.num_bytes
        if stay in self._waiting:
            self._waiting.remove(stay)
        else:
            self._granted_bytes -= stay.num_bytes
        self._admit()

    def _admit(self) -> None:
        share_bytes = self._memory.output_bytes_max
        while self._waiting:
            stay = self._waiting[0]
            if self._granted_bytes and self._granted_bytes + stay.num_bytes > share_bytes:
                break
            self._granted_bytes += stay.num_bytes
            self._waiting.popleft()
            if not stay.granted.done():
                stay.granted.set_result(None)
        self._changed.set()


class EgressService:
    """Send frames; a frame is sent when the broker has acknowledged all of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._turn = itertools.count()
        self._begun: dict[str, asyncio.Event] = {}  # by topic: the latest send is on its way

    @cached_property
    def room(self) -> OutputRoom:
        """Return the share of the memory that output may fill."""
        return OutputRoom(self._app.runtime.memory)

    async def wait_for_room(self) -> None:
        """Wait while what is not acknowledged fills its share of the memory."""
        await self.room.wait()

    async def send(self, feed: Destination, frame: Frame, *, key_by: str | None) -> int:
        """Send a frame and return its number of records, once they are acknowledged.

        Raises:
            ConfigError: The frame has no such column.
            SettleError: The broker refused a record.
        """
        await asyncio.shield(self.begin(feed, frame, key_by=key_by))
        return len(frame)

    def begin(self, feed: Destination, frame: Frame, *, key_by: str | None) -> asyncio.Future[None]:
        """Send a frame; the future tells when all of it is acknowledged, or why it is not.

        A send made while a batch is current holds that batch, even if nobody awaits it.
        Frames for one topic are written in the order in which they were sent.
        """
        if not len(frame):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        # Its turn for room is taken in the same order, so what is before it never waits for it.
        stay = self.room.enter(size_of(frame))
        sending = self._send_at_once(feed, frame, key_by, stay)
        if sending is None:
            sending = self._send_in_turn(feed, frame, key_by, stay)
        sending.add_done_callback(lambda _: stay.leave())
        delivered = current_delivered()
        if delivered is not None:
            delivered.hold(sending)
        return sending

    def send_now(self) -> None:
        """Let what an agent has sent go out, now that it sends no more for its batch."""
        producer: FeedProducer = self._app.producer  # type: ignore[assignment]
        producer.send_now()

    def _send_at_once(
        self, feed: Destination, frame: Frame, key_by: str | None, stay: Stay
    ) -> asyncio.Future[None] | None:
        """Send few records that need to wait for nothing; None if they do.

        What is urgent mostly comes a record or two at a time. Each step that waits would cost it
        a turn of the event loop, which is long when there is much else to do.
        """
        producer: FeedProducer = self._app.producer  # type: ignore[assignment]
        topic = feed.get_topic_name()
        before = self._begun.get(topic)
        if (
            not self._is_little(feed, frame, stay)
            or not stay.granted.done()
            or (before is not None and not before.is_set())
            or (count := producer.partition_count_now(topic)) is None
        ):
            return None
        try:
            encode = self._encoding(producer, feed, frame, key_by, current.get(), count)
            encoded, num_bytes = encode()
            stay.resize(num_bytes)
            return producer.write(topic, encoded)
        except Exception as error:  # it belongs to whoever waits for the acknowledgement
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _send_in_turn(
        self, feed: Destination, frame: Frame, key_by: str | None, stay: Stay
    ) -> asyncio.Future[None]:
        topic = feed.get_topic_name()
        before, begun = self._begun.get(topic), asyncio.Event()
        self._begun[topic] = begun
        sending = asyncio.get_running_loop().create_task(
            self._send(feed, frame, key_by, current.get(), stay, before, begun)
        )
        sending.add_done_callback(lambda _: begun.set())  # nobody waits for one that failed
        return sending

    async def _send(
        self,
        feed: Destination,
        frame: Frame,
        key_by: str | None,
        source: Delivered | None,
        stay: Stay,
        before: asyncio.Event | None,
        begun: asyncio.Event,
    ) -> None:
        topic = feed.get_topic_name()
        try:
            await stay.granted
            producer = await self._app.maybe_start_producer()
            encode = self._encoding(
                producer, feed, frame, key_by, source, await producer.partition_count(topic)
            )
            little = self._is_little(feed, frame, stay)
            encoded, num_bytes = encode() if little else await asyncio.to_thread(encode)
            stay.resize(num_bytes)
        finally:
            if before is not None:  # where it failed, too: the next one waits for this one only
                await before.wait()
        await producer.send_encoded(topic, encoded, begun.set)

    def _is_little(self, feed: Destination, frame: Frame, stay: Stay) -> bool:
        """Tell whether encoding a frame costs less than handing it to another thread."""
        few = len(frame) <= INLINE_ROWS and stay.num_bytes <= INLINE_BYTES
        return few and not feed.codec.waits

    def _encoding(
        self,
        producer: Any,
        feed: Destination,
        frame: Frame,
        key_by: str | None,
        source: Delivered | None,
        partition_count: int,
    ) -> Callable[[], tuple[Any, int]]:
        """Return what encodes a frame; it may run on any thread."""
        keyless_partition = next(self._turn) % partition_count

        def encode() -> tuple[Any, int]:
            value, keys = split_frame(frame, key_by)
            outgoing = make_outgoing(
                frame,
                keys=keys,
                values=feed.codec.encode(value),
                partition_count=partition_count,
                keyless_partition=keyless_partition,
                timestamp_ms=timestamp_of(source),
                headers=headers_of(source),
            )
            return producer.encode(outgoing), outgoing.num_bytes

        return encode


def size_of(frame: Frame) -> int:
    """Return what a frame holds, about."""
    return int(frame.nbytes if isinstance(frame, pa.Table) else frame.estimated_size())


def timestamp_of(source: Delivered | None) -> int:
    """Return the batch's oldest timestamp; outside of a batch, the present."""
    return time.time_ns() // 1_000_000 if source is None else source.batch.oldest_timestamp_ms


def headers_of(source: Delivered | None) -> list[Header]:
    """Return the headers that every record of an output gets."""
    if source is None:
        return []
    headers: list[Header] = [(LANE_HEADER, source.batch.lane.name.encode())]
    if source.batch.degraded:
        headers.append((DEGRADED_HEADER, source.batch.occasion.encode()))
    if source.batch.traceparent is not None:
        headers.append((TRACEPARENT_HEADER, source.batch.traceparent))
    return headers


class LetterService:
    """Write dead letters through the app's producer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def declare(self, topic: str) -> None:
        """Create the topic, if Faust may create topics and it does not exist."""
        if self._app.conf.topic_allow_declare:
            await self._app.topic(topic).maybe_declare()

    async def find_topic(self, topic: str) -> int:
        """Return how many partitions the topic has, without waiting until there is one."""
        producer = await self._app.maybe_start_producer()
        return int(await producer.find_topic(topic))

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        producer = await self._app.maybe_start_producer()
        return int(await producer.partition_count(topic))

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        """Send records and wait until they are acknowledged."""
        stay = self._app.egress.room.enter(outgoing.num_bytes)
        try:
            await stay.granted
            producer = await self._app.maybe_start_producer()
            if outgoing.num_bytes <= INLINE_BYTES:
                encoded = producer.encode(outgoing)
            else:
                encoded = await asyncio.to_thread(producer.encode, outgoing)
            await producer.send_encoded(topic, encoded)
        finally:
            stay.leave()
