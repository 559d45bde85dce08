"""Connections that carry produce requests and nothing else, several at once.

aiokafka connects, negotiates versions and authenticates; then the live transport is handed to
a protocol that passes answers on as they come.

    request = size i32 | api key i16 | version i16 | correlation id i32 | client id
            | no transaction i16 | acks i16 | timeout i32 | topics of:
              name | partitions of: number i32 | size i32 | record batch
    answer  = size i32 | correlation id i32 | topics of:
              name | partitions of: number i32 | error i16 | offset i64 | time i64 | start i64

Source: Kafka protocol guide, Produce v7 (since 2.1, the first with zstd).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError

from flowguard._native.record_batches import RecordBatch
from flowguard.chunk import TopicPartition
from flowguard.intake.primitives import I16, I32, text

__all__ = ["AnswerReceiver", "Listener", "ProduceConnection", "read_answer"]

PRODUCE_API_KEY: Final = 0
PRODUCE_VERSION: Final = 7

#: Acknowledged by all replicas in sync.
ACKS_ALL: Final = -1

#: How long the broker waits for its replicas; Kafka's own default.
REPLICAS_WITHIN_MS: Final = 30_000

PARTITION_HEAD: Final = struct.Struct(">ii")
PARTITION_ANSWER: Final = struct.Struct(">ihqqq")

#: Answers are small; more is no answer.
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024

#: Up to this a request is copied into one write; larger ones are written piece by piece.
ONE_WRITE_BYTES: Final = 32 * 1024


class Listener(Protocol):
    """Who is told what happens to a connection."""

    def answered(self, frame: memoryview) -> None:
        """An answer came, from its correlation id on; valid during the call."""

    def lost(self, error: BaseException) -> None:
        """The connection is gone; told once."""

    def resumed(self) -> None:
        """What was written has gone out; there is room for more."""


class AnswerReceiver(asyncio.Protocol):
    """Cut what is received into answers, and note when the transport is full."""

    def __init__(self, listener: Listener, *, transport: Any, before: Any) -> None:
        self.full = False
        self.gone = False
        self._listener = listener
        self._transport = transport
        self._before = before  # aiokafka's protocol, which waits for connection_lost
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and pass on each answer that is complete."""
        self._received += data
        at = 0
        while not self.gone and len(self._received) - at >= I32.size:
            (size,) = I32.unpack_from(self._received, at)
            if not I32.size <= size <= ANSWER_BYTES_MAX:
                self._lose(KafkaConnectionError(f"an answer of {size} bytes is beyond all limits"))
                self._transport.abort()
                return
            if len(self._received) - at - I32.size < size:
                break
            at += I32.size
            # A copy: a view would forbid the buffer to change.
            self._listener.answered(memoryview(bytes(self._received[at : at + size])))
            at += size
        del self._received[:at]

    def eof_received(self) -> bool:
        """Note that the broker closed the connection."""
        self._lose(KafkaConnectionError("the broker closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._lose(exc or KafkaConnectionError("the connection is closed"))
        self._before.connection_lost(exc)

    def abort(self) -> None:
        """Close the transport at once, and tell nobody."""
        self.gone = True
        self._transport.abort()

    def _lose(self, error: BaseException) -> None:
        if not self.gone:
            self.gone = True
            self._listener.lost(error)

    def pause_writing(self) -> None:
        """Note that the socket takes no more for now."""
        self.full = True

    def resume_writing(self) -> None:
        """Note that the socket takes more."""
        self.full = False
        self._listener.resumed()


class ProduceConnection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka is untyped
    """A connection that, once made, sends produce requests.

    Args:
        listener: Who is told of answers and of the end.
        **kwargs: As for aiokafka's connection.
    """

    def __init__(self, host: str, port: int, *, listener: Listener, **kwargs: Any) -> None:
        super().__init__(host, port, **kwargs)
        self._listener = listener
        self._answers: AnswerReceiver | None = None

    async def connect(self) -> None:
        """Connect, authenticate, and take over the transport.

        Raises:
            IncompatibleBrokerVersion: The broker does not know Produce v7.
            OSError, KafkaError, asyncio.TimeoutError: It cannot be reached.
        """
        await super().connect()
        low, high = self._versions.get(PRODUCE_API_KEY, (0, 0))
        if not low <= PRODUCE_VERSION <= high:
            self.close()
            raise IncompatibleBrokerVersion(
                f"the broker at {self.host}:{self.port} has Produce v{low} to v{high}; flowguard "
                f"needs v{PRODUCE_VERSION}, which Kafka has had since 2.1"
            )
        self._read_task.cancel()
        transport = self._writer.transport
        self._answers = AnswerReceiver(self._listener, transport=transport, before=self._protocol)
        transport.set_protocol(self._answers)

    @property
    def alive(self) -> bool:
        """Tell whether a request can be sent."""
        return self._answers is not None and not self._answers.gone and self.connected()

    @property
    def full(self) -> bool:
        """Tell whether what was written before has not gone out yet."""
        return self._answers is None or self._answers.full

    def abandon(self) -> None:
        """Close it at once, with what it has not written yet; nobody is told."""
        if self._answers is not None:
            self._answers.abort()
        self.close()

    def send_batches(self, batches: Mapping[TopicPartition, RecordBatch]) -> int:
        """Write a request with one batch a partition; return its correlation id."""
        correlation_id: int = self._next_correlation_id()
        pieces = request_of(correlation_id, self._client_id, batches)
        transport = self._writer.transport
        if sum(map(len, pieces)) <= ONE_WRITE_BYTES:
            transport.write(b"".join(pieces))
        else:
            for piece in pieces:
                transport.write(piece)
        return correlation_id


def request_of(
    correlation_id: int, client_id: str, batches: Mapping[TopicPartition, RecordBatch]
) -> Sequence[bytes | memoryview]:
    """Return a Produce v7 request in pieces, the batches among them uncopied."""
    topics: dict[str, list[tuple[int, RecordBatch]]] = {}
    for name, batch in batches.items():
        topics.setdefault(name.topic, []).append((name.partition, batch))
    head = bytearray(I32.size)
    head += struct.pack(">hhi", PRODUCE_API_KEY, PRODUCE_VERSION, correlation_id)
    head += text(client_id)
    head += struct.pack(">hhii", -1, ACKS_ALL, REPLICAS_WITHIN_MS, len(topics))
    pieces: list[bytearray | memoryview] = [head]
    for topic, parts in topics.items():
        head += text(topic) + I32.pack(len(parts))
        for partition, batch in parts:
            head += PARTITION_HEAD.pack(partition, len(batch))
            head = bytearray()
            pieces += [memoryview(batch), head]
    size = sum(map(len, pieces)) - I32.size
    I32.pack_into(pieces[0], 0, size)
    return [bytes(each) if isinstance(each, bytearray) else each for each in pieces if len(each)]


def read_answer(frame: memoryview) -> tuple[int, Mapping[TopicPartition, int]]:
    """Return the correlation id of a Produce v7 answer, and the error of each partition.

    Raises:
        struct.error, UnicodeDecodeError: It is no such answer.
    """
    correlation_id, topics = PARTITION_HEAD.unpack_from(frame)
    at = PARTITION_HEAD.size
    errors: dict[TopicPartition, int] = {}
    for _ in range(topics):
        (name_bytes,) = I16.unpack_from(frame, at)
        at += I16.size
        topic = bytes(frame[at : at + name_bytes]).decode()
        at += name_bytes
        (count,) = I32.unpack_from(frame, at)
        at += I32.size
        for _ in range(count):
            partition, error, *_ = PARTITION_ANSWER.unpack_from(frame, at)
            at += PARTITION_ANSWER.size
            errors[TopicPartition(topic, partition)] = error
    return correlation_id, errors
