"""The HTML report: one page that needs nothing else, from a scorecard's JSON.

It may be mailed, kept for years and opened without a network: no script, no font and no style
is loaded, and the page forbids itself to load any. Names come from users and are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from flowguard.errors import FlowguardError
from flowguard.snapshot import COUNTS
from flowguard.stress.charts import Chart, Line, draw
from flowguard.stress.report import latency, number
from flowguard.units import MIB, format_size

__all__ = ["page", "write_html"]

Document = Mapping[str, Any]

#: Colours of lanes; with more lanes they repeat.
COLOURS: Final = 6

MARKS: Final = {"pass": "✓", "fail": "✗", "invalid": "?"}

#: What can become of a record besides being settled, in charts and tables.
LEFT_OUT: Final = ("shed", "expired", "conflated", "diverted", "degraded")


def write_html(path: Path, document: Document) -> None:
    """Write a scorecard as a page.

    Args:
        path: The file; it is replaced.
        document: `flowguard.scorecard/v1`.

    Raises:
        ConfigError: The library that draws is not installed.
        FlowguardError: The file cannot be written.
    """
    text = page(document)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FlowguardError(f"cannot write {path}: {error.strerror}") from error


def page(document: Document) -> str:
    """Return the whole page."""
    scenario, result = escape(document["scenario"]), escape(document["result"])
    mark = MARKS.get(document["result"], "?")
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{scenario}: {result} – flowguard</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<p class="product">flowguard scorecard</p>
<h1>{scenario} <span class="verdict {result}"><span aria-hidden="true">{mark}</span> {result}</span></h1>
{reasons(document["why"])}
</header>
<main>
{key_figures(document)}
{objective_table(document["objectives"])}
{lane_table(document["lanes"])}
{chart_section(document)}
{timeline_table(document["timeline"])}
</main>
<footer>Latency is measured from the instant at which a record was meant to be sent. Times in the charts are seconds since the run began; a gap means that nothing was known.</footer>
</body>
</html>
"""  # noqa: E501


def reasons(why: str) -> str:
    """Return why, one line a reason."""
    parts = [escape(each) for each in why.split("; ") if each]
    if len(parts) < 2:
        return f'<p class="why">{"".join(parts)}</p>'
    return f'<ul class="why">{"".join(f"<li>{each}</li>" for each in parts)}</ul>'


# Tables.


def key_figures(document: Document) -> str:
    """Return the few numbers that everyone asks for first."""
    recovery = document.get("recovery_seconds")
    figures = {
        "offered": count(document["offered"]),
        "settled": count(document["settled"]),
        "lost": count(document["lost"]),
        "duplicates": count(document["duplicates"]),
        **{
            name.replace("_", " "): count(document[name])
            for name in ("shed", "conflated", "expired", "diverted", "dead_letters", "skipped")
            if document.get(name)
        },
        "peak memory": size(document["peak_memory"]),
        "peak resident": size(document["peak_rss"]),
        **({"peak spill": size(document["peak_spill"])} if document.get("peak_spill") else {}),
        **({} if recovery is None else {"recovery": latency(recovery)}),
    }
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures.items()
    )
    return f'<dl class="figures">{cells}</dl>'


def objective_table(objectives: Sequence[Document]) -> str:
    """Return what had to hold."""
    rows = [
        [
            escape(each["name"]),
            f"{sign_of(each)} {escape(number(each['name'], each['limit']))}",
            escape(number(each["name"], each["value"])),
            '<span class="good">✓ held</span>'
            if each["passed"]
            else '<span class="bad">✗ missed</span>',
        ]
        for each in objectives
    ]
    heads = ("objective", "allowed", "measured", "outcome")
    return section("Objectives", table("objectives", heads, rows))


def sign_of(objective: Document) -> str:
    """Return whether the limit is the most or the least, as far as the outcome tells."""
    value = objective["value"]
    if value is None or value == objective["limit"]:
        return "" if value is None else "≤"
    return "≤" if (value < objective["limit"]) == objective["passed"] else "≥"


def lane_table(lanes: Mapping[str, Document]) -> str:
    """Return one row a lane; counts that are 0 in every lane have no column."""
    counts = [
        name
        for name in (*COUNTS, "degraded")
        if name in ("read", "settled") or any(lane.get(name) for lane in lanes.values())
    ]
    times = ("p50", "p99", "p999", "unloaded_p99", "target")
    heads = ("lane", *(name.replace("_", " ") for name in counts),
             "p50", "p99", "p99.9", "unloaded p99", "target", "on time")  # fmt: skip
    rows = [
        [
            f'<span class="swatch c{index % COLOURS}" aria-hidden="true"></span>{escape(name)}',
            *(count(lane.get(each) or 0) for each in counts),
            *(late(lane, each) for each in times),
            share(lane.get("on_time")),
        ]
        for index, (name, lane) in enumerate(lanes.items())
    ]
    return section("Lanes", table("lanes", heads, rows))


def late(lane: Document, key: str) -> str:
    """Return a latency, marked where it is above the lane's target."""
    seconds, target = lane.get(key), lane.get("target")
    text = latency(seconds)
    if key == "p99" and seconds is not None and target is not None:
        return f'<span class="{"good" if seconds <= target else "bad"}">{text}</span>'
    return text


def timeline_table(timeline: Sequence[Document]) -> str:
    """Return every figure behind the charts, closed until somebody asks for it."""
    if not timeline:
        return ""
    columns = [(key, name) for key in timeline[0] for name in names_of(timeline, key)]
    heads = [heading(key, name) for key, name in columns]
    rows = [[cell(moment.get(key), name) for key, name in columns] for moment in timeline]
    return (
        "<details><summary>All figures behind the charts, second by second</summary>"
        f"{table('timeline', heads, rows)}</details>"
    )


