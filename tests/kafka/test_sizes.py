"""Large records, hostile batches, a long backlog: what is held stays bounded."""

from __future__ import annotations

from collections.abc import Callable

from aiokafka import AIOKafkaProducer

from flowguard.units import MIB
from tests.kafka.outside import Outside, Record, json_of
from tests.kafka.worker import Workers
from tests.kafka_broker import KafkaBroker

LARGE = 5 * MIB

COPYING = """
app = fg.App(APP, broker=BROKER, memory="32MiB", producer_max_request_size=8 << 20)
events = app.feed(EVENTS, columns={"id": "int64", "text": "string"})
copies = app.feed(COPIES)

@app.agent(events, sink=[copies])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars()
"""


def test_a_record_of_5_MB_goes_through_a_feed_of_32_MiB_and_one_that_is_refused_is_held(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events = topic("events", 2, max_message_bytes=str(8 * MIB))
    wide, narrow = topic("wide", max_message_bytes=str(8 * MIB)), topic("narrow")
    large = Record({"id": 1, "text": "x" * LARGE}, partition=0)
    small = [Record({"id": number}, partition=0) for number in (0, 2)]
    outside.produce(events, [small[0], large, small[1]], message_max_bytes=8 * MIB)

    worker = workers.start(COPYING, EVENTS=events, COPIES=wide)
    worker.until(lambda: outside.is_done(worker.group, events), what="it does not go through")
    assert [json_of(each)["id"] for each in outside.read(wide)] == [0, 1, 2]
    assert len(json_of(outside.read(wide)[1])["text"]) == LARGE

    worker = workers.start(COPYING, EVENTS=events, COPIES=narrow)
    why = worker.until(  # between two attempts there is none
        lambda: (why := worker.lane("default")["why"]) and "attempt 3" in why and why,
        what="it is not retried",
    )
    assert narrow in why and "TooLarge" in why and f"{events}[0]" in why
    assert f"topic '{narrow}' did not take 1 records for partition 0" in worker.said
    outside.produce(events, [Record({"id": number}, partition=1) for number in range(10)])
    worker.until(lambda: outside.committed(worker.group, events)[1] == 10)
    assert outside.committed(worker.group, events)[0] <= 1


def test_a_frame_is_cut_for_a_topic_that_takes_only_small_batches(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events, narrow = topic("events"), topic("narrow", max_message_bytes="20000")
    text = "x" * 100
    outside.produce(events, [Record({"id": number, "text": text}) for number in range(5000)])

    worker = workers.start(COPYING, EVENTS=events, COPIES=narrow)
    worker.until(lambda: outside.is_done(worker.group, events), what="it does not go through")

    assert [row["id"] for row in outside.values(narrow)] == list(range(5000))
    assert "cut in two until it fits" in worker.said


WATCHED = """
app = fg.App(APP, broker=BROKER, memory="64MiB")
events = app.feed(EVENTS, codec="raw")

@app.agent(events)
async def take(batches):
    async for batch in batches:
        await asyncio.sleep(PAUSE_S)
"""

BOMB = 270 * MIB


async def produce_bomb(bootstrap: str, topic: str, partition: int) -> int:
    """Send one zstd batch of zeros, and return how many bytes it has on the wire."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type="zstd", max_batch_size=2 * BOMB
    )
    await producer.start()
    try:
        builder = producer.create_batch()
        for _ in range(BOMB // MIB):
            assert builder.append(key=None, value=bytes(MIB), timestamp=None) is not None
        builder.close()
        await (await producer.send_batch(builder, topic, partition=partition))
        return int(builder.size())  # packed when it was sent
    finally:
        await producer.stop()


async def test_a_small_batch_that_unpacks_to_270_MB_stops_its_partition_and_is_never_unpacked(
    kafka: KafkaBroker, outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events = topic("events", 2)
    worker = workers.start(WATCHED, EVENTS=events, PAUSE_S=0)
    outside.produce(events, [Record(b"x" * 200, partition=i % 2) for i in range(1000)])
    worker.until(lambda: outside.is_done(worker.group, events))
    base = worker.rss_peak

    assert await produce_bomb(kafka.bootstrap, events, 0) < 100_000
    worker.until(lambda: worker.partition(events, 0)["why"], what="it does not stop")
    why = worker.partition(events, 0)["why"]
    assert f"{events}[0]" in why
    assert any(BOMB <= number < 1.01 * BOMB for number in numbers(why)), f"no size in {why!r}"

    outside.produce(events, [Record(b"y" * 200, partition=1) for _ in range(1000)])
    worker.until(lambda: outside.committed(worker.group, events)[1] == 1500)
    assert outside.committed(worker.group, events)[0] == 500
    grown = worker.rss_peak - base
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB more than before the batch"


def numbers(text: str) -> list[int]:
    """Return the whole numbers in a text."""
    words = "".join(each if each.isdigit() else " " for each in text)
    return [int(word) for word in words.split()]


def test_a_million_records_that_wait_take_no_more_memory_than_the_feed_may_have(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    empty, full = topic("empty", 4), topic("full", 4)
    producer = outside.producer(queue_buffering_max_messages=2_000_000, linger_ms=50)
    value = b'{"id": 1234567890, "text": "%s"}' % (b"x" * 170)
    assert len(value) == 200
    for partition in range(4):
        for _ in range(25):
            messages = [{"value": value} for _ in range(10_000)]
            assert producer.produce_batch(full, messages, partition=partition) == 10_000
            producer.poll(0)
    assert producer.flush(60) == 0
    assert outside.count(full) == 1_000_000

    source = WATCHED.replace('codec="raw"', 'columns={"id": "int64", "text": "string"}')
    source = source.replace("await", "batch.to_polars()\n        await")
    idle = workers.start(source, EVENTS=empty, PAUSE_S=0.2)
    outside.produce(empty, [Record(value)] * 4096)
    idle.until(lambda: outside.is_done(idle.group, empty))
    base = idle.rss_peak
    idle.kill()

    worker = workers.start(source, EVENTS=full, PAUSE_S=0.2)
    worker.until(lambda: worker.lane("default")["state"] == "paused", what="it is never full")
    settled = worker.lane("default")["settled"]
    worker.until(lambda: worker.lane("default")["settled"] >= settled + 60_000)
    held = worker.state["memory"]["used"]
    peak = worker.rss_peak
    limit = base + 1.1 * 64 * MIB + 16 * MIB
    sizes = f"base {base / MIB:.0f}, peak {peak / MIB:.0f}, limit {limit / MIB:.0f} MiB"
    assert peak <= limit, sizes
    assert held <= 64 * MIB, sizes
    print(sizes)
