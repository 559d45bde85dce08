"""What a plain stream and its tables get beside feeds: no record twice, none left out.

Each test drives the code of Faust that takes part in a start, a rebalance or a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher as AIOKafkaFetcher
from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Producer
from faust.types import TP, FutureMessage

import flowguard as fg
from flowguard.intake import consumer_thread as consuming
from flowguard.intake.consumer import FeedConsumer
from flowguard.intake.producer import FeedProducer
from tests.contract.test_faust_hooks import app_with_feed

PLAIN, FEED = TP("plain", 0), TP("orders", 0)
CHANGELOG = TP("test-sums-changelog", 0)
ASSIGNED = {PLAIN, FEED, CHANGELOG}


@pytest.fixture
def app() -> fg.App:
    app = app_with_feed()
    app.topic("plain")
    app.Table("sums", default=int)
    return app


@pytest.fixture
def consumer(app: fg.App, monkeypatch: pytest.MonkeyPatch) -> FeedConsumer:
    """Return a consumer whose broker has no committed offsets."""
    consumer: FeedConsumer = app.consumer
    monkeypatch.setattr(consumer, "assignment", lambda: ASSIGNED)
    for name, answer in (("seek_to_committed", {}), ("cluster_id", "c"), ("feed_positions", {})):
        monkeypatch.setattr(consumer._thread, name, answering(answer))
    return consumer


def answering(answer: Any) -> Any:
    async def method(*_: Any) -> Any:
        await asyncio.sleep(0)
        return answer

    return method


async def assign(app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do of Faust's preparations what concerns the flow."""

    async def prepare(assigned: set[TP], generation_id: int) -> None:
        consumer.pause_partitions(assigned)

    monkeypatch.setattr(consumer, "_on_partitions_assigned", prepare)
    monkeypatch.setattr(app, "on_rebalance_return", lambda: None)
    await consumer.on_partitions_assigned(ASSIGNED, generation_id=1)


