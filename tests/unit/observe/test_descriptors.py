"""Running out of file descriptors is said once, in one line."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from flowguard.observe.descriptors import DescriptorWatch, SystemLimit, open_descriptors


class Scene:
    """A watch over a number of descriptors, a second a look."""

    def __init__(self) -> None:
        self.count: int | None = 10
        self.now_s = 0.0
        self.watch = DescriptorWatch(
            logging.getLogger("flowguard.test"),
            count=lambda: self.count,
            limit=lambda: 100,
            clock=lambda: self.now_s,
        )

    def look(self, count: int | None) -> None:
        self.count = count
        self.now_s += 1.0
        self.watch.look()


def test_it_is_said_when_the_last_one_is_used_and_when_there_are_some_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    for count in (10, 99, None, 100, None, 99, 90, 84, 50):
        scene.look(count)
    first, second = caplog.messages
    assert first.startswith("all 100 file descriptors of this process are in use")
    assert second == "there are file descriptors again: 84 of 100 are in use"


def test_they_are_not_counted_at_each_look(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.look(10)
    scene.count = None
    scene.watch.look()
    assert not caplog.text


def test_not_to_be_able_to_count_them_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (open_descriptors() or 0) > 2

    def out_of_them(path: str) -> list[str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "listdir", out_of_them)
    assert open_descriptors() is None


def test_what_asyncio_says_each_second_about_it_is_left_out() -> None:
    def record(text: str) -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), None)

    assert not SystemLimit().filter(record("socket.accept() out of system resource\nsocket: …"))
    assert SystemLimit().filter(record("Task exception was never retrieved"))
