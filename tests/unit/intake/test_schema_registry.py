"""Asking a schema registry: once for what has a number, and never in doubt about silence."""

from __future__ import annotations

import base64
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowguard.errors import ConfigError, RegistryError
from flowguard.intake.codec import RegisteredSchema
from flowguard.intake.schema_registry import LATEST_S, UNKNOWN_S, SchemaRegistry
from tests.stub_registry import StubRegistry


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_schema_is_asked_for_once_and_kept(registry: StubRegistry) -> None:
    id = registry.register("a", "text")
    client = SchemaRegistry(registry.url)

    assert client.schema(id) == client.schema(id) == RegisteredSchema("text")
    assert registry.asked == {f"/schemas/ids/{id}": 1}


def test_threads_that_need_one_schema_ask_once(registry: StubRegistry) -> None:
    id = registry.register("a", "text")
    client = SchemaRegistry(registry.url)
    registry.gate.clear()

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(client.schema, id) for _ in range(8)]
        registry.gate.set()
        assert {each.result() for each in waiting} == {RegisteredSchema("text")}

    assert registry.asked == {f"/schemas/ids/{id}": 1}


def test_an_unknown_number_is_a_lookup_error_and_not_asked_again_for_a_while(
    registry: StubRegistry,
) -> None:
    clock = Clock()
    client = SchemaRegistry(registry.url, clock=clock)

    for _ in range(3):
        with pytest.raises(LookupError, match="no schema"):
            client.schema(100)
    assert registry.asked["/schemas/ids/100"] == 1

    registry.register("a", "late")
    clock.now += UNKNOWN_S
    assert client.schema(100).text == "late"


@pytest.mark.parametrize(
    "answer",
    [(500, b"{}"), (503, b"busy"), (404, b"<html>"), (404, b'{"error_code":404}'), (401, b"{}"),
     (200, b"{}"), (200, b"[]"), (200, b"no json"), (302, b"")],
)  # fmt: skip
def test_an_answer_that_is_none_is_no_unknown_schema(
    registry: StubRegistry, answer: tuple[int, bytes]
) -> None:
    id = registry.register("a", "text")
    client = SchemaRegistry(registry.url)
    registry.broken = answer
    with pytest.raises(RegistryError, match="does not answer"):
        client.schema(id)

    registry.broken = None
    assert client.schema(id).text == "text"


def test_a_registry_that_is_not_there_is_a_registry_error_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = SchemaRegistry(f"http://user:s3cret@127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(RegistryError) as caught:
            client.schema(1)
    assert "s3cret" not in str(caught.value) and "s3cret" not in repr(client)


def test_user_and_password_are_sent(registry: StubRegistry) -> None:
    id = registry.register("a", "text")

    SchemaRegistry(registry.url.replace("//", "//u%40x:p%3Aw@")).schema(id)

    assert registry.credentials == f"Basic {base64.b64encode(b'u@x:p:w').decode()}"


@pytest.mark.parametrize("url", ["", "registry:8081", "ftp://h", "http://", "http://h:port", 5])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        SchemaRegistry(url)


def test_references_come_first_and_each_once(registry: StubRegistry) -> None:
    registry.register("leaf", "leaf text")
    registry.register("mid", "mid text", ("leaf.x", "leaf", 1))
    id = registry.register("top", "top", ("mid.x", "mid", 1), ("leaf.x", "leaf", 1))

    found = SchemaRegistry(registry.url, serialized=True).schema(id)

    assert found.references == (("leaf.x", "leaf text"), ("mid.x", "mid text"))
    assert registry.asked["/subjects/leaf/versions/1?format=serialized"] == 1


def test_references_in_a_circle_end(registry: StubRegistry) -> None:
    registry.register("a", "a", ("b.x", "b", 1))
    id = registry.register("b", "b", ("a.x", "a", 1))

    assert {name for name, _ in SchemaRegistry(registry.url).schema(id).references} == {
        "a.x",
        "b.x",
    }


def test_the_latest_schema_is_asked_for_again_after_a_while(registry: StubRegistry) -> None:
    clock = Clock()
    client = SchemaRegistry(registry.url, clock=clock)
    first = registry.register("a/b-value", "one")
    assert client.latest("a/b-value") == (first, RegisteredSchema("one"))
    second = registry.register("a/b-value", "two")
    assert client.latest("a/b-value")[0] == first

    clock.now += LATEST_S
    registry.broken = (500, b"")
    assert client.latest("a/b-value")[0] == first  # better than not to send at all

    clock.now += LATEST_S
    registry.broken = None
    assert client.latest("a/b-value")[0] == second


def test_a_subject_without_schema_is_a_lookup_error(registry: StubRegistry) -> None:
    with pytest.raises(LookupError):
        SchemaRegistry(registry.url).latest("none-value")
