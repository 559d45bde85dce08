"""What a Kafka log may hold: packed batches, transactions, gaps, a beginning that moves."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.kafka.outside import Outside, Record, json_of
from tests.kafka.worker import Workers, eventually
from tests.kafka_broker import KafkaBroker

COPYING = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64", "text": "string"})
copies = app.feed(COPIES)

@app.agent(events, sink=[copies])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars()
"""


def rows(ids: range) -> list[Record]:
    return [Record({"id": number, "text": f"text {number} " * 20}) for number in ids]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_batches_that_others_packed_are_read(codec: str, packed_copies: dict[str, list]):
    ids = [row["id"] for row in packed_copies[codec]]
    assert sorted(ids) == list(range(1000))
    assert all(row["text"] == f"text {row['id']} " * 20 for row in packed_copies[codec])


@pytest.fixture(scope="module")
def packed_copies(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Return what a worker made of 1,000 records of each codec, one partition a codec."""
    codecs = ["gzip", "snappy", "lz4", "zstd"]
    outside = Outside(kafka.bootstrap)
    run = uuid.uuid4().hex[:8]  # a cluster that is not ours may have those of the last run
    events = kafka.create_topic(f"events-packed-{run}", len(codecs))
    copies = kafka.create_topic(f"copies-packed-{run}", len(codecs))
    for number, codec in enumerate(codecs):
        records = [Record(record.value, partition=number) for record in rows(range(1000))]
        outside.produce(events, records, compression_type=codec)
    source = COPYING.replace(
        "batch.to_polars()", "batch.to_polars(meta=True).select('id', 'text', codec='_partition')"
    )
    directory = tmp_path_factory.mktemp("packed")
    workers = Workers(directory, kafka.bootstrap, lambda stem: f"{stem}-packed-{run}")
    try:
        worker = workers.start(source, EVENTS=events, COPIES=copies)
        worker.until(lambda: outside.is_done(worker.group, events))
    finally:
        workers.end()
    found = outside.values(copies)
    return {
        codec: [row for row in found if row["codec"] == number]
        for number, codec in enumerate(codecs)
    }


def test_of_transactions_only_what_was_committed_is_seen_and_no_marker_holds_the_commit(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, copies = topic("events"), topic("copies")
    producer = outside.producer(transactional_id=events, compression_type="lz4")
    producer.init_transactions(30)

    def transact(ids: range, commit: bool) -> None:
        producer.begin_transaction()
        outside.send(producer, events, rows(ids))
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

    transact(range(100), commit=True)
    transact(range(100, 200), commit=False)
    outside.produce(events, rows(range(200, 300)))
    transact(range(300, 400), commit=False)
    transact(range(400, 500), commit=True)
    transact(range(500, 600), commit=False)  # ends the log: only a marker follows
    expected = Counter([*range(100), *range(200, 300), *range(400, 500)])

    worker = workers.start(COPYING, EVENTS=events, COPIES=copies)
    worker.until(lambda: outside.is_done(worker.group, events), what="a marker holds the commit")
    assert Counter(row["id"] for row in outside.values(copies)) == expected

    producer.begin_transaction()
    outside.send(producer, events, rows(range(600, 700)))
    producer.flush(30)
    outside.produce(events, rows(range(700, 800)))  # behind the open transaction
    end = outside.ends(events)
    assert outside.committed(worker.group, events)[0] < end[0]
    assert Counter(row["id"] for row in outside.values(copies)) == expected
    producer.commit_transaction(30)
    worker.until(lambda: outside.is_done(worker.group, events))
    expected.update(range(600, 800))
    assert Counter(row["id"] for row in outside.values(copies)) == expected


@pytest.fixture
def busy_cleaner(kafka: KafkaBroker, outside: Outside) -> None:
    """Let the broker compact at once, not after 15 s; one that is not ours is left alone."""
    if not kafka.restartable:
        return
    entry = ConfigEntry(
        "log.cleaner.backoff.ms", "100", incremental_operation=AlterConfigOpType.SET
    )
    (node,) = outside.admin.list_topics(timeout=30).brokers
    broker = ConfigResource(ResourceType.BROKER, str(node), incremental_configs=[entry])
    outside.admin.incremental_alter_configs([broker])[broker].result(30)


@pytest.mark.usefixtures("busy_cleaner")
def test_the_gaps_of_a_compacted_topic_are_neither_waited_for_nor_counted(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events = topic(
        "events",
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="100",
    )
    copies = topic("copies")
    for first in range(0, 1000, 100):
        ids = range(first, first + 100)
        outside.produce(events, [Record({"id": i}, b"key %d" % (i % 10)) for i in ids])
    marker = 1000

    def is_compacted() -> bool:
        nonlocal marker  # the active segment is never compacted, and a record begins a new one
        outside.produce(events, [Record({"id": marker}, b"marker %d" % marker)])
        marker += 1
        return sum(json_of(each)["id"] < 1000 for each in outside.read(events)) <= 10

    eventually(is_compacted, why=lambda: "the broker does not compact")
    expected = {message.offset(): json_of(message)["id"] for message in outside.read(events)}
    assert len(expected) < outside.count(events), "the log has no gaps"

    worker = workers.start(COPYING, EVENTS=events, COPIES=copies)
    worker.until(lambda: outside.is_done(worker.group, events))
    assert Counter(row["id"] for row in outside.values(copies)) == Counter(expected.values())
    assert worker.lane("default")["read"] == len(expected)


LOSING = """
app = fg.App(APP, broker=BROKER)
done = app.feed(DONE)

def declare(policy, topic):
    feed = app.feed(topic, columns={"id": "int64"}, on_offset_loss=policy)

    @app.agent(feed, sink=[done], name=policy)
    async def work(batches):
        async for batch in batches:
            yield batch.to_polars().with_columns(policy=pl.lit(policy))

for policy, topic in TOPICS.items():
    declare(policy, topic)
"""


def test_an_offset_that_is_no_longer_in_the_log_stops_or_moves_as_the_feed_says(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    policies = ["stop", "earliest", "latest"]
    topics = {policy: topic(policy, 2) for policy in policies}
    done = topic("done")
    worker = workers.start(LOSING, TOPICS=topics, DONE=done)
    for name in topics.values():
        outside.produce(name, [Record({"id": i}, partition=0) for i in range(100)])
        worker.until(lambda name=name: outside.is_done(worker.group, name))
    assert worker.stop() == 0
    before = outside.count(done)
    for name in topics.values():
        outside.produce(name, [Record({"id": i}, partition=0) for i in range(100, 300)])
        deleted = outside.admin.delete_records([TopicPartition(name, 0, 200)])
        assert [each.result(30).low_watermark for each in deleted.values()] == [200]

    worker.start()
    worker.until(lambda: worker.partition(topics["stop"], 0).get("why"), what="it does not stop")
    why = worker.partition(topics["stop"], 0)["why"]
    assert "offset 100 is not in the log" in why and "on_offset_loss" in why
    for policy in ("earliest", "latest"):
        worker.until(
            lambda policy=policy: outside.is_done(worker.group, topics[policy]), what=policy
        )
    for name in topics.values():
        outside.produce(name, [Record({"id": 1000 + i}, partition=i % 2) for i in range(100)])
    for policy in ("earliest", "latest"):
        worker.until(lambda policy=policy: outside.is_done(worker.group, topics[policy]))
    ends = outside.ends(topics["stop"])
    worker.until(lambda: outside.committed(worker.group, topics["stop"])[1] == ends[1])

    assert outside.committed(worker.group, topics["stop"])[0] == 100
    new = range(1000, 1100)
    seen: dict[str, Counter[int]] = {policy: Counter() for policy in policies}
    for row in outside.values(done)[before:]:
        seen[row["policy"]][row["id"]] += 1
    assert seen["stop"] == Counter(new[1::2]), "the other partition goes on, this one does not"
    assert seen["earliest"] == Counter([*range(200, 300), *new])
    assert seen["latest"] == Counter(new)
