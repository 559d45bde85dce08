"""The control topic: each worker keeps one record there that says how it is.

Whoever feeds the app may read it and send less. It is a favour: whatever goes wrong here is
said once, and nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from flowguard.intake.unawaited import look_at
from flowguard.observe.pressure import TTL_S, Told

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["ControlPort", "ControlTopic", "PressureWriter"]

#: Often enough to be of use, and rarely enough to cost nothing.
LOOK_S: Final = 1.0

#: A topic that is missing is looked for this often.
MISSING_S: Final = 60.0

#: A write that takes longer is forgotten: the next one is of more use.
WRITE_WITHIN_S: Final = TTL_S
FAREWELL_WITHIN_S: Final = 2.0

#: One record a worker is kept; segments are small, so that the old ones go soon.
TOPIC_CONFIG: Final = {
    "segment.ms": 10 * 60 * 1000,
    "min.cleanable.dirty.ratio": 0.1,
    "delete.retention.ms": 60 * 60 * 1000,
}


class ControlPort(Protocol):
    """How the topic is reached."""

    async def prepare(self, topic: str) -> str | None:
        """Create the topic where that is permitted; return why it cannot be used, or None."""

    async def write(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Write a record and wait until it is acknowledged."""


class PressureWriter:
    """Keep a worker's record on the control topic up to date.

    Args:
        topic: `<app>.control`.
        port: How it is reached.
        worker: The key of the record.
        read: Returns the document to write.
        log: A logger.
    """

    def __init__(
        self,
        topic: str,
        port: ControlPort,
        *,
        worker: str,
        read: Callable[[], dict[str, Any]],
        log: Any,
    ) -> None:
        self.topic = topic
        self._port = port
        self._key = worker.encode()
        self._read = read
        self._log = log
        self._told = Told()
        self._written = False
        self._closed = False
        self._complaint = ""

    async def run(self) -> None:
        """Write whenever there is something to tell, until closed or cancelled.

        Being cancelled is not enough: what awaits it with `asyncio.wait_for` may swallow that.
        """
        while not self._closed and not await self._attempt(self._prepare):  # noqa: ASYNC110
            await asyncio.sleep(MISSING_S)
        while not self._closed:
            worked = await self._attempt(self._tell)
            await asyncio.sleep(LOOK_S if worked else TTL_S)

    async def close(self) -> None:
        """Take the record away: this worker says nothing more."""
        self._closed = True
        if not self._written:
            return
        with contextlib.suppress(Exception):  # whoever reads it waits for its time to live then
            async with asyncio.timeout(FAREWELL_WITHIN_S):
                await self._port.write(self.topic, self._key, None)

    async def _prepare(self) -> None:
        why = await self._port.prepare(self.topic)
        if why is not None:
            raise LookupError(why)

    async def _tell(self) -> None:
        document, now_s = self._read(), asyncio.get_running_loop().time()
        if not self._told.is_due(document, now_s):
            return
        self._written = True  # or it may be, which is the same for whoever reads it
        await self._port.write(self.topic, self._key, json.dumps(document).encode())
        self._told.note(document, now_s)

    async def _attempt(self, step: Callable[[], Any]) -> bool:
        """Do something that may fail; what is wrong is said once, until it works again."""
        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                await step()
        except Exception as error:
            why = str(error) or type(error).__name__
            if why != self._complaint:
                self._complaint = why
                self._log.warning(
                    "upstream services are not told of pressure: topic %s: %s; nothing else "
                    "depends on it", self.topic, why,
                )  # fmt: skip
            return False
        self._complaint = ""
        return True


class ControlTopic:
    """The control topic through the app's producer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def prepare(self, topic: str) -> str | None:
        """Create the topic if Faust may create topics; return why it cannot be used, or None."""
        producer: Any = await self._app.maybe_start_producer()
        client = producer._ensure_producer().client
        if topic in (await client.fetch_all_metadata()).topics():
            return None
        if not self._app.conf.topic_allow_declare:
            return "it does not exist, and Faust may not create topics; create it, compacted"
        declared = self._app.topic(topic, partitions=1, compacting=True, config=TOPIC_CONFIG)
        await declared.maybe_declare()
        return None

    async def write(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Write a record and wait until it is acknowledged."""
        producer: Any = await self._app.maybe_start_producer()
        sent = await producer.send(topic, key, value, None, None, None)
        sent.add_done_callback(look_at)
        await asyncio.shield(sent)  # aiokafka's own; it is not ours to cancel
