"""What the tests of Faust's bugs need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kafka.conftest import outside, topic, workers
from tests.regression import plain
from tests.unit.agents import app

__all__ = ["outside", "topic", "workers"]


@pytest.fixture(autouse=True)
def put_away() -> Iterator[None]:
    """Leave no event loop behind."""
    yield
    app.put_away()
    while plain.MADE:
        plain.MADE.pop().put_away()
