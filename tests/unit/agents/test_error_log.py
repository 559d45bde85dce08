"""An agent that raises again and again: said once, and then counted."""

from __future__ import annotations

from typing import Any

from flowguard.agents.error_log import AGAIN_S, KINDS_MAX, ErrorLog


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, text: str, *arguments: Any, exc_info: BaseException) -> None:
        assert exc_info is arguments[1]
        self.said.append(text % arguments)


def raised(kind: type[Exception], text: str = "") -> Exception:
    try:
        raise kind(text)
    except kind as error:
        return error


def test_an_error_is_said_at_once_and_those_like_it_are_counted() -> None:
    lines = Lines()
    errors = ErrorLog(lines)

    for number in range(100):
        errors.add("agent failed", raised(ValueError, f"record {number}"), AGAIN_S / 200 * number)
    errors.add("agent failed", raised(ValueError, "record 100"), 2 * AGAIN_S)

    assert lines.said == [
        "agent failed: ValueError('record 0')",
        "agent failed: ValueError('record 100') (99 more like it before)",
    ]


def test_an_error_of_another_kind_or_place_is_said_too() -> None:
    lines = Lines()
    errors = ErrorLog(lines)

    errors.add("failed", raised(ValueError), 0.0)
    errors.add("failed", raised(KeyError), 0.0)
    errors.add("failed", ValueError("made, never raised"), 0.0)

    assert len(lines.said) == 3


def test_only_so_many_kinds_are_remembered() -> None:
    errors = ErrorLog(Lines())

    for number in range(10 * KINDS_MAX):
        errors.add("failed", type(f"Error{number}", (Exception,), {})(), 0.0)

    assert len(errors._said) <= KINDS_MAX
