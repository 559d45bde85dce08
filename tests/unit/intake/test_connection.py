"""FetchConnection against a scripted broker: what can be wrong with an answer.

Every test runs over a plain connection, which a thread reads, and over TLS, which asyncio
reads. TLS is without certificates here: what is tested is who receives, not whom to trust.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError

from flowguard.chunk import TopicPartition
from flowguard.intake import connection as connections
from flowguard.intake.connection import SHORT_BYTES, FetchConnection, SocketReceiver
from flowguard.intake.fetch_request import FetchRequest
from tests.scripted_broker import LENGTH, ScriptedBroker, empty_fetch, frame

REQUEST = FetchRequest(5, 1, 1000, {TopicPartition("t", 0): (7, 500)})


def anonymous(purpose: ssl._SSLMethod) -> ssl.SSLContext:
    """Return one side of TLS that needs no certificate."""
    context = ssl.SSLContext(purpose)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return context


def client_context() -> ssl.SSLContext:
    context = anonymous(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Wire:
    """How the tests of this run connect."""

    def __init__(self, *, tls: bool) -> None:
        self.tls = tls

    @asynccontextmanager
    async def connected(
        self, broker: ScriptedBroker, *, buffer_bytes: int = 1024, frame_bytes_max: int = 4096
    ) -> AsyncIterator[FetchConnection]:
        async with broker.running(ssl=anonymous(ssl.PROTOCOL_TLS_SERVER) if self.tls else None):
            connection = FetchConnection(
                "127.0.0.1",
                broker.port,
                buffer_bytes=lambda: buffer_bytes,
                frame_bytes_max=frame_bytes_max,
                security_protocol="SSL" if self.tls else "PLAINTEXT",
                ssl_context=client_context() if self.tls else None,
            )
            await connection.connect()
            try:
                yield connection
            finally:
                connection.close()
                await until_no_thread_reads()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(tls=request.param)


async def until_no_thread_reads() -> None:
    """Wait until the threads of all connections came to their end."""
    await until(lambda: not reading_threads())


async def until(ready: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def reading_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("fetch from")]


async def fetch(connection: FetchConnection, *, timeout_s: float = 5.0) -> bytes:
    """Send one request and return a copy of the answer's body."""
    return bytes(await connection.receive(connection.send_fetch(REQUEST), timeout_s=timeout_s))


async def test_an_answer_is_the_body_after_the_correlation_id(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, b"the body")])

    async with wire.connected(broker) as connection:
        assert await fetch(connection) == b"the body"
        assert connection.alive


async def test_the_broker_sees_the_request_as_it_was_made(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, empty_fetch())])

    async with wire.connected(broker) as connection:
        await fetch(connection)

    (asked,) = broker.requests
    assert asked.offsets == {("t", 0): 7}
    assert (asked.max_wait_ms, asked.min_bytes, asked.max_bytes) == (5, 1, 1000)
    assert asked.isolation_level == 1


async def test_an_answer_that_arrives_byte_by_byte_is_put_together(wire: Wire) -> None:
    def crumbs(number: int) -> Sequence[bytes]:
        whole = frame(number, b"in small pieces")
        return [whole[i : i + 1] for i in range(len(whole))]

    async with wire.connected(ScriptedBroker(raw_answer=crumbs)) as connection:
        assert await fetch(connection) == b"in small pieces"


async def test_one_buffer_serves_answers_of_all_sizes_one_after_the_other(wire: Wire) -> None:
    sizes = iter([10, 3000, 1, 4000, 500])
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, bytes(next(sizes)))])

    async with wire.connected(broker) as connection:
        assert [len(await fetch(connection)) for _ in range(5)] == [10, 3000, 1, 4000, 500]


async def test_a_connection_that_the_broker_closes_is_an_error_and_not_alive(wire: Wire) -> None:
    broker = ScriptedBroker()
    broker.hold()

    async with wire.connected(broker) as connection:
        fetching = asyncio.create_task(fetch(connection))
        await until(lambda: broker.requests)
        broker.drop_connections()

        with pytest.raises(KafkaConnectionError, match="closed"):
            await fetching
        assert not connection.alive
        with pytest.raises(KafkaConnectionError):
            await fetch(connection)


