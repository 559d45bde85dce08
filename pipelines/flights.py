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
RECORD_S: Final = float(os.environ.get("FLIGHTS_RECORD_US", "300")) / 1e6

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

realtime = fg.Lane("realtime", target="400ms", reserve=0.5)
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
    """Departures and minutes of delay of each group, smoothed with the prior.

    Args:
        group: What departures are grouped by: an expression that yields text.
        fade: What is kept of the past each time something is learnt, 0..1.
    """

    def __init__(self, group: pl.Expr, *, fade: float = 1.0) -> None:
        self.group = group
        self.fade = fade
        self.seen = pl.DataFrame()
        self.mean = pl.lit(PRIOR_MINUTES)  # of each row's group, in minutes

    def learn(self, frame: pl.DataFrame) -> None:
        """Take in delays."""
        delay = pl.col("dep_delay")
        new = frame.group_by(group=self.group).agg(
            flights=delay.count().cast(pl.Float64), minutes=delay.sum()
        )
        if not self.seen.is_empty():
            past = self.seen.with_columns(pl.col("flights", "minutes") * self.fade)
            new = pl.concat([past, new]).group_by("group").sum()
        self.seen = new
        minutes = new["minutes"] + PRIOR_MINUTES * PRIOR_WEIGHT
        means = minutes / (new["flights"] + PRIOR_WEIGHT)
        self.mean = self.group.replace_strict(new["group"], means, default=PRIOR_MINUTES)


usual = Memory(pl.col("carrier") + pl.col("sched_dep").dt.hour().cast(pl.String))
congestion = Memory(pl.col("origin"), fade=FADE)
unlearnt: list[pl.DataFrame] = []


def learn(frame: pl.DataFrame) -> None:
    """Remember a batch; the means follow some departures later, which is cheaper."""
    unlearnt.append(frame)
    if sum(len(each) for each in unlearnt) >= LEARN_EVERY:
        frame = pl.concat(unlearnt)
        unlearnt.clear()
        usual.learn(frame)
        congestion.learn(frame)


def score(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the delay risk of each departure, in minutes."""
    return frame.select(
        "flight_id",
        "carrier",
        "origin",
        "dest",
        "_timestamp",  # of the departure, so that whoever reads knows how long it took
        delay_risk=0.7 * usual.mean + 0.3 * congestion.mean,
    )


@app.agent(departures, sink=[risks], concurrency=4, batch=fg.BatchSize(max=1024))
async def risk(batches: AsyncIterator[fg.Batch]) -> AsyncIterator[pl.DataFrame]:
    """Add the delay risk; only what happens now is learnt from, the past is scored again."""
    async for batch in batches:
        frame = batch.to_polars(meta=True)
        if batch.lane is not backfill:
            learn(frame)
        await asyncio.sleep(CALL_S + len(batch) * RECORD_S)
        yield score(frame)
