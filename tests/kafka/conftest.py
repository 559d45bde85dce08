"""Fixtures of the tests on Apache Kafka."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kafka.outside import Outside
from tests.kafka.worker import Workers
from tests.kafka_broker import KafkaBroker, NoKafka
from tests.secure_kafka import SecureKafka


@pytest.fixture
def outside(kafka: KafkaBroker) -> Outside:
    """Return a client that has nothing to do with flowguard."""
    return Outside(kafka.bootstrap)


@pytest.fixture
def workers(
    kafka: KafkaBroker, tmp_path: Path, topic_name: Callable[[str], str]
) -> Iterator[Workers]:
    """Start workers; what still runs at the end of the test is killed."""
    workers = Workers(tmp_path, kafka.bootstrap, topic_name)
    yield workers
    workers.end()


@pytest.fixture
def topic(kafka: KafkaBroker, topic_name: Callable[[str], str]) -> Callable[..., str]:
    """Create topics that no other test has: `topic("orders", partitions=4)`."""

    def create(stem: str, partitions: int = 1, **config: str) -> str:
        dotted = {name.replace("_", "."): value for name, value in config.items()}
        return kafka.create_topic(topic_name(stem), partitions, dotted)

    return create


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureKafka]:
    """Return a broker that has a listener for each way to prove who is there."""
    try:
        broker = SecureKafka()
    except NoKafka as error:
        if os.environ.get("FLOWGUARD_REQUIRE_KAFKA", "") not in ("", "0"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with broker:
        yield broker
