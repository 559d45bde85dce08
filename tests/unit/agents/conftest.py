"""What every test with an app needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.agents import app


@pytest.fixture(autouse=True)
def put_away() -> Iterator[None]:
    """Leave no event loop behind."""
    yield
    app.put_away()
