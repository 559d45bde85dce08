"""Connections that carry fetch requests and nothing else.

aiokafka connects, negotiates versions and authenticates; then the live connection is taken
over. Half of what a fetched byte costs in aiokafka is copying through `asyncio.StreamReader`:

- a plain socket goes to a thread of its own, which blocks in `recv` for a whole response.
  So the broker and the kernel work on the next response while this one is parsed; when
  nobody receives, the kernel acknowledges late and the broker stands still;
- TLS stays with asyncio, which has the keys: its transport is handed to a
  `BufferedProtocol`, and a response is received straight into its buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, Protocol

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, StaleMetadata

from flowguard.intake.fetch_request import FETCH_API_KEY, FETCH_VERSION, FetchRequest

__all__ = ["Awaited", "Connect", "FetchConnection", "credentials_of", "open_connection"]

LENGTH: Final = struct.Struct(">i")

#: A frame buffer grows by this factor, and is given back when it is larger by this factor
#: than what is to be kept.
BUFFER_SLACK: Final = 2

#: A short response, such as a few records that are urgent, takes one `recv` and not two:
#: after each a thread may have to wait for the interpreter.
SHORT_BYTES: Final = 64 * 1024

#: So often it is noted how much of a long response has come.
NOTE_EVERY_S: Final = 1.0
TIMEVAL: Final = struct.Struct("@ll")


class FrameBuffer:
    """Memory for one frame, used again and again.

    Args:
        bytes_kept: Tells what size is kept when a larger frame made it grow.
        bytes_max: A larger frame is an error, and nothing is allocated for it.
    """

    def __init__(self, *, bytes_kept: Callable[[], int], bytes_max: int) -> None:
        self._bytes_kept = bytes_kept
        self._bytes_max = bytes_max
        self._memory = bytearray()

    def __len__(self) -> int:
        return len(self._memory)

    def room_for(self, size: int) -> memoryview:
        """Return memory of exactly this size; what it held before is gone.

        Raises:
            KafkaConnectionError: No frame is of this size.
        """
        if not LENGTH.size <= size <= self._bytes_max:
            raise KafkaConnectionError(f"a response of {size} bytes is beyond all limits")
        kept = self._bytes_kept()
        if size > len(self._memory) or len(self._memory) > kept * BUFFER_SLACK:
            self._memory = bytearray(max(size, min(kept, size * BUFFER_SLACK)))
        return memoryview(self._memory)[:size]


class Receiver(Protocol):
    """Sends a request at a time and receives its answer."""

    lost: BaseException | None
    received_bytes: int  # of all that came so far

    @property
    def buffer_bytes(self) -> int:
        """Return the memory that its buffers take."""

    def exchange(self, message: bytes) -> asyncio.Future[memoryview]:
        """Send a request; its answer is a frame without its length."""

    def close(self) -> None:
        """Let an exchange under way fail; safe to call again."""


class SocketReceiver:
    """Sends and receives on a thread of its own, over a plain socket.

    Two frame buffers take turns: the next request is sent when a response is there but
    not parsed yet, and the one after that only when it is.

    Args:
        connected: The socket; it is closed at the end.
        buffers: Two.
        name: Of the thread.
    """

    def __init__(
        self, connected: socket.socket, buffers: tuple[FrameBuffer, FrameBuffer], *, name: str
    ) -> None:
        self._socket = connected
        self._buffers = buffers
        self._turn = 0
        self._beginning = memoryview(bytearray(SHORT_BYTES))
        self._loop = asyncio.get_running_loop()
        self._exchanges: SimpleQueue[tuple[bytes, asyncio.Future[memoryview]] | None]
        self._exchanges = SimpleQueue()
        self.lost: BaseException | None = None
        self.received_bytes = 0
        connected.setblocking(True)
        every = TIMEVAL.pack(int(NOTE_EVERY_S), int(NOTE_EVERY_S % 1 * 1e6))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, every)
        Thread(target=self._run, name=name, daemon=True).start()

    @property
    def buffer_bytes(self) -> int:
        """Return the memory that its buffers take."""
        return sum(map(len, self._buffers)) + len(self._beginning)

    def exchange(self, message: bytes) -> asyncio.Future[memoryview]:
        """Send a request; its answer is valid until the next exchange but one."""
        answer: asyncio.Future[memoryview] = self._loop.create_future()
        if self.lost is None:
            self._exchanges.put((message[self._send_now(message) :], answer))
        else:
            fail(answer, self.lost)
        return answer

    def _send_now(self, message: bytes) -> int:
        """Send what the socket takes at once; the thread sends the rest, or meets the error."""
        try:
            return self._socket.send(message, socket.MSG_DONTWAIT)
        except OSError:
            return 0

    def close(self) -> None:
        """Wake the thread wherever it waits, and let it end."""
        self.lost = self.lost or KafkaConnectionError("the connection is closed")
        self._exchanges.put(None)
        with contextlib.suppress(OSError):  # the broker may have been faster
            self._socket.shutdown(socket.SHUT_RDWR)

    # On the thread.

    def _run(self) -> None:
        with self._socket, contextlib.suppress(RuntimeError):  # the event loop is closed
            while (exchange := self._exchanges.get()) is not None:
                unsent, answer = exchange
                try:
                    self._socket.sendall(unsent)
                    frame = self._receive()
                except Exception as error:  # whoever waits for the answer has to know
                    self._loop.call_soon_threadsafe(self._failed, answer, error)
                else:
                    self._loop.call_soon_threadsafe(succeed, answer, frame)

    def _receive(self) -> memoryview:
        received = self._receive_some(self._beginning)
        while received < LENGTH.size:
            received += self._receive_some(self._beginning[received:])
        begun = self._beginning[LENGTH.size : received]
        self._turn = 1 - self._turn
        frame = self._buffers[self._turn].room_for(LENGTH.unpack_from(self._beginning)[0])
        if len(begun) > len(frame):
            raise KafkaConnectionError("the broker sent more than it was asked for")
        frame[: len(begun)] = begun
        rest = frame[len(begun) :]
        while len(rest):  # less than all comes after a signal, at the end, and if it takes long
            rest = rest[self._receive_some(rest, socket.MSG_WAITALL) :]
        return frame

    def _receive_some(self, view: memoryview, flags: int = 0) -> int:
        while True:
            try:
                received = self._socket.recv_into(view, 0, flags)
                break
            except BlockingIOError:  # nothing has come; how long is too long, who waits decides
                continue
        if not received:
            raise KafkaConnectionError("the broker closed the connection")
        self.received_bytes += received
        return received

    # On the event loop.

    def _failed(self, answer: asyncio.Future[memoryview], error: BaseException) -> None:
        self.lost = self.lost or error
        fail(answer, self.lost)


class FrameReceiver(asyncio.BufferedProtocol):
    """Sends and receives through an asyncio transport: what TLS needs.

    Whoever awaits a frame reads it at once, before the loop runs again and more bytes are
    received, so one buffer is enough even when the next request is already under way.
    """

    def __init__(self, transport: Any, buffer: FrameBuffer, *, before: Any) -> None:
        self._transport = transport
        self._buffer = buffer
        self._before = before  # aiokafka's protocol, which waits for connection_lost
        self._length = bytearray(LENGTH.size)
        self._frame: memoryview | None = None
        self._at = 0
        self._answer: asyncio.Future[memoryview] | None = None
        self.lost: BaseException | None = None
        self.received_bytes = 0

    @property
    def buffer_bytes(self) -> int:
        """Return the memory that its buffer takes."""
        return len(self._buffer)

    def exchange(self, message: bytes) -> asyncio.Future[memoryview]:
        """Send a request; its answer is valid until the loop runs again."""
        self._answer = asyncio.get_running_loop().create_future()
        if self.lost is None:
            self._transport.write(message)
        else:
            fail(self._answer, self.lost)
        return self._answer

    def close(self) -> None:
        """Note that the connection is closed; the transport closes by itself."""
        self._lose(KafkaConnectionError("the connection is closed"))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        return memoryview(self._length if self._frame is None else self._frame)[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of received bytes."""
        self._at += nbytes
        self.received_bytes += nbytes
        if self._frame is None:
            if self._at == LENGTH.size:
                self._begin_frame(LENGTH.unpack(self._length)[0])
        elif self._at == len(self._frame):
            self._end_frame(self._frame)

    def _begin_frame(self, size: int) -> None:
        try:
            self._frame, self._at = self._buffer.room_for(size), 0
        except KafkaConnectionError as error:
            self._lose(error)
            self._transport.abort()  # what follows cannot be read either

    def _end_frame(self, frame: memoryview) -> None:
        self._frame, self._at = None, 0
        if self._answer is not None:
            succeed(self._answer, frame)

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
        if self._answer is not None:
            fail(self._answer, self.lost)

    def pause_writing(self) -> None:
        """Nothing to do: requests are small and go out one by one."""

    def resume_writing(self) -> None:
        """Nothing to do."""


