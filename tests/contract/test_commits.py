"""Commits of feeds when the broker finds their metadata too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata

from flowguard.facts import Stored
from flowguard.intake.consumer_thread import FeedConsumerThread
from tests.contract.test_faust_hooks import app_with_feed

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Broker:
    """A member of a group whose broker takes so much metadata a partition."""

    def __init__(self, taken_bytes: int) -> None:
        self.taken_bytes = taken_bytes
        self.stored: dict[TopicPartition, OffsetAndMetadata] = {}
        self.asked = 0

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
        self.asked += 1
        fitting = {
            name: each for name, each in offsets.items() if len(each.metadata) <= self.taken_bytes
        }
        self.stored |= fitting  # of one request, those that it takes are stored
        if len(fitting) < len(offsets):
            raise OffsetMetadataTooLargeError()
        return True


@pytest.fixture
def thread() -> FeedConsumerThread:
    thread: FeedConsumerThread = app_with_feed().consumer._thread
    return thread


async def test_an_offset_is_committed_alone_where_its_metadata_is_too_large(
    thread: FeedConsumerThread, caplog: pytest.LogCaptureFixture
) -> None:
    thread.member = broker = Broker(taken_bytes=100)  # type: ignore[assignment]

    await thread._commit_offsets({A: Stored(7, "x" * 50), B: Stored(8, "x" * 500)})

    assert broker.stored == {A: OffsetAndMetadata(7, "x" * 50), B: OffsetAndMetadata(8, "")}
    assert "a crash now would repeat" in caplog.text


async def test_what_the_broker_takes_is_learned_and_said_once(
    thread: FeedConsumerThread, caplog: pytest.LogCaptureFixture
) -> None:
    thread.member = broker = Broker(taken_bytes=100)  # type: ignore[assignment]
    wanted: dict[Any, Stored] = {B: Stored(8, "x" * 500)}
    await thread._commit_offsets(wanted)
    asked, said = broker.asked, len(caplog.records)

    await thread._commit_offsets(wanted)

    assert broker.asked == asked + 1
    assert len(caplog.records) == said == 1