def names_of(timeline: Iterable[Document], key: str) -> list[str | None]:
    """Return the lanes or agents that a key has values of; None if it is one value."""
    names: dict[str | None, None] = {}
    for moment in timeline:
        value = moment.get(key)
        names |= dict.fromkeys(value if isinstance(value, Mapping) else [None])
    return list(names)


def heading(key: str, name: str | None) -> str:
    """Return a column's heading."""
    key = key.replace("_", " ")
    return key if name is None else f"{key} {name}"


def cell(value: Any, name: str | None) -> str:
    """Return one figure."""
    if isinstance(value, Mapping):
        value = value.get(name)
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return escape(", ".join(map(str, value)))
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column names the rows; it scrolls by itself if it is wide.

    Args:
        name: For those who hear the page.
        heads: As text.
        rows: Cells as HTML.
    """
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{each}</td>" for each in others)}</tr>'
        for first, *others in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(name)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def section(title: str, content: str) -> str:
    """Return content under a title."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


# Charts.


def chart_section(document: Document) -> str:
    """Return the charts of what is known over time."""
    figures = "\n".join(map(figure, charts_of(document["timeline"], document["lanes"])))
    if not figures:
        return section("Over time", "<p>There is no account of the run over time.</p>")
    return section("Over time", f'<div class="charts">\n{figures}\n</div>')


def figure(chart: Chart) -> str:
    """Return a chart with its title and legend."""
    legend = "".join(
        f'<li class="c{line.colour}{" dashed" if line.dashed else ""}">{escape(line.name)}</li>'
        for line in chart.lines
    )
    return (
        f"<figure><figcaption><h3>{escape(chart.title)}</h3><ul>{legend}</ul></figcaption>"
        f"{draw(chart)}</figure>"
    )


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

    def chart(
        self, title: str, lines: Sequence[Line], unit: Callable[[float], str], **form: Any
    ) -> Chart:
        """Return a chart of those lines that have a value."""
        known = [line for line in lines if any(each is not None for each in line.values)]
        return Chart(title=title, times=self.times, lines=known, unit=unit, **form)

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
        lines += [
            Line(name=f"{name}: target", values=[target] * len(self.times),
                 colour=self.colour(name), dashed=True)
            for name, target in targets.items() if target is not None
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


STYLE: Final = """\
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --card: #f6f8fa;
  --good: #1a7f37; --bad: #c5221f; --warn: #8a5a00;
  --c0: #0b66c3; --c1: #b3520a; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #4d5d6b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --card: #161b22;
    --good: #56d364; --bad: #ff7b72; --warn: #e3b341;
    --c0: #58a6ff; --c1: #f0883e; --c2: #56d364; --c3: #bc8cff; --c4: #ff7bbf; --c5: #a3b1bf;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif;
}
h1 { margin: 0 0 .3rem; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem }
h3 { margin: 0; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }
.product, footer { color: var(--soft); font-size: .875rem }
.product { margin: 0 }
.why { margin: .3rem 0 0; max-width: 60rem; overflow-wrap: anywhere }
ul.why { padding-left: 1.2rem }
.verdict { display: inline-block; padding: 0 .6rem; border-radius: 1rem; font-size: 1.1rem; border: 2px solid }
.verdict.pass, .good { color: var(--good) }
.verdict.fail, .bad { color: var(--bad) }
.verdict.invalid { color: var(--warn) }
.good, .bad { font-weight: 600 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .6rem; margin: 1.4rem 0 0 }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem }
dt { color: var(--soft); font-size: .875rem }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
table { border-collapse: collapse; min-width: min(100%, 40rem); font-variant-numeric: tabular-nums }
th, td { padding: .35rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child { text-align: left; padding-left: 0 }
thead th { color: var(--soft); font-weight: 500; font-size: .875rem; vertical-align: bottom }
tbody th { font-weight: 500 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline; justify-content: space-between }
figcaption ul { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; list-style: none; font-size: .875rem; color: var(--soft) }
figcaption li { overflow-wrap: anywhere }
figcaption li::before { content: ""; display: inline-block; width: 1.4rem; margin-right: .4rem; vertical-align: .25em; border-top: 3px solid var(--c) }
figcaption li.dashed::before { border-top-style: dashed }
.swatch { display: inline-block; width: .7rem; height: .7rem; margin-right: .5rem; border-radius: .15rem; background: var(--c) }
.c0 { --c: var(--c0) } .c1 { --c: var(--c1) } .c2 { --c: var(--c2) }
.c3 { --c: var(--c3) } .c4 { --c: var(--c4) } .c5 { --c: var(--c5) }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; overflow: visible }
svg .background { fill: none }
svg text { fill: var(--soft); font-size: 13px; stroke: none }
svg .axis.y text { text-anchor: end }
svg .axis.x text { text-anchor: middle }
svg .axis path { stroke: var(--line); fill: none }
svg .axis.x .guide { stroke: none }
svg .line path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round }
svg .line.dashed path { stroke-dasharray: 6 4; stroke-width: 1.5 }
svg .dot circle { fill: var(--c); opacity: 0 }
svg .dot circle:hover, svg .dot.alone circle { opacity: 1 }
details { margin-top: 2rem }
summary { cursor: pointer; font-weight: 600 }
details .wide { max-height: 30rem; overflow: auto; margin-top: .6rem }
footer { margin-top: 2.5rem }
@media print { details { display: none } figure, tr { break-inside: avoid } }
"""  # noqa: E501