def succeed(answer: asyncio.Future[memoryview], frame: memoryview) -> None:
    """Hand over a frame, unless nobody waits for it any more."""
    if not answer.done():
        answer.set_result(frame)


def fail(answer: asyncio.Future[memoryview], error: BaseException) -> None:
    """Hand over an error, unless nobody waits any more."""
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # asked for ahead of one that failed, nobody may ever wait for it


class Awaited(NamedTuple):
    """A request whose answer is on its way."""

    correlation_id: int
    answer: asyncio.Future[memoryview]


class FetchConnection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is untyped
    """A connection that, once made, sends fetch requests one at a time.

    Args:
        buffer_bytes: Tells the size of a receive buffer that is kept.
        frame_bytes_max: A larger response closes the connection.
        **kwargs: As for aiokafka's connection.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        buffer_bytes: Callable[[], int],
        frame_bytes_max: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(host, port, **kwargs)
        self._buffer_bytes = buffer_bytes
        self._frame_bytes_max = frame_bytes_max
        self._receiver: Receiver | None = None

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
        self._receiver = self._take_over(self._writer.transport)

    def _take_over(self, transport: Any) -> Receiver:
        if transport.get_extra_info("ssl_object") is not None:
            frames = FrameReceiver(transport, self._new_buffer(), before=self._protocol)
            transport.set_protocol(frames)
            return frames
        transport.pause_reading()
        connected = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        return SocketReceiver(
            connected,
            (self._new_buffer(), self._new_buffer()),
            name=f"fetch from {self.host}:{self.port}",
        )

    def _new_buffer(self) -> FrameBuffer:
        return FrameBuffer(bytes_kept=self._buffer_bytes, bytes_max=self._frame_bytes_max)

    @property
    def alive(self) -> bool:
        """Tell whether a request can be sent."""
        return self._receiver is not None and self._receiver.lost is None and self.connected()

    @property
    def buffer_bytes(self) -> int:
        """Return the memory that received bytes take."""
        return 0 if self._receiver is None else self._receiver.buffer_bytes

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection, wherever it is; what is under way fails."""
        if self._receiver is not None:
            self._receiver.close()
        return super().close(*args, **kwargs)

    def send_fetch(self, request: FetchRequest) -> Awaited:
        """Send a request; its answer is `receive(…)`d before the next one but one.

        Raises:
            KafkaConnectionError: The connection was lost.
        """
        if not self.alive or self._receiver is None:
            raise KafkaConnectionError(f"no connection to {self.host}:{self.port}")
        correlation_id = self._next_correlation_id()
        message = request.encode(correlation_id, self._client_id)
        return Awaited(correlation_id, self._receiver.exchange(message))

    async def receive(self, awaited: Awaited, *, timeout_s: float) -> memoryview:
        """Return the body of a response.

        The bytes are valid until the event loop runs again: parse them at once.

        Args:
            timeout_s: Longest silence. An answer of which some comes, however slowly, is waited
                for: asked for again it would not come any faster.

        Raises:
            KafkaConnectionError: The connection was lost.
            TimeoutError: Nothing came for so long; the connection is closed.
        """
        loop, receiver = asyncio.get_running_loop(), self._receiver
        assert receiver is not None, "it was connected, or nothing could be awaited"

        looking: asyncio.TimerHandle

        def look(before_bytes: int) -> None:
            nonlocal looking
            if receiver.received_bytes == before_bytes:
                limit.reschedule(loop.time())
            else:
                looking = loop.call_later(timeout_s, look, receiver.received_bytes)

        looking = loop.call_later(timeout_s, look, receiver.received_bytes)
        try:
            async with asyncio.timeout(None) as limit:
                frame = await awaited.answer
        except TimeoutError:
            self.close()
            raise
        finally:
            looking.cancel()
        if LENGTH.unpack_from(frame)[0] != awaited.correlation_id:
            self.close()
            raise KafkaConnectionError("the broker answered another request than the last one")
        return frame[LENGTH.size :]


