"""Where a task stands."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Final

__all__ = ["stack_of"]

#: So many places are told, the innermost last.
PLACES_MAX: Final = 6

#: No stack of awaits is deeper; a circle of them would be.
DEPTH_MAX: Final = 200

FRAMES: Final = ("cr_frame", "ag_frame", "gi_frame")
AWAITED: Final = ("cr_await", "ag_await", "gi_yieldfrom")


def stack_of(task: asyncio.Task[Any]) -> str:
    """Return where a task waits: `file:line function`, from the outside to the inside.

    `Task.get_stack` knows only the outermost function of a task that waits.
    """
    places: list[str] = []
    awaited: Any = task.get_coro()
    for _ in range(DEPTH_MAX):
        if awaited is None:
            break
        frame = first_of(awaited, FRAMES)
        if frame is not None:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            awaited = first_of(awaited, AWAITED)
        else:  # what stands for a coroutine or a generator, such as `__anext__()`
            awaited = next((each for each in gc.get_referents(awaited) if has_frame(each)), None)
    return " > ".join(places[-PLACES_MAX:]) or "an unknown place"


def has_frame(awaited: Any) -> bool:
    """Tell whether something is a coroutine or a generator that waits."""
    return first_of(awaited, FRAMES) is not None


def first_of(thing: Any, names: tuple[str, ...]) -> Any:
    """Return the first of these attributes that there is, None without one."""
    found = (getattr(thing, name, None) for name in names)
    return next((each for each in found if each is not None), None)
