"""A broker of a few requests, in the test's own event loop, that does what a test says.

It knows ApiVersions and Fetch v11, keeps its log in a dict, and can refuse, stall, close,
throttle or lie. It has no groups and no metadata: those are aiokafka's, not ours to test.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, NamedTuple

from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11

from flowguard.chunk import TopicPartition
from tests.native.batches import Row, wire_batch

FETCH, API_VERSIONS = 1, 18
LENGTH = struct.Struct(">i")
HEADER = struct.Struct(">hhih")  # API key, version, correlation id, length of the client id

#: The broker holds an empty answer back for this long at most, so that no test waits.
LONG_POLL_S = 0.01


class Logged(NamedTuple):
    """A wire batch in the log."""

    first_offset: int
    last_offset: int
    wire: bytes


@dataclass
class Asked:
    """One fetch request as the broker saw it."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    offsets: dict[TopicPartition, int]
    shares: dict[TopicPartition, int]


@dataclass
class ScriptedBroker:
    """Serve what `append` put into the log.

    Attributes:
        errors: Partition → error code to answer instead of records.
        leads: Tells which partitions it answers for; all others get NOT_LEADER.
        fetch_versions: The versions of Fetch it offers.
        raw_answer: If set, makes the bytes of the next answers from the correlation id.
    """

    port: int = 0
    fetch_versions: tuple[int, int] = (4, 17)
    throttle_ms: int = 0
    error_code: int = 0
    errors: dict[TopicPartition, int] = field(default_factory=dict)
    leads: Callable[[TopicPartition], bool] = lambda _: True
    raw_answer: Callable[[int], Sequence[bytes] | None] | None = None
    requests: list[Asked] = field(default_factory=list)
    connections: int = 0
    log: dict[TopicPartition, list[Logged]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._gate = asyncio.Event()
        self._gate.set()
        self._more = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # The script.

    def append(
        self, partition: TopicPartition, rows: int | Sequence[Row] = 1, **options: Any
    ) -> int:
        """Append a wire batch and return the offset after it."""
        log = self.log[partition]
        first = log[-1].last_offset + 1 if log else 0
        if isinstance(rows, int):
            rows = [Row(key=None, value=b'{"n": %d}' % (first + i)) for i in range(rows)]
        wire = wire_batch(rows, base_offset=first, **options)
        log.append(Logged(first, first + len(rows) - 1, wire))
        self._more.set()
        return first + len(rows)

    def damage(self, partition: TopicPartition, batch: int) -> None:
        """Flip a bit in the records of a batch; its checksum stays."""
        logged = self.log[partition][batch]
        wire = bytearray(logged.wire)
        wire[-1] ^= 1
        self.log[partition][batch] = logged._replace(wire=bytes(wire))

    def hold(self) -> None:
        """Answer nothing until `go_on`."""
        self._gate.clear()

    def go_on(self) -> None:
        """Answer again."""
        self._gate.set()

    def drop_connections(self) -> None:
        """Close every connection, as a broker that goes down does."""
        for writer in self._writers:
            writer.close()

    # The server.

    @contextlib.asynccontextmanager
    async def running(self, *, ssl: SSLContext | None = None) -> AsyncIterator[ScriptedBroker]:
        """Listen on a free port of the loopback interface."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=ssl)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.drop_connections()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while True:
                size = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                await self._answer(await reader.readexactly(size), writer)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, message: bytes, writer: asyncio.StreamWriter) -> None:
        key, version, correlation_id, client_bytes = HEADER.unpack_from(message)
        body = message[HEADER.size + max(0, client_bytes) :]
        if key == API_VERSIONS:
            send(writer, correlation_id, self._versions())
            return
        assert (key, version) == (FETCH, 11), f"the script knows no API {key} v{version}"
        asked = read_request(body)
        self.requests.append(asked)
        await self._gate.wait()
        if self.raw_answer is not None and (pieces := self.raw_answer(correlation_id)) is not None:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            return
        if not self._has_news(asked):
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LONG_POLL_S, asked.max_wait_ms / 1e3)):
                    await self._more.wait()
        await self._gate.wait()
        send(writer, correlation_id, self._fetched(asked))

    def _versions(self) -> bytes:
        apis = [(FETCH, *self.fetch_versions), (API_VERSIONS, 0, 0)]
        return struct.pack(">hi", 0, len(apis)) + b"".join(
            struct.pack(">hhh", *each) for each in apis
        )

    def _has_news(self, asked: Asked) -> bool:
        return any(
            self._error(name) or self._records(name, offset, 1)
            for name, offset in asked.offsets.items()
        )

    def _error(self, name: TopicPartition) -> int:
        return self.errors.get(name, 0) or (0 if self.leads(name) else 6)

    def _records(self, name: TopicPartition, offset: int, max_bytes: int) -> bytes:
        found = b""
        for logged in self.log[name]:
            if logged.last_offset < offset:
                continue
            if found and len(found) + len(logged.wire) > max_bytes:
                break
            found += logged.wire
        return found

    def _fetched(self, asked: Asked) -> bytes:
        topics: dict[str, list[Any]] = defaultdict(list)
        left = asked.max_bytes
        for name, offset in asked.offsets.items():
            error = self._error(name)
            records = b"" if error else self._records(name, offset, min(left, asked.shares[name]))
            left = max(0, left - len(records))
            end = self.log[name][-1].last_offset + 1 if self.log[name] else 0
            topics[name.topic].append((name.partition, error, end, end, 0, [], -1, records))
        response: bytes = FetchResponse_v11(
            self.throttle_ms, self.error_code, 0, list(topics.items())
        ).encode()
        return response


def send(writer: asyncio.StreamWriter, correlation_id: int, body: bytes) -> None:
    """Write one frame."""
    writer.write(frame(correlation_id, body))


def frame(correlation_id: int, body: bytes) -> bytes:
    """Return a response with its length and correlation id before it."""
    return LENGTH.pack(len(body) + 4) + LENGTH.pack(correlation_id) + body


def empty_fetch() -> bytes:
    """Return a fetch response without partitions."""
    response: bytes = FetchResponse_v11(0, 0, 0, []).encode()
    return response


def read_request(body: bytes) -> Asked:
    """Return a Fetch v11 request in plain values."""
    request = FetchRequest_v11.decode(io.BytesIO(body))
    offsets: dict[TopicPartition, int] = {}
    shares: dict[TopicPartition, int] = {}
    for topic, partitions in request.topics:
        for partition, _, offset, _, max_bytes in partitions:
            offsets[TopicPartition(topic, partition)] = offset
            shares[TopicPartition(topic, partition)] = max_bytes
    return Asked(
        max_wait_ms=request.max_wait_time,
        min_bytes=request.min_bytes,
        max_bytes=request.max_bytes,
        isolation_level=request.isolation_level,
        offsets=offsets,
        shares=shares,
    )