class Connect(Protocol):
    """Opens a connection to a broker: `open_connection`, or a stand-in for it."""

    async def __call__(
        self, client: Any, node: int, *, buffer_bytes: Callable[[], int], memory_bytes: int
    ) -> FetchConnection:
        """Return a connection that can fetch from the broker."""
        ...


async def open_connection(
    client: Any, node: int, *, buffer_bytes: Callable[[], int], memory_bytes: int
) -> FetchConnection:
    """Connect to a broker of a client of aiokafka's, to fetch from it.

    Args:
        buffer_bytes: Tells the size of a receive buffer that is kept.
        memory_bytes: The budget of the worker; no response is larger than half of it, or than
            two buffers.

    Raises:
        StaleMetadata: The client does not know the broker.
        OSError, KafkaError, asyncio.TimeoutError: It cannot be reached.
    """
    broker = client.cluster.broker_metadata(node)
    if broker is None:
        raise StaleMetadata(f"broker {node} is not in the metadata")
    connection = FetchConnection(
        broker.host,
        broker.port,
        buffer_bytes=buffer_bytes,
        frame_bytes_max=max(memory_bytes // 2, 2 * buffer_bytes()),
        **credentials_of(client),
    )
    await connection.connect()
    return connection


def credentials_of(client: Any) -> Mapping[str, Any]:
    """Return what a connection of aiokafka's must know to be let in, as a client has it."""
    names = (
        "client_id", "request_timeout_ms", "ssl_context", "security_protocol", "sasl_mechanism",
        "sasl_plain_username", "sasl_plain_password", "sasl_kerberos_service_name",
        "sasl_kerberos_domain_name", "sasl_oauth_token_provider",
    )  # fmt: skip
    return {name: getattr(client, f"_{name}") for name in names}
