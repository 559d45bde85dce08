"""Delay risk of departures: the pipeline of `flowguard demo`.

    departures (now)       ─▶ lane realtime ─┐
                                             ├─▶ risk() ─▶ risk, keyed by flight_id
    rescore (a whole year) ─▶ lane backfill ─┘

One agent serves both. It answers as slowly as a model behind a network call would: a
stated time for each call and for each record, so that it is known what it can do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

import polars as pl

import flowguard as fg

#: How long the model takes: for a call, and for each record of it.
CALL_S: Final = float(os.environ.get("FLIGHTS_CALL_MS", "4")) / 1e3
RECORD_S: Final = float(os.environ.get("FLIGHTS_RECORD_US", "250")) / 1e6

#: What is believed before a carrier and hour, or an airport, has been seen: the mean delay
#: of all departures of 2013, in minutes, with the weight of this many departures.
PRIOR_MINUTES: Final = 12.6
PRIOR_WEIGHT: Final = 20

#: An airport is as congested as its latest departures were late; older ones fade.
FADE_PER_BATCH: Final = 0.98

COLUMNS: Final = {
    "flight_id": "int64",
    "carrier": "string",
    "origin": "string",
    "dest": "string",
    "sched_dep": "timestamp[s]",
    "dep_delay": "float64",  # minutes; null for a cancelled flight
    "distance": "int64",
}

realtime = fg.Lane("realtime", target="50ms", reserve=0.5)
backfill = fg.Lane("backfill")

app = fg.App(
    "flights",
    broker="kafka://localhost:9092",
    memory="256MiB",
    lanes=[realtime, backfill],
    topic_disable_leader=True,  # Faust's own topic, which nothing here reads
)

departures = app.feed(
    "departures",
    "rescore",
    columns=COLUMNS,
    lanes=fg.by_topic({"departures": realtime, "rescore": backfill}, default=backfill),
)
risks = app.feed("risk", key_by="flight_id")


class Memory:
    """Departures and minutes of delay by some columns, smoothed with the prior.

    Args:
        by: The columns.
        fade: What is kept of the past each time something is learnt, 0..1.
    """

    def __init__(self, *by: str, fade: float = 1.0) -> None:
        self.by = by
        self.fade = fade
        self.seen = pl.DataFrame(schema={"flights": pl.Float64, "minutes": pl.Float64})

    def learn(self, frame: pl.DataFrame) -> None:
        """Take in delays."""
        delay = pl.col("dep_delay")
        new = frame.group_by(self.by).agg(
            flights=delay.count().cast(pl.Float64), minutes=delay.sum()
        )
        past = self.seen.with_columns(pl.col("flights", "minutes") * self.fade)
        self.seen = pl.concat([past, new], how="diagonal").group_by(self.by).sum()

    def mean(self, frame: pl.DataFrame) -> pl.Series:
        """Return the smoothed mean delay for each row, in minutes."""
        if self.seen.is_empty():
            return pl.Series([PRIOR_MINUTES]).new_from_index(0, len(frame))
        known = frame.select(self.by).join(self.seen, on=self.by, how="left", maintain_order="left")
        minutes, flights = pl.col("minutes").fill_null(0), pl.col("flights").fill_null(0)
        smoothed = (minutes + PRIOR_MINUTES * PRIOR_WEIGHT) / (flights + PRIOR_WEIGHT)
        return known.select(smoothed).to_series()


usual = Memory("carrier", "hour")
congestion = Memory("origin", fade=FADE_PER_BATCH)


@app.agent(departures, sink=[risks], concurrency=2, batch=fg.BatchSize(max=1024))
async def risk(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
    """Add the delay risk; only what happens now is learnt from, the past is scored again."""
    async for batch in batches:
        frame = batch.to_polars(meta=True).with_columns(hour=pl.col("sched_dep").dt.hour())
        if batch.lane is not backfill:
            usual.learn(frame)
            congestion.learn(frame)
        await asyncio.sleep(CALL_S + len(batch) * RECORD_S)
        yield frame.select(
            "flight_id",
            "carrier",
            "origin",
            "dest",
            "_timestamp",  # of the departure, so that whoever reads knows how long it took
            delay_risk=0.7 * usual.mean(frame) + 0.3 * congestion.mean(frame),
        )
