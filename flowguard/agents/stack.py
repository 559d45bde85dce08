"""Where a task stands."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["stack_of"]

#: So many places are told, the innermost last.
PLACES_MAX = 8


def stack_of(task: asyncio.Task[Any]) -> str:
    """Return where a task waits: `file:line function`, from the outside to the inside."""
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(places) < 64:
        frame = next(
            (
                found
                for name in ("cr_frame", "ag_frame", "gi_frame")
                if (found := getattr(awaited, name, None)) is not None
            ),
            None,
        )
        if frame is not None:
            code = frame.f_code
            places.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        awaited = next(
            (
                found
                for name in ("cr_await", "ag_await", "gi_yieldfrom")
                if (found := getattr(awaited, name, None)) is not None
            ),
            None,
        )
    return " > ".join(places[-PLACES_MAX:]) or "an unknown place"
