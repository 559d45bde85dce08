"""Agents on feeds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
from faust.agents.agent import Agent, _current_agent
from faust.exceptions import ImproperlyConfigured
from faust.types import ChannelT
from faust.types.agents import ActorRefT, AgentT
from mode.utils.aiter import aiter
from mode.utils.futures import maybe_async

from flowguard.agents.call import LEFT_LOOP, Called, call
from flowguard.agents.delivered import Inbox
from flowguard.agents.error_log import ErrorLog
from flowguard.agents.feed import Feed
from flowguard.agents.loop_time import LoopTime
from flowguard.agents.stream import FeedStream
from flowguard.agents.time_limit import TimeLimit, timeout_of
from flowguard.batch import Batch
from flowguard.dispatch.concurrency import Adaptive
from flowguard.dispatch.sizing import BatchSize
from flowguard.errors import ConfigError, HookError, Unavailable
from flowguard.serving import OCCASIONS
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry
from flowguard.suggest import nearest
from flowguard.units import Duration
from flowguard.view import AgentPlan

__all__ = ["FeedAgent"]

#: A function that ends without having taken a batch is entered again after this, so that
#: it cannot spin.
IDLE_RESTART_S = 1.0

NO_AGENT = "it returned {name}; write async def, with async for batch in batches: inside"


@dataclass(slots=True)
class Fallback:
    """A second function of an agent, with an inbox of its own."""

    function: Callable[[Any], Any]
    on: frozenset[str]
    inbox: Inbox = field(default_factory=asyncio.Queue)


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
        retries: Retry | None = None,
        timeout: Duration | None = None,
        dead_letters: DeadLetters | None = None,
        **kwargs: Any,
    ) -> None:
        self.adaptive = concurrency if isinstance(concurrency, Adaptive) else None
        seats = concurrency.max if isinstance(concurrency, Adaptive) else concurrency
        super().__init__(fun, concurrency=seats, **kwargs)
        self.batch_size = batch or BatchSize()
        self.retries = retries or Retry()
        self.dead_letters = dead_letters or DeadLetters()
        self.timeout_s = None if timeout is None else timeout_of(timeout)
        self.inbox: Inbox = asyncio.Queue()
        self.last_error: BaseException | None = None
        self.at_work: dict[FeedStream, asyncio.Task[Any]] = {}  # instances, with their tasks
        self._errors = ErrorLog(self.log.error)
        self._fallback: Fallback | None = None
        self._planned = False

    def fallback(
        self, function: Callable[[Any], Any] | None = None, *, on: Iterable[str] | str = OCCASIONS
    ) -> Any:
        """Declare the function that serves batches when this one should not.

        Its results go to the same sinks, with the header `fg-degraded`; its batches have
        `degraded` set, take a seat like any other, and settle like any other.

        Args:
            function: The function, where it is used as `@agent.fallback`.
            on: When it serves. `brownout`: a growing share of batches under overload, lowest
                lane first. `failure`: something is unavailable, or the batch has failed five
                times. `deadline`: a batch has less time left than 95 in 100 of them take.

        Raises:
            ConfigError: An occasion is unknown, or the agent has a fallback already.
        """
        if function is not None and not callable(function):
            raise ConfigError(
                f"agent {self.name}: {function!r} is no function; write "
                f"@agent.fallback(on={function!r}) to choose when it serves"
            )
        occasions = self._occasions([on] if isinstance(on, str) else on)

        def declare(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._check_no_fallback(function)
            self._fallback = Fallback(function, occasions)
            return function

        return declare if function is None else declare(function)

    def _occasions(self, on: Iterable[str]) -> frozenset[str]:
        occasions = frozenset(on)
        for name in occasions - set(OCCASIONS):
            like = nearest(str(name), OCCASIONS)
            hint = f"did you mean {like!r}?" if like else f"use {', '.join(OCCASIONS)}"
            raise ConfigError(f"agent {self.name}: fallback on={name!r} is no occasion; {hint}")
        if not occasions:
            raise ConfigError(
                f"agent {self.name}: its fallback would never serve; use {', '.join(OCCASIONS)}"
            )
        return occasions

    def _check_no_fallback(self, function: Callable[[Any], Any]) -> None:
        name = getattr(function, "__name__", repr(function))
        if self._fallback is not None:
            before = getattr(self._fallback.function, "__name__", repr(self._fallback.function))
            raise ConfigError(
                f"agent {self.name} has a fallback already, {before}; give {name} its occasions "
                f"there, or leave it out"
            )
        if inspect.isfunction(function) and not inspect.isasyncgenfunction(function):
            if not inspect.iscoroutinefunction(function):
                raise ConfigError(
                    f"agent {self.name}: {name} is no agent function; write async def"
                )
            if self._sinks:
                raise ConfigError(
                    f"agent {self.name}: {name} yields nothing, and its sinks wait for results; "
                    f"yield a frame"
                )
        if self._planned:
            raise ConfigError(
                f"agent {self.name}: {name} comes too late, the worker runs; declare fallbacks "
                f"where the agent is declared"
            )

    async def call(self, batch: Batch) -> Called:
        """Run the function on one batch, in a test; nothing is sent.

        Args:
            batch: Made with `flowguard.testing.batch`; its fallback serves a degraded one.

        Returns:
            What it yielded, in order; `.sent` has what it sent with `feed.send(frame)`.

        Raises:
            HookError: It left its loop, or took no batch.
            Exception: What it raised.
        """
        function = self.fun
        if batch.degraded and self._fallback is not None:
            function = self._fallback.function
        return await call(self.app, function, batch)  # type: ignore[arg-type]

    def inbox_of(self, *, degraded: bool) -> Inbox:
        """Return where batches for the function, or for its fallback, are put."""
        return self._fallback.inbox if degraded and self._fallback is not None else self.inbox

    @property
    def feed(self) -> Feed:
        """Return the feed it reads."""
        feed = self.channel
        assert isinstance(feed, Feed)
        return feed

    def plan(self) -> AgentPlan:
        """Return what the engine must know of it; from now on its declaration is fixed."""
        self._planned = True
        return AgentPlan(
            name=self.name,
            topics=frozenset(self.feed.topics),
            seats=self.concurrency,
            adaptive=self.adaptive,
            records_max=self.batch_size.max,
            linger_ns=self.batch_size.linger_ns,
            by_partition=self.batch_size.by_partition,
            order=self.feed.options.order,
            fallback_on=frozenset() if self._fallback is None else self._fallback.on,
            retries=self.retries,
            dead_letters=self.dead_letters,
        )

    async def on_start(self) -> None:
        """Start the instances of the function, and as many of its fallback."""
        await super().on_start()
        channel = next(iter(self._actors)).stream.channel if self._actors else None
        for task in self.start_fallback(channel):
            self.add_future(task)

    def start_fallback(self, channel: Any = None) -> list[asyncio.Task[None]]:
        """Start the instances of the fallback; none if there is no fallback.

        Args:
            channel: What an instance of the function reads; with it nothing more is
                subscribed to.
        """
        if self._fallback is None:
            return []
        tasks = []
        for _ in range(self.concurrency):
            stream = self.stream(channel)
            stream.inbox = self._fallback.inbox
            serve = self._serve(stream, self._fallback.function, self._fallback.function(stream))
            tasks.append(self.loop.create_task(serve, name=f"fallback of agent {self.name}"))
        return tasks

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
        assert isinstance(aref.stream, FeedStream)
        serve = LoopTime(self._serve(aref.stream, self.fun, aref), self.loop.time)
        aref.stream.loop_time = serve
        task = self.loop.create_task(serve, name=f"agent {self.name}")
        task._beacon = beacon  # type: ignore[attr-defined]
        aref.actor_task = task
        self._actors.add(aref)
        return aref

    async def _serve(self, stream: FeedStream, function: Callable[[Any], Any], run: Any) -> None:
        """Run a function again and again on one stream, until the agent stops.

        Args:
            run: What it returned for its first run.
        """
        _current_agent.set(self)
        task = asyncio.current_task()
        assert task is not None
        self.at_work[stream] = task
        try:
            await self._serve_for_good(stream, function, run)
        finally:
            del self.at_work[stream]

    async def _serve_for_good(
        self, stream: FeedStream, function: Callable[[Any], Any], run: Any
    ) -> None:
        while not self.should_stop:
            error: BaseException
            stream.time_limit = TimeLimit(self.timeout_s)
            try:
                await self._run(run, stream)
                error = HookError(LEFT_LOOP)
            except asyncio.CancelledError as exc:
                if (late := stream.time_limit.passed()) is None:
                    stream.fail(exc)
                    raise
                error = late
            except Exception as exc:
                error = stream.time_limit.passed() or exc
            await self._report(stream, error)
            run = function(stream)

    async def _run(self, run: Any, stream: FeedStream) -> None:
        if isinstance(run, Awaitable):
            await run
            return
        if not isinstance(run, AsyncIterable):
            raise HookError(NO_AGENT.format(name=type(run).__name__))
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
        """Fail the batch, and say why.

        Faust would commit at each error, and the agent wait for it; a feed has nothing new to
        commit then.
        """
        self.last_error = error
        if stream.fail(error):
            if isinstance(error, Unavailable):
                return  # the runtime says it once, and once when it is over
            self._errors.add(f"{self.name} failed on a batch", error, self.loop.time())
        else:
            self._errors.add(f"{self.name} ended without a batch", error, self.loop.time())
            await asyncio.sleep(IDLE_RESTART_S)

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
