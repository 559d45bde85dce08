"""What an agent raises, in the log: all of it once, and then how often.

To find one record in a thousand an agent fails ten times with the same error, and tracebacks would
cost more than the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ErrorLog"]

#: An error that goes on is said again after this.
AGAIN_S: Final = 10.0

#: Kinds that are remembered; agents that raise more of them say them all.
KINDS_MAX: Final = 64

#: The type of an error, and the line that raised it.
Kind = tuple[type[BaseException], str, int]


@dataclass(slots=True)
class Said:
    """When an error was said last, and how many came since."""

    at_s: float
    more: int = 0


class ErrorLog:
    """Say the errors of an agent, each kind at most every ten seconds.

    Args:
        say: Takes a format and its arguments, as `Logger.error` does.
    """

    def __init__(self, say: Callable[..., Any]) -> None:
        self._say = say
        self._said: dict[Kind, Said] = {}

    def add(self, what: str, error: BaseException, now_s: float) -> None:
        """Say an error with its traceback, or count it.

        Args:
            what: What happened, in front of the error.
            now_s: On any clock that does not go back.
        """
        kind = kind_of(error)
        said = self._said.get(kind)
        if said is not None and now_s - said.at_s < AGAIN_S:
            said.more += 1
            return
        more = f" ({said.more:,} more like it before)" if said is not None and said.more else ""
        if len(self._said) >= KINDS_MAX:
            self._said.clear()
        self._said[kind] = Said(now_s)
        self._say("%s: %r%s", what, error, more, exc_info=error)


def kind_of(error: BaseException) -> Kind:
    """Return what tells an error from others: its type, and the line that raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error), "", 0
    return type(error), place.tb_frame.f_code.co_filename, place.tb_lineno
