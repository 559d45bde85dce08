"""Whatever topics, lanes, agents and errors are called, it stays text where it is shown."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowguard.chunk import TopicPartition
from flowguard.observe.logs import OneLine
from flowguard.observe.prometheus import make_registry
from flowguard.observe.state import state_document
from flowguard.observe.watchdog import Stalls
from flowguard.observe.web import index_page
from flowguard.snapshot import Snapshot
from tests.unit.observe.observed import observed

#: What ends a line, a string, a tag or a label somewhere, and commands of terminals; with what
#: Unicode has beside it. No lone surrogates: neither Kafka's text nor Python's has them.
HOSTILE = st.lists(
    st.sampled_from(
        ["\n", "\r", "\r\n", "\x1b[2J", "\x9b31m", "\x00", "\x85", "\u2028", "\u202e",
         '"', "'", "\\", "\\n", "<script>", "</td>", "&lt;", "{", "}", "%s", "%",
         "flowguard_ready 1", "a"]
    )
    | st.characters(exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).map("".join)  # fmt: skip


def hostile_snapshot(text: str) -> Snapshot:
    """Return a snapshot that has this text wherever it has text of others."""
    snapshot = observed().snapshot
    return replace(
        snapshot,
        lanes=[replace(snapshot.lanes[0], name=text, why=text), *snapshot.lanes[1:]],
        agents=[replace(each, name=text) for each in snapshot.agents],
        partitions=[
            replace(each, partition=TopicPartition(text, 0), why=text)
            for each in snapshot.partitions
        ],
        rung_name=text,
    )


class Tags(HTMLParser):
    """Counts tags, and keeps the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(text: str) -> str:
    return index_page(state_document(hostile_snapshot(text), app=text, worker=text))


@given(HOSTILE)
def test_a_page_has_the_same_tags_whatever_is_shown(text: str) -> None:
    assert Tags(page_of(text)).tags == Tags(page_of("a")).tags
    page_of(text).encode()


@given(HOSTILE)
def test_metrics_have_the_same_samples_with_the_text_as_a_label(text: str) -> None:
    before = observed()
    snapshot = hostile_snapshot(text)
    latency = {text: next(iter(before.latency.values()))}
    hostile = replace(before, snapshot=snapshot, latency=latency, app=text, worker=text)
    exposed = generate_latest(make_registry(lambda: hostile)).decode()
    families = [
        family
        for family in text_string_to_metric_families(exposed)
        if family.name.startswith("flowguard_")
    ]
    labels = [each.labels for family in families for each in family.samples]
    assert {each["agent"] for each in labels if "agent" in each} == {text}
    assert {each["topic"] for each in labels if "topic" in each} == {text}
    assert text in {each["lane"] for each in labels if "lane" in each}
    ready = [family for family in families if family.name == "flowguard_ready"]
    assert len(ready) == 1 and len(ready[0].samples) == 1


@given(HOSTILE)
def test_the_state_is_json_with_the_text_as_it_is(text: str) -> None:
    stalls = Stalls(count=1, place=text)
    document = state_document(hostile_snapshot(text), app=text, worker=text, stalls=stalls)
    found = json.loads(json.dumps(document))
    assert found["app"] == text and found["lanes"][text]["why"] == text
    assert found["event_loop"]["place"] == text


@given(HOSTILE, st.sampled_from(["flowguard.worker", "flowguard", "faust.agents", "aiokafka.conn"]))
def test_a_log_line_is_one_line_whatever_it_tells(text: str, name: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(OneLine())
    handler.handle(
        logging.LogRecord(name, logging.ERROR, "", 0, "%s[%d]: %s, %r",
                          (text, 3, ValueError(text), ValueError(text)), None)
    )  # fmt: skip
    line = stream.getvalue()
    assert line.endswith("\n") and line[:-1].isprintable()


@given(HOSTILE)
def test_a_traceback_never_looks_like_lines_of_the_log(text: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(OneLine())
    try:
        raise ValueError(text)
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        handler.handle(logging.LogRecord("theirs", logging.ERROR, "", 0, "failed", (), info))
    first, *rest = stream.getvalue().split("\n")
    assert first == "failed"
    assert all(not line or (line.startswith("    ") and line.isprintable()) for line in rest)
