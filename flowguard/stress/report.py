"""The scorecard: what a demo or a stress run ends with.

Its JSON is part of the public contract: keys are stable, unknown is null, time in
seconds, size in bytes, rate per second, ratio 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowguard.snapshot import COUNTS
from flowguard.units import format_duration, format_size

__all__ = ["SCHEMA", "LaneCard", "Objective", "Result", "Scorecard", "judge"]

SCHEMA: Final = "flowguard.scorecard/v1"

Result = Literal["pass", "fail", "invalid"]

#: What becomes of a record other than being settled, in the scorecard's order.
LEFT_OUT: Final = ("shed", "conflated", "expired", "diverted", "dead_letters", "skipped")

STYLE_OF: Final[Mapping[Result, str]] = {
    "pass": "bold green",
    "fail": "bold red",
    "invalid": "bold yellow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One thing that had to hold.

    Args:
        name: What, with its unit if it has one.
        limit: The most it may be or, if `at_least`, the least.
        value: What it was; None if it could not be measured, which is not a pass.
    """

    name: str
    limit: float
    value: float | None
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Tell whether it held."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """Return it as in the JSON."""
        return {"name": self.name, "limit": self.limit, "value": self.value, "passed": self.passed}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCard:
    """One lane. Latencies in seconds from the intended instant, None where unknown.

    Args:
        counts: The counts of promise 2, by name.
        waiting: Sent, but neither read to the end nor committed: still in Kafka.
        unloaded_p99: p99 before the flood began.
        on_time: Share of records within the target.
    """

    counts: Mapping[str, int]
    waiting: int = 0
    degraded: int = 0
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    unloaded_p99: float | None = None
    target: float | None = None
    on_time: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as in the JSON."""
        return {
            **{name: self.counts.get(name, 0) for name in COUNTS},
            "degraded": self.degraded,
            "p50": self.p50,
            "p99": self.p99,
            "p999": self.p999,
            "unloaded_p99": self.unloaded_p99,
            "target": self.target,
            "on_time": self.on_time,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """The outcome of a run, None for what nobody knows; `notes` are for people, not in the JSON."""

    scenario: str
    result: Result
    why: str
    offered: int
    lost: int | None
    duplicates: int | None
    peak_memory: int | None
    peak_rss: int | None
    peak_spill: int | None = None
    recovery_seconds: float | None = None
    objectives: Sequence[Objective]
    lanes: Mapping[str, LaneCard]
    timeline: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = field(default=())

    def total(self, count: str) -> int:
        """Return a count over all lanes."""
        return sum(lane.counts.get(count, 0) for lane in self.lanes.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "schema": SCHEMA,
            "scenario": self.scenario,
            "result": self.result,
            "why": self.why,
            "offered": self.offered,
            "settled": self.total("settled"),
            "lost": self.lost,
            "duplicates": self.duplicates,
            **{name: self.total(name) for name in LEFT_OUT},
            "peak_memory": self.peak_memory,
            "peak_rss": self.peak_rss,
            "peak_spill": self.peak_spill,
            "recovery_seconds": self.recovery_seconds,
            "objectives": [objective.as_dict() for objective in self.objectives],
            "lanes": {name: lane.as_dict() for name, lane in self.lanes.items()},
            "timeline": [dict(moment) for moment in self.timeline],
        }

    def __rich__(self) -> RenderableType:
        verdict = Text(f"{self.result}: {self.why}", style=STYLE_OF[self.result])
        notes = Text("\n".join(self.notes), style="dim")
        return Group(verdict, "", self._lane_table(), "", self._objective_table(), "", notes)

    def _lane_table(self) -> Table:
        columns = ("lane", "settled", "waiting in Kafka", "p50", "p99", "p99.9", "p99 before",
                   "on time")  # fmt: skip
        table = table_of(*columns)
        for name, lane in self.lanes.items():
            table.add_row(
                name,
                f"{lane.counts.get('settled', 0):,}",
                f"{lane.waiting:,}",
                *(latency(each) for each in (lane.p50, lane.p99, lane.p999, lane.unloaded_p99)),
                "–" if lane.on_time is None else f"{lane.on_time:.2%}",
            )
        return table

    def _objective_table(self) -> Table:
        table = table_of("objective", "limit", "value", "")
        for each in self.objectives:
            sign = "≥" if each.at_least else "≤"
            passed = Text("ok", "green") if each.passed else Text("missed", "red")
            table.add_row(each.name, f"{sign} {number(each.name, each.limit)}",
                          number(each.name, each.value), passed)  # fmt: skip
        return table


def judge(
    objectives: Sequence[Objective],
    *,
    broken: Sequence[str],
    invalid: Sequence[str],
    lagging: Sequence[str] = (),
) -> tuple[Result, str]:
    """Return the result and its reason.

    A promise that was broken is broken on any machine; whether an objective was missed can
    only be said where the run was not disturbed; and nothing can be said where the load was
    not what it should have been.

    Args:
        objectives: What had to hold.
        broken: Promises that were not kept, for people.
        invalid: What disturbed the run, for people.
        lagging: Who did not offer what was planned, when it was planned, for people.
    """
    missed = [
        f"{each.name} is {number(each.name, each.value)}, "
        f"{'least' if each.at_least else 'most'} allowed {number(each.name, each.limit)}"
        for each in objectives
        if not each.passed
    ]
    if broken:
        return "fail", "; ".join([*broken, *missed])
    if lagging or (missed and invalid):
        return "invalid", "; ".join([*lagging, *missed, *invalid])
    if missed:
        return "fail", "; ".join(missed)
    return "pass", f"all {len(objectives)} objectives held"


def table_of(first: str, *others: str) -> Table:
    """Return an empty table: names on the left, numbers on the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def latency(seconds: float | None) -> str:
    """Return a latency for people."""
    return "–" if seconds is None else format_duration(seconds)


def number(name: str, value: float | None) -> str:
    """Return an objective's number for people; its name ends in its kind."""
    if value is None:
        return "unknown"
    return WRITTEN.get(name.split()[-1], plain)(value)


def plain(value: float) -> str:
    """Return a number without a unit for people."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.2f}"


#: The last word of an objective's name → how its value is written.
WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    **dict.fromkeys(("p50", "p99", "p999", "service", "recovery"), format_duration),
    **dict.fromkeys(("memory", "spilled"), format_size),
    "factor": lambda value: f"{value:.1f}×",
    **dict.fromkeys(("on_time", "pressure"), lambda value: f"{value:.2%}"),
    **dict.fromkeys(("offered", "goodput"), lambda value: f"{value:,.0f}/s"),
}
