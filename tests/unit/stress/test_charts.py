"""Charts: gaps stay gaps, peaks stay peaks, and axes have round numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest

from flowguard.stress.charts import Chart, Line, draw, linear_scale, log_scale, thinned


def chart(*values: float | None, **form: Any) -> Chart:
    """Return a chart of one line, one value a second."""
    times = [float(second) for second in range(1, len(values) + 1)]
    given = {"title": "a chart", "unit": lambda value: f"{value:g}", **form}
    return Chart(times=times, lines=[Line(name="a line", values=values)], **given)


def paths(svg: str) -> list[str]:
    """Return the drawn lines."""
    tree = ElementTree.fromstring(svg)
    groups = [each for each in tree.iter("g") if "line " in (each.get("class") or "")]
    return [path.get("d", "") for group in groups for path in group.findall("path")]


def points_of(path: str) -> int:
    return len(re.findall(r"-?[\d.]+ -?[\d.]+", path))


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_gap_interrupts_the_line(logarithmic: bool) -> None:
    svg = draw(chart(1.0, 2.0, None, 3.0, 4.0, 5.0, logarithmic=logarithmic))

    assert [points_of(path) for path in paths(svg)] == [2, 3]


def test_a_value_between_gaps_is_a_dot_that_can_be_seen() -> None:
    svg = draw(chart(1.0, 2.0, None, 3.0, None, 4.0, 5.0))

    assert svg.count('class="dot alone"') == 1


def test_each_point_says_what_it_is() -> None:
    svg = draw(chart(1.0, None, 3.0))

    assert "<title>1 s: a line 1</title>" in svg
    assert "<title>3 s: a line 3</title>" in svg
    assert svg.count("<title>") == 2


def test_nothing_is_drawn_of_zero_on_a_logarithmic_axis() -> None:
    svg = draw(chart(0.01, 0.0, 0.1, 0.2, logarithmic=True))

    assert [points_of(path) for path in paths(svg)] == [2]


@pytest.mark.parametrize(
    "values", [(), (None, None), (0.0,), (0.0, 0.0), (5.0,), (float("inf"), 1.0)]
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_odd_values_are_drawn_without_a_fault(
    values: Sequence[float | None], logarithmic: bool
) -> None:
    ElementTree.fromstring(draw(chart(*values, logarithmic=logarithmic)))


def test_steps_go_along_and_then_up() -> None:
    (path,) = paths(draw(chart(0.0, 0.0, 3.0, steps=True)))

    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+){2}", path)


def test_a_long_timeline_is_thinned_and_keeps_its_peak() -> None:
    values: list[float | None] = [0.0] * 1_000
    values[777] = 9.0

    few = thinned(values, 100)

    assert len(few) == 100
    assert max(each or 0.0 for each in few) == 9.0


def test_thinning_leaves_a_gap_where_nothing_is_known() -> None:
    assert thinned([1.0, 2.0, None, None, None, 3.0], 3) == [2.0, None, 3.0]


@pytest.mark.parametrize(
    ("high", "last"),
    [(0.0, 0.2), (4.0, 4.0), (1_013.0, 1_250.0), (0.98, 1.0), (51_000.0, 60_000.0)],
)
def test_a_linear_axis_begins_at_nothing_and_ends_at_a_round_number(
    high: float, last: float
) -> None:
    scale = linear_scale(0.0, high, whole=False)

    assert scale.labels[0] == 0
    assert scale.high == pytest.approx(last)
    assert len(scale.labels) <= 7


def test_an_axis_of_whole_things_has_no_fractions() -> None:
    assert list(linear_scale(0.0, 2.0, whole=True).labels) == [0, 1, 2]


def test_a_logarithmic_axis_has_a_label_for_each_power_of_ten() -> None:
    scale = log_scale(0.004, 130.0)

    assert list(scale.labels) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100, 1000])


def test_names_are_escaped() -> None:
    sly = Chart(
        title='"><script>', times=[1.0, 2.0], unit=str,
        lines=[Line(name="</svg><script>", values=[1.0, 2.0])],
    )  # fmt: skip

    svg = draw(sly)

    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == '"><script>, over 2 seconds'
