"""Lanes that ran ahead resume where they were; nobody's word but our own is taken for it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Worker, Workers, eventually

#: The bulk lane hangs for ever, in one of two seats; the fast one goes on in the other.
SOURCE = """
fast, bulk = fg.Lane("fast", reserve=0.5), fg.Lane("bulk")
app = fg.App(APP, broker=BROKER, broker_session_timeout=6.0, broker_heartbeat_interval=1.0,
             lanes=[fast, bulk])
events = app.feed(EVENTS, columns={"id": "int64"},
                  lanes=fg.by_header("lane", {"fast": fast}, default=bulk))
done = app.feed(DONE)

@app.agent(events, sink=[done], concurrency=2)
async def work(batches):
    async for batch in batches:
        if batch.lane.name == "bulk" and not (HERE / "go").exists():
            await asyncio.sleep(3600)
        yield batch.to_polars()
"""
BULK, FAST = 100, 20_000


def produce(outside: Outside, topic: str) -> None:
    """Bulk first: the committed offset stays at 0 until it is done."""
    records = [Record({"id": number}) for number in range(BULK)]
    records += [
        Record({"id": number}, headers=[("lane", b"fast")]) for number in range(BULK, BULK + FAST)
    ]
    outside.produce(topic, records)


def ahead(outside: Outside, worker: Worker, topic: str) -> int:
    """Return how far the fast lane is committed past the offset."""
    metadata = asyncio.run(stored_metadata(outside, worker.group, topic))
    return json.loads(metadata)["w"].get("fast", 0) if metadata else 0


async def stored_metadata(outside: Outside, group: str, topic: str) -> str:
    """Return what is committed beside the offset; "" if nothing is.

    Not with confluent-kafka: it takes the bytes for a text with an end, and now and then
    reads beyond them.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=outside.settings["bootstrap.servers"])
    await admin.start()
    try:
        committed = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return next((str(each.metadata) for name, each in committed.items() if name.topic == topic), "")


def run_ahead(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> tuple[Worker, str, str]:
    """Return a worker that was killed when its fast lane had finished everything."""
    events, done = topic("events"), topic("done")
    produce(outside, events)
    worker = workers.start(SOURCE, EVENTS=events, DONE=done)
    worker.until(lambda: worker.lane("fast")["settled"] == FAST, what="the fast lane is not done")
    worker.until(lambda: ahead(outside, worker, events) == BULK + FAST, what="not committed")
    assert outside.committed(worker.group, events) == {0: 0}
    worker.kill()
    return worker, events, done


def commit(consumer: Consumer, stored: TopicPartition) -> bool:
    """Write an offset back; a group takes that only once it has no members."""
    try:
        consumer.commit(offsets=[stored], asynchronous=False)
    except KafkaException:
        return False
    return True


def ids_of(outside: Outside, done: str) -> Counter[int]:
    return Counter(json.loads(each.value())["id"] for each in outside.read(done))


def test_a_lane_that_ran_ahead_is_not_repeated_after_a_kill(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    worker, events, done = run_ahead(outside, workers, topic)
    (worker.directory / "go").touch()

    worker.start().until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    assert worker.lane("fast")["skipped"] == FAST
    assert ids_of(outside, done) == dict.fromkeys(range(BULK + FAST), 1)


def test_an_offset_that_a_tool_moved_repeats_and_loses_nothing(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    """Tools read offset and metadata, change the offset, and write both back."""
    worker, events, done = run_ahead(outside, workers, topic)
    consumer = Consumer({**outside.settings, "group.id": worker.group})
    (stored,) = consumer.committed([TopicPartition(events, 0)], timeout=10)
    stored.offset = BULK // 2
    eventually(lambda: commit(consumer, stored), why=lambda: "the group still has its dead member")
    consumer.close()
    (worker.directory / "go").touch()

    worker.start().until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    found = ids_of(outside, done)
    assert worker.lane("fast")["skipped"] == 0
    assert all(found[number] == 2 for number in range(BULK, BULK + FAST))
    assert all(found[number] == 1 for number in range(BULK // 2, BULK))
    assert all(found[number] == 0 for number in range(BULK // 2)), "the tool skipped them"
    assert "the offset was moved from 0 to 50" in worker.said


def test_a_changed_rule_repeats_once_and_says_how_much(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    worker, events, done = run_ahead(outside, workers, topic)
    source = worker.directory / "app.py"
    source.write_text(source.read_text().replace('{"fast": fast}', '{"fast": fast, "slow": bulk}'))
    (worker.directory / "go").touch()

    worker.start().until(lambda: outside.is_done(worker.group, events), what="not all is committed")

    assert "rule that decides the lane of a record has changed; up to 20100 offsets" in worker.said
    found = ids_of(outside, done)
    assert found.keys() == set(range(BULK + FAST))
    worker.kill()
