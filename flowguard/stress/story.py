"""A timeline as charts: which lines belong together, in which colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from flowguard.stress.charts import Band, Chart, Line
from flowguard.stress.moments import LEFT_OUT
from flowguard.stress.report import latency
from flowguard.units import MIB, format_size

__all__ = ["COLOURS", "bands_of", "charts_of", "count", "names_of", "share", "size"]

Document = Mapping[str, Any]

#: Colours of lanes; with more lanes they repeat.
COLOURS: Final = 6


def charts_of(timeline: Sequence[Document], lanes: Mapping[str, Document]) -> list[Chart]:
    """Return the charts that a timeline has the figures for.

    Args:
        timeline: One entry a second; what an entry does not have is a gap.
        lanes: The scorecard's lanes: their order is that of the colours.
    """
    if not timeline:
        return []
    story = Story(timeline, list(lanes))
    charts = [
        *(story.flow(lane) for lane in lanes),
        story.latency({name: lane.get("target") for name, lane in lanes.items()}),
        story.by_name("Concurrency", {"limit": True, "in_flight": False}, steps=True),
        story.alone("Rung of the ladder", {"rung": False}, count, steps=True),
        story.alone("Pressure", {"pressure": False}, share),
        story.alone("Memory", {"memory_budget": True, "memory": False}, size, grain=MIB),
        *(story.by_name(f"{name.title()}, records/s", {name: False}) for name in LEFT_OUT),
    ]
    return [chart for chart in charts if chart.lines]


class Story:
    """A timeline, seen one figure at a time.

    Args:
        timeline: One entry a moment.
        lanes: Names in the order of their colours.
    """

    def __init__(self, timeline: Sequence[Document], lanes: Sequence[str]) -> None:
        self.timeline = timeline
        self.lanes = lanes
        self.times = [float(moment["t"]) for moment in timeline]
        self.bands = bands_of(timeline)

    def chart(
        self, title: str, lines: Sequence[Line], unit: Callable[[float], str], **form: Any
    ) -> Chart:
        """Return a chart of those lines that have a value."""
        known = [line for line in lines if any(each is not None for each in line.values)]
        return Chart(
            title=title, times=self.times, lines=known, unit=unit, bands=self.bands, **form
        )

    def flow(self, lane: str) -> Chart:
        """Return what was offered and what was settled of one lane."""
        lines = [
            Line(name=key, values=self.values(key, lane), colour=self.colour(lane), dashed=dashed)
            for key, dashed in (("offered", True), ("settled", False))
        ]
        return self.chart(f"{lane}: records/s", lines, count)

    def latency(self, targets: Mapping[str, float | None]) -> Chart:
        """Return p99 of each lane beside its target."""
        lines = [
            Line(name=name, values=self.values("p99", name), colour=self.colour(name))
            for name in targets
        ]
        seen = {line.name for line in lines if any(line.values)}
        lines += [
            Line(name=f"{name}: target", values=[target] * len(self.times),
                 colour=self.colour(name), dashed=True)
            for name, target in targets.items() if target is not None and name in seen
        ]  # fmt: skip
        return self.chart("p99 latency", lines, latency, logarithmic=True)

    def by_name(self, title: str, keys: Mapping[str, bool], *, steps: bool = False) -> Chart:
        """Return a figure of each lane or agent; the keys say which are dashed."""
        names = list(dict.fromkeys(
            name for key in keys for name in names_of(self.timeline, key) if name is not None
        ))  # fmt: skip
        lines = [
            Line(
                name=f"{name}: {key.replace('_', ' ')}" if len(keys) > 1 else name,
                values=self.values(key, name),
                colour=self.colour(name) if name in self.lanes else names.index(name) % COLOURS,
                dashed=dashed,
            )
            for name in names
            for key, dashed in keys.items()
        ]
        busy = [line for line in lines if any(line.values)]
        return self.chart(title, busy, count, steps=steps)

    def alone(
        self,
        title: str,
        keys: Mapping[str, bool],
        unit: Callable[[float], str],
        *,
        grain: float = 1.0,
        steps: bool = False,
    ) -> Chart:
        """Return figures that the worker has one of."""
        lines = [
            Line(name=key.replace("_", " "), values=self.values(key, None), dashed=dashed)
            for key, dashed in keys.items()
        ]
        return self.chart(title, lines, unit, grain=grain, steps=steps)

    def values(self, key: str, name: str | None) -> list[float | None]:
        """Return one figure over time."""
        found: list[float | None] = []
        for moment in self.timeline:
            value = moment.get(key)
            if isinstance(value, Mapping):
                value = None if name is None else value.get(name)
            found.append(value if isinstance(value, (int, float)) else None)
        return found

    def colour(self, lane: str) -> int:
        """Return the number of a lane's colour."""
        return self.lanes.index(lane) % COLOURS if lane in self.lanes else 0


def bands_of(timeline: Sequence[Document]) -> list[Band]:
    """Return when what was wrong, in the order of its beginning."""
    bands: list[Band] = []
    open_: dict[str, Band] = {}
    for number, moment in enumerate(timeline):
        now = moment.get("faults") or ()
        for name in dict.fromkeys(now):
            before = open_.get(name)
            if before is None or before.last < number - 1:
                open_[name] = Band(name=str(name), first=number, last=number)
                bands.append(open_[name])
            else:
                bands[bands.index(before)] = open_[name] = replace(before, last=number)
    return bands


def names_of(timeline: Iterable[Document], key: str) -> list[str | None]:
    """Return the lanes or agents that a key has values of; None if it is one value."""
    names: dict[str | None, None] = {}
    for moment in timeline:
        value = moment.get(key)
        names |= dict.fromkeys(value if isinstance(value, Mapping) else [None])
    return list(names)


# Numbers for people.


def count(value: float) -> str:
    """Return a number of something."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def size(num_bytes: float | None) -> str:
    """Return a size; unknown is a dash."""
    return "–" if num_bytes is None else format_size(num_bytes)


def share(ratio: float | None) -> str:
    """Return a share in per cent, with as many digits as tell it from all."""
    if ratio is None:
        return "–"
    return f"{ratio:.0%}" if round(ratio * 100, 6).is_integer() else f"{ratio:.2%}"
