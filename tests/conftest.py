"""The fixtures that every test may ask for."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings

from flowguard.stress.embedded import EmbeddedBroker
from tests.kafka_broker import SHORT_LIVED, KafkaBroker, NoKafka
from tests.kafka_cluster import KafkaCluster

# Tests start hundreds of processes. Where nothing may be kept of what one compiled, each compiles
# all of flowguard: a third of the time that it takes to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# To make a failing example small takes minutes, and is done where someone waits for it.
if os.environ.get("CI"):
    phases = [phase for phase in Phase if phase not in {Phase.shrink, Phase.explain}]
    settings.register_profile("first-failure", settings.get_profile("ci"), phases=phases)
    settings.load_profile("first-failure")

#: Which Kafka the results stand for: descriptions, each with how long its start took.
USED = pytest.StashKey[list[str]]()

Kafka = TypeVar("Kafka", KafkaBroker, KafkaCluster)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a broker, so that `-m "not kafka"` leaves it out."""
    for item in items:
        if {"kafka", "kafka_cluster", "secure"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_configure(config: pytest.Config) -> None:
    """Begin without a Kafka."""
    config.stash[USED] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the process that reports know which Kafka this one had, if it is one of several."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["kafka"] = session.config.stash[USED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note which Kafka a process that is done had; one that crashed does not say."""
    node.config.stash[USED] += getattr(node, "workeroutput", {}).get("kafka", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Kafka the results stand for."""
    for used in sorted(terminalreporter.config.stash[USED]):
        terminalreporter.write_line(f"kafka: {used}")


def note(config: pytest.Config, broker: KafkaBroker | KafkaCluster) -> None:
    """Note what was started."""
    config.stash[USED].append(f"{broker.description}, ready after {broker.started_in_s:.1f} s")


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[KafkaBroker]:
    """Apache Kafka: `.bootstrap`, `.create_topic(name, partitions, config)`, `.stop()`, `.start()`.

    Skips, saying what is missing, where Kafka cannot be had; fails there if
    FLOWGUARD_REQUIRE_KAFKA is set. A test that stops it starts it again; one
    that needs a broker for itself takes `with KafkaBroker() as broker`.
    """
    # A Kafka that can be had but does not start is a failure.
    with had(partial(KafkaBroker, jvm_options=SHORT_LIVED)) as broker:
        note(pytestconfig, broker)
        yield broker


@pytest.fixture(scope="module")
def kafka_cluster(pytestconfig: pytest.Config) -> Iterator[KafkaCluster]:
    """Apache Kafka with three nodes, started from its jars for the file that asks for it.

    They end with that file: three nodes are busy also when nobody asks them for anything.
    Skips and fails as `kafka` does. A test that stops a node calls `heal()` at its end.
    """
    with had(KafkaCluster) as cluster:
        note(pytestconfig, cluster)
        yield cluster


def had(kind: Callable[[], Kafka]) -> Kafka:
    """Return a Kafka; where it cannot be had, skip or fail, saying what is missing."""
    try:
        return kind()
    except NoKafka as error:
        missing = str(error)
    if os.environ.get("FLOWGUARD_REQUIRE_KAFKA", "") not in ("", "0"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


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
