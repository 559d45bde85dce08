"""Faust's hooks, pinned by what they do: a Faust that changes one breaks its test first.

Each test says which file of flowguard relies on it.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.agents.agent import Agent, AsyncIterableActor, AwaitableActor, _current_agent
from faust.app.base import BootStrategy
from faust.streams import Stream, _current_event
from faust.topics import Topic
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport
from faust.types import TP
from faust.types.settings import Settings

import flowguard as fg
from flowguard.intake.client import FeedClient
from flowguard.intake.consumer import FeedConsumer
from flowguard.intake.consumer_thread import FeedConsumerThread
from flowguard.intake.producer import FeedProducer
from tests.unit.agents.app import make_app


async def consume(batches: Any) -> None:
    async for _ in batches:
        pass


def app_with_feed() -> fg.App:
    app = make_app()
    app.agent(app.feed("orders"), name="agent")(consume)
    return app


# app.py


async def test_an_app_with_feeds_makes_its_consumer_and_producer_through_these_hooks() -> None:
    app = app_with_feed()

    assert isinstance(app.consumer, FeedConsumer)
    assert isinstance(app.producer, FeedProducer)
    assert isinstance(app.consumer._thread, FeedConsumerThread)


async def test_an_app_without_feeds_has_the_consumer_and_producer_of_faust() -> None:
    app = make_app()

    assert type(app.consumer) is Consumer
    assert type(app.producer) is Producer


async def test_the_boot_strategy_starts_the_services_of_kafka_consumer_in_their_order() -> None:
    plain, guarded = make_app(), app_with_feed()

    before = list(BootStrategy(guarded).kafka_consumer())
    after = list(guarded.boot_strategy.kafka_consumer())

    assert after == [guarded.runtime, *before]
    assert guarded.runtime not in list(plain.boot_strategy.kafka_consumer())
    assert "kafka_consumer" in inspect.getsource(BootStrategy.server)


async def test_pages_are_served_before_the_producer_waits_for_a_broker() -> None:
    guarded = app_with_feed()
    guarded.boot_strategy.enable_web = True

    services = list(guarded.boot_strategy.server())

    assert services.index(guarded.web) < services.index(guarded.producer)
    assert services.count(guarded.web) == 1


def test_a_kafka_url_gives_the_transport_of_aiokafka() -> None:
    assert isinstance(make_app().transport, Transport)


def test_the_default_commit_interval_is_the_one_we_take_for_not_set() -> None:
    from flowguard.runtime import FAUST_COMMIT_INTERVAL_S

    assert make_app().conf.broker_commit_interval == FAUST_COMMIT_INTERVAL_S


def test_settings_are_listed_by_name() -> None:
    assert {"broker", "store", "web_port", "topic_allow_declare"} <= set(Settings.SETTINGS)


# agents/


async def test_an_actor_is_prepared_by_a_method_that_may_be_replaced() -> None:
    source = inspect.getsource(Agent)

    assert "await self._prepare_actor(" in source
    assert list(inspect.signature(Agent._prepare_actor).parameters) == ["self", "aref", "beacon"]


async def test_calling_an_agent_makes_an_actor_of_the_kind_of_its_function() -> None:
    async def yields(stream: Any) -> Any:
        async for value in stream:
            yield value

    app = make_app()
    awaits = app.agent(app.feed("a"), name="a")(consume)
    iterates = app.agent(app.feed("b"), name="b")(yields)

    one = awaits(stream=awaits.stream(), index=None)
    two = iterates(stream=iterates.stream(), index=None)

    assert isinstance(one, AwaitableActor)
    assert isinstance(two, AsyncIterableActor)
    assert one.stream is not None
    one.it.close()


def test_the_current_agent_and_event_are_context_variables() -> None:
    assert _current_agent.name and _current_event.name


def test_the_current_event_is_read_through_a_weak_reference() -> None:
    class Anything:
        pass

    event = Anything()
    token = _current_event.set(weakref.ref(event))
    try:
        assert faust.current_event() is event
    finally:
        _current_event.reset(token)


def test_a_stream_may_be_subclassed_and_iterated_anew() -> None:
    parameters = inspect.signature(Stream.__init__).parameters

    assert {"channel", "app", "prefix", "loop", "beacon", "enable_acks"} <= set(parameters)
    assert hasattr(Stream, "current_event")


def test_a_clone_of_a_topic_gets_what_clone_args_says() -> None:
    feed = make_app().feed("orders", key_by="n", order="none")

    clone = feed.clone(is_iterator=True)

    assert isinstance(feed, Topic)
    assert type(clone) is type(feed)
    assert clone.options is feed.options
    assert clone.codec is feed.codec
    assert clone.acks is False


async def test_iterating_over_a_topic_is_what_subscribes_to_it() -> None:
    app = make_app()
    feed = app.feed("orders")

    aiterator = feed.__aiter__()

    assert any("orders" in topic.topics for topic in app.topics)
    assert aiterator is not feed


# intake/consumer.py


@pytest.fixture
def consumer() -> FeedConsumer:
    app = app_with_feed()
    app.topic("plain")
    return app.consumer


F, P = TP("orders", 0), TP("plain", 0)


async def test_the_active_partitions_never_hold_one_of_a_feed(consumer: FeedConsumer) -> None:
    consumer._set_active_tps({F, P})

    assert consumer._active_partitions == {P}


async def test_pausing_and_resuming_reaches_plain_partitions_and_is_noted_for_feeds(
    consumer: FeedConsumer,
) -> None:
    consumer._set_active_tps({F, P})

    consumer.resume_partitions({F, P})
    assert (consumer._feeds_resumed, F in consumer._active_partitions) == ({F}, False)
    consumer.pause_partitions({F, P})

    assert consumer._feeds_resumed == set()
    assert P in consumer._paused_partitions and F not in consumer._paused_partitions


async def test_commits_ask_for_pending_partitions_and_their_offsets(
    consumer: FeedConsumer,
) -> None:
    from flowguard.facts import Assigned

    runtime = consumer.runtime
    runtime.engine.observe(Assigned(offsets={F: 7}, at_ns=0))  # type: ignore[dict-item]
    consumer._acked[P] = [3]

    assert set(consumer._filter_tps_with_pending_acks()) == {F, P}
    assert set(consumer._filter_tps_with_pending_acks({"orders"})) == {F}
    assert set(consumer._filter_tps_with_pending_acks({F})) == {F}
    assert consumer._new_offset(F) == 7


async def test_force_commit_goes_through_the_hooks_and_commits_what_they_say(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowguard.facts import Assigned

    consumer.runtime.engine.observe(Assigned(offsets={F: 7}, at_ns=0))  # type: ignore[dict-item]
    asked: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int], **_: Any) -> bool:
        asked.append(dict(offsets))
        return True

    monkeypatch.setattr(consumer, "_commit_offsets", commit)
    await consumer.force_commit()

    assert asked == [{F: 7}]


async def test_a_feed_is_committed_when_its_offset_or_its_watermarks_moved(
    consumer: FeedConsumer,
) -> None:
    from flowguard.facts import Assigned, CommitPoint

    consumer.runtime.engine.observe(Assigned(offsets={F: 7}, at_ns=0))  # type: ignore[dict-item]
    partition = consumer.runtime.engine.partitions[F]  # type: ignore[index]
    assert consumer._should_commit(F, 7), "where it begins is stored once"

    consumer._committed_offset[F] = 7
    assert not consumer._should_commit(F, 7)
    partition.ledger.position = 8
    assert consumer._should_commit(F, 8)
    partition.committed = CommitPoint(8, (3,) * len(partition.committed.watermarks))
    assert consumer._should_commit(F, 8), "only a watermark moved"


async def test_a_commit_that_failed_is_not_noted_as_done(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowguard.facts import Assigned

    consumer.runtime.engine.observe(Assigned(offsets={F: 7}, at_ns=0))  # type: ignore[dict-item]
    consumer._committed_offset[F] = 3

    async def refuse(stored: Any) -> bool:
        return False

    monkeypatch.setattr(consumer._thread, "commit_feeds", refuse)
    monkeypatch.setattr(consumer, "assignment", lambda: {F})

    assert await consumer._commit_offsets({F: 9}) is False
    assert consumer._committed_offset[F] == 3
    assert consumer.runtime.engine.partitions[F].committed.offset == 7  # type: ignore[index]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Consumer, "_set_active_tps"),
        (Consumer, "pause_partitions"),
        (Consumer, "resume_partitions"),
        (Consumer, "on_buffer_drop"),
        (Consumer, "on_partitions_assigned"),
        (Consumer, "perform_seek"),
        (Consumer, "resume_flow"),
        (Consumer, "on_partitions_revoked"),
        (Consumer, "wait_empty"),
        (Consumer, "maybe_wait_for_commit_to_finish"),
        (Consumer, "_filter_tps_with_pending_acks"),
        (Consumer, "_new_offset"),
        (Consumer, "_should_commit"),
        (Consumer, "_commit_offsets"),
        (Consumer, "verify_event_path"),
        (Consumer, "_new_consumer_thread"),
        (AIOKafkaConsumerThread, "_create_worker_consumer"),
        (AIOKafkaConsumerThread, "_commit"),
        (AIOKafkaConsumerThread, "getmany"),
        (AIOKafkaConsumerThread, "subscribe"),
        (AIOKafkaConsumerThread, "call_thread"),
        (AIOKafkaConsumerThread, "on_thread_stop"),
        (AIOKafkaConsumerThread, "_ensure_consumer"),
        (AIOKafkaConsumerThread, "verify_event_path"),
        (Producer, "send"),
        (Producer, "send_soon"),
        (Producer, "flush"),
        (Producer, "_ensure_producer"),
        (Agent, "_prepare_actor"),
        (Agent, "stream"),
        (Topic, "_clone_args"),
    ],
)
def test_the_hook_is_still_there_and_takes_what_it_took(owner: type, name: str) -> None:
    theirs = inspect.signature(getattr(owner, name))
    for ours in (FeedConsumer, FeedConsumerThread, FeedProducer):
        if issubclass(ours, owner) and name in vars(ours):
            mine = inspect.signature(getattr(ours, name))
            any_arguments = any(p.kind is p.VAR_POSITIONAL for p in mine.parameters.values())
            assert any_arguments or list(mine.parameters) == list(theirs.parameters)


async def test_the_worker_consumer_reads_its_subscription_from_one_attribute() -> None:
    """`_create_worker_consumer` replaces it before the consumer has started."""
    app = app_with_feed()
    thread = app.consumer._thread

    made = thread._create_worker_consumer(app.transport)

    try:
        assert made._subscription._is_feed("orders")
        assert not made._subscription._is_feed("plain")
        assert type(made._client) is FeedClient
    finally:
        await made.stop()


async def test_revoking_lets_faust_forget_only_after_the_commit(
    consumer: FeedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    async def note(name: str) -> None:
        order.append(name)

    monkeypatch.setattr(consumer.runtime, "revoking", lambda partitions: note("revoking"))
    monkeypatch.setattr(consumer, "commit", lambda *a, **kw: note("commit"))
    monkeypatch.setattr(Consumer, "on_partitions_revoked", lambda self, revoked: note("forgotten"))

    await consumer.on_partitions_revoked({F, P})

    assert order == ["revoking", "commit", "forgotten"]


async def test_the_producer_lets_the_current_batch_wait_for_what_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flowguard.agents.delivered import current

    sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        return sent

    held: list[Any] = []
    monkeypatch.setattr(Producer, "send", send)
    producer = app_with_feed().producer
    token = current.set(SimpleNamespace(open=True, hold=held.append))  # type: ignore[arg-type]
    try:
        await producer.send("topic", None, b"v", None, None, None)
    finally:
        current.reset(token)

    assert held == [sent]
