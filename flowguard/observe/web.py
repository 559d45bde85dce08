"""The pages of a worker: `/`, `/metrics`, `/healthz`, `/readyz`, `/api/state`, `/api/events`.

They read and never change anything. Records may be personal data, so a worker is shown to
its own host only: by default it listens on 127.0.0.1. Who may have which page says
`access.py`, for all pages of the server: Faust's, and those of the user's own.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from flowguard.observe.access import Exposure, refuse
from flowguard.observe.health import Health
from flowguard.units import format_duration, format_size

__all__ = ["WorkerPages"]

T = TypeVar("T")

NUMBER_DIGITS: Final = 18
NO_NUMBER: Final = (
    "after is the number of the last event that you have, such as /api/events?after=0.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPages:
    """Answers requests from what it is given.

    Args:
        loop: The event loop on which `state` and the metrics are read.
        exposure: Who can reach the pages, and the token; asked at each request.
        state: Returns the state document.
        events: Returns the document of the decisions after a number.
        registry: The metrics.
        liveness: Tells whether the process works; asked on whichever loop serves the pages.
        readiness: Tells whether the worker does its share of the work.
    """

    loop: Callable[[], asyncio.AbstractEventLoop]
    exposure: Callable[[], Exposure]
    state: Callable[[], dict[str, Any]]
    events: Callable[[int], dict[str, Any]]
    registry: CollectorRegistry
    liveness: Callable[[], Health]
    readiness: Callable[[], Health]

    def mount(self, application: web.Application) -> None:
        """Add the pages; of two handlers for one path the first that was added is used."""
        application.middlewares.insert(0, self._guard())
        for path, handler in self._routes().items():
            application.router.add_get(path, handler)

    def _routes(self) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        return {
            "/": self._index,
            "/api/state": self._state,
            "/api/events": self._events,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            refused = refuse(
                self.exposure(),
                method=request.method,
                path=request.path,
                host=request.host,
                authorization=request.headers.get("Authorization"),
            )
            if refused is not None:
                return web.Response(
                    status=refused.status, text=refused.why, headers=refused.headers
                )
            return await handler(request)  # type: ignore[no-any-return]

        return guard

    async def _ask(self, question: Callable[[], T]) -> T:
        """Ask on the worker's loop; with `web_in_thread` that is not the one we are on."""
        loop = self.loop()
        if loop is asyncio.get_running_loop():
            return question()

        async def ask() -> T:
            return question()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), loop))

    async def _index(self, request: web.Request) -> web.Response:
        state = await self._ask(self.state)
        return web.Response(text=index_page(state), content_type="text/html")

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(await self._ask(self.state))

    async def _events(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit()) or len(after) > NUMBER_DIGITS:
            return web.Response(status=400, text=NO_NUMBER)
        return web.json_response(await self._ask(lambda: self.events(int(after))))

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await self._ask(lambda: encode(self.registry))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return health_response(self.liveness())

    async def _readyz(self, request: web.Request) -> web.Response:
        return health_response(self.readiness())


def health_response(health: Health) -> web.Response:
    """Return an answer for an orchestrator."""
    return web.json_response(health.document(), status=health.status)


STYLE: Final = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: right }
th:first-child, td:first-child, td:last-child { text-align: left }
"""
COLUMNS: Final = ("lane", "read", "settled", "in flight", "held", "on disk", "dead letters",
                  "oldest", "p99", "state")  # fmt: skip


def index_page(state: dict[str, Any]) -> str:
    """Return the page for people: lanes, and links to all else."""
    app, memory = html.escape(state["app"]), state["memory"]
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    rows = "\n".join(lane_row(name, lane) for name, lane in state["lanes"].items())
    links = " · ".join(
        f'<a href="{path}">{path}</a>'
        for path in ("/api/state", "/api/events", "/metrics", "/healthz", "/readyz")
    )
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{app} – flowguard</title>
<style>
{STYLE}</style>
<h1>{app}</h1>
<p>Worker {html.escape(state["worker"])}, {html.escape(state["rung_name"])}, memory
{format_size(memory["used"])} of {format_size(memory["budget"])}</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>{links}</p>
</html>
"""


def lane_row(name: str, lane: dict[str, Any]) -> str:
    """Return one lane as a row of the table."""
    condition = lane["state"] if lane["why"] is None else f"{lane['state']}: {lane['why']}"
    counts = [f"{lane[count]:,}" for count in ("read", "settled", "in_flight", "held")]
    disk = format_size(lane["spilled_bytes"]) if lane["spilled_bytes"] else "–"
    times = ("–" if lane[key] is None else format_duration(lane[key])
             for key in ("oldest_age", "p99"))  # fmt: skip
    cells = map(html.escape, (name, *counts, disk, f"{lane['dead_letters']:,}", *times, condition))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
