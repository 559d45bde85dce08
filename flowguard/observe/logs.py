"""What the log must not do: show a secret, or let others write lines of their own into it.

Filters and no formatter: whoever sets up logging chooses the format, and these hold in each.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from flowguard.printable import printable

__all__ = ["OneLine", "Seldom", "guard_handlers", "hide_authentication"]

#: Where aiokafka logs each request, with all that is in it.
REQUESTS: Final = "aiokafka.conn"

#: A request or an answer of this kind holds the password, or what it can be guessed from.
AUTHENTICATION: Final = "SaslAuthenticate"

#: Who says each of ten attempts a second; while a broker is away that is some hundred lines.
REPEATING: Final = "aiokafka"
AGAIN_S: Final = 30.0

#: So many different lines are remembered; one that is forgotten is said once more.
LINES_MAX: Final = 200

#: A line of a traceback never begins as a line of the log does.
INDENT: Final = "    "


class WithoutAuthentication(logging.Filter):
    """Leave out what is in a request or an answer that authenticates."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; none is left out."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(without_authentication, record.args))
        return True


def without_authentication(argument: object) -> object:
    name = type(argument).__name__
    return f"{name}(***)" if name.startswith(AUTHENTICATION) else argument


class OneLine(logging.Filter):
    r"""Write control characters as `\x1b`, so that what is logged is one line and no command.

    In a traceback the message of an exception may still be several lines; each is indented.
    Of lines that are not ours only the arguments change: Faust draws tables.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; none is left out."""
        if record.name.split(".", 1)[0] == "flowguard":
            record.msg, record.args = printable(record.getMessage()), ()
        elif isinstance(record.args, Mapping):
            record.args = {name: shown(each) for name, each in record.args.items()}
        elif isinstance(record.args, tuple):
            record.args = tuple(map(shown, record.args))
        if record.exc_info and record.exc_text is None:
            record.exc_text = indented(record.exc_info)
        return True


def shown(argument: Any) -> Any:
    """Return an argument of a log line; text of others without control characters."""
    if not isinstance(argument, (str, BaseException)):
        return argument
    text = str(argument)
    return argument if text.isprintable() else printable(text)


def indented(
    exc_info: tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None],
) -> str:
    """Return a traceback whose lines are all indented."""
    lines = "".join(traceback.format_exception(*exc_info)).split("\n")
    return "\n".join(INDENT + printable(line) for line in lines if line)


class Seldom(logging.Filter):
    """Say what aiokafka repeats once in a while only, with how often it was said meanwhile.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to say it; every handler gets the same answer."""
        if record.levelno < logging.WARNING or record.name.split(".", 1)[0] != REPEATING:
            return True
        if "is_said" not in record.__dict__:
            record.__dict__["is_said"] = self._is_said(record)
        return bool(record.__dict__["is_said"])

    def _is_said(self, record: logging.LogRecord) -> bool:
        now_s, text = self._clock(), record.getMessage()
        said_s, unsaid = self._said.get(text, (now_s - AGAIN_S, 0))
        if now_s - said_s < AGAIN_S:
            self._said[text] = said_s, unsaid + 1
            return False
        if len(self._said) >= LINES_MAX:
            self._said.clear()
        self._said[text] = now_s, 0
        if unsaid:
            record.msg, record.args = f"{text} (and {unsaid} times since it was last said)", ()
        return True


ONE_LINE: Final = OneLine()
SELDOM: Final = Seldom()
WITHOUT_AUTHENTICATION: Final = WithoutAuthentication()


def hide_authentication() -> None:
    """Keep passwords out of aiokafka's debug lines, whoever logs them; safe to call again."""
    logging.getLogger(REQUESTS).addFilter(WITHOUT_AUTHENTICATION)


def guard_handlers() -> None:
    """Let every handler that there is now write one line a record, and no line all the time.

    Safe to call again.
    """
    loggers = (logging.getLogger(), *logging.Logger.manager.loggerDict.values())
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            handler.addFilter(SELDOM)
            handler.addFilter(ONE_LINE)
