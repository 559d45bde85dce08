"""A loop that does not run is noticed, named and said once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowguard.observe.watchdog import LOOK_S, STALL_S, Watchdog

LOG = logging.getLogger("flowguard.test")


class Loop:
    """A loop that runs what it was given when it is told to."""

    def __init__(self) -> None:
        self.given: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.given.append(callback)

    def run(self) -> None:
        given, self.given = self.given, []
        for callback in given:
            callback()


class Scene:
    """A watchdog, its loop, and time that passes in looks."""

    def __init__(self, **options: Any) -> None:
        self.now_s = 100.0
        self.loop = Loop()
        self.dog = Watchdog(self.loop, LOG, clock=lambda: self.now_s, **options)  # type: ignore[arg-type]
        self.dog._ident = threading.get_ident()

    def look(self, times: int = 1, *, runs: bool = True) -> None:
        for _ in range(times):
            self.now_s += LOOK_S
            if runs:
                self.loop.run()
            self.dog.look()


STALLED = round(STALL_S / LOOK_S) + 2


def test_a_loop_that_runs_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.look(100)
    assert not caplog.text and scene.dog.stalls.count == 0


def test_a_stall_is_said_once_with_its_place_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    scene.look(2)
    scene.look(10 * STALLED, runs=False)
    assert len(caplog.messages) == 1 and f"because of {__file__}:" in caplog.messages[0]
    assert scene.dog.stalls.under_way
    assert scene.dog.stalls.blocked_s == pytest.approx(scene.dog.silence_s)
    scene.look(2)
    assert "runs again" in caplog.messages[1] and len(caplog.messages) == 2
    stalls = scene.dog.stalls
    assert stalls.count == 1 and not stalls.under_way
    assert stalls.blocked_s == pytest.approx((10 * STALLED + 1) * LOOK_S)


def test_each_stall_is_said(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    for _ in range(3):
        scene.look(3)
        scene.look(STALLED, runs=False)
    assert scene.dog.stalls.count == 3
    assert sum("has not run for" in each for each in caplog.messages) == 3


def test_a_suspended_process_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.look(3)
    scene.now_s += 60
    scene.look(1, runs=False)
    scene.look(5)
    assert len(caplog.messages) == 1
    assert "nothing in this process ran for 60.0 s: it was suspended" in caplog.messages[0]
    assert scene.dog.stalls.count == 1


def test_a_closed_loop_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    scene.loop.call_soon_threadsafe = closed  # type: ignore[method-assign]
    scene.look(100)
    assert not caplog.text


async def test_a_real_loop_is_watched_by_a_real_thread() -> None:
    """The loop is blocked by this test until the watchdog has said so."""
    import asyncio

    said = threading.Event()
    lines: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            said.set()

    heard = Heard()
    LOG.addHandler(heard)
    dog = Watchdog(asyncio.get_running_loop(), LOG, stall_s=0.05)
    dog.start()
    try:
        assert said.wait(30)
    finally:
        dog.stop()
        LOG.removeHandler(heard)
    assert "has not run" in lines[0] or "nothing in this process" in lines[0]
