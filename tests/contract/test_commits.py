"""Commits: metadata that is too large, topics that are gone, coordinators that move."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    LeaderNotAvailableError,
    NotCoordinatorForGroupError,
    OffsetMetadataTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndMetadata

from flowguard.facts import Stored
from flowguard.intake import positions
from flowguard.intake.consumer_thread import FeedConsumerThread
from tests.contract.test_faust_hooks import app_with_feed

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Broker:
    """A consumer of aiokafka, its client and its member of the group.

    Args:
        taken_bytes: So much metadata a partition the broker takes.
        errors: What it answers to the next commits.
        gone: Topics that it does not have.
    """

    may_commit = True
    losses = 0
    owned = frozenset({A, B})

    def __init__(
        self, taken_bytes: int = 100, *, errors: list[KafkaError] | None = None, gone: str = ""
    ) -> None:
        self.taken_bytes = taken_bytes
        self.errors = errors or []
        self.gone = gone
        self.stored: dict[TopicPartition, OffsetAndMetadata] = {}
        self.asked = 0
        self.known = True
        self._client = self.cluster = self

    def assignment(self) -> set[TopicPartition]:
        return {A, B}

    async def force_metadata_update(self) -> None: ...

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return None if topic == self.gone else {0, 1}

    async def commit(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], *, losses: int = 0
    ) -> bool:
        if not self.known:
            await asyncio.Event().wait()
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        if any(name.topic == self.gone for name in offsets):
            raise UnknownTopicOrPartitionError()
        fitting = {
            name: each for name, each in offsets.items() if len(each.metadata) <= self.taken_bytes
        }
        self.stored |= fitting  # of one request, those that it takes are stored
        if len(fitting) < len(offsets):
            raise OffsetMetadataTooLargeError()
        return True


def joined(thread: FeedConsumerThread, broker: Broker) -> Broker:
    """Let the thread have this consumer."""
    thread._consumer = thread.member = broker  # type: ignore[assignment]
    return broker


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "COMMIT_AGAIN_S", 0.001)


@pytest.fixture
def thread() -> FeedConsumerThread:
    thread: FeedConsumerThread = app_with_feed().consumer._thread
    return thread


async def test_an_offset_is_committed_alone_where_its_metadata_is_too_large(
    thread: FeedConsumerThread, caplog: pytest.LogCaptureFixture
) -> None:
    broker = joined(thread, Broker(taken_bytes=100))

    await thread._commit_offsets({A: Stored(7, "x" * 50), B: Stored(8, "x" * 500)})

    assert broker.stored == {A: OffsetAndMetadata(7, "x" * 50), B: OffsetAndMetadata(8, "")}
    assert "a crash now would repeat" in caplog.text


async def test_what_the_broker_takes_is_learned_and_said_once(
    thread: FeedConsumerThread, caplog: pytest.LogCaptureFixture
) -> None:
    broker = joined(thread, Broker(taken_bytes=100))
    wanted: dict[Any, Stored] = {B: Stored(8, "x" * 500)}
    await thread._commit_offsets(wanted)
    asked, said = broker.asked, len(caplog.records)

    await thread._commit_offsets(wanted)

    assert broker.asked == asked + 1
    assert len(caplog.records) == said == 1


async def test_a_topic_that_is_gone_does_not_hold_up_the_commits_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = TopicPartition("deleted", 0)
    broker = Broker(gone="deleted")

    await positions.store(
        broker, {gone: OffsetAndMetadata(7, ""), B: OffsetAndMetadata(8, "")}, broker.commit
    )

    assert broker.stored == {B: OffsetAndMetadata(8, "")}
    assert "deleted: the topic is gone" in caplog.text


async def test_a_topic_that_was_made_anew_does_not_get_the_offset_of_the_former_one() -> None:
    broker = Broker(errors=[UnknownTopicOrPartitionError()])

    with pytest.raises(UnknownTopicOrPartitionError):
        await positions.store(broker, {A: OffsetAndMetadata(7, "")}, broker.commit)

    assert broker.stored == {}


async def test_what_is_uncertain_is_not_committed_and_the_rest_is(
    thread: FeedConsumerThread,
) -> None:
    broker = joined(thread, Broker())
    thread.fetcher = SimpleNamespace(is_certain=lambda name: name != A)  # type: ignore[assignment]

    assert not await thread._commit_feeds({A: Stored(7, ""), B: Stored(8, "")})
    assert broker.stored == {B: OffsetAndMetadata(8, "")}


async def test_a_coordinator_that_moved_is_asked_again() -> None:
    broker = Broker(errors=[NotCoordinatorForGroupError(), NotCoordinatorForGroupError()])

    await positions.store(broker, {A: OffsetAndMetadata(7, "")}, broker.commit)

    assert broker.stored == {A: OffsetAndMetadata(7, "")}


async def test_a_commit_does_not_wait_for_a_coordinator_for_ever(
    thread: FeedConsumerThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(positions, "COMMIT_WITHIN_S", 0.01)
    joined(thread, Broker()).known = False

    assert not await thread._commit_feeds({A: Stored(7, "")})
    assert "commit failed, trying again: TimeoutError: no answer" in caplog.text


@pytest.mark.parametrize("plain", [False, True], ids=["feed", "plain"])
async def test_a_commit_of_a_group_that_has_moved_on_fails_and_ends_nothing(
    plain: bool, thread: FeedConsumerThread, caplog: pytest.LogCaptureFixture
) -> None:
    joined(thread, Broker(errors=[IllegalGenerationError()]))

    done = await (thread._commit({A: 7}) if plain else thread._commit_feeds({A: Stored(7, "")}))

    assert not done and not thread.crashed
    assert "commit failed, trying again: IllegalGenerationError" in caplog.text


async def test_a_partition_that_nobody_leads_holds_up_no_other_position() -> None:
    class Fetcher:
        async def _retrieve_offsets(self, asked: Mapping[TopicPartition, int], _: int) -> Any:
            if A in asked:
                raise LeaderNotAvailableError(A)
            return dict.fromkeys(asked, (7, None))

    consumer = SimpleNamespace(_fetcher=Fetcher())

    assert await positions.find_offsets(consumer, [A, B], positions.EARLIEST) == {B: 7}
