"""Checkers: did every record arrive, and is every record that was read accounted for?

Pure: they compare what was sent, what was committed and what arrived.

    sent ──▶ Kafka ──▶ worker ──▶ sink
      │        └ committed offset   │
      └── must have arrived? ◀──────┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from flowguard.snapshot import COUNTS
from flowguard.stress.workload import record_id

__all__ = ["Delivery", "SentRun", "check_delivery", "ids_below", "imbalances", "sent_ids"]


@dataclass(frozen=True, slots=True)
class SentRun:
    """Consecutive records of one partition that the broker acknowledged together.

    Args:
        partition: Where they are.
        offset: Of the first; the others follow.
        number: Of the first within its partition, as the sender counts.
        count: How many, >= 1.
        source: Number of the sender, if several send to one lane.
    """

    partition: int
    offset: int
    number: int
    count: int
    source: int = 0

    def ids(self, count: int) -> pl.Series:
        """Return the ids of its first `count` records."""
        first = record_id(self.partition, self.number, self.source)
        return pl.int_range(first, first + count, eager=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of the records of one lane.

    Args:
        sent: Acknowledged by the broker.
        arrived: Of those, in the sink.
        lost: Had to arrive and did not, and is not accounted for in another way.
        duplicates: Arrivals beyond the first of each record.
        unknown: Arrivals of records that were never sent.
        waiting: Still in Kafka: not committed, and not in the sink.
    """

    sent: int
    arrived: int
    lost: int
    duplicates: int
    unknown: int
    waiting: int


def check_delivery(
    *, sent: pl.Series, must_arrive: pl.Series, arrived: pl.Series, left_out: int = 0
) -> Delivery:
    """Compare ids.

    Args:
        sent: All that the broker acknowledged.
        must_arrive: Those of them that the worker says it has finished, or had to finish.
        arrived: All that are in the sink, repeats included.
        left_out: How many the worker says it shed, let expire, or wrote elsewhere.
    """
    once = arrived.unique()
    missing = count_missing(must_arrive, once)
    lost = max(0, missing - left_out)
    return Delivery(
        sent=len(sent),
        arrived=len(once) - count_missing(once, sent),
        lost=lost,
        duplicates=len(arrived) - len(once),
        unknown=count_missing(once, sent),
        waiting=count_missing(sent, once) - missing,
    )


def count_missing(wanted: pl.Series, there: pl.Series) -> int:
    """Return how many of the wanted ids are not there."""
    wanted_frame, there_frame = wanted.alias("id").to_frame(), there.alias("id").to_frame()
    return wanted_frame.join(there_frame, on="id", how="anti").height


def sent_ids(runs: Iterable[SentRun]) -> pl.Series:
    """Return the ids of everything that was sent."""
    return join([run.ids(run.count) for run in runs])


def ids_below(runs: Iterable[SentRun], committed: Mapping[int, int]) -> pl.Series:
    """Return the ids of what lies below the committed offset of its partition."""
    finished = []
    for run in runs:
        count = min(run.count, committed.get(run.partition, 0) - run.offset)
        if count > 0:
            finished.append(run.ids(count))
    return join(finished)


def join(parts: Sequence[pl.Series]) -> pl.Series:
    return pl.concat(parts) if parts else pl.Series(dtype=pl.Int64)


def imbalances(lanes: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return where `read` is not the sum of what became of the records, for people.

    Args:
        lanes: Lane → its counts by name, as in the state document.
    """
    found = []
    for name, lane in lanes.items():
        counts = {key: int(str(lane[key])) for key in COUNTS}
        rest = counts["read"] - sum(counts[key] for key in COUNTS[1:])
        if rest:
            found.append(f"lane {name}: {rest:+,} of {counts['read']:,} read are unaccounted for")
    return found
