"""The two that lose records, on Apache Kafka, with a plain topic beside a feed in one worker.

`faust-streaming/faust#189` (a record that raises is acknowledged) and `#606` (a commit past a
record in flight). A plain topic in an app with feeds is Faust's alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Worker, Workers, eventually

BESIDE = """
app = fg.App(
    APP, broker=BROKER, store="memory://", broker_commit_interval=0.5,
    broker_session_timeout=6.0, broker_heartbeat_interval=1.0,
)
plain = app.topic(PLAIN, value_serializer="json")
feed = app.feed(FEED, columns={"id": "int64"}, order="none")

def note(name, number):
    with (HERE / name).open("a") as file:
        file.write(f"{number}\\n")
"""

RAISES = """
raised = set()

def work(name, number):
    if number == BAD and name not in raised:
        raised.add(name)
        raise RuntimeError("not at the first try")
    note(name, number)

@app.agent(plain)
async def work_plain(stream):
    async for value in stream:
        work("plain", value["id"])

@app.agent(feed, retries=fg.Retry(3, backoff="10ms..50ms"), batch=fg.BatchSize(max=1))
async def work_feed(batches):
    async for batch in batches:
        for row in batch.to_pylist():
            work("feed", row["id"])
"""

HANGS = """
first_life = not (HERE / "lived").exists()
(HERE / "lived").touch()

async def work(name, number):
    if number == BAD and first_life:
        note("hanging", name)
        await asyncio.Event().wait()
    note(name, number)

@app.agent(plain, concurrency=4)
async def work_plain(stream):
    async for value in stream:
        await work("plain", value["id"])

@app.agent(feed, concurrency=4, batch=fg.BatchSize(max=1))
async def work_feed(batches):
    async for batch in batches:
        for row in batch.to_pylist():
            await work("feed", row["id"])
"""
N = 12
BAD = 3


def noted(worker: Worker, name: str) -> Counter[int]:
    """Return how often each record was worked on to the end."""
    path = worker.directory / name
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def test_a_record_that_raises_once_is_lost_by_plain_faust_and_worked_on_by_a_feed(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    plain, feed = topic("plain"), topic("feed")
    for name in (plain, feed):
        outside.produce(name, [Record({"id": number}) for number in range(N)])

    worker = workers.start(BESIDE + RAISES, PLAIN=plain, FEED=feed, BAD=BAD)
    worker.until(lambda: all(outside.is_done(worker.group, name) for name in (plain, feed)))

    assert worker.stop() == 0
    assert noted(worker, "feed") == Counter(range(N))
    assert noted(worker, "plain").keys() == set(range(N)) - {BAD}, "Faust loses it no longer"


def test_after_a_kill_a_feed_has_the_record_in_flight_again_and_plain_faust_has_lost_it(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    plain, feed = topic("plain"), topic("feed")
    for name in (plain, feed):
        outside.produce(name, [Record({"id": number}) for number in range(BAD, BAD + N)])
    worker = workers.start(BESIDE + HANGS, PLAIN=plain, FEED=feed, BAD=BAD)
    worker.until(lambda: len(noted(worker, "feed")) == len(noted(worker, "plain")) == N - 1)
    eventually(lambda: outside.is_done(worker.group, plain), why=lambda: "Faust waits for its head")
    assert outside.committed(worker.group, feed) == {0: 0}

    worker.kill()
    for name in (plain, feed):
        outside.produce(name, [Record({"id": BAD + N})])
    worker.start().until(
        lambda: (
            all(noted(worker, name)[BAD + N] for name in ("plain", "feed"))
            and outside.is_done(worker.group, feed)
        )
    )

    assert BAD in noted(worker, "feed")
    assert BAD not in noted(worker, "plain"), "Faust loses it no longer"
