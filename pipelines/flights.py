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
CALL_S: Final = float(os.environ.get("FLIGHTS_CALL_MS", "2")) / 1e3
RECORD_S: Final = float(os.environ.get("FLIGHTS_RECORD_US", "400")) / 1e6

#: What is believed before a carrier and hour, or an airport, has been seen: the mean delay
#: of all departures of 2013, in minutes, with the weight of this many departures.
PRIOR_MINUTES: Final = 12.6
PRIOR_WEIGHT: Final = 20

#: Means are brought up to date after this many departures.
LEARN_EVERY: Final = 200

#: An airport is as congested as its latest departures were late; each time, older ones
#: lose a tenth of their weight.
FADE: Final = 0.9

COLUMNS: Final = {
    "flight_id": "int64",
    "carrier": "string",
    "origin": "string",
    "dest": "string",
    "sched_dep": "timestamp[s]",
    "dep_delay": "float64",  # minutes; null for a cancelled flight
    "distance": "int64",
}

HOUR: Final = pl.col("sched_dep").dt.hour().alias("hour")

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
        mean: Name of the column that `add_mean` adds.
        fade: What is kept of the past each time something is learnt, 0..1.
    """

    def __init__(self, *by: str, mean: str, fade: float = 1.0) -> None:
        self.by = by
        self.mean = mean
        self.fade = fade
        self.seen = pl.DataFrame()
        self.means = pl.DataFrame()

    def learn(self, frame: pl.DataFrame) -> None:
        """Take in delays."""
        delay = pl.col("dep_delay")
        new = frame.group_by(self.by).agg(
            flights=delay.count().cast(pl.Float64), minutes=delay.sum()
        )
        if not self.seen.is_empty():
            past = self.seen.with_columns(pl.col("flights", "minutes") * self.fade)
            new = pl.concat([past, new]).group_by(self.by).sum()
        minutes = pl.col("minutes") + PRIOR_MINUTES * PRIOR_WEIGHT
        smoothed = minutes / (pl.col("flights") + PRIOR_WEIGHT)
        self.seen, self.means = new, new.select(*self.by, smoothed.alias(self.mean))

    def add_mean(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Return the frame with the mean delay of each row, in minutes."""
        if self.means.is_empty():
            return frame.with_columns(pl.lit(None, pl.Float64).alias(self.mean))
        return frame.join(self.means.lazy(), on=self.by, how="left", maintain_order="left")


usual = Memory("carrier", "hour", mean="usual")
congestion = Memory("origin", mean="congestion", fade=FADE)
unlearnt: list[pl.DataFrame] = []


def learn(frame: pl.DataFrame) -> None:
    """Remember a batch; the means follow some departures later, which is cheaper."""
    unlearnt.append(frame)
    if sum(len(each) for each in unlearnt) >= LEARN_EVERY:
        frame = pl.concat(unlearnt).with_columns(HOUR)
        unlearnt.clear()
        usual.learn(frame)
        congestion.learn(frame)


def score(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the delay risk of each departure, in minutes; one query, so one pass."""
    known = congestion.add_mean(usual.add_mean(frame.lazy().with_columns(HOUR)))
    expected = [pl.col(name).fill_null(PRIOR_MINUTES) for name in ("usual", "congestion")]
    return known.select(
        "flight_id",
        "carrier",
        "origin",
        "dest",
        "_timestamp",  # of the departure, so that whoever reads knows how long it took
        delay_risk=0.7 * expected[0] + 0.3 * expected[1],
    ).collect()


@app.agent(departures, sink=[risks], concurrency=2, batch=fg.BatchSize(max=1024))
async def risk(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
    """Add the delay risk; only what happens now is learnt from, the past is scored again."""
    async for batch in batches:
        frame = batch.to_polars(meta=True)
        if batch.lane is not backfill:
            learn(frame)
        await asyncio.sleep(CALL_S + len(batch) * RECORD_S)
        yield score(frame)