async def test_a_connection_that_closes_in_the_middle_of_an_answer_is_an_error(wire: Wire) -> None:
    broker = ScriptedBroker()

    def half(number: int) -> Sequence[bytes]:
        asyncio.get_running_loop().call_later(0.01, broker.drop_connections)
        return [frame(number, b"never whole")[:-3]]

    broker.raw_answer = half
    async with wire.connected(broker) as connection:
        with pytest.raises(KafkaConnectionError):
            await fetch(connection)


async def test_the_answer_to_another_request_closes_the_connection(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number + 1, b"not yours")])

    async with wire.connected(broker) as connection:
        with pytest.raises(KafkaConnectionError, match="another request"):
            await fetch(connection)
        assert not connection.alive


async def test_a_broker_that_does_not_answer_in_time_loses_its_connection(wire: Wire) -> None:
    broker = ScriptedBroker()
    broker.hold()

    async with wire.connected(broker) as connection:
        with pytest.raises(TimeoutError):
            await fetch(connection, timeout_s=0.02)
        assert not connection.alive
        broker.go_on()


async def test_an_answer_that_comes_slowly_is_waited_for_as_long_as_some_of_it_comes(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "NOTE_EVERY_S", 0.02)
    body = bytes(range(200))
    written: list[asyncio.Task[None]] = []

    def slowly(number: int) -> Sequence[bytes]:
        (writer,) = broker._writers

        async def drip() -> None:
            whole = frame(number, body)
            for at in range(0, len(whole), 20):
                writer.write(whole[at : at + 20])
                await asyncio.sleep(0.02)

        written.append(asyncio.create_task(drip()))
        return []

    broker = ScriptedBroker(raw_answer=slowly)
    async with wire.connected(broker) as connection:
        assert await fetch(connection, timeout_s=0.1) == body, "it takes twice as long as that"


@pytest.mark.parametrize("size", [4097, 2**31 - 1, -1, 0, 3])
async def test_a_length_beyond_all_limits_is_an_error_and_allocates_nothing(
    wire: Wire, size: int
) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [LENGTH.pack(size)])

    async with wire.connected(broker) as connection:
        with pytest.raises(KafkaConnectionError, match=f"{size} bytes is beyond all limits"):
            await fetch(connection)
        assert not connection.alive


async def test_bytes_after_an_impossible_length_raise_nothing_in_the_event_loop(wire: Wire) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    broker = ScriptedBroker(raw_answer=lambda number: [LENGTH.pack(-5) + b"x" * 5000, b"y" * 5000])

    async with wire.connected(broker) as connection:
        with pytest.raises(KafkaConnectionError, match="beyond all limits"):
            await fetch(connection)
        await asyncio.sleep(0.02)

    assert complaints == []


async def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, b"asked for")])

    async with wire.connected(broker) as connection:
        assert await fetch(connection) == b"asked for"
        for writer in broker._writers:
            writer.write(frame(1, b"not asked for"))
        await asyncio.sleep(0.01)
        broker.raw_answer = lambda number: [frame(number, b"the second")]
        if wire.tls:  # asyncio received it meanwhile, and nobody waited for it
            assert await fetch(connection) == b"the second"
        else:  # a thread receives only what was asked for
            with pytest.raises(KafkaConnectionError, match=r"another request|more than"):
                await fetch(connection)
            assert not connection.alive


async def test_an_answer_with_more_behind_it_closes_a_plain_connection(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, b"x") + frame(number, b"y")])

    async with wire.connected(broker) as connection:
        if wire.tls:
            assert await fetch(connection) == b"x"
        else:
            with pytest.raises(KafkaConnectionError, match="more than it was asked for"):
                await fetch(connection)
            assert not connection.alive


