"""The fixtures that every test may ask for."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator

import pytest

from flowguard.stress.embedded import EmbeddedBroker
from tests.kafka_broker import KafkaBroker, NoKafka

RUNNING = pytest.StashKey[KafkaBroker]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for `kafka` or `secure`, so that `-m "not kafka"` leaves it out."""
    for item in items:
        if {"kafka", "secure"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Kafka the results stand for."""
    broker = terminalreporter.config.stash.get(RUNNING, None)
    if broker is not None:
        started = f"ready after {broker.started_in_s:.1f} s"
        terminalreporter.write_line(f"kafka: {broker.description}, {started}")


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaBroker]:
    """Apache Kafka: `.bootstrap`, `.create_topic(name, partitions, config)`, `.stop()`, `.start()`.

    Skips, saying what is missing, where Kafka cannot be had; fails there if
    FLOWGUARD_REQUIRE_KAFKA is set. A test that stops it starts it again; one
    that needs a broker for itself takes `with KafkaBroker() as broker`.
    """
    missing = ""
    try:
        broker = KafkaBroker()
    except NoKafka as error:
        missing = str(error)
    if missing and os.environ.get("FLOWGUARD_REQUIRE_KAFKA", "") not in ("", "0"):
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)
    with broker:  # a Kafka that can be had but does not start is a failure
        pytestconfig.stash[RUNNING] = broker
        yield broker


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """The embedded broker: `.bootstrap`; ready in milliseconds, not Apache Kafka."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Name topics, groups and apps that no other test has: `topic_name("orders")`."""
    test = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:80]

    def name(stem: str = "topic") -> str:
        return f"{stem}-{test}-{uuid.uuid4().hex[:8]}"

    return name
