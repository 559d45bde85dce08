"""What both apps of flowguard's have in common: two lanes by header, default memory, commits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flowguard as fg
from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.worker import run_worker, stop_worker
from flowguard.bench.records import LANE_HEADER

__all__ = ["setup_app"]


def setup_app(context: Context, count: Callable[[fg.Batch], int], **feed_options: Any) -> Run:
    """Declare the app.

    Args:
        context: What to read.
        count: Looks at a batch as far as it is to be looked at; returns its records.
        **feed_options: Codec and columns.
    """
    realtime = fg.Lane("rt", target="50ms")
    bulk = fg.Lane("bulk")
    app = fg.App(
        context.group,
        broker=f"kafka://{context.broker}",
        lanes=[realtime, bulk],
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,  # so that no topic but those of the run is made
        topic_partitions=context.partitions,
        datadir=context.directory,
    )
    rule = fg.by_header(LANE_HEADER, {"rt": realtime}, default=bulk)
    feed = app.feed(context.topic, lanes=rule, **feed_options)

    def run(n: int) -> Reading:
        meter = Meter(n)
        over = False

        @app.agent(feed)
        async def read(batches: Any) -> None:
            nonlocal over
            async for batch in batches:
                if meter.add(count(batch)) and not over:
                    over = True
                    stop_worker()

        run_worker(app)
        return meter.reading

    return run
