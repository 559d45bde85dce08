"""One app object, several lives: what a worker adds to an app, and taking it away again.

A process starts an app once. A harness starts the same object again after a crash, and each
test begins with it anew, so what there was before the first start is remembered and restored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final
from weakref import WeakSet

from mode.utils.locks import Event

from flowguard.agents.agent import Fallback
from flowguard.app import App
from flowguard.errors import SimulationError

__all__ = ["Lives"]

#: Containers of which the content is restored: what a life adds is not there in the next.
COPIED: Final = (dict, list, set, WeakSet)

#: What belongs to an event loop, or holds what was under way.
RENEWED: Final = (asyncio.Queue, asyncio.Event, asyncio.Lock, Event)

#: Object → by attribute its value and, of a container, what was in it.
Remembered = list[tuple[Any, dict[str, tuple[Any, Any]]]]

#: Where an app keeps what it was, so that both go away together.
KEPT_IN: Final = "_as_declared"


class Lives:
    """Brings an app back to what it was when all was declared and nothing had started.

    Args:
        app: The app.

    Raises:
        SimulationError: The app has been started as a real worker, or an agent is new.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        remembered: Remembered | None = app.__dict__.get(KEPT_IN)
        if remembered is None:
            if app.started:
                raise SimulationError(
                    "the app has been started already; give the harness an app that was only "
                    "declared"
                )
            app.finalize()
            remembered = [(each, state_of(each)) for each in parts_of(app)]
        known = {id(each) for each, _ in remembered}
        late = [name for name, agent in app.agents.items() if id(agent) not in known]
        if late:
            raise SimulationError(
                f"agent {late[0]} was declared after the first harness of its app; declare all "
                f"agents before"
            )
        self._remembered = remembered

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Restore what was declared, on another event loop."""
        for each, before in self._remembered:
            state: dict[str, Any] = each.__dict__
            state.clear()
            state.update({name: restored(*pair) for name, pair in before.items()})
            if "_loop" in state:
                state["_loop"] = loop
            elif "loop" in state:
                state["loop"] = loop
        self._app.__dict__[KEPT_IN] = self._remembered
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


def state_of(part: Any) -> dict[str, tuple[Any, Any]]:
    """Return the attributes of an object, with what is in those that are containers."""
    return {
        name: (value, value.copy() if isinstance(value, COPIED) else None)
        for name, value in vars(part).items()
    }


def restored(value: Any, content: Any) -> Any:
    """Return a value as it was before the first start, or what a new life has in its place."""
    if isinstance(value, RENEWED):
        return type(value)()
    if isinstance(value, Fallback):
        return replace(value, inbox=asyncio.Queue())
    if isinstance(value, list):
        value[:] = content
    elif isinstance(value, dict | set | WeakSet):
        # Faust has closures over some of them, so they stay the same objects.
        value.clear()
        value.update(content)
    return value
