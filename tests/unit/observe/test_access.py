"""Who may have which page of a worker."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.observe.access import (
    OPEN_PATHS,
    Exposure,
    has_token,
    is_loopback,
    names_this_host,
    refuse,
)

TOKEN = "a-token-that-nobody-guesses"
LOCAL = Exposure(local=True, tls=False)
LOCAL_WITH_TOKEN = Exposure(local=True, tls=False, token=TOKEN)
OPEN = Exposure(local=False, tls=False)
OPEN_WITH_TOKEN = Exposure(local=False, tls=False, token=TOKEN)
TLS = Exposure(local=False, tls=True)
TLS_WITH_TOKEN = Exposure(local=False, tls=True, token=TOKEN)
EXPOSURES = (LOCAL, LOCAL_WITH_TOKEN, OPEN, OPEN_WITH_TOKEN, TLS, TLS_WITH_TOKEN)
CHANGING = ("POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "PROPFIND")


def status(
    exposure: Exposure,
    method: str = "GET",
    path: str = "/api/state",
    host: str = "127.0.0.1:6066",
    token: str | None = None,
) -> int:
    """Return the status that a request is refused with, 200 if it is answered."""
    authorization = None if token is None else f"Bearer {token}"
    refused = refuse(exposure, method=method, path=path, host=host, authorization=authorization)
    return 200 if refused is None else refused.status


@pytest.mark.parametrize(
    ("exposure", "without", "wrong", "right"),
    [
        (LOCAL, 200, 200, 200),
        (LOCAL_WITH_TOKEN, 200, 200, 200),
        (OPEN, 403, 403, 403),
        (OPEN_WITH_TOKEN, 401, 401, 200),
        (TLS, 200, 200, 200),
        (TLS_WITH_TOKEN, 401, 401, 200),
    ],
)
def test_what_reads(exposure: Exposure, without: int, wrong: int, right: int) -> None:
    found = [status(exposure, token=token) for token in (None, "wrong", TOKEN)]
    assert found == [without, wrong, right]


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("path", ["/api/lanes", "/", "/metrics", "/healthz", "/mine/"])
@pytest.mark.parametrize("exposure", EXPOSURES)
def test_what_changes_anything_always_needs_the_token(
    exposure: Exposure, path: str, method: str
) -> None:
    assert status(exposure, method, path) in (401, 403)
    assert status(exposure, method, path, token="wrong") in (401, 403)
    assert status(exposure, method, path, token=TOKEN) == (200 if exposure.token else 403)


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
@pytest.mark.parametrize("exposure", EXPOSURES)
def test_metrics_and_health_are_for_everyone(exposure: Exposure, path: str) -> None:
    assert status(exposure, path=path, host="worker.example") == 200


@pytest.mark.parametrize("exposure", [LOCAL, LOCAL_WITH_TOKEN])
def test_a_web_site_that_points_its_name_to_this_host_sees_and_changes_nothing(
    exposure: Exposure,
) -> None:
    for method, path in itertools.product(("GET", "POST"), ("/", "/api/state", "/graph/")):
        assert status(exposure, method, path, host="evil.example:6066") == 403


def test_whoever_has_the_token_needs_no_name() -> None:
    assert status(LOCAL_WITH_TOKEN, "POST", host="worker.example", token=TOKEN) == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer {TOKEN}x", f"Bearer x{TOKEN}",
     "Bearer", "Bearer ", f"Bearer {TOKEN} {TOKEN}", "Bearer \udcff"],
)  # fmt: skip
def test_what_is_not_the_token(authorization: str | None) -> None:
    assert not has_token(authorization, TOKEN)


@pytest.mark.parametrize(
    "authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"]
)
def test_what_is_the_token(authorization: str) -> None:
    assert has_token(authorization, TOKEN)


@given(st.text(st.characters(), max_size=60))
def test_no_header_that_is_made_up_is_the_token(header: str) -> None:
    assert not has_token(header, TOKEN) or header.split()[1:] == [TOKEN]


def test_the_token_shows_itself_nowhere() -> None:
    assert TOKEN not in repr(OPEN_WITH_TOKEN)
    refused = refuse(
        OPEN_WITH_TOKEN, method="GET", path="/", host="h", authorization=f"Bearer {TOKEN}x"
    )
    assert refused is not None and TOKEN not in repr(refused)


@pytest.mark.parametrize("header", ["localhost", "127.0.0.1:80", "[::1]:6066", "LOCALHOST.:1"])
def test_headers_that_name_this_host(header: str) -> None:
    assert names_this_host(header)


@pytest.mark.parametrize("header", ["", "evil.example", "127.0.0.1.evil.example:6066", "0.0.0.0"])
def test_headers_that_do_not(header: str) -> None:
    assert not names_this_host(header)


def test_only_loopback_is_loopback() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("::")
