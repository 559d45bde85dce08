"""Faust stays Faust: what it has works beside a feed, inside a feed, and holds its batches."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.kafka.outside import Outside, Record, json_of
from tests.kafka.worker import FAUST, Workers

PARTITIONS = 4

SIDE_BY_SIDE = """
app = fg.App(
    APP, broker=BROKER, store="memory://", topic_partitions=4, topic_replication_factor=1,
    table_cleanup_interval=3600.0, broker_session_timeout=6.0, broker_heartbeat_interval=1.0,
)
plain = app.topic(PLAIN, key_type=str, value_serializer="json")
feed = app.feed(FEED, columns={"id": "int64", "amount": "int64"}, key_type=str)
out = app.feed(OUT)

def table(name):
    return app.Table(name, default=int, partitions=4)

plain_sums, feed_sums = table("plain-sums"), table("feed-sums")
plain_windows = table("plain-windows").tumbling(10.0, expires=1e9)
feed_windows = table("feed-windows").tumbling(10.0, expires=1e9)
ticks = 0

@app.agent(plain)
async def sum_plain(stream):
    async for event in stream.events():
        plain_sums[event.key] += event.value["amount"]
        plain_windows[event.key] += event.value["amount"]

@app.agent(feed, sink=[out])
async def sum_feed(batches):
    async for batch in batches:
        for event in batch.events():
            assert faust.current_event() is event
            feed_sums[event.key] += event.value["amount"]
            feed_windows[event.key] += event.value["amount"]
        yield batch.to_polars()

@app.timer(0.1)
async def tick():
    global ticks
    ticks += 1

@app.page("/mine/")
async def mine(self, request):
    return self.json({
        "ticks": ticks,
        "plain": dict(plain_sums.items()),
        "feed": dict(feed_sums.items()),
    })
"""


def amounts(ids: range) -> list[Record]:
    """Return records of 37 keys over two minutes of their own time."""
    begin = 1_700_000_000_000
    return [
        Record({"id": i, "amount": i % 11}, b"key %d" % (i % 37), timestamp=begin + i * 120)
        for i in ids
    ]


def sums(ids: range) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for i in ids:
        found[f"key {i % 37}"] += i % 11
    return dict(found)


def changes(outside: Outside, changelog: str) -> dict[tuple[int, bytes], list[object]]:
    """Return what a changelog says of each key, in order, by partition."""
    found: dict[tuple[int, bytes], list[object]] = defaultdict(list)
    for message in outside.read(changelog):
        found[message.partition(), message.key()].append(json_of(message))
    return dict(found)


def test_tables_windows_timers_and_pages_work_beside_a_feed_and_inside_it(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    plain, feed, out = topic("plain", PARTITIONS), topic("feed", PARTITIONS), topic("out")
    for name in (plain, feed):
        outside.produce(name, amounts(range(1000)))
    worker = workers.start(SIDE_BY_SIDE, command=FAUST, PLAIN=plain, FEED=feed, OUT=out)
    group = worker.group

    def is_done() -> bool:
        return all(outside.is_done(group, name) for name in (plain, feed))

    worker.until(is_done)
    page = worker.page("/mine/")
    assert page["ticks"] > 0
    assert page["plain"] == page["feed"] == sums(range(1000))
    assert sorted(row["id"] for row in outside.values(out)) == list(range(1000))
    for name in ("sums", "windows"):
        of_plain, of_feed = (
            changes(outside, f"{group}-{which}-{name}-changelog") for which in ("plain", "feed")
        )
        assert of_feed == of_plain, f"the changelog of the {name} differs"
    assert len(of_plain) > 37 * 10, "there is only one window"
    places = {(message.partition(), message.key()) for message in outside.read(feed)}
    logged = changes(outside, f"{group}-feed-sums-changelog")
    assert {(at, json.loads(key).encode()) for at, key in logged} == places, "not co-partitioned"

    assert worker.stop() == 0
    for name in (plain, feed):
        outside.produce(name, amounts(range(1000, 1500)))
    worker.start().until(is_done, what="it does not go on after the tables were recovered")
    page = worker.page("/mine/")
    # After a stop in order, beside a feed, a plain table neither misses nor repeats a record.
    assert page["plain"] == page["feed"] == sums(range(1500))
    assert worker.stop() == 0


SENDING = """
app = fg.App(APP, broker=BROKER)
events = app.feed(EVENTS, columns={"id": "int64", "way": "string"})
witness = app.feed(WITNESS, columns={"id": "int64"})
plain = app.topic(PLAIN, value_serializer="json")
frames = app.feed(FRAMES)

@app.agent(events)
async def send(batches):
    async for batch in batches:
        for row in batch.to_pylist():
            await plain.send(value=row)     # returns before the broker has it
        await frames.send(batch.to_polars())

@app.agent(witness)
async def watch(batches):
    async for batch in batches:
        pass
"""


def set_batch_bytes_max(outside: Outside, topic: str, value: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(value), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    outside.admin.incremental_alter_configs([resource])[resource].result(30)


def check_held_while_not_acknowledged(
    outside: Outside, workers: Workers, topic: Callable[..., str], refusing: str
) -> None:
    """One of the two topics takes nothing; then neither may be committed."""
    names = {"PLAIN": topic("plain"), "FRAMES": topic("frames")}
    events, witness = topic("events"), topic("witness")
    set_batch_bytes_max(outside, names[refusing], 50)  # the header of a batch is larger
    outside.produce(events, [Record({"id": number}) for number in range(10)])
    worker = workers.start(SENDING, EVENTS=events, WITNESS=witness, **names)
    worker.until(lambda: worker.lane("default")["read"] >= 10)
    for number in range(2):  # a commit took place after this one was settled
        outside.produce(witness, [Record({"id": number})])
        worker.until(lambda: outside.is_done(worker.group, witness), what="nothing is committed")
    assert outside.committed(worker.group, events) == {0: 0}
    assert outside.count(names[refusing]) == 0

    set_batch_bytes_max(outside, names[refusing], 100_000)
    worker.until(lambda: outside.is_done(worker.group, events), what="it does not go on")
    for name in names.values():
        assert {row["id"] for row in outside.values(name)} == set(range(10)), name
    assert worker.stop() == 0


def test_what_is_sent_to_a_plain_topic_inside_the_loop_holds_the_batch_until_it_is_acknowledged(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    check_held_while_not_acknowledged(outside, workers, topic, "PLAIN")


def test_what_is_sent_to_a_feed_inside_the_loop_holds_the_batch_until_it_is_acknowledged(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    check_held_while_not_acknowledged(outside, workers, topic, "FRAMES")
