"""Quix Streams: JSON values through a streaming data frame, at least once.

Its consumer is librdkafka with librdkafka's defaults: at this rate they keep its queue
full, and fetching further ahead, as confluent-kafka does here, made it half as fast.
"""

from __future__ import annotations

from typing import Any, Literal

from quixstreams import Application

from flowguard.bench.meter import Context, Meter, Reading, Run

__all__ = ["setup"]


def setup(context: Context, deserializer: Literal["json", "bytes"] = "json") -> Run:
    """Declare the application; with "bytes" it decodes nothing."""
    app = Application(
        broker_address=context.broker,
        consumer_group=context.group,
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        commit_interval=1.0,
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=context.directory,
        loglevel="ERROR",
    )
    frame = app.dataframe(app.topic(context.topic, value_deserializer=deserializer))

    def run(n: int) -> Reading:
        meter = Meter(n)

        def count(value: Any) -> None:
            meter.add(1)

        frame.update(count)
        app.run(count=n, collect=False)
        return meter.reading

    return run
