"""Arrivals: what is offered, when, with which keys and sizes.

    [[arrivals]]
    lane = "realtime"
    model = "flash"
    rate = "1k/s"
    factor = 10.0
    begin = "20s"
    keys = { kind = "zipf", s = 1.1, count = 10_000 }
    size = [200, 4000]

A model says how many records are offered in each of many small bins of time; inside a bin
they are spread evenly. What comes of it are the instants at which records are *meant* to be
sent, and everything is measured from those (an open loop): whoever sends late, or waits for
an answer, hides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from flowguard.errors import ConfigError
from flowguard.stress.tables import Place, choice, keys_of, read_table, written_as
from flowguard.units import MILLISECOND, SECOND, size_bytes

__all__ = [
    "MODELS",
    "Arrivals",
    "BatchDump",
    "Constant",
    "Diurnal",
    "Flash",
    "Hawkes",
    "Keys",
    "Mmpp",
    "Model",
    "Poisson",
    "Ramp",
    "Step",
    "SyncBurst",
    "Trace",
    "Viral",
    "read_arrivals",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same rate all the time, evenly spread."""

    rate_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent records at the same rate."""

    rate_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Poisson, with another rate from one instant on.

    Args:
        begin_ns: When the rate changes.
        to_per_s: The rate from then on.
    """

    rate_per_s: float
    to_per_s: float
    begin_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """Poisson, with a rate that changes steadily.

    Args:
        begin_ns: When it begins to change.
        over_ns: How long it changes; 0: to the end.
        to_per_s: The rate at the end of it.
    """

    rate_per_s: float
    to_per_s: float
    begin_ns: int = 0
    over_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flash:
    """A flash crowd: Poisson, whose rate rises steeply, stays, and decays.

    Args:
        factor: How many times the rate it has at its highest.
        begin_ns: When it begins.
        rise_ns: Until it is at its highest.
        hold_ns: How long it stays there.
        decay_ns: Time in which what is left of it falls to 1/e.
    """

    rate_per_s: float
    factor: float = 10.0
    begin_ns: int
    rise_ns: int = SECOND
    hold_ns: int = 10 * SECOND
    decay_ns: int = SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Viral:
    """Viral growth: Poisson, whose rate follows a logistic curve, then decays by a power.

    Args:
        factor: How many times the rate it has at its highest.
        middle_ns: When half of the growth is reached.
        growth_ns: From a tenth to nine tenths of the growth.
        fade_ns: When the decay begins; 0: never.
        decay_ns: Scale of the decay: how long until its first power halves it.
        power: Of the decay.
    """

    rate_per_s: float
    factor: float = 30.0
    middle_ns: int
    growth_ns: int
    fade_ns: int = 0
    decay_ns: int = 10 * SECOND
    power: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmpp:
    """Poisson, with a rate that jumps between two values after random times (MMPP-2).

    Args:
        low_for_ns: How long the low rate lasts on average.
        high_for_ns: How long the high rate lasts on average.
    """

    low_per_s: float
    high_per_s: float
    low_for_ns: int = SECOND
    high_for_ns: int = SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Hawkes:
    """Records that bring further records, as in a market shock (self-exciting).

    Args:
        rate_per_s: Of those that come by themselves. Of all there are `1 / (1 - branching)`
            times as many.
        branching: How many each brings, on average; < 1.
        memory_ns: Mean time until one that it brings.
    """

    rate_per_s: float
    branching: float = 0.9
    memory_ns: int = 100 * MILLISECOND

    def __post_init__(self) -> None:
        if not 0 <= self.branching < 1:
            raise ConfigError(f"branching={self.branching} must be from 0 to below 1")
        if self.memory_ns == 0:
            raise ConfigError("memory must be longer than nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """Poisson, with a rate that rises and falls as day and night.

    Args:
        swing: How far the rate goes above and below, as a share of it, 0 to 1.
        period_ns: A day.
        phase: Where in the day it begins, 0 to 1; at 0 the rate rises through its mean.
    """

    rate_per_s: float
    swing: float = 0.8
    period_ns: int
    phase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.swing <= 1:
            raise ConfigError(f"swing={self.swing} is not a share; use 0 to 1")
        if self.period_ns == 0:
            raise ConfigError("period must be longer than nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBurst:
    """Many at the same moment, again and again: an ad break, the opening of a market.

    Args:
        rate_per_s: Between the bursts (Poisson).
        count: Records a burst.
        every_ns: From one burst to the next.
        within_ns: How long a burst takes.
        begin_ns: When the first one is.
    """

    rate_per_s: float = 0.0
    count: int
    every_ns: int
    within_ns: int = 200 * MILLISECOND
    begin_ns: int = 0

    def __post_init__(self) -> None:
        if self.every_ns == 0:
            raise ConfigError("every must be longer than nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDump:
    """Very many at once: a backfill that somebody starts.

    Args:
        count: How many.
        begin_ns: When.
        over_ns: How long it takes to write them; 0: no time.
    """

    count: int
    begin_ns: int = 0
    over_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What really happened somewhere, from a CSV file.

    Args:
        file: Path, relative to the scenario file; "" for what `--trace` names.
        time: Column of the timestamps; "": the first.
        value: Column of counts for each interval; "": the second if its values are numbers and
            the timestamps are evenly spaced, else each row is one record.
        rate_per_s: Mean rate to scale the trace to; 0: as it is, times `amplify`.
        amplify: How many records for each of the trace.
        rough: Inside an interval of the trace the rate jumps (MMPP), rather than being the same.
    """

    file: str = ""
    time: str = ""
    value: str = ""
    rate_per_s: float = 0.0
    amplify: float = 1.0
    rough: bool = True


Model = (
    Constant | Poisson | Step | Ramp | Flash | Viral | Mmpp | Hawkes | Diurnal | SyncBurst
    | BatchDump | Trace
)  # fmt: skip

#: Name in the file → model.
MODELS: Final[Mapping[str, type[Model]]] = {
    "constant": Constant, "poisson": Poisson, "step": Step, "ramp": Ramp, "flash": Flash,
    "viral": Viral, "mmpp": Mmpp, "hawkes": Hawkes, "diurnal": Diurnal,
    "sync-burst": SyncBurst, "batch-dump": BatchDump, "trace": Trace,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """How keys are distributed; a record's partition is that of its key.

    Args:
        kind: `none`: no keys, partitions in turn; `uniform`; `zipf`; `hot`: a few of the keys
            have a share of all records.
        count: How many keys there are.
        s: Exponent of `zipf`, > 0.
        hot: How many keys are hot.
        share: Share of all records that they have.
    """

    kind: Literal["none", "uniform", "zipf", "hot"] = "none"
    count: int = 1000
    s: float = 1.1
    hot: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count={self.count} must be 1 or more")
        if not 1 <= self.hot <= self.count:
            raise ConfigError(f"hot={self.hot} must be from 1 to count={self.count}")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share={self.share} is not a share; use 0 to 1")
        if self.s <= 0:
            raise ConfigError(f"s={self.s} must be more than 0")


def read_keys(value: Any, name: str) -> Keys:
    """Return keys as in the file: a table, or only their kind."""
    table = {"kind": value} if isinstance(value, str) else value
    file, _, where = name.partition(": ")
    return read_table(Keys, table, Place(file, where))


def read_sizes(value: Any, name: str) -> tuple[int, int]:
    """Return the smallest and the largest size of values: one size, or two."""
    given = value if isinstance(value, list) else [value, value]
    if len(given) != 2:
        raise ConfigError(f"{name}={value!r} must be a size, or [least, most]")
    least, most = (size_bytes(each, name=name) for each in given)
    if not 1 <= least <= most:
        raise ConfigError(f"{name}={value!r} must be [least, most], from 1 byte on")
    return least, most


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What every stream of records has, whatever its model.

    Args:
        lane: The lane they belong to.
        topic: Where they are sent; "": the lane's own, or the one of all lanes.
        at_ns: When the stream begins.
        for_ns: How long it lasts; 0: to the end of the scenario.
        keys: Which keys they have.
        sizes: Least and most bytes of a value.
    """

    lane: str
    topic: str = ""
    at_ns: int = 0
    for_ns: int = 0
    keys: Keys = field(default=Keys(), metadata=written_as("keys", read_keys))
    sizes: tuple[int, int] = field(default=(200, 200), metadata=written_as("size", read_sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals(Stream):
    """One stream of records, and when they come."""

    model: Model


def read_arrivals(table: Any, place: Place) -> Arrivals:
    """Return one stream as it is in the file.

    Raises:
        ConfigError: There is no such model, or its parameters cannot be read.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} must be a table, not {table!r}")
    if "model" not in table:
        raise ConfigError(f"{place} lacks model; use {', '.join(MODELS)}")
    name = choice(table["model"], list(MODELS), f"{place} model")
    common = keys_of(Stream)
    owner = f"{place}, model {name},"
    model = read_table(MODELS[name], table, place, owner=owner, also=[*common, "model"])
    written = {key: each for key, each in table.items() if key in common}
    stream = read_table(Stream, written, place)
    return Arrivals(
        model=model, **{each.name: getattr(stream, each.name) for each in fields(stream)}
    )
