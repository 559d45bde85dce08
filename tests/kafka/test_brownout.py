"""Overload and outages of a real worker on Apache Kafka: step by step, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tests.kafka.outside import Outside, Record, headers_of, json_of
from tests.kafka.worker import Worker, Workers, eventually

#: The agent can do 500 records a second, its fallback 10,000.
BROWNOUT = """
realtime, bulk = fg.Lane("realtime", target="200ms"), fg.Lane("bulk")
app = fg.App(APP, broker=BROKER, lanes=[realtime, bulk], topic_allow_declare=False)
events = app.feed(EVENTS, BULK, columns={"id": "int64"},
                  lanes=fg.by_topic({EVENTS: realtime, BULK: bulk}, default=bulk))
done = app.feed(DONE)

@app.agent(events, sink=[done])
async def score(batches):
    async for batch in batches:
        await asyncio.sleep(len(batch) / 500)
        yield batch.to_polars()

@score.fallback(on="brownout")
async def rules_only(batches):
    async for batch in batches:
        assert batch.degraded and batch.occasion == "brownout"
        await asyncio.sleep(len(batch) / 10_000)
        yield batch.to_polars()
"""


def rungs_seen(events: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the steps of the ladder, in order."""
    return [
        (each["before"], each["after"]) for each in events["events"] if each["loop"] == "ladder"
    ]


def degraded_by(outside: Outside, topic: str) -> list[bytes | None]:
    """Return the header `fg-degraded` of each record of a topic."""
    return [headers_of(message).get("fg-degraded") for message in outside.read(topic)]


def test_a_lane_that_cannot_keep_up_is_browned_out_step_by_step_and_comes_back(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, bulk, done = topic("events"), topic("bulk"), topic("done")
    outside.produce(bulk, [Record({"id": 1_000_000 + number}) for number in range(500)])
    worker = workers.start(BROWNOUT, EVENTS=events, BULK=bulk, DONE=done)
    seen: set[int] = set()
    bulk_waits: set[str] = set()
    sent = 0
    producer = outside.producer()
    begun_s = time.monotonic()
    while (now_s := time.monotonic() - begun_s) < 20:  # 1,500 a second, in steps of 20 ms
        due = round(now_s * 1500)
        outside.send(producer, events, [Record({"id": number}) for number in range(sent, due)])
        sent = due
        producer.flush(5)
        state = worker.state
        seen.add(state.get("rung", 0))
        bulk_waits.add(str(state["lanes"].get("bulk", {}).get("why")))
        time.sleep(0.02)

    assert {1, 4} <= seen
    assert any("so that a lane above gets what it needs" in why for why in bulk_waits)
    state = worker.state
    assert state["rung_name"] == "brownout" and state["lanes"]["realtime"]["state"] == "brownout"
    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")
    worker.until(lambda: worker.state["rung"] == 0, what="rungs do not clear")
    worker.until(lambda: outside.is_done(worker.group, bulk), what="bulk is not done")

    values = [json_of(message)["id"] for message in outside.read(done)]
    assert sorted(values) == [*range(sent), *range(1_000_000, 1_000_500)], "lost or repeated"
    degraded = degraded_by(outside, done)
    assert set(degraded) == {None, b"brownout"}
    assert worker.lane("realtime")["degraded"] + worker.lane("bulk")["degraded"] == sum(
        each == b"brownout" for each in degraded
    )
    steps = rungs_seen(worker.page("/api/events?after=0"))
    assert all(abs(after - before) == 1 for before, after in steps)
    assert all(before[1] == after[0] for before, after in pairwise(steps))
    assert f"rung {steps[0][0]} → {steps[0][1]}" in worker.said
    assert worker.stop() == 0


OUTAGE = """
app = fg.App(APP, broker=BROKER, topic_allow_declare=False)
events, done = app.feed(EVENTS, columns={"id": "int64"}), app.feed(DONE)
DOWN = HERE / "down"

@app.agent(events, sink=[done], concurrency=2, batch=fg.BatchSize(max=10))
async def ask(batches):
    async for batch in batches:
        assert batch.attempt == 1
        if DOWN.exists():
            with (HERE / "asked").open("a") as asked:
                asked.write(".")
            raise fg.Unavailable() from ConnectionError("refused")
        yield batch.to_polars()
"""

FALLBACK = """
@ask.fallback(on="failure")
async def guess(batches):
    async for batch in batches:
        yield batch.to_polars().with_columns(guess=True)
"""


def down(worker: Worker) -> None:
    (worker.directory / "down").touch()


def up(worker: Worker) -> None:
    (worker.directory / "down").unlink()


def asked(worker: Worker) -> int:
    path = worker.directory / "asked"
    return len(path.read_text()) if path.exists() else 0


def ids(outside: Outside, topic: str) -> list[int]:
    return sorted(json_of(message)["id"] for message in outside.read(topic))


def test_while_something_is_unavailable_batches_are_held_and_it_resumes_by_itself(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events", 4), topic("done")
    worker = workers.start(OUTAGE, EVENTS=events, DONE=done)
    down(worker)
    outside.produce(events, [Record({"id": number}) for number in range(400)])
    worker.until(lambda: asked(worker) >= 5, what="nobody looks whether it is back")
    lane = worker.lane("default")
    assert lane["settled"] == lane["dead_letters"] == 0
    assert lane["state"] == "stopped" and "ConnectionError: refused" in lane["why"]
    assert asked(worker) < 20, "a probe a backoff, and not more"
    assert worker.state["pressure_parts"]["errors"]["ratio"] == 1.0
    up(worker)

    worker.until(lambda: outside.is_done(worker.group, events), what="it does not resume")
    assert ids(outside, done) == list(range(400))
    assert worker.lane("default")["dead_letters"] == 0
    assert worker.said.count("one tries now and then whether it is back") == 1
    assert "what was unavailable is back" in worker.said
    assert "Traceback" not in worker.said


def test_a_fallback_for_failures_serves_meanwhile(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events", 4), topic("done")
    worker = workers.start(OUTAGE + FALLBACK, EVENTS=events, DONE=done)
    down(worker)
    outside.produce(events, [Record({"id": number}) for number in range(400)])
    worker.until(lambda: outside.is_done(worker.group, events), what="the fallback does not serve")
    assert worker.lane("default")["state"] == "brownout"
    assert ids(outside, done) == list(range(400))
    assert set(degraded_by(outside, done)) == {b"failure"}
    assert worker.lane("default")["degraded"] == 400
    up(worker)

    def back() -> bool:
        outside.produce(events, [Record({"id": 400})])
        return worker.lane("default")["state"] == "ok"

    eventually(back, why=lambda: worker.said)
    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")
    assert None in degraded_by(outside, done), "the agent itself serves again"
