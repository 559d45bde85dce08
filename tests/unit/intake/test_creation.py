"""A topic is created as soon as a broker takes it."""

from __future__ import annotations

import pytest
from aiokafka.errors import KafkaError, NodeNotReadyError, TopicAuthorizationFailedError

from flowguard.intake import creation
from flowguard.intake.creation import create_patiently


class Brokers:
    """Answers with these errors in their turn, and then creates."""

    def __init__(self, *errors: KafkaError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def create(self) -> None:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "CREATE_EVERY_S", 0.0)


async def test_a_broker_that_is_away_is_asked_again() -> None:
    brokers = Brokers(NodeNotReadyError(), NodeNotReadyError())
    await create_patiently(brokers.create, "orders", lambda: False)
    assert brokers.asked == 3


async def test_what_no_broker_will_do_is_said_at_once() -> None:
    brokers = Brokers(TopicAuthorizationFailedError())
    with pytest.raises(TopicAuthorizationFailedError):
        await create_patiently(brokers.create, "orders", lambda: False)
    assert brokers.asked == 1


async def test_a_worker_that_stops_does_not_ask_again() -> None:
    with pytest.raises(NodeNotReadyError):
        await create_patiently(Brokers(NodeNotReadyError()).create, "orders", lambda: True)


async def test_whoever_waits_is_told_in_the_end() -> None:
    brokers = Brokers(NodeNotReadyError())
    with pytest.raises(NodeNotReadyError):
        await create_patiently(brokers.create, "orders", lambda: False, within_s=-1)
    assert brokers.asked == 1
