"""One batch through an agent's function, without an app that runs: for unit tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from mode.utils.aiter import aiter

from flowguard.agents.delivered import Delivered
from flowguard.agents.stream import FeedStream
from flowguard.batch import Batch
from flowguard.errors import HookError
from flowguard.facts import Found, Nack
from flowguard.settle.service import EgressService

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["LEFT_LOOP", "Called", "call"]

LEFT_LOOP: Final = "the function left its loop (return or break); that acknowledges nothing"

calling: ContextVar[Called | None] = ContextVar("flowguard_calling", default=None)


class Called(list[Any]):
    """What an agent's function yielded for one batch, in order.

    Attributes:
        sent: (feed, frame) of each frame that it sent itself with `feed.send(frame)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[Any, Any]] = []


class RecordingEgress(EgressService):
    """Keeps what is sent during a call, and sends what is not."""

    def begin(self, feed: Any, frame: Any, *, key_by: str | None) -> asyncio.Future[None]:
        """Send a frame, or note it down."""
        called = calling.get()
        if called is None:
            return super().begin(feed, frame, key_by=key_by)
        called.sent.append((feed, frame))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class OneBatch(FeedStream):
    """The stream of a function that gets one batch and no more."""

    one: Delivered
    came_back = False

    async def _batches(self) -> AsyncIterator[Any]:
        self._finalized = True
        self._begin(self.one)
        yield self.one.batch
        self._end()
        self.came_back = True


class Nobody:
    """Whom a call reports to: its caller sees how it ended."""

    def returned(self, batch_id: int, **_: Any) -> None:
        """Nothing to do."""

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        """Nothing to do."""

    def failed(self, batch_id: int, error: BaseException, *, found: Found | None = None) -> None:
        """Nothing to do."""


async def call(app: App, function: Callable[[Any], Any], batch: Batch) -> Called:
    """Run a function on one batch, and return what it yielded.

    Raises:
        HookError: It left its loop, or took no batch.
        Exception: What it raised.
    """
    called = Called()
    if type(app.egress) is EgressService:
        app.__dict__["egress"] = RecordingEgress(app)
    stream = OneBatch(nothing(), app=app, loop=asyncio.get_running_loop(), enable_acks=False)
    stream.one = Delivered(0, batch, dead_letters=(), outcome=Nobody(), bury=nowhere)
    token = calling.set(called)
    try:
        run = function(stream)
        if isinstance(run, AsyncIterable):
            async for value in aiter(run):
                called.append(value)
        else:
            await run
    finally:
        calling.reset(token)
        if stream.current is not None:
            stream._end()
    if not stream.came_back:
        raise HookError(LEFT_LOOP)
    return called


async def nowhere(_: Mapping[int, str]) -> None:
    """Leave dead letters unwritten: `batch.rejections` has them."""


async def nothing() -> AsyncIterator[Any]:
    """Yield nothing: the one batch does not come through a channel."""
    return
    yield
