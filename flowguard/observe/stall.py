"""Where code is that does not come back: the stack of a thread, and that of a task.

    fraud.py:31 score ← agent.py:212 _execute ← base_events.py:1922 _run_once

A line reads from the innermost place outwards. What asyncio itself does on the way is left out
of a task's stack, as it is the same for every task.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

__all__ = ["Place", "place_of", "stack_of", "stack_of_thread"]

#: So many places of a stack are shown; more say nothing new.
PLACES_MAX: Final = 12

#: Whose code is not the user's: Python's own, packages, and flowguard.
PACKAGES: Final = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {os.path.dirname(os.path.dirname(__file__)) + os.sep}
)

#: file, line, function
Place = tuple[str, int, str]


def stack_of(task: asyncio.Task[Any]) -> str:
    """Return where a task waits, in one line, innermost first; why if that cannot be told.

    It follows what each coroutine awaits, so it sees through agents, which are asynchronous
    generators, and through tasks that it waits for. Of code that runs on a thread meanwhile
    only the wait for it is shown.
    """
    if task.done():
        return "it has ended"
    places, waits_for = awaited_places(task.get_coro())
    if not places:
        return "it has not begun"
    line = in_a_line(reversed(places))
    return line if waits_for is None else f"waits for {type(waits_for).__name__} in {line}"


def stack_of_thread(ident: int) -> str | None:
    """Return where a thread is, in one line, innermost first; None if there is no such thread."""
    places = places_of_thread(ident)
    return None if places is None else in_a_line(places)


def place_of(ident: int) -> str | None:
    """Return the innermost place of a thread that is the user's code, else the innermost one."""
    places = places_of_thread(ident)
    if not places:
        return None
    ours = next((place for place in places if not place[0].startswith(PACKAGES)), places[0])
    return "{}:{} {}".format(*ours)


def places_of_thread(ident: int) -> list[Place] | None:
    frame = sys._current_frames().get(ident)
    if frame is None:
        return None
    return [place_at(each, line) for each, line in traceback.walk_stack(frame)]


def place_at(frame: FrameType, line: int) -> Place:
    return frame.f_code.co_filename, line, name_of(frame.f_code)


def name_of(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


def in_a_line(places: Iterable[Place]) -> str:
    """Return places in one line; whole paths for the user's code, file names for the rest."""
    shown = [
        f"{os.path.basename(file) if file.startswith(PACKAGES) else file}:{line} {name}"
        for file, line, name in places
    ]
    more = [f"{len(shown) - PLACES_MAX} more"] if len(shown) > PLACES_MAX else []
    return " ← ".join(shown[:PLACES_MAX] + more)


def awaited_places(coroutine: Any) -> tuple[list[Place], Any]:
    """Return the places from a coroutine inwards, and what the innermost one waits for."""
    places: list[Place] = []
    seen: set[int] = set()
    while coroutine is not None and id(coroutine) not in seen:
        seen.add(id(coroutine))
        match coroutine:
            case CoroutineType():
                frame, awaited = coroutine.cr_frame, coroutine.cr_await
            case AsyncGeneratorType():
                frame, awaited = coroutine.ag_frame, coroutine.ag_await
            case GeneratorType():
                frame, awaited = coroutine.gi_frame, coroutine.gi_yieldfrom
            case asyncio.Task():
                coroutine = coroutine.get_coro()
                continue
            case _:
                inner = next(driven_by(coroutine), None)
                if inner is None:
                    return places, coroutine
                coroutine = inner
                continue
        if frame is not None:
            places.append(place_at(frame, frame.f_lineno or frame.f_code.co_firstlineno))
        coroutine = awaited
    return places, None


def driven_by(awaited: Any) -> Iterator[Any]:
    """Yield what an awaitable without a frame drives: `anext()` of a generator, for example."""
    if isinstance(awaited, asyncio.Future):
        return
    for inner in gc.get_referents(awaited):
        if isinstance(inner, (CoroutineType, AsyncGeneratorType, GeneratorType, asyncio.Future)):
            yield inner
