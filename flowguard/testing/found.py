"""What is found in a log: the records of a topic as a frame, and all dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl
import pyarrow as pa

from flowguard.agents.feed import Feed
from flowguard.testing.log import Log
from flowguard.testing.records import new_codec

__all__ = ["frame_of_topic", "letters_in"]

LETTER_TYPES: Final = {
    "topic": pl.String, "partition": pl.Int64, "offset": pl.Int64, "timestamp": pl.Int64,
    "key": pl.Binary, "value": pl.Binary, "error": pl.String, "reason": pl.String,
    "attempt": pl.Int64, "letter_topic": pl.String,
}  # fmt: skip


def frame_of_topic(log: Log, topic: str, feed: Any, *, meta: bool) -> pl.DataFrame:
    """Return the records of a topic, in the order of writing.

    Args:
        feed: What decodes them, if it is a feed; otherwise keys and values are bytes.
        meta: Add partition, offset, timestamp, key and headers.
    """
    rows = log.rows(topic)
    facts = pl.DataFrame(
        {
            "_partition": [row["partition"] for row in rows],
            "_offset": [row["offset"] for row in rows],
            "_timestamp": [row["timestamp"] for row in rows],
            "_key": pl.Series([row["key"] for row in rows], dtype=pl.Binary),
            "_headers": pl.Series(
                [[{"name": n, "value": v} for n, v in row["headers"]] for row in rows],
                dtype=pl.List(pl.Struct({"name": pl.String, "value": pl.Binary})),
            ),
        },
        schema_overrides={"_partition": pl.Int64, "_offset": pl.Int64, "_timestamp": pl.Int64},
    )
    values = [row["value"] for row in rows]
    if isinstance(feed, Feed):
        decoded = new_codec(feed).decode([pa.array(values, pa.binary())])
        frame: pl.DataFrame = decoded.frame
        facts = facts.with_row_index("_row").filter(
            ~pl.col("_row").is_in([each.row for each in decoded.rejected])
        ).drop("_row")  # fmt: skip
    else:
        frame = pl.DataFrame({"key": facts["_key"], "value": pl.Series(values, dtype=pl.Binary)})
    return pl.concat([frame, facts], how="horizontal") if meta else frame


def letters_in(log: Log) -> pl.DataFrame:
    """Return the dead letters in all topics, in the order of writing within each."""
    found = []
    for topic in log.topics:
        for row in log.rows(topic):
            headers = {name: (value or b"").decode() for name, value in row["headers"]
                       if name.startswith("fg-")}  # fmt: skip
            if "fg-orig-topic" in headers:
                found.append(letter_of(row, headers, topic))
    return pl.DataFrame(found, schema=LETTER_TYPES, orient="row")


def letter_of(row: Mapping[str, Any], headers: Mapping[str, str], topic: str) -> tuple[Any, ...]:
    """Return a dead letter as a row."""
    return (
        headers["fg-orig-topic"],
        int(headers["fg-orig-partition"]),
        int(headers["fg-orig-offset"]),
        int(headers["fg-orig-timestamp"]),
        row["key"],
        row["value"],
        headers.get("fg-error-type", ""),
        headers.get("fg-error-reason", ""),
        int(headers.get("fg-attempt", "0")),
        topic,
    )
