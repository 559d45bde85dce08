"""The HTML report: complete, escaped, and sufficient to itself."""

from __future__ import annotations

import builtins
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flowguard.errors import ConfigError, FlowguardError
from flowguard.stress.html import page, write_html
from flowguard.stress.story import charts_of

from .scorecards import lane, moment, scorecard

#: Elements that have no end tag.
VOID = {"meta", "link", "img", "br", "hr"}


class Outline(HTMLParser):
    """What a page consists of; elements must be closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_verdict_reasons_figures_objectives_and_lanes() -> None:
    outline = Outline(page(scorecard(result="fail", why="realtime p99 is late; 3 are lost")))

    assert not outline.open
    for shown in ("flash-crowd", "fail", "realtime p99 is late", "3 are lost", "1,497",
                  "64.0 MiB", "20.0 ms", "50.0 ms", "✓ held"):  # fmt: skip
        assert shown in outline.text, shown


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    text = page(scorecard())

    assert "://" not in text
    tags = {tag for tag, _ in Outline(text).tags}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "image", "use"})
    assert "default-src 'none'" in text
    assert not re.search(r"\burl\(|@import|\bon[a-z]+=", text)


def test_names_that_look_like_markup_stay_text() -> None:
    evil = '<script>alert("x")</script>&amp;'
    card = scorecard(
        scenario=evil,
        why=f"lane {evil} is late",
        objectives=[{"name": evil, "limit": 1, "value": 2, "passed": False}],
        lanes={evil: lane(read=3, p99=0.1, target=0.2)},
        timeline=[
            {"t": float(second), "offered": {evil: 1.0}, "settled": {evil: 1.0},
             "p99": {evil: 0.1}, "limit": {evil: second}, "faults": [evil]}
            for second in range(1, 4)
        ],
    )  # fmt: skip

    outline = Outline(page(card))

    assert "script" not in {tag for tag, _ in outline.tags}
    assert all(len(attributes) < 8 for _, attributes in outline.tags)
    assert outline.text.count(evil) > 8


@pytest.mark.parametrize("result", ["pass", "fail", "invalid"])
def test_the_verdict_is_told_by_a_word_and_a_mark_not_by_colour_alone(result: str) -> None:
    outline = Outline(page(scorecard(result=result)))

    assert f" {result}" in outline.text
    assert any(attributes.get("class") == f"verdict {result}" for _, attributes in outline.tags)


def test_every_chart_has_a_name_and_every_table_a_header_for_each_column() -> None:
    outline = Outline(page(scorecard()))

    charts = [attributes for tag, attributes in outline.tags if tag == "svg"]
    headers = [attributes for tag, attributes in outline.tags if tag == "th"]
    assert charts
    assert all(each.get("role") == "img" and each.get("aria-label") for each in charts)
    assert all(each.get("scope") in ("col", "row") for each in headers)
    wide = [attributes for _, attributes in outline.tags if attributes.get("class") == "wide"]
    assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in wide)


def test_the_figures_behind_the_charts_are_there_as_a_table() -> None:
    text = page(scorecard())

    assert "<details><summary>" in text
    assert text.count("</tr>") > 5
    assert "limit score" in text


def test_charts_appear_for_what_the_timeline_knows() -> None:
    card = scorecard()

    titles = [chart.title for chart in charts_of(card["timeline"], card["lanes"])]

    assert titles == ["realtime: records/s", "p99 latency", "Concurrency", "Rung of the ladder",
                      "Pressure", "Memory"]  # fmt: skip


def test_a_timeline_of_the_older_kind_has_fewer_charts() -> None:
    old = [{"t": 1.0, "offered": {"realtime": 5.0}, "settled": {"realtime": 5.0},
            "p99": {"realtime": None}, "memory": 7}]  # fmt: skip

    titles = [chart.title for chart in charts_of(old, {"realtime": lane()})]

    assert titles == ["realtime: records/s", "Memory"]


def test_policies_that_left_records_out_have_a_chart_only_if_they_did() -> None:
    timeline = [
        moment(1.0, shed={"realtime": 0.0, "hints": 7.0}, expired={"realtime": 0.0}),
        moment(2.0, shed={"realtime": 0.0, "hints": 0.0}, expired={"realtime": 0.0}),
    ]

    charts = charts_of(timeline, {"realtime": lane(), "hints": lane()})

    shed = next(chart for chart in charts if chart.title.startswith("Shed"))
    assert [line.name for line in shed.lines] == ["hints"]
    assert not any(chart.title.startswith("Expired") for chart in charts)


def test_what_was_wrong_is_shaded_and_told_in_words() -> None:
    faults = [[], ["provider slow"], ["provider slow"], [], ["provider slow"]]
    timeline = [moment(float(n + 1), faults=each) for n, each in enumerate(faults)]

    text = page(scorecard(timeline=timeline))

    assert "Shaded: provider slow, 1–3 s; provider slow, 4–5 s." in text
    assert text.count('class="band"') == 2


def test_a_run_without_a_timeline_says_so() -> None:
    assert "no account of the run over time" in page(scorecard(timeline=[]))


def test_unknown_figures_are_dashes() -> None:
    card = scorecard(
        peak_memory=None,
        objectives=[{"name": "realtime p99", "limit": 0.05, "value": None, "passed": False}],
    )

    text = Outline(page(card)).text

    assert "None" not in text
    assert "unknown" in text


@pytest.mark.parametrize(
    ("value", "passed", "sign"),
    [(1.0, True, "≤"), (9.0, False, "≤"), (9.0, True, "≥"), (1.0, False, "≥")],
)
def test_whether_a_limit_is_the_most_or_the_least_follows_from_the_outcome(
    value: float, passed: bool, sign: str
) -> None:
    objective = {"name": "flood factor", "limit": 3.0, "value": value, "passed": passed}

    assert f"{sign} 3.0×" in Outline(page(scorecard(objectives=[objective]))).text


def test_the_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "report.html"

    write_html(file, scorecard())

    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlowguardError, match=r"cannot write .*No such file"):
        write_html(tmp_path / "missing" / "report.html", scorecard())


def test_without_the_drawing_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without_pygal(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pygal":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pygal)

    with pytest.raises(ConfigError, match=r"flowguard\[stress\]"):
        write_html(tmp_path / "report.html", scorecard())