async def test_a_plain_stream_begins_only_after_faust_has_emptied_the_queues_of_agents(
    app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assign(app, consumer, monkeypatch)
    app.consumer_generation_id = 1
    recovery = Recovery(app, app.tables)
    monkeypatch.setattr(app, "on_rebalance_end", lambda: None)
    monkeypatch.setattr(app._fetcher, "maybe_start", answering(None))
    seen: dict[str, bool] = {}

    def watch(owner: Any, name: str) -> None:
        """Note whether the stream flows once a method of Faust is done."""
        before = getattr(owner, name)

        def after(*args: Any, **kwargs: Any) -> Any:
            result = before(*args, **kwargs)
            seen[name] = PLAIN in consumer._active_partitions
            return result

        monkeypatch.setattr(owner, name, after)

    watch(consumer, "resume_partitions")
    watch(consumer._thread, "feed_positions")
    watch(app.flow_control, "resume")
    watch(consumer, "resume_flow")
    await recovery.on_recovery_completed(generation_id=1)

    assert seen == {
        "resume_partitions": False, "feed_positions": False, "resume": False, "resume_flow": True,
    }  # fmt: skip


async def test_changelogs_flow_while_tables_recover_and_streams_do_not(
    app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assign(app, consumer, monkeypatch)

    consumer.resume_partitions({CHANGELOG})
    consumer.resume_flow()

    assert consumer._active_partitions == {CHANGELOG}


async def test_a_stream_that_is_paused_again_by_the_next_rebalance_does_not_begin(
    app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assign(app, consumer, monkeypatch)
    consumer.resume_partitions({PLAIN})

    await assign(app, consumer, monkeypatch)
    consumer.resume_flow()

    assert PLAIN not in consumer._active_partitions


async def test_a_stream_may_be_paused_and_resumed_at_any_time_once_it_flows(
    app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assign(app, consumer, monkeypatch)
    consumer.resume_partitions({PLAIN})
    consumer.resume_flow()

    consumer.pause_partitions({PLAIN})
    consumer.resume_partitions({PLAIN})

    assert PLAIN in consumer._active_partitions


async def test_an_agent_that_has_room_again_does_not_resume_a_stream_that_is_being_prepared(
    app: fg.App, consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer._set_active_tps({PLAIN})
    consumer.on_buffer_full(PLAIN)
    await assign(app, consumer, monkeypatch)

    consumer.on_buffer_drop(PLAIN)

    assert PLAIN not in consumer._active_partitions
    assert PLAIN not in consumer._buffered_partitions


async def test_only_what_flows_is_taken_from_aiokafka_at_every_moment(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka takes an empty set for all partitions, and Faust empties the one it gave."""
    taken: list[set[TP]] = []

    async def fetched_records(partitions: Any, **_: Any) -> dict[TP, list[Any]]:
        for now_active in ({CHANGELOG}, set(), {PLAIN}):
            consumer._set_active_tps(now_active)
            taken.append({tp for tp in ASSIGNED if not partitions or tp in partitions})
        return {}

    subscriptions = SimpleNamespace(fetch_context=contextlib.nullcontext)
    fetcher = SimpleNamespace(
        fetched_records=fetched_records, _closed=False, _subscriptions=subscriptions
    )
    use(consumer, Cluster(), monkeypatch, _fetcher=fetcher, _closed=False, _max_poll_records=None)

    await consumer._thread.getmany(consumer._active_partitions, timeout=1.0)

    assert taken == [{CHANGELOG}, set(), {PLAIN}]


def test_aiokafka_asks_for_partitions_as_we_answer() -> None:
    source = inspect.getsource(AIOKafkaFetcher.fetched_records)

    assert "if partitions and tp not in partitions:" in source


class Cluster:
    """A client of a broker that hears of new topics only when it is asked again."""

    def __init__(self, *heard: str) -> None:
        self.cluster = self
        self.known: set[str] = set()
        self.asked: list[set[str]] = []
        self._to_hear = list(heard)

    def partitions_for_topic(self, name: str) -> set[int] | None:
        return {0} if name in self.known else None

    async def set_topics(self, names: set[str]) -> None:
        self.asked.append(names)

    async def force_metadata_update(self) -> None:
        if self._to_hear:
            self.known.add(self._to_hear.pop(0))


async def test_a_changelog_that_was_just_created_is_waited_for_before_subscribing(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the worker has no partitions of its table for five minutes."""
    client = Cluster("plain", CHANGELOG.topic)
    known_before: list[set[str]] = []

    async def subscribe(_: Any, topics: Iterable[str]) -> None:
        known_before.append(set(client.known))

    use(consumer, client, monkeypatch)
    monkeypatch.setattr(AIOKafkaConsumerThread, "subscribe", subscribe)
    await consumer._thread.subscribe({"plain", "orders", CHANGELOG.topic})

    assert client.asked == [{"plain", "orders", CHANGELOG.topic}]
    assert known_before == [{"plain", CHANGELOG.topic}]


async def test_a_changelog_that_never_comes_does_not_hold_the_worker_for_good(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subscribed: list[set[str]] = []

    async def subscribe(_: Any, topics: Iterable[str]) -> None:
        subscribed.append(set(topics))

    use(consumer, Cluster(), monkeypatch)
    monkeypatch.setattr(AIOKafkaConsumerThread, "subscribe", subscribe)
    monkeypatch.setattr(consuming, "KNOWN_WITHIN_S", 0.0)
    await consumer._thread.subscribe({CHANGELOG.topic})

    assert subscribed == [{CHANGELOG.topic}]
    assert CHANGELOG.topic in caplog.text


def use(
    consumer: FeedConsumer, client: Cluster, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> None:
    """Let the consumer's thread run in the test's loop, with this client."""

    async def call(method: Any, *args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)

    thread = consumer._thread
    monkeypatch.setattr(thread, "call_thread", call)
    monkeypatch.setattr(thread, "_ensure_consumer", lambda: SimpleNamespace(_client=client, **more))
    monkeypatch.setattr(consuming, "ASK_EVERY_S", 0.0)


async def test_flushing_waits_for_changes_of_tables_however_long_they_take(
    app: fg.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust waits 0.1 s for the next one and does not count the one in its hand."""
    producer: FeedProducer = app.producer
    monkeypatch.setattr(Producer, "flush", answering(None))
    monkeypatch.setattr(producer.buffer, "put", lambda fut: None)
    change: FutureMessage = FutureMessage(SimpleNamespace())  # type: ignore[arg-type]
    producer.send_soon(change)

    flushing = asyncio.ensure_future(producer.flush())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not flushing.done()
    change.set_result(None)  # type: ignore[arg-type]
    await flushing

    assert producer._unsent == set()


async def test_flushing_ends_when_the_buffer_has_crashed(
    app: fg.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer: FeedProducer = app.producer
    monkeypatch.setattr(Producer, "flush", answering(None))
    monkeypatch.setattr(producer.buffer, "put", lambda fut: None)
    producer.send_soon(FutureMessage(SimpleNamespace()))  # type: ignore[arg-type]
    producer.buffer._crashed.set()

    await producer.flush()

    assert len(producer._unsent) == 1