async def test_answers_around_the_size_that_takes_one_receive_are_whole(wire: Wire) -> None:
    around = [SHORT_BYTES + each for each in (-9, -8, -7, -4, 0, 1, 50_000)]
    bodies = {size: random.Random(size).randbytes(size) for size in around}
    sizes = iter(around)
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, bodies[next(sizes)])])

    async with wire.connected(broker, frame_bytes_max=2 * SHORT_BYTES) as connection:
        for size in around:
            assert await fetch(connection) == bodies[size]


async def test_a_request_larger_than_the_socket_takes_at_once_arrives_whole(wire: Wire) -> None:
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, b"done")])
    places = {TopicPartition("t", number): (7, 500) for number in range(30_000)}
    large = FetchRequest(5, 1, 1000, places)

    async with wire.connected(broker) as connection:
        if isinstance(connection._receiver, SocketReceiver):
            connection._receiver._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answer = await connection.receive(connection.send_fetch(large), timeout_s=30)
        assert bytes(answer) == b"done"

    assert len(broker.requests[0].offsets) == len(places)


async def test_the_next_answer_may_come_while_one_is_still_looked_at() -> None:
    """Over a plain connection; over TLS asyncio receives nothing meanwhile."""
    wire = Wire(tls=False)
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, bytes([number]) * 2000)])

    async with wire.connected(broker) as connection:
        first = await connection.receive(connection.send_fetch(REQUEST), timeout_s=5)
        number = first[0]
        second = await connection.receive(connection.send_fetch(REQUEST), timeout_s=5)

        assert bytes(first) == bytes([number]) * 2000
        assert bytes(second) == bytes([number + 1]) * 2000


async def test_closing_ends_what_is_under_way_and_the_thread_at_once(wire: Wire) -> None:
    broker = ScriptedBroker()
    broker.hold()

    async with wire.connected(broker) as connection:
        fetching = asyncio.create_task(fetch(connection))
        await until(lambda: broker.requests)
        connection.close()

        with pytest.raises(KafkaConnectionError, match="closed"):
            await fetching
        await until_no_thread_reads()
        broker.go_on()


async def test_an_answer_that_nobody_waits_for_any_more_is_no_complaint(wire: Wire) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    broker = ScriptedBroker()
    broker.hold()

    async with wire.connected(broker) as connection:
        connection.send_fetch(REQUEST)
        await until(lambda: broker.requests)
    gc.collect()

    assert complaints == []


async def test_what_the_buffers_take_is_known_and_given_back_after_a_large_answer(
    wire: Wire,
) -> None:
    sizes = iter([4000, 4000, 10, 10])
    broker = ScriptedBroker(raw_answer=lambda number: [frame(number, bytes(next(sizes)))])

    async with wire.connected(broker) as connection:
        before = connection.buffer_bytes
        for _ in range(2):
            await fetch(connection)
        assert connection.buffer_bytes - before in (4004, 2 * 4004)
        for _ in range(2):
            await fetch(connection)
        assert connection.buffer_bytes - before <= 2 * 1024


@pytest.mark.parametrize("versions", [(4, 10), (12, 17)])
async def test_a_broker_without_the_needed_fetch_version_is_refused_by_name(
    versions: tuple[int, int],
) -> None:
    async with ScriptedBroker(fetch_versions=versions).running() as broker:
        connection = FetchConnection(
            "127.0.0.1", broker.port, buffer_bytes=lambda: 64, frame_bytes_max=64
        )

        with pytest.raises(IncompatibleBrokerVersion, match=f"127.0.0.1:{broker.port} has Fetch v"):
            await connection.connect()
        assert not connection.alive


async def test_a_broker_that_is_not_there_is_an_os_error() -> None:
    async with ScriptedBroker().running() as broker:
        port = broker.port
    connection = FetchConnection("127.0.0.1", port, buffer_bytes=lambda: 64, frame_bytes_max=64)

    with pytest.raises(OSError, match=str(port)):
        await connection.connect()
