"""Lanes in one topic that shed, expire, conflate and divert, beside one that loses nothing."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable

from tests.kafka.outside import Outside, Record, headers_of, json_of
from tests.kafka.worker import Worker, Workers

PARTITIONS = 2
FLOOD = 12_000  # records of each lane but the first
URGENT = 400
KEYS = 50
HOUR_MS = 3_600_000
PADDING = "x" * 1000  # 12 MB a lane, of whose memory 2 MiB are its share

APP = """
realtime = fg.Lane("realtime", target="1s", reserve=0.25)
quotes = fg.Lane("quotes", overflow=fg.Conflate())
hints = fg.Lane("hints", max_age="10min", overflow=fg.Shed())
bulk = fg.Lane("bulk", overflow=fg.Divert(LATER))
app = fg.App(APP, broker=BROKER, memory="16MiB", lanes=[realtime, quotes, hints, bulk])
events = app.feed(
    EVENTS,
    columns={"id": "int64"},
    lanes=fg.by_header(
        "lane", {"realtime": realtime, "quotes": quotes, "hints": hints}, default=bulk
    ),
)
done = app.feed(DONE)

@app.agent(events, sink=[done], concurrency=4, batch=fg.BatchSize(max=50))
async def work(batches):
    async for batch in batches:
        if batch.lane is not realtime:
            await asyncio.sleep(0.02)
        yield batch.to_polars(meta=True).select("id", lane=pl.lit(batch.lane.name))
"""

LINE = re.compile(
    r"\[(\d+)\] lane (\w+): .* (shed|expired|conflated|diverted)[,:].* offsets ([0-9,-]+)"
)


def lane_of(number: int) -> str:
    """Return the lane of a record: now and then an urgent one among the flood."""
    if number % (3 * FLOOD // URGENT) == 0:
        return "realtime"
    return ("quotes", "hints", "bulk")[number % 3]


def flood() -> list[Record]:
    """Return the records of all lanes; a few are too old for the hints."""
    now_ms = time.time_ns() // 1_000_000
    return [
        Record(
            {"id": number, "padding": PADDING},
            key=b"k%d" % (number // 3 % KEYS),
            headers=[("lane", lane_of(number).encode()), ("trace", b"%d" % number)],
            partition=number // 3 % KEYS % PARTITIONS,
            timestamp=now_ms - (HOUR_MS if number % 100 == 1 else 0),
        )
        for number in range(3 * FLOOD + URGENT)
    ]


def logged(worker: Worker) -> dict[str, set[tuple[int, int]]]:
    """Return by outcome the (partition, offset) that the worker said has left."""
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for line in worker.said.splitlines():
        if (match := LINE.search(line)) is not None:
            partition, _, outcome, ranges = match.groups()
            for each in ranges.split(","):
                first, _, last = each.partition("-")
                offsets = range(int(first), int(last or first) + 1)
                found[outcome] |= {(int(partition), offset) for offset in offsets}
    return found


def test_every_record_is_settled_diverted_or_counted_and_logged_and_the_urgent_are_all_there(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done, later = topic("events", PARTITIONS), topic("done"), topic("later", 3)
    records = flood()
    sent = {json_of(each)["id"]: each for each in outside.produce(events, records)}
    worker = workers.start(APP, EVENTS=events, DONE=done, LATER=later)
    states: dict[str, set[str]] = defaultdict(set)

    def is_over() -> bool:
        lanes = worker.state["lanes"]
        for name, lane in lanes.items():
            states[name].add(lane["state"])
        read = sum(lane["read"] for lane in lanes.values())
        return read == len(records) and not any(
            lane["held"] + lane["in_flight"] for lane in lanes.values()
        )

    worker.until(is_over, what="something is left")
    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")
    counts = worker.state["lanes"]
    memory = worker.state["memory"]
    assert worker.stop() == 0
    settled: dict[str, set[int]] = defaultdict(set)
    for row in outside.values(done):
        settled[row["lane"]].add(row["id"])
    diverted = outside.read(later)

    # Nothing of the lane that blocks is lost, and the others lose only what they may.
    produced: dict[str, set[int]] = defaultdict(set)
    for number in range(len(records)):
        produced[lane_of(number)].add(number)
    assert settled["realtime"] == produced["realtime"]
    for name, lane in counts.items():
        gone = {each: lane[each] for each in ("shed", "expired", "conflated", "diverted")}
        assert lane["read"] == len(produced[name])
        assert lane["settled"] == len(settled[name])
        assert lane["settled"] + sum(gone.values()) == lane["read"], (name, lane)
        may = {"quotes": {"conflated"}, "hints": {"shed", "expired"}, "bulk": {"diverted"}}
        assert {each for each, count in gone.items() if count} <= may.get(name, set())
    assert counts["quotes"]["conflated"] > 0
    assert counts["hints"]["shed"] > 0 and counts["hints"]["expired"] > 0
    assert counts["bulk"]["diverted"] > 0
    assert all("shedding" in states[name] for name in ("quotes", "hints", "bulk")), states
    assert states["realtime"] <= {"ok", "paused"}, states
    assert memory["used"] <= memory["budget"]

    # What was diverted is as it was, once.
    by_id = {json_of(message)["id"]: message for message in diverted}
    assert len(by_id) == len(diverted) == counts["bulk"]["diverted"]
    assert by_id.keys() == produced["bulk"] - settled["bulk"]
    for number, message in by_id.items():
        original = sent[number]
        assert (message.key(), message.value()) == (original.key(), original.value())
        assert headers_of(message) == {"lane": b"bulk", "trace": b"%d" % number}
        assert message.timestamp() == original.timestamp()

    # Of what is conflated, the newest of each key is there.
    newest = {records[number].key: number for number in sorted(produced["quotes"])}
    assert set(newest.values()) <= settled["quotes"]

    # The log has the offsets of all that no agent has got, and of nothing else.
    said = logged(worker)
    place = {number: (each.partition(), each.offset()) for number, each in sent.items()}
    for name, outcomes in {
        "quotes": ["conflated"], "hints": ["shed", "expired"], "bulk": ["diverted"]
    }.items():  # fmt: skip
        left = {place[number] for number in produced[name] - settled[name]}
        of_lane = {place[number] for number in produced[name]}
        offsets = set[tuple[int, int]]().union(*(said[each] for each in outcomes))
        assert offsets & of_lane == left, name


REFUSED = """
lane = fg.Lane("lane", overflow=fg.Divert(LATER))
app = fg.App(APP, broker=BROKER, memory="8MiB", lanes=[lane], topic_allow_declare=False)
events = app.feed(EVENTS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(events, sink=[done], batch=fg.BatchSize(max=200))
async def work(batches):
    async for batch in batches:
        await asyncio.sleep(0.01)
        yield batch.to_polars(meta=True).select("id", "_partition")
"""


def test_what_cannot_be_diverted_is_worked_on_in_order(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done, later = topic("events"), topic("done"), topic("later")
    outside.admin.delete_topics([later])[later].result()
    count = 6_000
    outside.produce(events, [Record({"id": n, "padding": PADDING}) for n in range(count)])

    worker = workers.start(REFUSED, EVENTS=events, DONE=done, LATER=later)
    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    assert [row["id"] for row in outside.values(done)] == list(range(count))
    assert worker.lane("lane")["diverted"] == 0
    assert worker.stop() == 0
    assert "cannot divert" in worker.said and "they wait meanwhile" in worker.said
