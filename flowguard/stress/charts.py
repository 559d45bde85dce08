"""Charts of a scorecard's timeline, as SVG that stands in a page by itself.

pygal lays out axes and lines. What it adds beside them (styles, scripts, tooltips that need a
script from elsewhere) is taken out again: colours come from the page, so that they follow
light and dark, and each point has a `<title>`, which browsers show by themselves.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from flowguard.errors import ConfigError

__all__ = ["POINTS_MAX", "Band", "Chart", "Line", "draw", "require_pygal", "thinned"]

Values = Sequence[float | None]

#: As many points as there are pixels to tell them apart; a longer timeline is thinned.
POINTS_MAX: Final = 240

WIDTH, HEIGHT = 560, 230
X_LABELS: Final = 7
Y_LABELS: Final = 5

#: Left and right of the lines pygal leaves this share of their width free.
SIDE: Final = 0.02

#: On a logarithmic axis: below this nothing is told apart, in the unit of the values.
LOG_FLOOR: Final = 1e-5

#: Steps between labels that people read easily, times a power of ten.
ROUND_STEPS: Final = (1, 2, 2.5, 5, 10)

#: What pygal writes for its own scripts and tooltips.
UNWANTED: Final = frozenset({"defs", "style", "script"})
UNWANTED_CLASSES: Final = frozenset({"plot text-overlay", "plot tooltip-overlay", "titles"})

PAIR: Final = re.compile(r"(-?[\d.]+) (-?[\d.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart.

    Args:
        name: For the legend.
        values: One a moment; None is a gap.
        colour: Number of the page's colour.
        dashed: What is wanted or offered is dashed, what happened is solid.
    """

    name: str
    values: Values
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A time that is shaded, because something was wrong in it.

    Args:
        first: Number of its first moment.
        last: And of its last.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What one chart shows.

    Args:
        times: Of the moments, in seconds.
        unit: Writes a value for people.
        grain: Labels are round numbers of this, such as a MiB.
        logarithmic: For what spans several powers of ten; nothing is drawn of 0.
        steps: A value holds until the next one; there is nothing between them.
        bands: What is shaded.
    """

    title: str
    times: Sequence[float]
    lines: Sequence[Line]
    unit: Callable[[float], str]
    grain: float = 1.0
    logarithmic: bool = False
    steps: bool = False
    bands: Sequence[Band] = ()


def require_pygal() -> Any:
    """Return pygal.

    Raises:
        ConfigError: It is not installed; a run should not end before that is known.
    """
    try:
        import pygal
    except ImportError:
        raise ConfigError(
            "the charts of an HTML report need pygal, which is not installed; nothing was "
            'started; install it with: pip install "flowguard[stress]"'
        ) from None
    # It leaves a finder for its plug-ins in every import of this process, in a form that Python
    # warns about and no longer knows.
    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "pygal"]
    return pygal


def thinned(values: Values, most: int = POINTS_MAX) -> list[float | None]:
    """Return at most so many values; of neighbours the largest stays, so that no peak is lost."""
    width = max(1, math.ceil(len(values) / most))
    groups = (values[first : first + width] for first in range(0, len(values), width))
    known = ([value for value in group if value is not None] for group in groups)
    return [max(group, default=None) for group in known]


def draw(chart: Chart) -> str:
    """Return a chart as an SVG element."""
    pygal = require_pygal()
    scale = scale_of(chart)
    picture = pygal.Line(
        js=(), width=WIDTH, height=HEIGHT, margin=8, spacing=6, show_legend=False,
        allow_interruptions=True, dots_size=4, show_minor_x_labels=False, truncate_label=-1,
        range=(scale.position(scale.low), scale.position(scale.high)),
    )  # fmt: skip
    times = thinned(chart.times)
    picture.x_labels = [f"{time or 0:.0f} s" for time in times]
    picture.x_labels_major = x_labels(times)
    picture.y_labels = [
        {"value": scale.position(each), "label": shortened(chart.unit(each))}
        for each in scale.labels
    ]
    lines = [(line, scale.clean(thinned(line.values))) for line in chart.lines]
    for line, values in lines:
        picture.add(line.name, [None if each is None else scale.position(each) for each in values])
    tree = picture.render_tree()
    strip(tree)
    tree.attrib = {
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-label": f"{chart.title}, over {times[-1] or 0:.0f} seconds" if times else chart.title,
    }
    shade(tree, chart)
    for number, (line, values) in enumerate(lines):
        for group in tree.iter("g"):
            if f"serie-{number} " in f"{group.get('class')} ":
                dress(group, chart, line, times, values)
    return ElementTree.tostring(tree, encoding="unicode")


# The axes.


@dataclass(frozen=True, slots=True)
class Scale:
    """The vertical axis, in the unit of the values."""

    low: float
    high: float
    labels: Sequence[float]
    logarithmic: bool

    def position(self, value: float) -> float:
        """Return where a value is, in the unit of pygal's axis."""
        return math.log10(value) if self.logarithmic else value

    def clean(self, values: Values) -> list[float | None]:
        """Leave a gap where there is nothing to draw."""
        return [None if each is None or self._is_nothing(each) else each for each in values]

    def _is_nothing(self, value: float) -> bool:
        return not math.isfinite(value) or (self.logarithmic and value < LOG_FLOOR)


