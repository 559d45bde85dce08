"""Any error of a commit crashes the whole app, except that the group has rebalanced already."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError, KafkaTimeoutError

from flowguard.facts import Stored
from tests.contract.test_commits import Broker
from tests.contract.test_faust_hooks import app_with_feed
from tests.regression.plain import ORDERS, PlainFaust

ERRORS = [KafkaTimeoutError(), CommitFailedError("a new generation")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_plain_faust_crashes_when_a_commit_fails(error: KafkaError) -> None:
    faust = PlainFaust()
    thread = faust.consumer._thread
    thread._consumer = Broker(errors=[error])
    crashed: list[BaseException] = []

    async def crash(reason: BaseException) -> None:
        crashed.append(reason)

    thread.crash = crash
    done = await thread._commit({ORDERS: 7})

    assert (done, crashed) == (False, [error])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_feed_says_that_a_commit_failed_and_makes_it_the_next_time(
    error: KafkaError, caplog: pytest.LogCaptureFixture
) -> None:
    thread = app_with_feed().consumer._thread
    broker = thread.member = thread._consumer = Broker(errors=[error])
    wanted = {TopicPartition("orders", 0): Stored(7, "")}

    assert await thread._commit_feeds(wanted) is False
    assert not thread.crashed
    assert "commit failed, trying again" in caplog.text
    assert await thread._commit_feeds(wanted) is True
    assert [each.offset for each in broker.stored.values()] == [7]
