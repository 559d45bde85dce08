"""aiokafka's client as feeds have it, against brokers that come late, hang or are replaced."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v1

from flowguard.intake import client as module
from flowguard.intake.client import FeedClient
from flowguard.stress.embedded import free_port

METADATA, API_VERSIONS = 3, 18
HEADER = struct.Struct(">hhi")


@dataclass
class Node:
    """A broker that only tells who the brokers are.

    Attributes:
        number: Its id.
        tells: The nodes that it knows; itself if there are none.
        hangs: It accepts connections and answers nothing.
    """

    number: int
    port: int = field(default_factory=free_port)
    tells: list[Node] = field(default_factory=list)
    hangs: bool = False
    asked: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Listen on its port."""
        writers: set[asyncio.StreamWriter] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            try:
                while True:
                    (size,) = struct.unpack(">i", await reader.readexactly(4))
                    message = await reader.readexactly(size)
                    if not self.hangs:
                        writer.write(self.answer(message))
            except (asyncio.IncompleteReadError, OSError):
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for writer in writers:
                writer.close()

    def answer(self, message: bytes) -> bytes:
        key, _, correlation_id = HEADER.unpack_from(message)
        if key == API_VERSIONS:
            apis = [(METADATA, 0, 1), (API_VERSIONS, 0, 0)]
            body = struct.pack(">hi", 0, len(apis))
            body += b"".join(struct.pack(">hhh", *each) for each in apis)
        else:
            assert key == METADATA
            self.asked += 1
            nodes = [(each.number, "127.0.0.1", each.port, None) for each in self.tells or [self]]
            body = MetadataResponse_v1(nodes, nodes[0][0], []).encode()
        return struct.pack(">ii", len(body) + 4, correlation_id) + body


@asynccontextmanager
async def client_of(*nodes: Node, stopping: bool = False) -> AsyncIterator[FeedClient]:
    """A client that begins with these."""
    made = AIOKafkaClient(bootstrap_servers=[f"127.0.0.1:{node.port}" for node in nodes])
    client = FeedClient.adopt(made, should_stop=lambda: stopping)
    try:
        yield client
    finally:
        await client.close()


def known(client: FeedClient) -> set[int]:
    return {broker.nodeId for broker in client.cluster.brokers()}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing as long as a worker does."""
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.01)
    monkeypatch.setattr(module, "ASK_NEXT_AFTER_S", 0.05)


async def test_at_the_start_it_waits_until_a_broker_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Node(1)
    async with client_of(node) as client:
        waiting = asyncio.create_task(client.bootstrap())
        async with asyncio.timeout(5):
            while "no broker answers" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with node.running():
            await asyncio.wait_for(waiting, 5)
            assert known(client) == {1}
    assert caplog.text.count("waiting for one") == 1, "it is said once in a while"


async def test_a_worker_that_stops_waits_for_nobody() -> None:
    async with client_of(Node(1), stopping=True) as client:
        with pytest.raises(KafkaConnectionError, match="stopped"):
            await asyncio.wait_for(client.bootstrap(), 5)


async def test_a_bootstrap_server_that_hangs_is_left_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONNECT_WITHIN_S", 0.1)
    hanging, good = Node(1, hangs=True), Node(2)
    async with hanging.running(), good.running(), client_of(hanging, good) as client:
        await asyncio.wait_for(client.bootstrap(), 5)
        assert known(client) == {2}


async def test_metadata_comes_from_another_broker_while_one_hangs() -> None:
    nodes = [Node(1), Node(2)]
    for node in nodes:
        node.tells = nodes
    async with nodes[0].running(), nodes[1].running(), client_of(*nodes) as client:
        await client.bootstrap()
        nodes[0].hangs = True
        for _ in range(5):  # whichever is asked first
            assert await asyncio.wait_for(client.force_metadata_update(), 5)


async def test_when_all_known_brokers_are_gone_the_bootstrap_servers_are_asked_again() -> None:
    first, second = Node(1), Node(2)
    async with client_of(first, second) as client:
        async with first.running():
            await client.bootstrap()
            assert known(client) == {1}, "it came up alone, and knows of nobody else"
        async with second.running():
            async with asyncio.timeout(5):
                while known(client) != {2}:
                    await client.force_metadata_update()


async def test_a_request_that_is_not_answered_fails_and_the_next_one_has_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.1)
    node = Node(1)
    async with node.running(), client_of(node) as client:
        await client.bootstrap()
        await client.send(1, MetadataRequest([]))
        node.hangs = True
        with pytest.raises(RequestTimedOutError):
            await client.send(1, MetadataRequest([]))
        node.hangs = False
        answer = await client.send(1, MetadataRequest([]))
        assert [broker[0] for broker in answer.brokers] == [1]


async def test_connecting_to_a_broker_that_hangs_holds_up_no_other() -> None:
    hanging, good = Node(1), Node(2)
    hanging.tells = good.tells = [hanging, good]
    async with hanging.running(), good.running(), client_of(good) as client:
        await client.bootstrap()
        hanging.hangs = True
        stuck = asyncio.create_task(client.ready(1))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(client.ready(2), 5)
        stuck.cancel()


async def test_a_broker_that_hangs_while_it_is_connected_to_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONNECT_WITHIN_S", 0.1)
    node = Node(1)
    async with node.running(), client_of(node) as client:
        await client.bootstrap()
        node.hangs = True
        assert not await asyncio.wait_for(client.ready(1), 5)
        with pytest.raises(KafkaError):
            await client.send(1, MetadataRequest([]))
