"""What the log does not show, and does not let others write."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslAuthenticateResponse_v1
from hypothesis import given
from hypothesis import strategies as st

from flowguard.observe.logs import AGAIN_S, LINES_MAX, Seldom, guard_handlers, hide_authentication
from flowguard.printable import printable

FORGED = "ok\n12:00:00 ERROR flowguard.worker: all is lost\r\x1b[2J\x9b31m\u2028\u202e"
BEGINNING = re.compile(r"^\[", re.MULTILINE)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Return what a guarded logger writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    guard_handlers()
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize("name", ["flowguard.worker", "flowguard.agents.agent", "faust", "theirs"])
def test_what_others_say_is_one_line(written: io.StringIO, name: str) -> None:
    logging.getLogger(name).warning("topic %s: %s", FORGED, ValueError(FORGED))
    assert written.getvalue().count("\n") == 1
    assert written.getvalue()[:-1].isprintable()


def test_what_flowguard_puts_together_itself_is_one_line_too(written: io.StringIO) -> None:
    logging.getLogger("flowguard.worker").warning(f"topic {FORGED} 100%")
    assert written.getvalue().count("\n") == 1 and "100%" in written.getvalue()


def test_the_lines_of_a_traceback_do_not_look_like_lines_of_the_log(written: io.StringIO) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("flowguard.agents").exception("agent failed")
    first, *rest = written.getvalue().splitlines()
    assert first == "[ERROR] agent failed"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert any("ValueError: ok" in line for line in rest)


def test_a_line_without_anything_strange_stays_as_it_is(written: io.StringIO) -> None:
    logging.getLogger("flowguard.worker").info("lanes %s: %d µs, 97 %% of %r", "a > b", 3, "x\\n")
    assert written.getvalue() == "[INFO] lanes a > b: 3 µs, 97 % of 'x\\\\n'\n"


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_is_printable_is_shown_as_it_is_and_nothing_else(text: str) -> None:
    found = printable(text)
    assert found.isprintable()
    assert found == text or not text.isprintable()
    assert printable(found) == found


def test_a_password_is_not_in_the_debug_lines_of_aiokafka(caplog: pytest.LogCaptureFixture) -> None:
    hide_authentication()
    log = logging.getLogger("aiokafka.conn")
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        request = SaslAuthenticateRequest(b"\0me\0canary").prepare({36: (0, 1)})
        log.debug("Request to %s:%d %d: %s", "host", 1, 2, request)
        answer = SaslAuthenticateResponse_v1(0, None, b"canary", 0)
        log.debug("Response from %s:%d %d: %s", "host", 1, 2, answer)
        log.debug("Closing connection at %s:%s (%s, %s)", "host", 1, None, None)
    assert "canary" not in caplog.text
    assert caplog.text.count("(***)") == 2 and "Closing connection" in caplog.text


class Said:
    """A filter, and time that passes."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.seldom = Seldom(lambda: self.now_s)

    def says(self, text: str, *args: object, name: str = "aiokafka.client",
             level: int = logging.ERROR) -> str | None:  # fmt: skip
        record = logging.LogRecord(name, level, "", 0, text, args, None)
        found = {self.seldom.filter(record) for _ in range(2)}  # two handlers
        assert len(found) == 1
        return record.getMessage() if found == {True} else None


def test_what_aiokafka_says_again_and_again_is_said_once_in_a_while_with_its_number() -> None:
    said = Said()
    assert said.says("cannot reach %s", 1) == "cannot reach 1"
    assert [said.says("cannot reach %s", 1) for _ in range(9)] == [None] * 9
    assert said.says("cannot reach %s", 2) == "cannot reach 2"
    said.now_s += AGAIN_S
    assert said.says("cannot reach %s", 1) == (
        "cannot reach 1 (and 9 times since it was last said)"
    )
    assert said.says("cannot reach %s", 1) is None


def test_lines_of_others_and_of_whoever_debugs_are_all_said() -> None:
    said = Said()
    for options in ({"name": "flowguard.worker"}, {"name": "theirs"}, {"level": logging.INFO}):
        assert [said.says("x", **options) for _ in range(3)] == ["x"] * 3  # type: ignore[arg-type]


def test_what_is_remembered_of_lines_is_bounded() -> None:
    said = Said()
    for number in range(10 * LINES_MAX):
        assert said.says("error %d", number) == f"error {number}"
    assert len(said.seldom._said) <= LINES_MAX
