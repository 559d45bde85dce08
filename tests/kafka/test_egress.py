"""What feeds send, as Kafka keeps it and others read it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyarrow as pa
import pytest

import flowguard as fg
from flowguard.errors import SettleError
from tests.kafka.outside import Outside
from tests.kafka_broker import SHORT_LIVED, KafkaBroker

NOW_MS = 1_700_000_000_000


@contextlib.asynccontextmanager
async def sending(kafka: KafkaBroker, topic: str, **options: Any) -> AsyncIterator[Any]:
    """Yield an app and its feed, which it does not read."""
    app = fg.App(
        f"egress-{topic}", broker=f"kafka://{kafka.bootstrap}", web_enabled=False,
        store="memory://", topic_disable_leader=True, **options,
    )  # fmt: skip
    feed = app.feed(topic, codec="raw")
    app.finalize()
    try:
        async with asyncio.timeout(60):
            yield app, feed
    finally:
        await app.producer.stop()


def table_of(count: int, first: int = 0) -> pa.Table:
    """Return rows with keys, tombstones, null keys, sparse timestamps and headers of their own."""
    numbers = range(first, first + count)
    headers = [
        [{"name": "n", "value": b"%d" % n}, {"name": "none", "value": None}] if n % 5 else []
        for n in numbers
    ]
    return pa.table(
        {
            "value": pa.array([b"value %06d " % n * (n % 7) if n % 11 else None for n in numbers]),
            "_key": pa.array([b"key %d" % (n % 97) if n % 13 else None for n in numbers]),
            "_timestamp": [NOW_MS + (n * 7919) % 1_000_003 for n in numbers],
            "_partition": pa.array([n % 4 for n in numbers], pa.int32()),
            "_headers": headers,
        }
    )


def expected_of(table: pa.Table) -> dict[int, list[Any]]:
    expected = defaultdict(list)
    for row in table.to_pylist():
        headers = [(each["name"], each["value"]) for each in row["_headers"]]
        expected[row["_partition"]].append(
            (row["_key"], row["value"], row["_timestamp"], headers or None)
        )
    return expected


def found_in(outside: Outside, topic: str) -> dict[int, list[Any]]:
    found = defaultdict(list)
    for each in outside.read(topic):
        found[each.partition()].append(
            (each.key(), each.value(), each.timestamp()[1], each.headers())
        )
    return found


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_kafka_takes_what_is_sent_and_others_read_the_same(
    kafka: KafkaBroker, outside: Outside, topic: Callable[..., str], compression: str | None
):
    name = topic("out", 4)
    table = table_of(20_000)

    async with sending(kafka, name, producer_compression_type=compression) as (_, feed):
        large = [feed.send(table.slice(at, 5000)) for at in range(0, 19_000, 5000)]
        await asyncio.gather(*large)
        few = table_of(300, first=20_000)
        await asyncio.gather(*(feed.send(few.slice(at, 3)) for at in range(0, 300, 3)))

    assert found_in(outside, name) == expected_of(pa.concat_tables([table, few]))


async def test_a_record_that_the_topic_does_not_take_fails_its_send_and_no_other(
    kafka: KafkaBroker, outside: Outside, topic: Callable[..., str]
):
    name = topic("out", 1, max_message_bytes="20000")

    async with sending(kafka, name, producer_max_request_size=20_000) as (_, feed):
        before = feed.send(pa.table({"value": [b"a" * 5000] * 40}))
        large = feed.send(pa.table({"value": [b"b" * 50_000]}))
        after = feed.send(pa.table({"value": [b"c" * 5000] * 40}))
        done = await asyncio.gather(before, large, after, return_exceptions=True)

    assert (done[0], done[2]) == (40, 40)
    assert isinstance(done[1], SettleError)
    assert (done[1].topic, done[1].partition) == (name, 0)
    assert "max.message.bytes" in str(done[1])
    assert [each.value()[:1] for each in outside.read(name)] == [b"a"] * 40 + [b"c"] * 40


async def test_frames_and_single_values_of_one_topic_keep_their_order(
    kafka: KafkaBroker, outside: Outside, topic: Callable[..., str]
):
    name = topic("out", 1)

    async with sending(kafka, name) as (app, feed):
        single = app.topic(name, value_serializer="raw", key_serializer="raw")
        await feed.send(pa.table({"value": [b"0"]}))
        for number in range(1, 40, 2):
            sent = await single.send(value=b"%d" % number)
            await feed.send(pa.table({"value": [b"%d" % (number + 1)] * (1 + number % 3 * 500)}))
            assert (await sent).offset >= number

    values = [int(each.value()) for each in outside.read(name)]
    assert values == sorted(values) and set(values) == set(range(41))


async def test_a_broker_that_goes_down_and_comes_back_has_all_records_once_and_in_order(
    topic_name: Callable[[str], str],
):
    with KafkaBroker(jvm_options=SHORT_LIVED) as broker:
        if not broker.restartable:
            pytest.skip(f"{broker.description} cannot be stopped")
        name = broker.create_topic(topic_name("out"), 2, {})
        async with sending(broker, name) as (_, feed):
            await feed.send(table_of_numbers(0, 10))
            sends = [
                asyncio.create_task(feed.send(table_of_numbers(first, first + 500)))
                for first in range(10, 50_010, 500)
            ]
            await sends[3]
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)
            await asyncio.gather(*sends)
        messages = Outside(broker.bootstrap).read(name)

    for partition in (0, 1):
        numbers = [int(each.value()) for each in messages if each.partition() == partition]
        assert numbers == list(range(partition, 50_010, 2))


def table_of_numbers(first: int, stop: int) -> pa.Table:
    """Return numbers with much around them, the even ones for partition 0, the odd ones for 1."""
    numbers = range(first, stop)
    return pa.table(
        {
            "value": [b"%0200d" % n for n in numbers],
            "_partition": pa.array([n % 2 for n in numbers], pa.int32()),
        }
    )
