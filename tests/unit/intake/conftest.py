"""What tests of codecs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stub_registry import StubRegistry


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    stub = StubRegistry()
    yield stub
    stub.close()
