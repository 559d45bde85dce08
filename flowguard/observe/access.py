"""Who may have which page of a worker.

    path                        on this host         from elsewhere
    /metrics /healthz /readyz   all                  all
    what reads                  all, by local name   the token; without one, TLS
    what changes anything       the token            the token

What changes anything is told by its method, before its handler is looked for: a page that is
added later needs the token without anybody thinking of it. So a page that is read with GET must
change nothing. A web site that lets its own name point to 127.0.0.1 (DNS rebinding) is told
apart by the Host header; who has the token needs no name.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["OPEN_PATHS", "Exposure", "Refused", "is_loopback", "refuse"]

#: What an orchestrator and a scraper need from elsewhere; nothing of the records is in it.
OPEN_PATHS: Final = frozenset({"/metrics", "/healthz", "/readyz"})

#: Methods that change nothing, as HTTP defines them (RFC 9110, 9.2.1).
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

NOT_SHOWN: Final = (
    "This page is shown on 127.0.0.1 only, or to whoever has the token (--web-token-file), or "
    "over TLS (web_ssl_context).\n"
)
NO_TOKEN: Final = (
    "What changes anything needs a token; start the worker with --web-token-file, and send it as "
    "Authorization: Bearer.\n"
)
WRONG_TOKEN: Final = "Send the worker's token as Authorization: Bearer.\n"
WRONG_HOST: Final = "Open this page by its address, such as http://127.0.0.1:6066/.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Who can reach the pages.

    Args:
        local: Only this host: a loopback address or a Unix socket.
        tls: The connection is encrypted.
        token: What whoever changes anything must have; None if there is none.
    """

    local: bool
    tls: bool
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not answered, and why."""

    status: int
    why: str

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what HTTP wants beside the status."""
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def refuse(
    exposure: Exposure, *, method: str, path: str, host: str, authorization: str | None
) -> Refused | None:
    """Return why a request is refused, None if it is answered.

    Args:
        method: In capital letters.
        path: Without the query.
        host: The Host header.
        authorization: The Authorization header.
    """
    reads = method in READING
    if reads and path in OPEN_PATHS:
        return None
    if exposure.token is not None and has_token(authorization, exposure.token):
        return None
    if exposure.local and not names_this_host(host):
        return Refused(403, WRONG_HOST)
    if reads and (exposure.local or (exposure.tls and exposure.token is None)):
        return None
    if exposure.token is not None:
        return Refused(401, WRONG_TOKEN)
    return Refused(403, NOT_SHOWN if reads else NO_TOKEN)


def has_token(authorization: str | None, token: str) -> bool:
    """Tell whether an Authorization header has the token; takes as long for each wrong one."""
    scheme, _, given = (authorization or "").partition(" ")
    same = hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), token.encode("utf-8", "surrogateescape")
    )
    return same and scheme.lower() == "bearer"


def is_loopback(host: str) -> bool:
    """Tell whether only this host can reach an address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_this_host(header: str) -> bool:
    """Tell whether a Host header names this host, and no web site."""
    host, colon, port = header.rpartition(":")
    return is_loopback((host if colon and port.isdigit() else header).lower().rstrip("."))
