"""Who gets to see the pages of a worker."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import flowguard as fg
from flowguard.control.decision import Decision, DecisionLog
from flowguard.observe.access import OPEN_PATHS, Exposure
from flowguard.observe.health import Health
from flowguard.observe.prometheus import make_registry
from flowguard.observe.state import events_document, state_document
from flowguard.observe.web import COLUMNS, WorkerPages, index_page
from flowguard.units import format_size
from flowguard.web import FeedWeb
from tests.unit.observe.observed import observed, spilling_engine

PATHS = ("/", "/api/state", "/api/events", "/metrics", "/healthz", "/readyz")


def events(after: int) -> dict[str, Any]:
    decisions = DecisionLog()
    for number in range(300):
        decisions.add(
            Decision(
                at_ns=number, loop="ladder", subject="", action="up", before=0, after=1, why=""
            )
        )
    return events_document(
        decisions.after(after), last=decisions.total, now_ns=1_000, app="shop", worker="host:1"
    )


async def statuses(exposure: Exposure, host: str = "127.0.0.1:6066") -> list[int]:
    """Return the status of each page."""
    pages = pages_of(asyncio.get_running_loop, exposure)
    application = web.Application()
    pages.mount(application)
    async with TestClient(TestServer(application)) as client:
        found = []
        for path in PATHS:
            async with client.get(path, headers={"Host": host}) as response:
                assert "<shop>" not in await response.text() or path != "/"
                found.append(response.status)
    return found


def pages_of(loop: Any, exposure: Exposure) -> WorkerPages:
    return WorkerPages(
        loop=loop,
        exposure=lambda: exposure,
        state=lambda: state_document(observed().snapshot, app="<shop>", worker="host:1"),
        events=events,
        registry=make_registry(observed),
        liveness=lambda: Health(True),
        readiness=lambda: Health(False, "the worker is stopping"),
    )


@pytest.mark.parametrize(
    ("exposure", "host", "expected"),
    [
        (Exposure(local=True, tls=False), "localhost:6066", [200, 200, 200, 200, 200, 503]),
        (Exposure(local=True, tls=False), "evil.example", [403, 403, 403, 200, 200, 503]),
        (Exposure(local=False, tls=False), "10.0.0.1:6066", [403, 403, 403, 200, 200, 503]),
        (Exposure(local=False, tls=True), "worker.example", [200, 200, 200, 200, 200, 503]),
    ],
)
async def test_pages(exposure: Exposure, host: str, expected: list[int]) -> None:
    assert await statuses(exposure, host) == expected


def test_the_page_shows_what_a_lane_has_on_disk() -> None:
    state = state_document(observed(spilling_engine()).snapshot, app="shop", worker="host:1")

    realtime, backfill = (
        dict(zip(COLUMNS, re.findall("<td>(.*?)</td>", row), strict=True))
        for row in index_page(state).split("<tr>")[2:]
    )

    assert backfill["on disk"] == format_size(state["lanes"]["backfill"]["spilled_bytes"])
    assert (realtime["on disk"], realtime["dead letters"]) == ("–", "0")
    assert backfill["state"].startswith("spilling: ")


async def ask_events(query: str) -> tuple[int, str]:
    application = web.Application()
    pages_of(asyncio.get_running_loop, Exposure(local=True, tls=False)).mount(application)
    headers = {"Host": "localhost"}
    async with (
        TestClient(TestServer(application)) as client,
        client.get(f"/api/events{query}", headers=headers) as response,
    ):
        return response.status, await response.text()


async def test_events_after_a_number_are_those_that_somebody_has_not_seen() -> None:
    _, text = await ask_events("?after=298")
    document = json.loads(text)
    assert document["schema"] == "flowguard.events/v1"
    assert document["last"] == 300
    assert [each["number"] for each in document["events"]] == [299, 300]
    assert list(document["events"][0])[:4] == ["number", "age", "loop", "subject"]


async def test_events_are_bounded_and_a_number_of_an_earlier_life_gets_all_of_them() -> None:
    for query in ("", "?after=0", "?after=9999"):
        _, text = await ask_events(query)
        numbers = [each["number"] for each in json.loads(text)["events"]]
        assert numbers == list(range(45, 301))


@pytest.mark.parametrize(
    "query", ["?after=x", "?after=-1", "?after=", "?after=١", "?after=" + "9" * 400]
)
async def test_an_event_number_that_is_none_is_refused_in_a_line(query: str) -> None:
    status, text = await ask_events(query)
    assert status == 400 and text.count("\n") == 1


async def test_a_page_that_changes_something_cannot_be_added_without_the_token() -> None:
    """Whatever is added to the server, by whom and in whatever order, is behind the gate."""
    changed = []

    async def change(request: web.Request) -> web.Response:
        changed.append(request.path)
        return web.Response()

    exposure = Exposure(local=True, tls=False, token="a-token-that-nobody-guesses")
    application = web.Application()
    application.router.add_post("/before", change)
    pages_of(asyncio.get_running_loop, exposure).mount(application)
    application.router.add_route("*", "/after", change)
    asked = [
        (method, path)
        for method in ("POST", "PUT", "PATCH", "DELETE")
        for path in ("/before", "/after", "/nowhere", *PATHS)
    ]
    async with TestClient(TestServer(application)) as client:
        for method, path in asked:
            async with client.request(method, path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
        assert not changed
        headers = {"Authorization": "Bearer a-token-that-nobody-guesses"}
        async with client.post("/after", headers=headers) as response:
            assert response.status == 200
    assert changed == ["/after"]


def test_our_own_pages_only_read() -> None:
    application = web.Application()
    pages_of(asyncio.new_event_loop, Exposure(local=True, tls=False)).mount(application)
    assert {route.method for route in application.router.routes()} == {"GET", "HEAD"}


async def test_faust_and_user_pages_are_behind_the_same_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWGUARD_WEB_TOKEN", "a-token-that-nobody-guesses")
    app = make_app(web_bind="0.0.0.0", debug=True)

    @app.page("/mine/")
    async def mine(self: Any, request: Any) -> Any:
        return self.json({})

    found = sorted(path for path in paths(app) - OPEN_PATHS if "{" not in path)
    assert {"/graph/", "/mine/", "/router/", "/table/"} <= set(found)
    async with TestClient(TestServer(feed_web(app).web_app)) as client:
        for path in found:
            async with client.get(path) as response:
                assert response.status == 401, path


def make_app(**options: Any) -> fg.App:
    app = fg.App("shop", broker="kafka://127.0.0.1:1", **options)
    orders = app.feed("orders")

    @app.agent(orders)
    async def read(batches: Any) -> None: ...

    return app


def feed_web(app: fg.App) -> FeedWeb:
    assert isinstance(app.web, FeedWeb)
    return app.web


def paths(app: fg.App) -> set[str]:
    feed_web(app).init_server()
    return {resource.canonical for resource in feed_web(app).web_app.router.resources()}


def test_an_app_with_feeds_listens_on_this_host_only() -> None:
    app = make_app()
    assert feed_web(app).bind == "127.0.0.1"
    assert str(feed_web(app).url) == "http://127.0.0.1:6066/"
    assert app.conf.web_bind == "0.0.0.0"


def test_an_address_that_was_chosen_is_kept() -> None:
    assert feed_web(make_app(web_bind="0.0.0.0")).bind == "0.0.0.0"
    app = make_app()
    app.conf.web_bind = "0.0.0.0"  # as `faust worker --web-bind` does
    assert feed_web(app).bind == "0.0.0.0"


def test_an_app_without_feeds_keeps_the_pages_of_faust() -> None:
    import faust

    plain = faust.App("plain")
    plain.web.init_server()
    expected = {resource.canonical for resource in plain.web.web_app.router.resources()}  # type: ignore[attr-defined]
    app = fg.App("plain")
    assert paths(app) == expected
    assert feed_web(app).bind == "0.0.0.0"
    assert not feed_web(app).web_app.middlewares


def test_an_app_with_feeds_has_both() -> None:
    assert set(PATHS) < paths(make_app())
