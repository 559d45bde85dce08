"""A worker with feeds waits for tables only where there are some."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import faust
import pytest
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery

import flowguard as fg


def app_of(*, feeds: bool) -> fg.App:
    """Return an app whose agent is on a feed, or on a plain topic."""
    app = fg.App("tables", broker="kafka://127.0.0.1:1")
    channel = app.feed("orders", columns={"n": "int64"}) if feeds else app.topic("orders")

    @app.agent(channel)
    async def look(stream: Any) -> None:
        async for _ in stream:
            pass

    return app


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what tables do when they start; none of it is done."""
    steps: list[str] = []

    def note(step: str) -> Callable[..., Awaitable[None]]:
        async def noted(*_: Any) -> None:
            steps.append(step)

        return noted

    monkeypatch.setattr(TableManager, "sleep", note("wait"))
    monkeypatch.setattr(TableManager, "_update_channels", note("take in the tables"))
    monkeypatch.setattr(Recovery, "start", note("subscribe"))
    return steps


async def test_without_tables_nobody_waits(did: list[str]) -> None:
    await app_of(feeds=True).tables.on_start()
    assert did == ["take in the tables", "subscribe"]


async def test_with_a_table_faust_waits_for_more_of_them(did: list[str]) -> None:
    app = app_of(feeds=True)
    app.Table("counts", default=int)
    await app.tables.on_start()
    assert did == ["wait", "take in the tables", "subscribe"]


async def test_without_feeds_it_is_as_in_faust(did: list[str]) -> None:
    await app_of(feeds=False).tables.on_start()
    assert did == ["wait", "take in the tables", "subscribe"]


def test_an_app_may_bring_tables_of_its_own() -> None:
    class Own(TableManager):
        pass

    app = fg.App("tables", broker="kafka://127.0.0.1:1", TableManager=Own)
    assert isinstance(app.tables, Own)
    assert isinstance(faust.App("plain", broker="kafka://127.0.0.1:1").tables, TableManager)
