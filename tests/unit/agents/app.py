"""An app without a broker, its agents driven by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import polars as pl

import flowguard as fg
from flowguard.agents.agent import FeedAgent
from flowguard.agents.delivered import Delivered
from flowguard.agents.event import FaustDelivery
from flowguard.batch import Batch
from flowguard.chunk import Slice, TopicPartition
from flowguard.facts import Found, Nack
from tests.builders import chunk_of, slice_of

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


MADE: list[fg.App] = []


def make_app(**options: Any) -> fg.App:
    """Return an app that connects to nothing; `put_away` it after the test."""
    made = fg.App(
        "test", broker="kafka://127.0.0.1:1", store="memory://", web_enabled=False, **options
    )
    MADE.append(made)
    return made


def put_away() -> None:
    """Close the event loops that consumer threads have from their construction on."""
    while MADE:
        consumer = MADE.pop()._consumer
        if consumer is not None:
            consumer._thread.thread_loop.close()  # type: ignore[attr-defined]


class Outcomes:
    """What the engine would be told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.found: dict[int, Found | None] = {}
        self.nacked: dict[int, dict[int, Nack]] = {}
        self.at_once: set[int] = set()  # settled when the agent came back
        self._changed = asyncio.Event()

    def returned(self, batch_id: int, *, settled: bool = False, **_: Any) -> None:
        self._note("returned", batch_id)
        if settled:
            self.at_once.add(batch_id)

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        self._note("finished", batch_id, len(dead_letters))
        self.nacked[batch_id] = dict(nacked or {})

    def failed(self, batch_id: int, error: BaseException, *, found: Found | None = None) -> None:
        self.found[batch_id] = found
        self._note("failed", batch_id, error)

    def _note(self, *what: Any) -> None:
        self.told.append(what)
        self._changed.set()

    async def until(self, name: str, batch_id: int) -> tuple[Any, ...]:
        """Wait until something was told of a batch."""
        async with asyncio.timeout(5):
            while True:
                for each in self.told:
                    if each[:2] == (name, batch_id):
                        return each
                self._changed.clear()
                await self._changed.wait()

    def names(self, batch_id: int) -> list[str]:
        """Return what was told of a batch."""
        return [each[0] for each in self.told if each[1] == batch_id]


class Served:
    """An agent that runs, without Faust's services around it."""

    def __init__(self, app: fg.App, agent: FeedAgent) -> None:
        self.app = app
        self.agent = agent
        self.outcomes = Outcomes()
        self.buried: list[Mapping[int, str]] = []
        self._last = 0

    async def _bury(self, rows: Mapping[int, str]) -> None:
        self.buried.append(rows)

    def deliver(
        self,
        values: Sequence[dict[str, Any]] = ({"n": 1},),
        *,
        slices: Sequence[Slice] | None = None,
        occasion: str = "",
    ) -> Delivered:
        """Put a batch into the agent's inbox; with an occasion, into that of its fallback."""
        self._last += 1
        batch = batch_of(self.app, self.agent.feed, values, slices, occasion=occasion)
        delivered = Delivered(
            self._last, batch, dead_letters=(), outcome=self.outcomes, bury=self._bury
        )
        self.agent.inbox_of(degraded=batch.degraded).put_nowait(delivered)
        return delivered


def batch_of(
    app: fg.App,
    feed: Any,
    values: Sequence[dict[str, Any]],
    slices: Sequence[Slice] | None = None,
    *,
    occasion: str = "",
) -> Batch:
    """Return a batch with these values."""
    if slices is None:
        slices = [slice_of(chunk_of(list(range(10, 10 + len(values))), partition=P0))]
    return Batch(
        feed=feed,
        lane=fg.Lane("default"),
        slices=slices,
        frame=lambda: pl.DataFrame(list(values)),
        attempt=1,
        delivery=FaustDelivery(app),
        occasion=occasion,
    )


@asynccontextmanager
async def serving(
    function: Callable[..., Any],
    *,
    app: fg.App | None = None,
    fallback: Callable[..., Any] | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Run the instances of an agent, as Faust does after it has started."""
    app = app or make_app()
    feed = app.feed("orders")
    agent = app.agent(feed, name="agent", **options)(function)
    if fallback is not None:
        agent.fallback(fallback)
    served = Served(app, agent)
    tasks = agent.start_fallback()
    for _ in range(agent.concurrency):
        aref = agent(stream=agent.stream(), index=None)
        prepared = await agent._prepare_actor(aref, agent.beacon)
        tasks.append(prepared.actor_task)
    try:
        yield served
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
