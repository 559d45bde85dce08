"""The app under test in a real run of a scenario: its lanes, its feed, and an agent that calls
a provider as slow as the scenario says.

The process is a worker like any other (`flowguard worker -A flowguard.stress.pipeline:app`).
Which scenario it is for stands in the directory that FLOWGUARD_STRESS_RUN names, where the run
has left it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import time
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import polars as pl

import flowguard as fg
from flowguard.lanes.rules import Rule
from flowguard.observe.state import state_document, worker_name
from flowguard.stress.brief import BEGIN_FILE, RUN_VARIABLE, Brief, Notes
from flowguard.stress.faults import Stalls
from flowguard.stress.processes import LAST_STATE_FILE
from flowguard.stress.reader import LANE_HEADER
from flowguard.stress.recorded import AGENT
from flowguard.stress.scenario import Fallback, WorkerPlan
from flowguard.stress.slow import SlowProvider
from flowguard.units import MILLISECOND, SECOND

__all__ = ["build"]

#: A killed worker's partitions come back after this, and not after Faust's minute.
SESSION_TIMEOUT_S: Final = 6.0
HEARTBEAT_S: Final = 1.0

#: How often it is looked whether the run has begun.
BEGIN_POLL_S: Final = 0.02


def __getattr__(name: str) -> Any:
    """Return the app when a worker asks for it; importing this module alone needs no run."""
    if name == "app":
        return the_app()
    raise AttributeError(name)


@cache
def the_app() -> fg.App:
    """Return the app of the run that the environment names."""
    return build(Path(os.environ[RUN_VARIABLE]))


def build(directory: Path) -> fg.App:
    """Return the app of a run.

    Args:
        directory: Of the run.
    """
    brief = Brief.read(directory)
    app = declare_app(brief)
    provider = SlowProvider(brief.scenario.provider, brief.scenario.seed)
    notes = Notes(directory)
    declare_agent(app, brief, provider, notes)

    @app.on_partitions_assigned.connect  # type: ignore[arg-type]
    async def assigned(_: Any, *__: Any, **___: Any) -> None:
        notes.assigned()

    @app.task  # type: ignore[untyped-decorator]
    async def follow_the_run() -> None:
        begin_ns = await beginning(directory)
        provider.follow(brief.scenario.faults, began_ago_ns=time.time_ns() - begin_ns)
        await stand_still(brief, begin_ns)

    atexit.register(leave_last_state, app)
    return app


def declare_app(brief: Brief) -> fg.App:
    """Return an app with the lanes of the scenario."""
    plan = brief.scenario.worker
    return fg.App(
        brief.group,
        broker="kafka://localhost:9092",  # the command line says where
        memory=plan.memory_bytes,
        lanes=plan.lanes,
        topic_disable_leader=True,
        topic_allow_declare=False,
        broker_commit_interval=plan.commit_ns / SECOND,
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        shadow=plan.shadow,
    )


def declare_agent(app: fg.App, brief: Brief, provider: SlowProvider, notes: Notes) -> None:
    """Give the app its feed, and the agent that calls the provider once a batch."""
    scenario = brief.scenario
    plan = scenario.worker
    records = app.feed(
        *(brief.prefix + topic for topic in scenario.topics),
        columns={"id": "int64"},
        lanes=rule_of(plan, brief.prefix),
        order=plan.order,
    )
    results = app.feed(brief.sink, key_by="id")

    async def serve(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
        async for batch in batches:
            try:
                await provider.call(len(batch))
            except Exception:
                notes.failed(batch.lane.name, len(batch))
                raise
            yield answer(batch)

    agent = app.agent(
        records,
        name=AGENT,
        sink=[results],
        concurrency=plan.concurrency,
        batch=fg.BatchSize(
            max=plan.batch.max,
            linger=plan.batch.linger_ns / SECOND,
            by_partition=plan.batch.by_partition,
        ),
    )(serve)
    if plan.fallback is not None:
        declare_fallback(agent, plan.fallback)


def declare_fallback(agent: Any, fallback: Fallback) -> None:
    """Give the agent a way to answer without the provider."""

    async def serve_cheaply(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
        async for batch in batches:
            await asyncio.sleep((fallback.call_ns + len(batch) * fallback.record_ns) / SECOND)
            yield answer(batch)

    agent.fallback(on=fallback.on)(serve_cheaply)


def answer(batch: fg.Batch) -> pl.DataFrame:
    """Return which records were served, each with the instant at which it was offered."""
    # By name and not by `select`, which wakes Polars' threads; on a crowded machine they are late.
    return batch.to_polars(meta=True)[["id", "_timestamp"]]


def rule_of(plan: WorkerPlan, prefix: str) -> Rule:
    """Return how records find their lanes."""
    lanes = {lane.name: lane for lane in plan.lanes}
    if plan.rule == "by_header":
        return fg.by_header(LANE_HEADER, lanes, default=plan.lanes[-1])
    topics = {prefix + name: lane for name, lane in lanes.items()}
    return fg.by_topic(topics, default=plan.lanes[-1])


async def beginning(directory: Path) -> int:
    """Wait until the run has begun, and return the instant, in nanoseconds since 1970."""
    file = directory / BEGIN_FILE
    while not file.exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(BEGIN_POLL_S)
    return int(file.read_text()) * MILLISECOND


async def stand_still(brief: Brief, begin_ns: int) -> None:
    """Stop the event loop when the scenario says so."""
    for fault in brief.scenario.faults:
        if isinstance(fault.kind, Stalls):
            for at_ns in range(fault.at_ns, fault.until_ns, fault.kind.every_ns):
                wait_ns = begin_ns + at_ns - time.time_ns()
                if wait_ns > 0:
                    await asyncio.sleep(wait_ns / SECOND)
                    time.sleep(fault.kind.length_ns / SECOND)  # noqa: ASYNC251 - the fault itself


def leave_last_state(app: fg.App) -> None:
    """Write the last counts; whoever asked the pages last knows those of a moment before."""
    if "runtime" in vars(app):
        state = state_document(app.runtime.snapshot(), app=app.conf.id, worker=worker_name())
        Path(LAST_STATE_FILE).write_text(json.dumps(state))
