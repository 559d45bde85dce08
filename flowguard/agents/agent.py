"""Agents on feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import polars as pl
import pyarrow as pa
from faust.agents.agent import Agent, _current_agent
from faust.exceptions import ImproperlyConfigured
from faust.types import ChannelT
from faust.types.agents import ActorRefT, AgentT
from mode.utils.aiter import aiter
from mode.utils.futures import maybe_async

from flowguard.agents.delivered import Inbox
from flowguard.agents.feed import Feed
from flowguard.agents.stream import FeedStream
from flowguard.dispatch.concurrency import Adaptive
from flowguard.dispatch.sizing import BatchSize
from flowguard.errors import HookError
from flowguard.view import AgentPlan

__all__ = ["FeedAgent"]

#: A function that ends without having taken a batch is entered again after this, so that
#: it cannot spin.
IDLE_RESTART_S = 1.0

LEFT_LOOP = "the function left its loop (return or break); that acknowledges nothing"


class FeedAgent(Agent):
    """A Faust agent whose events are batches.

    An instance that raises is entered again at once on the same stream, so Faust's
    supervisor, which would wait for seconds and give up after a hundred failures, never
    sees it. The failed batch itself waits for its retry in the engine.
    """

    def __init__(
        self,
        fun: Any,
        *,
        concurrency: int | Adaptive = 1,
        batch: BatchSize | None = None,
        **kwargs: Any,
    ) -> None:
        self.adaptive = concurrency if isinstance(concurrency, Adaptive) else None
        seats = concurrency.max if isinstance(concurrency, Adaptive) else concurrency
        super().__init__(fun, concurrency=seats, **kwargs)
        self.batch_size = batch or BatchSize()
        self.inbox: Inbox = asyncio.Queue()
        self.last_error: BaseException | None = None

    @property
    def feed(self) -> Feed:
        """Return the feed it reads."""
        feed = self.channel
        assert isinstance(feed, Feed)
        return feed

    def plan(self) -> AgentPlan:
        """Return what the engine must know of it."""
        return AgentPlan(
            name=self.name,
            topics=frozenset(self.feed.topics),
            seats=self.concurrency,
            adaptive=self.adaptive,
            records_max=self.batch_size.max,
            linger_ns=self.batch_size.linger_ns,
            by_partition=self.batch_size.by_partition,
            order=self.feed.options.order,
        )

    def stream(
        self,
        channel: ChannelT[Any] | None = None,
        active_partitions: Any = None,
        **kwargs: Any,
    ) -> FeedStream:
        """Create the stream of one instance; all share one inbox."""
        # Iterating over the feed is what makes Faust subscribe to it; the batches themselves
        # come through the inbox.
        stream = FeedStream(
            aiter(self.channel if channel is None else channel),
            app=self.app,
            loop=self.loop,
            prefix=self.name,
            beacon=self.beacon,
            enable_acks=False,
            **kwargs,
        )
        stream.inbox = self.inbox
        return stream

    async def _prepare_actor(self, aref: ActorRefT, beacon: Any) -> ActorRefT:
        if isinstance(aref, Awaitable) and self._sinks:
            raise ImproperlyConfigured("Agent must yield to use sinks")
        task = self.loop.create_task(self._serve(aref), name=f"agent {self.name}")
        task._beacon = beacon  # type: ignore[attr-defined]
        aref.actor_task = task
        self._actors.add(aref)
        return aref

    async def _serve(self, aref: ActorRefT) -> None:
        """Run the function again and again on one stream, until the agent stops."""
        _current_agent.set(self)
        stream = aref.stream
        assert isinstance(stream, FeedStream)
        run: Any = aref
        while not self.should_stop:
            error: BaseException
            try:
                await self._run(run, stream)
                error = HookError(LEFT_LOOP)
            except asyncio.CancelledError as exc:
                stream.fail(exc)
                raise
            except Exception as exc:
                error = exc
            await self._report(stream, error)
            run = self.fun(stream)

    async def _run(self, run: Any, stream: FeedStream) -> None:
        if isinstance(run, Awaitable):
            await run
            return
        values = aiter(run)
        try:
            async for value in values:
                await self._to_sinks(value)
        finally:
            # Without this the function would be left at its yield, to be closed whenever
            # the interpreter finds it.
            if (close := getattr(values, "aclose", None)) is not None:
                await close()

    async def _report(self, stream: FeedStream, error: BaseException) -> None:
        self.last_error = error
        if stream.fail(error):
            self.log.error("%s failed on a batch: %r", self.name, error, exc_info=error)
        else:
            self.log.error("%s ended without a batch: %r", self.name, error, exc_info=error)
            await asyncio.sleep(IDLE_RESTART_S)
        if self._on_error is not None and isinstance(error, Exception):
            await self._on_error(self, error)

    async def _to_sinks(self, value: Any) -> None:
        """Send what was yielded; the batch waits for the acknowledgement, the agent does not.

        Only when what is not acknowledged fills its share of the memory, the agent waits too.
        """
        for sink in self._sinks:
            if isinstance(sink, Feed) and isinstance(value, (pl.DataFrame, pa.Table)):
                sink.begin_send(value)
                await sink.app.egress.wait_for_room()
            elif isinstance(sink, (AgentT, ChannelT)):
                await sink.send(value=value)
            else:
                await maybe_async(sink(value))
