"""Score transactions: what a person waits for goes before what a night job sends.

    flowguard worker -A pipelines.quickstart --broker kafka://localhost:9092

Records of the topic `transactions` go to the lane `realtime`, those of
`transactions.history` to `backfill`.
"""

import polars as pl

import flowguard as fg

realtime = fg.Lane("realtime", target="50ms", reserve=0.5)
backfill = fg.Lane("backfill")

app = fg.App("fraud", broker="kafka://localhost:9092", memory="512MiB", lanes=[realtime, backfill])

transactions = app.feed(
    "transactions",
    "transactions.history",
    columns={"txn_id": "int64", "account": "string", "amount": "float64"},
    lanes=fg.by_topic({"transactions": realtime}, default=backfill),
)
scores = app.feed("scores", key_by="account")

# The amount at which a payment looks as risky as not.
DOUBTFUL_AMOUNT = 1_000.0


@app.agent(transactions, sink=[scores], concurrency=4)
async def score(batches):
    """Score batches: each holds records of one lane, and is settled once its scores are stored."""
    risk = pl.col("amount") / (pl.col("amount") + DOUBTFUL_AMOUNT)
    async for batch in batches:
        yield batch.to_polars().select("txn_id", "account", risk=risk)
