"""The control topic on Apache Kafka, read by clients that have nothing to do with the worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from flowguard.upstream import PressureReader
from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Workers

APP = """
hints = fg.Lane("hints", target="1s")
app = fg.App(APP, broker=BROKER, lanes=[hints]{declare})
events = app.feed(EVENTS, columns={{"id": "int64"}})

@app.agent(events)
async def work(batches):
    async for batch in batches:
        pass
"""
DECLARES = APP.format(declare="")
DECLARES_NOTHING = APP.format(declare=", topic_allow_declare=False")


def records(outside: Outside, topic: str) -> dict[bytes | None, Any]:
    """Return the latest value of each key, as a compacted topic keeps it."""
    if topic not in outside.admin.list_topics(timeout=30).topics:
        return {}
    return {
        message.key(): None if message.value() is None else json.loads(message.value())
        for message in outside.read(topic)
    }


def test_a_worker_writes_its_record_and_takes_it_away_when_it_stops(
    outside: Outside, workers: Workers, topic: Callable[..., str], kafka: Any
):
    worker = workers.start(DECLARES, EVENTS=topic("events"))
    control = f"{worker.group}.control"
    worker.until(lambda: records(outside, control), what="nothing was written")

    ((key, value),) = records(outside, control).items()
    assert key is not None and key.endswith(f":{worker.process.pid}".encode())
    assert value | {"worker": "", "level": 0} == {
        "schema": "flowguard.pressure/v1", "worker": "", "level": 0, "rung": 0,
        "lanes": {"hints": {"admitted": 1.0}}, "ttl": 15.0,
    }  # fmt: skip
    resource = ConfigResource(ResourceType.TOPIC, control)
    (config,) = outside.admin.describe_configs([resource]).values()
    assert config.result()["cleanup.policy"].value == "compact"
    assert len(outside.admin.list_topics(control, timeout=30).topics[control].partitions) == 1

    before = outside.count(control)
    worker.until(lambda: outside.count(control) > before, within_s=20, what="no heartbeat")
    assert worker.stop() == 0
    assert records(outside, control) == {key: None}


def test_without_permission_to_create_it_says_so_once_and_works_on(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    events = topic("events")
    worker = workers.start(DECLARES_NOTHING, EVENTS=events)
    control = f"{worker.group}.control"
    outside.produce(events, [Record({"id": 1})])
    worker.until(lambda: outside.is_done(worker.group, events))
    worker.until(lambda: "upstream services are not told" in worker.said)
    assert control not in outside.admin.list_topics(timeout=30).topics
    assert worker.stop() == 0
    assert worker.said.count("upstream services are not told") == 1


def test_a_topic_that_exists_is_used_also_without_that_permission(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    worker = workers.start(DECLARES_NOTHING, EVENTS=topic("events"), joined=False)
    control = f"{worker.group}.control"
    (made,) = outside.admin.create_topics([NewTopic(control, 3, 1)]).values()
    made.result()
    worker.until(lambda: records(outside, control), what="nothing was written")


def test_the_client_hears_workers_and_ignores_garbage(
    outside: Outside, workers: Workers, topic: Callable[..., str], kafka: Any
):
    worker = workers.start(DECLARES, EVENTS=topic("events"))
    control = f"{worker.group}.control"
    worker.until(lambda: records(outside, control), what="nothing was written")
    said = {
        "schema": "flowguard.pressure/v1", "worker": "other:1", "level": 0.9, "rung": 5,
        "lanes": {"hints": {"admitted": 0.25}}, "ttl": 3600,
    }  # fmt: skip
    outside.produce(
        control, [Record(said, b"other:1"), Record(b"garbage", b"x"), Record(b"{}", b"y")]
    )

    async def listen() -> None:
        async with PressureReader(kafka.bootstrap, app=worker.group) as pressure:
            assert pressure.admitted("hints") == 1.0, "nothing is known yet"
            await until(lambda: pressure.admitted("hints") == 0.25)
            assert pressure.level == 0.9
            assert len(pressure.heard.living) == 2
            outside.produce(control, [Record(None, b"other:1")])
            await until(lambda: pressure.admitted("hints") == 1.0)

    asyncio.run(listen())


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_the_client_waits_for_a_topic_that_does_not_exist_and_does_not_make_it(
    outside: Outside, kafka: Any, topic: Callable[..., str]
):
    name = topic("nobody")

    async def listen() -> float:
        async with PressureReader(kafka.bootstrap, app=f"{name}-app") as pressure:
            await asyncio.sleep(0.5)
            return pressure.admitted("hints")

    assert asyncio.run(listen()) == 1.0
    assert f"{name}-app.control" not in outside.admin.list_topics(timeout=30).topics
