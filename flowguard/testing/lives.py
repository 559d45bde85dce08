"""One app object, several lives: what a worker adds to an app, and taking it away again.

A process starts an app once. A harness starts the same object again after a crash, and each
test begins with it anew, so what there was before the first start is remembered and restored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from mode.utils.locks import Event

from flowguard.agents.agent import Fallback
from flowguard.app import App
from flowguard.errors import SimulationError

__all__ = ["Lives"]

#: Containers that are copied, so that what a life adds to them is not there in the next.
COPIED: Final = (dict, list, set, WeakSet)

#: What belongs to an event loop, or holds what was under way.
RENEWED: Final = (asyncio.Queue, asyncio.Event, asyncio.Lock, Event)

REMEMBERED: WeakKeyDictionary[App, list[tuple[Any, dict[str, Any]]]] = WeakKeyDictionary()


class Lives:
    """Brings an app back to what it was when all was declared and nothing had started.

    Args:
        app: The app.

    Raises:
        SimulationError: The app runs, or has run, as a real worker.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        if app not in REMEMBERED:
            if app.started:
                raise SimulationError(
                    "the app has been started already; give the harness an app that was only "
                    "declared"
                )
            app.finalize()
            REMEMBERED[app] = [(each, copied(vars(each))) for each in parts_of(app)]

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Restore what was declared, on another event loop."""
        for each, before in REMEMBERED[self._app]:
            state = vars(each)
            state.clear()
            state.update(copied(before))
            if "_loop" in state:
                state["_loop"] = loop
            elif "loop" in state:
                state["loop"] = loop
        for feed in self._app.declared_feeds:
            feed._codec_slot.codec = None  # a new process has not seen any value yet


def parts_of(app: App) -> Iterable[Any]:
    """Yield the objects of an app that a worker changes."""
    yield app
    yield app.agents
    yield app.topics
    yield app.tables
    yield app.sensors
    yield app.boot_strategy
    seen: set[int] = set()
    for agent in app.agents.values():
        yield agent
        for each in (agent.channel, *getattr(agent, "_sinks", ())):
            if hasattr(each, "clone") and id(each) not in seen:
                seen.add(id(each))
                yield each
    for feed in app.declared_feeds:
        if id(feed) not in seen:
            seen.add(id(feed))
            yield feed
    yield from app.tables.values()


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return an object's state with containers of its own, and nothing under way."""
    return {name: copy_of(value) for name, value in state.items()}


def copy_of(value: Any) -> Any:
    """Return a container that may be changed, or what a new life has in a value's place."""
    if isinstance(value, RENEWED):
        return type(value)()
    if isinstance(value, Fallback):
        return replace(value, inbox=asyncio.Queue())
    if type(value) is WeakSet:
        return WeakSet(value)
    return value.copy() if isinstance(value, COPIED) else value
