"""Plain Faust without a broker: its consumer, its streams and its conductor, driven by hand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import faust
from faust import Event
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from faust.types.tuples import ConsumerMessage

ORDERS = TP("orders", 0)
OTHER = TP("orders", 1)

#: Turns of the event loop in which it closes an iterator that nobody has any longer.
TURNS = 20

MADE: list[PlainFaust] = []


class PlainFaust:
    """An app of Faust's own that owns partitions of the topic `orders`.

    Args:
        committed: Where the group is in partition 0; None: nothing was committed yet.
        settings: Faust's.
    """

    def __init__(self, *, committed: int | None = None, **settings: Any) -> None:
        self.app = faust.App(
            "plain", broker="kafka://127.0.0.1:1", store="memory://", web_enabled=False, **settings
        )
        MADE.append(self)
        self.topic = self.app.topic("orders", value_type=bytes, value_serializer="raw")
        self.consumer = self.app.consumer
        assert type(self.consumer) is Consumer, "this is not Faust's own consumer"
        self.app.topics._acking_topics.add("orders")  # as after it has subscribed
        self.app.flow_control.resume()
        self.committed: list[dict[TP, int]] = []
        self._become_owner(committed)

    def _become_owner(self, committed: int | None) -> None:
        async def store(offsets: dict[TP, int]) -> bool:
            self.committed.append(dict(offsets))
            return True

        async def flush() -> None: ...

        self.consumer._committed_offset[ORDERS] = committed
        self.consumer.assignment = lambda: {ORDERS, OTHER}
        self.consumer._commit = store
        self.app.producer.flush = flush

    def message(self, offset: int, tp: TP = ORDERS, *, generation: int = 0) -> ConsumerMessage:
        """Return a record as Faust's consumer makes it."""
        return ConsumerMessage(
            topic=tp.topic, partition=tp.partition, offset=offset, timestamp=0.0, timestamp_type=0,
            headers={}, key=None, value=b"%d" % offset, checksum=None, tp=tp,
            generation_id=generation,
        )  # fmt: skip

    def event(self, offset: int, *, generation: int = 0) -> Event:
        """Return an event as the conductor puts it into the queue of one agent."""
        message = self.message(offset, generation=generation)
        message.incref()
        return Event(self.app, None, message.value, {}, message)

    def stream(self, events: Iterable[Event]) -> Any:
        """Return a stream with these events."""
        stream = self.app.stream(self.topic.clone(is_iterator=True))
        for event in events:
            stream.channel.queue.put_nowait(event)
        return stream

    async def let_fail(
        self, agent: Callable[[Any], Coroutine[Any, Any, None]], stream: Any
    ) -> BaseException:
        """Let an agent raise, and its stream end as under Faust's supervisor; return how it did."""
        task = asyncio.create_task(agent(stream))
        del stream  # `take` makes one of it that nobody else may have
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, BaseException), "it did not raise"
        outcome.__traceback__ = None  # holds the frame, which holds the iterator
        del task
        gc.collect()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return outcome

    def ack(self, *offsets: int) -> None:
        """Finish records, in this order."""
        for offset in offsets:
            message = self.message(offset)
            self.consumer.track_message(message)
            self.consumer.ack(message)

    async def commit(self) -> int | None:
        """Commit what Faust finds it may, and return it for partition 0."""
        await self.consumer.force_commit()
        return self.committed[-1].get(ORDERS) if self.committed else None

    def put_away(self) -> None:
        """Close the event loop that the consumer's thread has from its construction on."""
        self.consumer._thread.thread_loop.close()
