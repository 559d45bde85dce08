"""The stream of an agent on a feed: what `async for batch in batches` runs through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from faust.streams import Stream
from mode.utils.aiter import aiter

from flowguard.agents.delivered import Delivered, current
from flowguard.agents.event import BatchEvent, set_current_event
from flowguard.agents.loop_time import LoopTime
from flowguard.agents.time_limit import TimeLimit
from flowguard.errors import HookError

__all__ = ["FeedStream"]

NO_TAKE = (
    "{name} is not available on batches; take the records from the batch itself, or use "
    "a plain topic (app.topic) for this agent"
)


class FeedStream(Stream[Any]):
    """Batches for one instance of an agent.

    Coming back for the next batch tells that the last one is finished; nothing else does.
    """

    inbox: Any = None  # asyncio.Queue[Delivered], set by the agent when it starts
    current: Delivered | None = None
    parted: Delivered | None = None  # failed, and goes on with some of its records
    began_s = 0.0  # when it got that, by the event loop's time
    time_limit = TimeLimit(None)  # set by the agent when it enters the function
    loop_time: LoopTime | None = None  # of the task that runs it

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return an iterator; after a failure a new one goes on where the last one stopped."""
        return self._batches()

    async def _batches(self) -> AsyncIterator[Any]:
        self._finalized = True
        while not self.should_stop:
            delivered = await self._next_batch()
            self._begin(delivered)
            # What comes after this yield is reached only when the function asks for its
            # next batch: an exception, break or return ends the generator instead.
            yield delivered.batch
            self._end()
            if self.loop_time is not None:
                delivered.held_ns = self.loop_time.longest_ns
            delivered.returned()
            self.parted = delivered if delivered.open else None

    async def _next_batch(self) -> Delivered:
        """Return the batch of which some records are to be tried now, or the next one."""
        if (parted := self.parted) is None:
            return cast("Delivered", await self.inbox.get())
        self.parted = None
        await asyncio.sleep(0)  # others come between two tries
        return parted

    def _begin(self, delivered: Delivered) -> None:
        self.current = delivered
        self.began_s = asyncio.get_running_loop().time()
        delivered.begin(self.began_s)
        self.time_limit.begin()
        if self.loop_time is not None:
            self.loop_time.begin()
        event = BatchEvent(self.app, delivered.batch)
        self.current_event = event  # Faust's context variable keeps a weak reference only
        set_current_event(event)
        current.set(delivered)
        self.events_total += 1

    def _end(self) -> None:
        self.current = None
        self.time_limit.end()
        self.current_event = None
        set_current_event(None)
        current.set(None)

    def fail(self, error: BaseException) -> bool:
        """Report that the function did not come back for the current batch.

        Returns:
            Whether there was a current batch.
        """
        delivered = self.current
        self._end()
        if delivered is None:
            return False
        delivered.failed(error)
        self.parted = delivered if delivered.open else None
        return True

    async def events(self) -> AsyncIterator[Any]:
        """Yield the event of each batch."""
        async for _ in aiter(self):
            if self.current_event is not None:
                yield self.current_event

    def _refuse(self, name: str) -> HookError:
        return HookError(NO_TAKE.format(name=f"stream.{name}()"))

    def take(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: batches are already batches."""
        raise self._refuse("take")

    take_events = take_with_timestamp = noack_take = take

    def group_by(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a batch has many keys."""
        raise self._refuse("group_by")

    def through(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: send the frame to a feed instead."""
        raise self._refuse("through")
