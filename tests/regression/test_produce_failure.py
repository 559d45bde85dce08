"""A send that fails is a line in the log, and its source record is committed all the same.

`Topic._on_published` logs the error and gives it to a future that nobody awaits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from faust.transport.drivers.aiokafka import Producer

from tests.regression.plain import PlainFaust
from tests.unit.agents.app import make_app, serving


async def refuse(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
    """Take a record as a producer does, and find that the broker does not want it."""
    sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    sent.set_exception(MessageSizeTooLargeError())
    return sent


async def test_plain_faust_commits_a_record_whose_output_was_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faust = PlainFaust()
    out = faust.app.topic("out", value_serializer="raw")
    out.declare = lambda: asyncio.sleep(0)
    producer = faust.app.producer
    monkeypatch.setattr(producer, "send", refuse)
    monkeypatch.setattr(producer, "maybe_start", lambda: asyncio.sleep(0))
    caplog.set_level(logging.WARNING)

    async def agent(values: Any) -> None:
        async for value in values:
            await out.send(value=value)
            if value == b"1":
                raise RuntimeError("enough")

    await faust.let_fail(agent, faust.stream(map(faust.event, range(2))))

    assert "_on_published error" in caplog.text
    assert await faust.commit() == 2


async def test_a_batch_of_a_feed_whose_output_was_refused_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app()
    monkeypatch.setattr(Producer, "send", refuse)
    out = app.topic("out", value_serializer="raw")
    out.declare = lambda: asyncio.sleep(0)

    async def agent(batches: Any) -> None:
        async for _ in batches:
            await out.send(value=b"v")

    async with serving(agent, app=app) as served:
        monkeypatch.setattr(app.producer, "maybe_start", lambda: asyncio.sleep(0))
        served.deliver()
        _, _, error = await served.outcomes.until("failed", 1)

    assert isinstance(error, MessageSizeTooLargeError)
    assert "finished" not in served.outcomes.names(1)
