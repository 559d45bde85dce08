"""Plain Faust: an agent on a topic of raw bytes, in a worker, with commits.

With the compiled parts that its wheel has. A stream buffer of 65,536, and polls of 4,000 without
waiting for an empty stream, were tried: they change nothing.
"""

from __future__ import annotations

from typing import Any

import faust

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.worker import run_worker, stop_worker

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Declare the app."""
    app = faust.App(
        context.group,
        broker=f"kafka://{context.broker}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=context.partitions,
        datadir=context.directory,
    )
    topic = app.topic(context.topic, key_serializer="raw", value_serializer="raw")

    def run(n: int) -> Reading:
        meter = Meter(n)
        over = False

        @app.agent(topic)
        async def count(values: Any) -> None:
            nonlocal over
            async for _ in values:
                if meter.add(1) and not over:
                    over = True
                    stop_worker()

        run_worker(app)
        return meter.reading

    return run
