"""The plan of a run: every record that is offered, made before the run begins.

    arrivals ─▶ counts by bin ─▶ instants, keys, sizes ─▶ one table a topic, by instant

Whoever sends follows the plan, and everything is measured from its instants. All of it is
columns; there is no Python object for a record.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from flowguard.errors import ConfigError
from flowguard.stress.arrivals import Arrivals, Keys, Trace
from flowguard.stress.chance import Chance, uniforms, zipf_shares
from flowguard.stress.counts import RECORDS_MAX, Bins, counts_of
from flowguard.stress.scenario import Scenario
from flowguard.stress.trace import Recorded, read_trace, warped
from flowguard.units import SECOND

if TYPE_CHECKING:
    import random

__all__ = ["NO_KEY", "Plan", "plan_of"]

#: The key of records without one.
NO_KEY = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is offered.

    Args:
        topics: Topic → its records in the order of their instants.

    Shape of each: at_ns int64, from the beginning of the scenario; lane int8, its rank;
    key int64; size int32, bytes of the value; partition int16.
    """

    topics: dict[str, pl.DataFrame]

    @property
    def total(self) -> int:
        """Return how many records there are."""
        return sum(frame.height for frame in self.topics.values())

    def by_second(self, lane: int, seconds: int) -> list[int]:
        """Return how many records of a lane are offered in each second."""
        counts = [0] * seconds
        for frame in self.topics.values():
            second = pl.col("at_ns") // SECOND
            found = frame.filter(pl.col("lane") == lane).group_by(second).len()
            for at, count in found.iter_rows():
                if at < seconds:
                    counts[at] += count
        return counts


def plan_of(scenario: Scenario, chance: Chance) -> Plan:
    """Return the plan of a scenario; the same chance gives the same plan.

    Raises:
        ConfigError: A trace cannot be read, or there are too many records.
    """
    ranks = {name: rank for rank, name in enumerate(scenario.worker.lane_names)}
    streams: dict[str, list[pl.DataFrame]] = {topic: [] for topic in scenario.topics}
    total = 0
    for number, arrivals in enumerate(scenario.arrivals, 1):
        rng = chance.of(f"arrivals {number}")
        frame = stream_of(scenario, arrivals, rank=ranks[arrivals.lane], rng=rng)
        streams[scenario.topic_of(arrivals)].append(frame)
        total += frame.height
        if total > RECORDS_MAX:
            raise ConfigError(
                f"the arrivals are more than {RECORDS_MAX:,} records; use lower rates"
            )
    return Plan({topic: joined(frames, scenario) for topic, frames in streams.items()})


def stream_of(
    scenario: Scenario, arrivals: Arrivals, *, rank: int, rng: random.Random
) -> pl.DataFrame:
    """Return the records of one stream."""
    rest_ns = max(0, scenario.duration_ns - arrivals.at_ns)
    length_ns = min(arrivals.for_ns or rest_ns, rest_ns)
    bins = Bins.over(length_ns)
    recorded = recorded_of(scenario, arrivals, length_ns)
    counts = counts_of(arrivals.model, rng, bins, recorded)
    instants = instants_of(counts, bins)
    frame = pl.DataFrame({"at_ns": instants.filter(instants < length_ns) + arrivals.at_ns})
    rows = frame.height
    return frame.with_columns(
        pl.lit(rank, pl.Int8).alias("lane"),
        keys_of(arrivals.keys, rng, rows).alias("key"),
        sizes_of(arrivals.sizes, rng, rows).alias("size"),
    )


def recorded_of(scenario: Scenario, arrivals: Arrivals, length_ns: int) -> Recorded | None:
    """Return what the trace of a stream holds, if it has one.

    Raises:
        ConfigError: No file was named, or it cannot be read.
    """
    model = arrivals.model
    if not isinstance(model, Trace):
        return None
    if not model.file:
        raise ConfigError(f"scenario {scenario.name} replays a trace; name it with --trace FILE")
    recorded = read_trace(Path(scenario.directory, model.file), time=model.time, value=model.value)
    return warped(recorded, scenario.speed, fit_ns=length_ns)


def instants_of(counts: array[int], bins: Bins) -> pl.Series:
    """Return the instant of each record: those of a bin are spread evenly in it."""
    count = pl.col("count")
    frame = pl.DataFrame({"count": pl.Series(counts, dtype=pl.Int64)}).with_row_index("bin")
    first, step = pl.col("bin").cast(pl.Int64) * bins.ns, bins.ns // count
    instants = pl.int_ranges(first, first + step * count, step).explode()
    return frame.filter(count > 0).select(instants.alias("at_ns")).to_series()


def keys_of(keys: Keys, rng: random.Random, rows: int) -> pl.Series:
    """Return the keys of so many records; number 0 is the most frequent."""
    if keys.kind == "none":
        return pl.repeat(NO_KEY, rows, dtype=pl.Int64, eager=True)
    drawn = uniforms(rng, rows)
    match keys.kind:
        case "zipf":
            shares = pl.Series(zipf_shares(keys.count, keys.s), dtype=pl.Float64)
            found = shares.search_sorted(drawn, side="left")
            return found.cast(pl.Int64).clip(0, keys.count - 1)
        case "hot":
            among = pl.when(pl.col("u") < keys.share).then(
                pl.col("u") / max(keys.share, 1e-12) * keys.hot
            )
            rest = (pl.col("u") - keys.share) / max(1 - keys.share, 1e-12)
            cold = max(1, keys.count - keys.hot)
            key = among.otherwise(keys.hot + rest * cold)
            picked = pl.DataFrame({"u": drawn}).select(key.cast(pl.Int64)).to_series()
            return picked.clip(0, keys.count - 1)
    return (drawn * keys.count).cast(pl.Int64)


def sizes_of(sizes: tuple[int, int], rng: random.Random, rows: int) -> pl.Series:
    """Return the sizes of so many values, evenly between the least and the most."""
    least, most = sizes
    if least == most:
        return pl.repeat(least, rows, dtype=pl.Int32, eager=True)
    return (uniforms(rng, rows) * (most - least + 1)).cast(pl.Int32) + least


def joined(frames: list[pl.DataFrame], scenario: Scenario) -> pl.DataFrame:
    """Return the records of a topic in the order of their instants, with their partitions.

    A key is always in the same partition; records without one go to all in turn.
    """
    frame = pl.concat(frames)
    if len(frames) > 1:
        frame = frame.sort("at_ns", maintain_order=True)
    turn = pl.int_range(pl.len())
    # Neighbouring keys are the most frequent ones, and belong to different partitions.
    at = pl.when(pl.col("key") == NO_KEY).then(turn).otherwise(pl.col("key"))
    return frame.with_columns((at % scenario.worker.partitions).cast(pl.Int16).alias("partition"))
