"""A worker tells upstream services how it is, and nothing depends on that."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flowguard import pressure_topic as module
from flowguard.agents.delivered import current_delivered
from flowguard.observe.pressure import TTL_S, Told, pressure_document
from flowguard.pressure_topic import PressureWriter
from flowguard.upstream import parse
from tests.builders import EngineDriver


class FakePort:
    """A topic in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None]] = []
        self.why: str | None = None
        self.error: Exception | None = None
        self.hangs = False
        self.held: list[object] = []
        self.changed = asyncio.Event()

    async def prepare(self, topic: str) -> str | None:
        return self.why

    async def write(self, topic: str, key: bytes, value: bytes | None) -> None:
        self.held.append(current_delivered())
        self.changed.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.records.append((key, value))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.records) < count:
                self.changed.clear()
                await self.changed.wait()
                await asyncio.sleep(0)


class Document:
    """What the worker would say."""

    def __init__(self) -> None:
        self.rung = 0
        self.admitted = 1.0
        self.level = 0.0

    def __call__(self) -> dict[str, Any]:
        lanes = {"hints": {"admitted": self.admitted}}
        return {"rung": self.rung, "level": self.level, "lanes": lanes, "ttl": TTL_S}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    monkeypatch.setattr(module, "MISSING_S", 0.001)
    monkeypatch.setattr(module, "WRITE_WITHIN_S", 0.02)
    monkeypatch.setattr(module, "FAREWELL_WITHIN_S", 0.02)
    monkeypatch.setattr(module, "TTL_S", 0.001)


@asynccontextmanager
async def writing(port: FakePort, read: Any) -> AsyncIterator[PressureWriter]:
    log = logging.getLogger("pressure")
    writer = PressureWriter("app.control", port, worker="host:1", read=read, log=log)
    task = asyncio.get_running_loop().create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_is_told_at_the_start_and_when_something_changes() -> None:
    port, document = FakePort(), Document()
    async with writing(port, document):
        await port.until(1)
        document.rung = 1
        await port.until(2)
        document.admitted = 0.5
        await port.until(3)
    assert [key for key, _ in port.records] == [b"host:1"] * 3
    assert json.loads(port.records[1][1] or b"")["rung"] == 1


async def test_stopping_takes_the_record_away_and_nothing_is_written_after_it() -> None:
    port, document = FakePort(), Document()
    async with writing(port, document) as writer:
        await port.until(1)
        await writer.close()
        document.rung = 6
        await asyncio.sleep(0.02)
    assert port.records[-1] == (b"host:1", None)


async def test_what_was_never_written_needs_no_farewell() -> None:
    port = FakePort()
    writer = PressureWriter("t", port, worker="w", read=Document(), log=logging.getLogger())
    await writer.close()
    assert port.records == []


async def test_a_worker_that_stops_while_the_topic_is_missing_does_not_wait_for_it() -> None:
    port = FakePort()
    port.why = "it does not exist"
    async with writing(port, Document()) as writer, asyncio.timeout(5):
        await writer.close()  # its task is cancelled too, but that may be swallowed on the way
        await asyncio.create_task(writer.run())


async def test_a_topic_that_is_missing_is_said_once_and_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = FakePort()
    port.why = "it does not exist"
    async with writing(port, Document()):
        await asyncio.sleep(0.02)
        assert port.records == []
        port.why = None
        await port.until(1)
    (record,) = caplog.records
    assert "topic app.control: it does not exist; nothing else depends on it" in record.getMessage()


async def test_a_broker_that_refuses_or_hangs_is_said_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = FakePort()
    port.error = RuntimeError("not authorized")
    async with writing(port, Document()) as writer:
        await asyncio.sleep(0.02)
        assert len(caplog.records) == 1
        port.error, port.hangs = None, True
        await asyncio.sleep(0.05)
        port.hangs = False
        await port.until(1)
        port.hangs = True
        await writer.close()


async def test_no_batch_is_ever_held_by_it() -> None:
    port = FakePort()
    async with writing(port, Document()):
        await port.until(1)
    assert port.held == [None]


def test_small_changes_wait_for_the_regular_record() -> None:
    told, document = Told(), Document()
    told.note(document(), 100.0)
    assert not told.is_due(document(), 104.9)
    assert told.is_due(document(), 105.0), "a third of the time to live"
    document.level = 0.09
    assert not told.is_due(document(), 101.0)
    document.level = 0.1
    assert told.is_due(document(), 101.0)
    document.level, document.admitted = 0.0, 0.96
    assert not told.is_due(document(), 101.0)
    document.admitted = 0.0
    assert told.is_due(document(), 101.0)


def test_that_all_is_admitted_again_is_told_at_once() -> None:
    told, document = Told(), Document()
    document.admitted = 0.97
    told.note(document(), 100.0)
    document.admitted = 1.0
    assert told.is_due(document(), 101.0)


def test_the_document_is_what_the_client_reads() -> None:
    d = EngineDriver()
    d.assign(A=0)
    document = pressure_document(d.engine, worker="host:1")
    assert list(document) == ["schema", "worker", "level", "rung", "lanes", "ttl"]
    report = parse(json.dumps(document).encode())
    assert report is not None
    assert report.admitted == {"realtime": 1.0, "bulk": 1.0} and report.ttl_s == TTL_S
