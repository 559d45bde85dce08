"""The app under test in a real run of a scenario: its lanes, its feed, and an agent that calls
a provider as slow as the scenario says.

The process is a worker like any other (`flowguard worker -A flowguard.stress.pipeline`). Which
scenario it is for stands in the directory that FLOWGUARD_STRESS_RUN names, where the run has
left it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import polars as pl

import flowguard as fg
from flowguard.lanes.rules import Rule
from flowguard.observe.state import state_document, worker_name
from flowguard.stress.brief import BEGIN_FILE, RUN_VARIABLE, Brief
from flowguard.stress.faults import Stalls
from flowguard.stress.processes import LAST_STATE_FILE
from flowguard.stress.scenario import Adaptive, Scenario
from flowguard.stress.slow import SlowProvider
from flowguard.units import SECOND

__all__ = ["app"]

#: A killed worker's partitions come back after this, and not after Faust's minute.
SESSION_TIMEOUT_S: Final = 6.0
HEARTBEAT_S: Final = 1.0

#: How often it is looked whether the run has begun.
BEGIN_POLL_S: Final = 0.02

directory = Path(os.environ[RUN_VARIABLE])
brief = Brief.read(directory)
scenario: Scenario = brief.scenario
plan = scenario.worker


def concurrency() -> Any:
    """Return the seats of the agent, as far as this version can find them out itself."""
    if not isinstance(plan.concurrency, Adaptive):
        return plan.concurrency
    adaptive = getattr(fg, "Adaptive", None)
    wanted = plan.concurrency
    if adaptive is None:
        return wanted.max
    return adaptive(min=wanted.min, max=wanted.max, algorithm=wanted.algorithm)


def rule() -> Rule:
    """Return how records find their lanes."""
    lanes = {lane.name: lane for lane in plan.lanes}
    if plan.rule == "by_header":
        return fg.by_header("fg-lane", lanes, default=plan.lanes[-1])
    topics = {brief.prefix + name: lane for name, lane in lanes.items()}
    return fg.by_topic(topics, default=plan.lanes[-1])


def later_options() -> dict[str, Any]:
    """Return options that only scenarios with shadow loops need."""
    return {"shadow": set(plan.shadow)} if plan.shadow else {}


app = fg.App(
    brief.group,
    broker="kafka://localhost:9092",  # the command line says where
    memory=plan.memory_bytes,
    lanes=plan.lanes,
    topic_disable_leader=True,
    topic_allow_declare=False,
    broker_commit_interval=plan.commit_ns / SECOND,
    broker_session_timeout=SESSION_TIMEOUT_S,
    broker_heartbeat_interval=HEARTBEAT_S,
    **later_options(),
)
records = app.feed(
    *(brief.prefix + topic for topic in scenario.topics),
    columns={"id": "int64"},
    lanes=rule(),
    order=plan.order,
)
results = app.feed(brief.sink, key_by="id")

provider = SlowProvider(scenario)


@app.agent(
    records,
    name="serve",
    sink=[results],
    concurrency=concurrency(),
    batch=fg.BatchSize(
        max=plan.batch.max,
        linger=plan.batch.linger_ns / SECOND,
        by_partition=plan.batch.by_partition,
    ),
)
async def serve(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
    """Call the provider, once a batch."""
    async for batch in batches:
        await provider.call(len(batch))
        yield answer(batch)


if plan.fallback is not None and hasattr(serve, "fallback"):
    fallback = plan.fallback

    @serve.fallback(on=fallback.on)
    async def serve_cheaply(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
        """Answer without the provider."""
        async for batch in batches:
            await asyncio.sleep((fallback.call_ns + len(batch) * fallback.record_ns) / SECOND)
            yield answer(batch)


def answer(batch: fg.Batch) -> pl.DataFrame:
    """Return which records were served, each with the instant at which it was offered."""
    return batch.to_polars(meta=True).select("id", "_timestamp")


@app.task
async def follow_the_run() -> None:
    """Learn when the run begins, and stand still when the scenario says so."""
    while not (directory / BEGIN_FILE).exists():
        await asyncio.sleep(BEGIN_POLL_S)
    begin_ns = int((directory / BEGIN_FILE).read_text()) * 1_000_000
    provider.begin(time.monotonic_ns() - (time.time_ns() - begin_ns))
    for fault in scenario.faults:
        if isinstance(fault.kind, Stalls):
            at_ns = fault.at_ns
            while at_ns < fault.until_ns:
                await asyncio.sleep(max(0, begin_ns + at_ns - time.time_ns()) / SECOND)
                time.sleep(fault.kind.length_ns / SECOND)  # noqa: ASYNC251 - this is the fault
                at_ns += fault.kind.every_ns


@atexit.register
def leave_last_state() -> None:
    """Write the last counts; whoever asked the pages last knows those of a moment before."""
    if "runtime" in vars(app):
        state = state_document(app.runtime.snapshot(), app=app.conf.id, worker=worker_name())
        Path(LAST_STATE_FILE).write_text(json.dumps(state))
