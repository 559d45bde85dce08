"""The HTML report: one page that needs nothing else, from a scorecard's JSON.

It may be mailed, kept for years and opened without a network: no script, no font and no style
is loaded, and the page forbids itself to load any. Names come from users and are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from flowguard.errors import FlowguardError
from flowguard.snapshot import COUNTS
from flowguard.stress.charts import Chart, draw
from flowguard.stress.page_style import STYLE
from flowguard.stress.report import latency, number
from flowguard.stress.story import COLOURS, bands_of, charts_of, count, names_of, share, size

__all__ = ["page", "write_html"]

Document = Mapping[str, Any]

MARKS: Final = {"pass": "✓", "fail": "✗", "invalid": "?"}


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
        "lost": known(document["lost"]),
        "duplicates": known(document["duplicates"]),
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


def known(value: float | None) -> str:
    """Return a number of something; unknown is a dash."""
    return "–" if value is None else count(value)


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
    shaded = shading(document["timeline"])
    return section("Over time", f'{shaded}<div class="charts">\n{figures}\n</div>')


def shading(timeline: Sequence[Document]) -> str:
    """Return what the shaded times are, "" if there are none."""
    bands = [
        f"{escape(band.name)}, {timeline[band.first]['t'] - 1:.0f}–{timeline[band.last]['t']:.0f} s"
        for band in bands_of(timeline)
    ]
    return f'<p class="shaded">Shaded: {"; ".join(bands)}.</p>\n' if bands else ""


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
