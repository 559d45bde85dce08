"""Connections that carry fetch requests and nothing else.

aiokafka connects, negotiates versions and authenticates; then the live transport is handed
to a `BufferedProtocol`, so a response is received straight into its buffer. Half of what a
fetched byte costs in aiokafka is copying through `asyncio.StreamReader`.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final, NamedTuple

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest_v11

__all__ = ["FETCH_VERSION", "Awaited", "FetchConnection"]

#: The first version that fetches zstd is 10; 11 is the last without flexible fields.
#: Kafka 2.3 and later have it.
FETCH_API_KEY: Final = 1
FETCH_VERSION: Final = 11

LENGTH: Final = struct.Struct(">i")

#: A frame buffer that one large response made grow is given back after it.
BUFFER_SLACK: Final = 2


class FrameReceiver(asyncio.BufferedProtocol):
    """Receive length-prefixed frames into one buffer that is used again and again.

    Whoever awaits a frame reads it at once, before the loop runs again and more bytes are
    received, so one buffer is enough even when the next request is already under way.
    """

    def __init__(
        self, *, buffer_bytes: int, frame_bytes_max: int, transport: Any, before: Any
    ) -> None:
        self._buffer_bytes = buffer_bytes
        self._frame_bytes_max = frame_bytes_max
        self._transport = transport
        self._before = before  # aiokafka's protocol, which waits for connection_lost
        self._length = bytearray(LENGTH.size)
        self._frame = bytearray(buffer_bytes)
        self._at = 0
        self._size: int | None = None
        self._waiter: asyncio.Future[memoryview] | None = None
        self.lost: BaseException | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        if self._size is None:
            return memoryview(self._length)[self._at :]
        return memoryview(self._frame)[self._at : self._size]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of received bytes."""
        self._at += nbytes
        if self._size is None:
            if self._at == LENGTH.size:
                self._begin_frame(LENGTH.unpack(self._length)[0])
        elif self._at == self._size:
            self._end_frame()

    def _begin_frame(self, size: int) -> None:
        if not 0 < size <= self._frame_bytes_max:
            self._lose(KafkaConnectionError(f"a response of {size} bytes is beyond all limits"))
            self._transport.abort()  # what follows cannot be read either
            return
        if size > len(self._frame) or len(self._frame) > self._buffer_bytes * BUFFER_SLACK:
            self._frame = bytearray(max(size, self._buffer_bytes))
        self._at, self._size = 0, size

    def _end_frame(self) -> None:
        frame = memoryview(self._frame)[: self._size]
        self._at, self._size = 0, None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(frame)

    def next_frame(self) -> asyncio.Future[memoryview]:
        """Return the next frame, once it is complete; it is valid until the loop runs again."""
        self._waiter = asyncio.get_running_loop().create_future()
        if self.lost is not None:
            self._waiter.set_exception(self.lost)
        return self._waiter

    def eof_received(self) -> bool:
        """Note that the broker closed the connection."""
        self._lose(KafkaConnectionError("the broker closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._lose(exc or KafkaConnectionError("the connection is closed"))
        self._before.connection_lost(exc)

    def _lose(self, error: BaseException) -> None:
        self.lost = self.lost or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self.lost)

    def pause_writing(self) -> None:
        """Nothing to do: requests are small and go out one by one."""

    def resume_writing(self) -> None:
        """Nothing to do."""


class Awaited(NamedTuple):
    """A request whose answer is on its way."""

    correlation_id: int
    answer: asyncio.Future[memoryview]


class FetchConnection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is untyped
    """A connection that, once made, sends fetch requests one at a time.

    Args:
        buffer_bytes: Size of the receive buffer that is kept.
        frame_bytes_max: A larger response closes the connection.
        **kwargs: As for aiokafka's connection.
    """

    def __init__(
        self, host: str, port: int, *, buffer_bytes: int, frame_bytes_max: int, **kwargs: Any
    ) -> None:
        super().__init__(host, port, **kwargs)
        self._buffer_bytes = buffer_bytes
        self._frame_bytes_max = frame_bytes_max
        self._frames: FrameReceiver | None = None

    async def connect(self) -> None:
        """Connect, authenticate, and take over the transport.

        Raises:
            IncompatibleBrokerVersion: The broker does not know Fetch v11.
            OSError, KafkaError, asyncio.TimeoutError: It cannot be reached.
        """
        await super().connect()
        low, high = self._versions.get(FETCH_API_KEY, (0, 0))
        if not low <= FETCH_VERSION <= high:
            self.close()
            raise IncompatibleBrokerVersion(
                f"the broker at {self.host}:{self.port} has Fetch v{low} to v{high}; flowguard "
                f"needs v{FETCH_VERSION}, which Kafka has had since 2.3"
            )
        self._read_task.cancel()
        transport = self._writer.transport
        self._frames = FrameReceiver(
            buffer_bytes=self._buffer_bytes,
            frame_bytes_max=self._frame_bytes_max,
            transport=transport,
            before=self._protocol,
        )
        transport.set_protocol(self._frames)

    @property
    def alive(self) -> bool:
        """Tell whether a request can be sent."""
        return self._frames is not None and self._frames.lost is None and self.connected()

    def send_fetch(self, request: FetchRequest_v11) -> Awaited:
        """Send a request; its answer is `receive(…)`d before the next one but one.

        Raises:
            KafkaConnectionError: The connection was lost.
        """
        if not self.alive or self._frames is None:
            raise KafkaConnectionError(f"no connection to {self.host}:{self.port}")
        correlation_id = self._next_correlation_id()
        header = request.build_request_header(
            correlation_id=correlation_id, client_id=self._client_id
        )
        message = header.encode() + request.encode()
        answer = self._frames.next_frame()
        self._writer.transport.write(LENGTH.pack(len(message)) + message)
        return Awaited(correlation_id, answer)

    async def receive(self, awaited: Awaited, *, timeout_s: float) -> memoryview:
        """Return the body of a response.

        The bytes are valid until the event loop runs again: parse them at once.

        Raises:
            KafkaConnectionError: The connection was lost.
            TimeoutError: There was no answer in time; the connection is closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                frame = await awaited.answer
        except TimeoutError:
            self.close()
            raise
        if LENGTH.unpack_from(frame)[0] != awaited.correlation_id:
            self.close()
            raise KafkaConnectionError("the broker answered another request than the last one")
        return frame[LENGTH.size :]
