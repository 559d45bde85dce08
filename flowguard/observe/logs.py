"""What the log must not do: show a secret, or let others write lines of their own into it.

Filters and no formatter: whoever sets up logging chooses the format, and these hold in each.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from flowguard.printable import printable

__all__ = ["OneLine", "guard_handlers", "hide_authentication"]

#: Where aiokafka logs each request, with all that is in it.
REQUESTS: Final = "aiokafka.conn"

#: A request or an answer of this kind holds the password, or what it can be guessed from.
AUTHENTICATION: Final = "SaslAuthenticate"

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


ONE_LINE: Final = OneLine()
WITHOUT_AUTHENTICATION: Final = WithoutAuthentication()


def hide_authentication() -> None:
    """Keep passwords out of aiokafka's debug lines, whoever logs them; safe to call again."""
    logging.getLogger(REQUESTS).addFilter(WITHOUT_AUTHENTICATION)


def guard_handlers() -> None:
    """Let every handler that there is now write one line a record; safe to call again."""
    loggers = (logging.getLogger(), *logging.Logger.manager.loggerDict.values())
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            handler.addFilter(ONE_LINE)
