"""Who gets to see the pages of a worker."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import flowguard as fg
from flowguard.observe.health import Health
from flowguard.observe.prometheus import make_registry
from flowguard.observe.state import state_document
from flowguard.observe.web import Exposure, WorkerPages, is_loopback, names_this_host
from flowguard.web import FeedWeb
from tests.unit.observe.observed import observed

PATHS = ("/", "/api/state", "/metrics", "/healthz", "/readyz")


async def statuses(exposure: Exposure, host: str = "127.0.0.1:6066") -> list[int]:
    """Return the status of each page."""
    import asyncio

    pages = WorkerPages(
        loop=asyncio.get_running_loop,
        exposure=lambda: exposure,
        state=lambda: state_document(observed().snapshot, app="<shop>", worker="host:1"),
        registry=make_registry(observed),
        liveness=lambda: Health(True),
        readiness=lambda: Health(False, "the worker is stopping"),
    )
    application = web.Application()
    pages.mount(application)
    async with TestClient(TestServer(application)) as client:
        found = []
        for path in PATHS:
            async with client.get(path, headers={"Host": host}) as response:
                assert "<shop>" not in await response.text() or path != "/"
                found.append(response.status)
    return found


@pytest.mark.parametrize(
    ("exposure", "host", "expected"),
    [
        (Exposure(local=True, tls=False), "localhost:6066", [200, 200, 200, 200, 503]),
        (Exposure(local=True, tls=False), "evil.example", [403, 403, 200, 200, 503]),
        (Exposure(local=False, tls=False), "10.0.0.1:6066", [403, 403, 200, 200, 503]),
        (Exposure(local=False, tls=True), "worker.example", [200, 200, 200, 200, 503]),
    ],
)
async def test_pages(exposure: Exposure, host: str, expected: list[int]) -> None:
    assert await statuses(exposure, host) == expected


@pytest.mark.parametrize("header", ["localhost", "127.0.0.1:80", "[::1]:6066", "LOCALHOST.:1"])
def test_headers_that_name_this_host(header: str) -> None:
    assert names_this_host(header)


@pytest.mark.parametrize("header", ["", "evil.example", "127.0.0.1.evil.example:6066", "0.0.0.0"])
def test_headers_that_do_not(header: str) -> None:
    assert not names_this_host(header)


def test_only_loopback_is_loopback() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("::")


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
