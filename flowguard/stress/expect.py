"""Expectations: what a scenario asserts of its outcome, each as a range.

[[expect]]
metric = "p99"
lane = "realtime"
during = ["20s", "40s"]
max = "50ms"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowguard.errors import ConfigError
from flowguard.stress.tables import Place, choice, read_table
from flowguard.units import SECOND, duration_ns, rate_per_s, size_bytes

__all__ = ["METRICS", "Aggregate", "Expect", "Metric", "read_expect"]

Aggregate = Literal["mean", "min", "max", "last", "total", "all"]


def seconds(value: Any, *, name: str) -> float:
    """Return a duration in seconds."""
    return duration_ns(value, name=name) / SECOND


def plain(value: Any, *, name: str) -> float:
    """Return a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name}={value!r} must be a number")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Something that can be asserted.

    Args:
        about: What it is, for people.
        read: How its bounds are written.
        aggregate: How values become one, unless the scenario says.
        by_lane: It is known of each lane; without a lane it is that of all together.
        whole: Without `during` it is about the whole run, with its end; else about the time
            after the warm-up until nothing is offered any more.
    """

    about: str
    read: Callable[..., float] = plain
    aggregate: Aggregate = "mean"
    by_lane: bool = False
    whole: bool = False


def count(about: str) -> Metric:
    return Metric(about=about, aggregate="total", by_lane=True, whole=True)


#: What a scenario may assert. `all`: of all records together; `total`: of what happened.
METRICS: Final[Mapping[str, Metric]] = {
    "offered": Metric(about="records offered a second", read=rate_per_s, by_lane=True),
    "goodput": Metric(about="records settled a second", read=rate_per_s, by_lane=True),
    "p50": Metric(about="median latency", read=seconds, aggregate="all", by_lane=True),
    "p99": Metric(about="latency of 99 % of records", read=seconds, aggregate="all", by_lane=True),
    "p999": Metric(about="latency of 99.9 %", read=seconds, aggregate="all", by_lane=True),
    "on_time": Metric(about="share settled within the target", aggregate="all", by_lane=True),
    "service": Metric(about="mean time of a batch with the agent", read=seconds),
    "limit": Metric(about="seats that the agent may use"),
    "in_flight": Metric(about="seats that it uses"),
    "batch_size": Metric(about="most records a batch"),
    "reversals": Metric(about="turns of the limit a minute", aggregate="all"),
    "memory": Metric(about="bytes held for feeds", read=size_bytes, aggregate="max", whole=True),
    "spilled": Metric(about="bytes on disk", read=size_bytes, aggregate="max", whole=True),
    "hol_blocked": Metric(about="lanes that hold up others of their partition", aggregate="max"),
    "pressure": Metric(about="pressure, 0 to 1", aggregate="max"),
    "rung": Metric(about="rung of the ladder", aggregate="max"),
    "rung_step": Metric(about="most rungs taken at once", aggregate="all", whole=True),
    "backlog": Metric(about="records offered and not settled", aggregate="max", by_lane=True),
    "settled": count("records settled"),
    "shed": count("records shed"),
    "conflated": count("records conflated"),
    "expired": count("records expired"),
    "diverted": count("records diverted"),
    "dead_letters": count("records written to dead letters"),
    "degraded": count("records served by the fallback"),
    "failed": count("records of batches that failed, each time"),
    "lost": count("records that nobody settled"),
    "duplicates": count("records settled again"),
    "rebalances": Metric(about="rebalances", aggregate="total", whole=True),
    "recovery": Metric(
        about="seconds from the end of the last fault until all is as before",
        read=seconds, aggregate="all", whole=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """A metric must be in a range.

    Args:
        metric: One of `METRICS`.
        lane: Of this lane; "": of all.
        aggregate: How values become one.
        begin_ns: From here, from the beginning of the scenario.
        end_ns: To here; None: to the end.
        least: The least it may be.
        most: The most it may be.
    """

    metric: str
    lane: str
    aggregate: Aggregate
    begin_ns: int | None
    end_ns: int | None
    least: float | None
    most: float | None

    def __str__(self) -> str:
        parts = [self.lane]
        if self.begin_ns is not None and self.end_ns is not None:
            parts.append(f"{self.begin_ns / SECOND:g}–{self.end_ns / SECOND:g} s")
        if self.aggregate != METRICS[self.metric].aggregate:
            parts.append(self.aggregate)
        return " ".join([*filter(None, parts), self.metric])


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An expectation as in the file, before its bounds are read."""

    metric: str
    lane: str = ""
    aggregate: Literal["", "mean", "min", "max", "last", "total"] = ""


def read_expect(table: Any, place: Place) -> Expect:
    """Return one expectation as it is in the file.

    Raises:
        ConfigError: There is no such metric, or its bounds cannot be read.
    """
    written = read_table(Written, table, place, also=("min", "max", "during"))
    metric = METRICS[choice(written.metric, list(METRICS), f"{place} metric")]
    if written.lane and not metric.by_lane:
        raise ConfigError(f"{place} lane: {written.metric} is about the worker, not about a lane")
    if written.aggregate and metric.aggregate in ("all", "total"):
        raise ConfigError(f"{place} aggregate: {written.metric} is one value already")
    bounds = {
        key: metric.read(table[key], name=f"{place} {key}")
        for key in ("min", "max")
        if key in table
    }
    if not bounds:
        raise ConfigError(f"{place} lacks min or max")
    least, most = bounds.get("min"), bounds.get("max")
    if least is not None and most is not None and least > most:
        raise ConfigError(f"{place} min={table['min']!r} is more than max={table['max']!r}")
    begin_ns, end_ns = read_during(table.get("during"), f"{place} during")
    return Expect(
        metric=written.metric,
        lane=written.lane,
        aggregate=written.aggregate or metric.aggregate,
        begin_ns=begin_ns,
        end_ns=end_ns,
        least=least,
        most=most,
    )


def read_during(value: Any, name: str) -> tuple[int | None, int | None]:
    """Return begin and end of a range of time; None: not said."""
    if value is None:
        return None, None
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f'{name}={value!r} must be two instants, such as ["10s", "20s"]')
    begin_ns, end_ns = (duration_ns(each, name=name) for each in value)
    if begin_ns >= end_ns:
        raise ConfigError(f"{name}={value!r} ends before it begins")
    return begin_ns, end_ns
