"""Agents that fail, in real workers: bad records leave, nothing else does, order is kept."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable

from tests.kafka.outside import Outside, Record, headers_of
from tests.kafka.worker import Workers

N = 4_000

POISON = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(events, sink=[done], retries=fg.Retry(3, backoff="5ms..50ms"),
           dead_letters=fg.DeadLetters(topic=LETTERS))
async def work(batches):
    async for batch in batches:
        ids = batch.to_polars()["id"]
        if (ids % 500 == 499).any():
            raise ValueError("this record is poison")
        yield batch.to_polars(meta=True).select("id", partition="_partition")
"""


def test_records_that_make_the_agent_raise_become_dead_letters_and_all_others_are_settled_in_order(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done, letters = topic("events", 2), topic("done"), topic("letters")
    outside.produce(
        events,
        [
            Record({"id": n}, key=b"k%d" % n, headers=[("h", b"%d" % n)], partition=n % 2)
            for n in range(N)
        ],
    )
    worker = workers.start(POISON, EVENTS=events, DONE=done, LETTERS=letters)

    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    bad = {n for n in range(N) if n % 500 == 499}
    by_partition: dict[int, list[int]] = defaultdict(list)
    for row in outside.values(done):
        by_partition[row["partition"]].append(row["id"])
    assert {p: ids == sorted(ids) for p, ids in by_partition.items()} == {0: True, 1: True}
    assert sorted(n for ids in by_partition.values() for n in ids) == sorted(set(range(N)) - bad)
    found = outside.read(letters)
    assert sorted(json.loads(each.value())["id"] for each in found) == sorted(bad), "once each"
    letter = next(each for each in found if each.key() == b"k499")
    headers = headers_of(letter)
    assert headers["h"] == b"499" and headers["fg-error-type"] == b"ValueError"
    assert b"this record is poison" in (headers["fg-error-reason"] or b"")
    assert int(headers["fg-attempt"] or 0) >= 3 and headers["fg-orig-topic"] == events.encode()
    assert (headers["fg-orig-partition"], headers["fg-orig-offset"]) == (b"1", b"249")
    lane = worker.lane("default")
    assert (lane["read"], lane["settled"], lane["dead_letters"]) == (N, N - len(bad), len(bad))
    assert worker.stop() == 0


REFUSE = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(events, sink=[done], retries=fg.Retry(3, backoff="5ms..50ms"))
async def work(batches):
    async for batch in batches:
        ids = batch.to_polars()["id"]
        batch.reject(ids % 100 == 1, "its number is bad")
        ids = batch.to_polars()["id"]
        if batch.attempt == 1:
            batch.nack("not the first time", rows=(ids % 100 == 2), after="20ms")
        if len(batch):
            yield batch.to_polars()
"""


def test_rejected_rows_are_buried_and_nacked_rows_come_again_while_the_loop_goes_on(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events", 2), topic("done")
    outside.produce(events, [Record({"id": n}, partition=n % 2) for n in range(N)])
    worker = workers.start(REFUSE, EVENTS=events, DONE=done)

    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    bad = {n for n in range(N) if n % 100 == 1}
    assert Counter(row["id"] for row in outside.values(done)) == Counter(
        n for n in range(N) if n not in bad
    )
    found = outside.read(f"{worker.group}.dlq")
    assert sorted(json.loads(each.value())["id"] for each in found) == sorted(bad)
    headers = headers_of(found[0])
    assert headers["fg-error-type"] == b"Rejected"
    assert headers["fg-error-reason"] == b"its number is bad"


DOWN = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64"})
done = app.feed(DONE)

class Model:
    # It comes back when the first record that failed alone is tried, and not between that and
    # what is behind it, which would make the first one look bad.
    down = False
    first = float("inf")

    def call(self, ids):
        alone = len(ids) == 1
        if not self.down or (alone and ids[0] <= self.first):
            self.down = (HERE / "down").exists()
        if self.down:
            if alone:
                self.first = min(self.first, ids[0])
            with (HERE / "calls").open("a") as calls:
                calls.write(".")
            raise RuntimeError("the model does not answer")

model = Model()

@app.agent(events, sink=[done], retries=fg.Retry(2, backoff="5ms..100ms"))
async def work(batches):
    async for batch in batches:
        model.call(batch.to_polars()["id"])
        yield batch.to_polars()
"""


def test_an_agent_that_fails_on_everything_makes_no_dead_letter_and_goes_on_by_itself(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events", 2), topic("done")
    outside.produce(events, [Record({"id": n}, partition=n % 2) for n in range(N)])
    worker = workers.start(DOWN, EVENTS=events, DONE=done)
    worker.until(lambda: outside.count(done) == N)
    (worker.directory / "down").touch()
    outside.produce(events, [Record({"id": n}, partition=n % 2) for n in range(N, 2 * N)])
    calls = worker.directory / "calls"
    worker.until(lambda: calls.exists() and calls.stat().st_size > 70)
    worker.until(lambda: worker.lane("default")["state"] == "stopped")
    assert "the model does not answer" in worker.lane("default")["why"]

    (worker.directory / "down").unlink()
    worker.until(lambda: outside.is_done(worker.group, events), what="it does not go on")

    assert [row["id"] for row in outside.values(done) if row["id"] % 2] == list(range(1, 2 * N, 2))
    assert worker.lane("default")["dead_letters"] == 0


STOPS = """
bad, good = fg.Lane("bad"), fg.Lane("good")
app = fg.App(APP, broker=BROKER, memory="8MiB", lanes=[good, bad])
events = app.feed(EVENTS, columns={"id": "!int64"},
                  lanes=fg.by_header("lane", {"good": good}, default=bad))
done = app.feed(DONE)

@app.agent(events, sink=[done], batch=fg.BatchSize(max=50))
async def work(batches):
    async for batch in batches:
        yield batch.to_polars()
"""


def test_a_lane_with_too_many_dead_letters_stops_in_its_partition_and_no_other_lane_does(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events", 2), topic("done")
    padding = "x" * 1000
    garbage = [Record(b"no JSON " * 200, partition=0) for _ in range(8_000)]
    fine = [
        Record({"id": n, "padding": padding}, headers=[("lane", b"good")], partition=0)
        for n in range(1_000)
    ]
    elsewhere = [Record({"id": n}, partition=1) for n in range(1_000, 1_500)]
    outside.produce(events, [*garbage, *fine, *elsewhere])
    worker = workers.start(STOPS, EVENTS=events, DONE=done)

    def served() -> set[int]:
        return {row["id"] for row in outside.values(done)}

    worker.until(lambda: served() == set(range(1_500)), what="other lanes do not go on")

    lane = worker.lane("bad")
    assert lane["settled"] == 500 and lane["released"] == 8_000 - lane["dead_letters"]
    assert lane["state"] == "stopped" and "max_ratio" in lane["why"], lane
    assert worker.lane("good")["state"] == "ok"
    assert outside.count(f"{worker.group}.dlq") <= 100
    assert outside.committed(worker.group, events).get(0, 0) <= 100, "what stopped is not done"
    assert "goes no further" in worker.said
