"""A Confluent schema registry, asked over its REST API.

    GET /schemas/ids/{id}                     a writer's schema; a number never changes
    GET /subjects/{subject}/versions/latest   what is written with
    GET /subjects/{subject}/versions/{n}      what a schema refers to

What has a number is asked for once and kept for ever. Requests are short and blocking: codecs
run on threads of their own.

Source: Confluent Schema Registry API reference.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

from flowguard.errors import ConfigError, RegistryError
from flowguard.intake.codec.codec import RegisteredSchema

__all__ = ["SchemaRegistry"]

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 << 20
#: How long the latest schema of a subject is taken for the latest.
LATEST_S: Final = 300.0
#: How much longer while the registry does not answer.
GRACE_S: Final = 30.0
#: How long an unknown number is not asked for again: bytes that only look framed name many.
UNKNOWN_S: Final = 30.0
UNKNOWN_MAX: Final = 10_000
#: Schemas that one schema may need, all in all.
REFERENCES_MAX: Final = 200

#: What a registry says for a subject, a version and a schema that it does not have. Any other
#: 404 is no registry at that address.
NOT_FOUND: Final = (40401, 40402, 40403)

#: Members of a reference to another schema.
REFERENCE: Final = frozenset({"name", "subject", "version"})

Answer = TypeVar("Answer")


class SchemaRegistry:
    """Schemas by number and by subject.

    Args:
        url: `http(s)://[user:password@]host[:port][/path]`.
        serialized: Ask for protobuf schemas as descriptors instead of their source.
        clock: Seconds that only go on.

    Raises:
        ConfigError: The address is none.

    Thread-safety: all methods; a schema that several threads need is asked for once.
    """

    def __init__(
        self, url: str, *, serialized: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except (ValueError, AttributeError):
            host = port = None
        if not host or parts.scheme not in ("http", "https"):
            # The address may hold a password, so it is not shown.
            raise ConfigError(
                "registry= is no address; write it like https://user:password@host:8081"
            )
        self._https = parts.scheme == "https"
        self._host, self._port, self._path = host, port, parts.path.rstrip("/")
        self._format = "?format=serialized" if serialized else ""
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: dict[Hashable, threading.Lock] = {}
        self._schemas: dict[int, RegisteredSchema] = {}
        self._unknown: dict[int, float] = {}
        self._latest: dict[str, tuple[float, tuple[int, RegisteredSchema]]] = {}

    def __repr__(self) -> str:
        return f"<SchemaRegistry {self._host}>"  # never the password

    def schema(self, id: int) -> RegisteredSchema:
        """Return the schema with this number.

        Raises:
            LookupError: The registry has none.
            RegistryError: It does not answer.
        """

        def known() -> RegisteredSchema | None:
            if self._unknown.get(id, 0.0) > self._clock():
                raise LookupError(f"the registry has no schema {id}")
            return self._schemas.get(id)

        def ask() -> RegisteredSchema:
            try:
                found = self._with_references(self._get(f"/schemas/ids/{id}{self._format}"))
            except LookupError:
                if len(self._unknown) >= UNKNOWN_MAX:
                    self._unknown.clear()
                self._unknown[id] = self._clock() + UNKNOWN_S
                raise
            self._schemas[id] = found
            return found

        return self._once(id, known, ask)

    def latest(self, subject: str) -> tuple[int, RegisteredSchema]:
        """Return the number of a subject's latest schema, and the schema.

        Raises:
            LookupError: The registry has no such subject.
            RegistryError: It does not answer, and never did for this subject.
        """

        def known() -> tuple[int, RegisteredSchema] | None:
            until, found = self._latest.get(subject, (0.0, None))
            return found if until > self._clock() else None

        def ask() -> tuple[int, RegisteredSchema]:
            lasts_s = LATEST_S
            try:
                answer = self._get(f"{_version(subject, 'latest')}{self._format}")
                if type(answer.get("id")) is not int:
                    raise self._no_registry("an answer without a number")
                found = (int(answer["id"]), self._with_references(answer))
            except RegistryError:
                if subject not in self._latest:
                    raise
                lasts_s, found = GRACE_S, self._latest[subject][1]  # it may be written for ever
            self._latest[subject] = (self._clock() + lasts_s, found)
            return found

        return self._once(subject, known, ask)

    def _once(
        self, key: Hashable, known: Callable[[], Answer | None], ask: Callable[[], Answer]
    ) -> Answer:
        """Return what is known; else one thread asks, and all who need the same wait for it."""
        if (found := known()) is not None:
            return found
        with self._lock:
            lock = self._asking.setdefault(key, threading.Lock())
        try:
            with lock:
                found = known()
                return ask() if found is None else found
        finally:
            with self._lock:
                self._asking.pop(key, None)

    def _with_references(self, answer: dict[str, Any]) -> RegisteredSchema:
        """Return the schema of an answer, with all that it refers to."""
        found: dict[str, str] = {}
        self._collect(answer, found, set())
        return RegisteredSchema(_text(answer), tuple(found.items()))

    def _collect(self, answer: dict[str, Any], found: dict[str, str], begun: set[str]) -> None:
        """Add what an answer refers to, and before it what that refers to."""
        for reference in answer.get("references") or ():
            if not isinstance(reference, dict) or not reference.keys() >= REFERENCE:
                raise self._no_registry("a reference without name, subject and version")
            name, subject = str(reference["name"]), str(reference["subject"])
            if name in begun:
                continue
            begun.add(name)
            if len(begun) > REFERENCES_MAX:
                raise LookupError(f"a schema needs more than {REFERENCES_MAX} others")
            needed = self._get(f"{_version(subject, reference['version'])}{self._format}")
            self._collect(needed, found, begun)
            found[name] = _text(needed)

    def _get(self, path: str) -> dict[str, Any]:
        status, content = self._request(f"{self._path}{path}")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict) and isinstance(answer.get("schema"), str):
            return answer
        if status == 404 and isinstance(answer, dict) and answer.get("error_code") in NOT_FOUND:
            raise LookupError(f"the registry has no {path.partition('?')[0].strip('/')}")
        raise self._no_registry(f"status {status}")

    def _request(self, path: str) -> tuple[int, bytes]:
        # A redirect is not followed: it could lead the password to another host.
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            content = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._no_registry(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if len(content) > ANSWER_BYTES_MAX:
            raise self._no_registry(f"more than {ANSWER_BYTES_MAX} bytes")
        return response.status, content

    def _connection(self) -> http.client.HTTPConnection:
        if self._https:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)

    def _no_registry(self, why: str) -> RegistryError:
        return RegistryError(
            f"the schema registry at {self._host} does not answer ({why}); what needs it is held "
            "and tried again; check registry= and the registry"
        )


def _version(subject: str, version: object) -> str:
    return f"/subjects/{quote(subject, safe='')}/versions/{quote(str(version), safe='')}"


def _text(answer: dict[str, Any]) -> str:
    return str(answer["schema"])
