"""Agents on a feed: several of them, more of one than partitions, and fair to tenants."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Workers

N = 3_000

TWO_AGENTS = """
app = fg.App(APP, broker=BROKER, broker_session_timeout=6.0, broker_heartbeat_interval=1.0)
events = app.feed(EVENTS, columns={"id": "int64"})
quick, thorough = app.feed(QUICK), app.feed(THOROUGH)

@app.agent(events, sink=[quick])
async def glance(batches):
    async for batch in batches:
        yield batch.to_polars()

@app.agent(events, sink=[thorough], batch=fg.BatchSize(max=50), concurrency=2)
async def study(batches):
    async for batch in batches:
        await asyncio.sleep(len(batch) / 2000)
        yield batch.to_polars()
"""


def ids_of(outside: Outside, topic: str) -> Counter[int]:
    return Counter(row["id"] for row in outside.values(topic))


def test_every_agent_of_a_feed_gets_every_record_also_after_a_kill(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, quick, thorough = topic("events", 2), topic("quick"), topic("thorough")
    records = [Record({"id": number}, partition=number % 2) for number in range(N)]
    bad = Record(b"no JSON", partition=0)
    outside.produce(events, [*records[: N // 2], bad, *records[N // 2 :]])
    worker = workers.start(TWO_AGENTS, EVENTS=events, QUICK=quick, THOROUGH=thorough)
    worker.until(lambda: outside.count(thorough) > N // 4, what="the slow agent does nothing")
    worker.kill()
    assert outside.count(quick) > outside.count(thorough), "the fast agent waited for the slow one"

    worker.start().until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    for sink in (quick, thorough):
        assert ids_of(outside, sink).keys() == set(range(N)), "lost"
    letters = outside.read(f"{worker.group}.dlq")
    assert {letter.value() for letter in letters} == {b"no JSON"}
    assert len(letters) <= 2, "only the first agent writes what nobody can read"


BY_KEY = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64"}, order="key")
done = app.feed(DONE)

@app.agent(events, sink=[done], concurrency=4, batch=fg.BatchSize(max=20))
async def work(batches):
    async for batch in batches:
        if batch.attempt == 1 and batch.to_polars()["id"].min() % 7 == 0:
            raise RuntimeError("try this one again")
        await asyncio.sleep(0.005)
        with (HERE / "most").open("a") as most:
            most.write(f"{app.runtime.engine.views[work.name].seats_by_lane[0]}\\n")
        yield batch.to_polars(meta=True).select("id", "_key")
"""


def test_keys_of_one_partition_are_worked_on_at_once_and_each_in_its_order(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events"), topic("done")
    outside.produce(
        events, [Record({"id": number}, key=b"%d" % (number % 40)) for number in range(N)]
    )
    worker = workers.start(BY_KEY, EVENTS=events, DONE=done)

    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    by_key: dict[bytes, list[int]] = defaultdict(list)
    for message in outside.read(done):
        by_key[message.key() or b""].append(json.loads(message.value())["id"])
    assert sum(len(ids) for ids in by_key.values()) == N
    assert all(ids == sorted(ids) for ids in by_key.values())
    seats = Counter((worker.directory / "most").read_text().split())
    assert max(map(int, seats)) == 4, "one partition kept all seats but one idle"


FAIR = """
only = fg.Lane("only", fair_by=fg.header("tenant"))
app = fg.App(APP, broker=BROKER, lanes=[only])
events = app.feed(EVENTS, columns={"id": "int64"}, order="none", lanes=only)
done = app.feed(DONE)

@app.agent(events, sink=[done], batch=fg.BatchSize(max=64))
async def work(batches):
    async for batch in batches:
        await asyncio.sleep(len(batch) / 2000)
        yield batch.to_polars()
"""


def test_a_tenant_with_few_records_does_not_wait_for_one_with_many(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, done = topic("events"), topic("done")
    crowd, few = 6_000, 20
    elephant = [Record({"id": number}, headers=[("tenant", b"big")]) for number in range(crowd)]
    mouse = [
        Record({"id": crowd + number}, headers=[("tenant", b"small")]) for number in range(few)
    ]
    outside.produce(events, elephant + mouse)
    worker = workers.start(FAIR, EVENTS=events, DONE=done)

    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    ids = [json.loads(message.value())["id"] for message in outside.read(done)]
    assert sorted(ids) == list(range(crowd + few))
    assert max(ids.index(crowd + number) for number in range(few)) < crowd // 3


BY_COLUMN = """
large, small = fg.Lane("large"), fg.Lane("small")
app = fg.App(APP, broker=BROKER, lanes=[large, small])
events = app.feed(EVENTS, columns={"id": "int64", "size": "string"},
                  lanes=fg.by_column({"size": {"L": large}}, default=small))
done = app.feed(DONE)

@app.agent(events, sink=[done])
async def work(batches):
    async for batch in batches:
        yield batch.to_polars().with_columns(lane=pl.lit(batch.lane.name))
"""


def test_a_column_decides_the_lane(outside: Outside, workers: Workers, topic: Callable[..., str]):
    events, done = topic("events", 2), topic("done")
    outside.produce(
        events,
        [
            Record({"id": number, "size": "L" if number % 3 == 0 else "S"}, partition=number % 2)
            for number in range(N)
        ],
    )
    outside.produce(events, [Record(b"no JSON", partition=0), Record(None, b"key", partition=1)])
    worker = workers.start(BY_COLUMN, EVENTS=events, DONE=done)

    worker.until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    lanes = {row["id"]: row["lane"] for row in outside.values(done)}
    assert lanes.pop(None) == "small"
    assert lanes == {n: "large" if n % 3 == 0 else "small" for n in range(N)}
    assert worker.lane("large")["settled"] == N // 3
    assert worker.lane("small")["dead_letters"] == 1
