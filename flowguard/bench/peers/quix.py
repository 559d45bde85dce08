"""Quix Streams: JSON values through a streaming data frame, at least once.

Its consumer is librdkafka too, and gets the same tuning as confluent-kafka's.
"""

from __future__ import annotations

from typing import Any

from quixstreams import Application

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.confluent import TUNING

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Declare the application."""
    app = Application(
        broker_address=context.broker,
        consumer_group=context.group,
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        commit_interval=1.0,
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=context.directory,
        consumer_extra_config=dict(TUNING),
        loglevel="ERROR",
    )
    frame = app.dataframe(app.topic(context.topic, value_deserializer="json"))

    def run(n: int) -> Reading:
        meter = Meter(n)

        def count(value: Any) -> None:
            meter.add(1)

        frame.update(count)
        app.run(count=n, collect=False)
        return meter.reading

    return run