def scale_of(chart: Chart) -> Scale:
    """Return the axis that all of the chart's values fit on."""
    shown = [each for line in chart.lines for each in line.values
             if each is not None and math.isfinite(each)]  # fmt: skip
    if chart.logarithmic:
        shown = [each for each in shown if each >= LOG_FLOOR] or [1.0]
        return log_scale(min(shown), max(shown))
    grains = [each / chart.grain for each in shown]
    scale = linear_scale(min([0.0, *grains]), max([0.0, *grains]), whole=chart.steps)
    labels = [each * chart.grain for each in scale.labels]
    return Scale(labels[0], labels[-1], labels, False)


def linear_scale(low: float, high: float, *, whole: bool) -> Scale:
    """Return an axis with round numbers on it."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / Y_LABELS))
    step = next(each * power for each in ROUND_STEPS if each * power >= span / Y_LABELS)
    if whole:
        step = max(1.0, round(step))
    first, last = math.floor(low / step), max(1, math.ceil(high / step))
    labels = [number * step for number in range(first, last + 1)]
    return Scale(labels[0], labels[-1], labels, False)


def log_scale(low: float, high: float) -> Scale:
    """Return an axis of whole powers of ten; within few of them with steps between."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    labels = [factor * 10.0**power for power in range(first, last) for factor in factors]
    return Scale(10.0**first, 10.0**last, [*labels, 10.0**last], True)


def shortened(label: str) -> str:
    """Return a label without a zero that tells nothing: `10 ms` for `10.0 ms`."""
    return label.replace(".0 ", " ")


def x_labels(times: Values) -> list[str]:
    """Return which moments have a label: at round numbers of seconds."""
    last = times[-1] or 0.0 if times else 0.0
    step = next(
        factor * power
        for power in (1, 10, 100, 1_000, 10_000, 100_000)
        for factor in (1, 2, 5)
        if last / (factor * power) <= X_LABELS
    )
    labels = dict.fromkeys(f"{round((time or 0.0) / step) * step} s" for time in times)
    return list(labels)


# What pygal wrote, as the page wants it.


def strip(element: Any) -> None:
    """Take out styles, scripts and tooltips, and comments with the addresses in them."""
    for child in list(element):
        unwanted = (
            not isinstance(child.tag, str)  # a comment
            or child.tag in UNWANTED
            or child.get("class") in UNWANTED_CLASSES
            or child.tag == "title"  # ours come later
        )
        if unwanted:
            element.remove(child)
        else:
            strip(child)


def shade(tree: Any, chart: Chart) -> None:
    """Put bands behind the lines of a chart."""
    plot = next(each for each in tree.iter("g") if each.get("class") == "plot")
    paper = plot.find("rect")
    width, moments = float(paper.get("width")), max(1, len(chart.times) - 1)

    def x(moment: float) -> float:
        return width * (SIDE + min(1.0, max(0.0, moment / moments))) / (1 + 2 * SIDE)

    for band in chart.bands:
        begin, end = x(band.first - 0.5), x(band.last + 0.5)
        place = {"x": f"{begin:.1f}", "width": f"{end - begin:.1f}", "height": paper.get("height")}
        rect = ElementTree.Element("rect", {"class": "band", "y": "0", **place})
        ElementTree.SubElement(rect, "title").text = band.name
        plot.insert(1, rect)


def dress(group: Any, chart: Chart, line: Line, times: Values, values: Values) -> None:
    """Give a line its colour, and its points the words that are shown when they are met."""
    group.set("class", f"line c{line.colour}" + (" dashed" if line.dashed else ""))
    known = [index for index, value in enumerate(values) if value is not None]
    for index, dot in zip(known, group.findall("g"), strict=False):
        value = values[index]
        assert value is not None
        alone = {index - 1, index + 1}.isdisjoint(known)
        dot.set("class", "dot alone" if alone else "dot")
        for words in dot.findall("desc"):
            dot.remove(words)
        circle = dot.find("circle")
        circle.attrib.pop("class", None)
        title = ElementTree.SubElement(circle, "title")
        title.text = f"{times[index] or 0:.0f} s: {line.name} {chart.unit(value)}"
    for path in group.findall("path"):
        path.attrib.pop("class", None)
        if chart.steps:
            path.set("d", as_steps(path.get("d", "")))


def as_steps(path: str) -> str:
    """Return a path that goes along and then up or down, never across."""
    (x, y), *others = PAIR.findall(path)
    return f"M{x} {y}" + "".join(f"H{x}V{y}" for x, y in others)
