"""Events: how Faust's tables, windows and sensors see a batch and its records."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from typing import Any

from faust.events import Event
from faust.streams import _current_event
from faust.types import TP, AppT, EventT
from faust.types.tuples import ConsumerMessage, Message

from flowguard.batch import Batch
from flowguard.chunk import TopicPartition
from flowguard.errors import HookError

__all__ = ["BatchEvent", "FaustDelivery", "set_current_event"]

TIMESTAMP_TYPE_CREATE = 0


def set_current_event(event: EventT[Any] | None) -> None:
    """Make this what `faust.current_event()` returns; Faust keeps a weak reference only."""
    _current_event.set(None if event is None else weakref.ref(event))


class BatchMessage(Message):
    """The message of a batch event, which has a position only if its batch has one.

    A batch of one partition has that partition, so that tables without windows may be
    used directly; a batch of several has none and says so.
    """

    def __init__(self, batch: Batch) -> None:  # Faust's own fields do not exist in a batch
        self.acked = False
        self.refcount = 0
        self.tracked = True
        self.generation_id = None
        self.headers: Any = None
        self._batch = batch

    @property
    def tp(self) -> TP:  # type: ignore[override]
        """Return the partition of a batch that has only one."""
        return TP(*self._only_partition("tp"))

    @property
    def topic(self) -> str:  # type: ignore[override]
        """Return the topic of a batch of one partition."""
        return self._only_partition("topic").topic

    @property
    def partition(self) -> int:  # type: ignore[override]
        """Return the partition of a batch that has only one."""
        return self._only_partition("partition").partition

    def _only_partition(self, name: str) -> TopicPartition:
        partitions = self._batch.partitions
        if len(partitions) == 1:
            return next(iter(partitions))
        raise no_position(name)

    def __getattr__(self, name: str) -> Any:
        raise (
            no_position(name)
            if name in ("offset", "timestamp", "key", "value")
            else (AttributeError(name))
        )

    def __repr__(self) -> str:
        return f"<BatchMessage: {self._batch!r}>"


class BatchEvent(Event):
    """The current event while an agent works on a batch: its value is the batch."""

    def __init__(self, app: AppT, batch: Batch) -> None:
        self.app = app
        self.value = batch
        self.message = BatchMessage(batch)
        self.headers = {}
        self.acked = False

    @property
    def key(self) -> Any:  # type: ignore[override]
        """Raise: a batch has no key."""
        raise no_position("key")


def no_position(name: str) -> HookError:
    return HookError(
        f"a batch event has no {name}, because a batch holds many records; use "
        f"`for event in batch.events()`, or @app.agent(…, batch=fg.BatchSize(by_partition=True))"
    )


class FaustDelivery:
    """Make ordinary Faust events of a batch's records."""

    def __init__(self, app: AppT) -> None:
        self._app = app

    def now_epoch(self) -> float:
        """Return the wall clock in seconds since 1970."""
        return time.time()

    def events(self, batch: Batch) -> Iterator[EventT[Any]]:
        """Yield an event a record, each current in its turn."""
        before = _current_event.get(None)
        try:
            for record, value in zip(record_dicts(batch), batch.to_pylist(), strict=True):
                event = self._event(batch, record, value)
                set_current_event(event)
                yield event
        finally:
            _current_event.set(before)

    def _event(self, batch: Batch, record: dict[str, Any], value: Any) -> Event:
        headers = {each["name"]: each["value"] for each in record["headers"]}
        message = ConsumerMessage(
            record["topic"],
            record["partition"],
            record["offset"],
            record["timestamp"] / 1000.0,
            TIMESTAMP_TYPE_CREATE,
            headers,
            record["key"],
            record["value"],
            None,
            tp=TP(record["topic"], record["partition"]),
            generation_id=self._app.consumer_generation_id,
        )
        key = batch.feed.schema.loads_key(self._app, message)
        return Event(self._app, key, value, headers, message)


def record_dicts(batch: Batch) -> list[dict[str, Any]]:
    """Return a batch's records as dicts, with topic and partition."""
    records = batch.records
    topics = batch.topics
    return [
        {"topic": topic, **record}
        for topic, record in zip(topics, records.to_pylist(), strict=True)
    ]
