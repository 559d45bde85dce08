"""The Apache Kafka that a benchmark measures on: the one given, or one of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.append(str(PROJECT))  # a script sees only its own directory, and tests/ is beside it

from tests.kafka_broker import KafkaBroker, NoKafka  # noqa: E402

__all__ = ["PROJECT", "kafka"]


@contextmanager
def kafka(given: str | None) -> Iterator[str]:
    """Yield bootstrap servers; without given ones, of a broker that ends with the block."""
    if given:
        yield given.removeprefix("kafka://")
        return
    try:
        own = KafkaBroker()
    except NoKafka as error:
        sys.exit(f"{error}; or name one with --broker HOST:PORT")
    with own as broker:
        print(broker.description, file=sys.stderr)
        yield broker.bootstrap
