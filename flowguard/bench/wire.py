"""A blocking socket that speaks just enough Kafka to produce and to fetch at full speed.

    request  = size i32 | api key i16 | version i16 | correlation id i32 | client id | body
    response = size i32 | correlation id i32 | body

Source: Kafka protocol guide, Produce v7 (since 2.1, the first with zstd) and Fetch v4.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from flowguard.bench.records import wire_batches
from flowguard.errors import FlowguardError
from flowguard.intake.primitives import I16, I32, text
from flowguard.units import MIB

__all__ = ["Link", "fetch", "fill", "links_of", "produce", "skim_fetch"]

PRODUCE: Final = 0
PRODUCE_VERSION: Final = 7
FETCH: Final = 1
FETCH_VERSION: Final = 4

I64: Final = struct.Struct(">q")

ACKS_LEADER: Final = 1
PRODUCE_TIMEOUT_MS: Final = 30_000

#: As many produce requests as Kafka lets an idempotent producer have under way.
IN_FLIGHT_MAX: Final = 5

PARTITION_BYTES_MAX: Final = 4 * MIB
FETCH_BYTES_MAX: Final = 16 * MIB
FETCH_WAIT_MS: Final = 100

#: The broker may return one batch more than asked for.
SLACK_BYTES: Final = 2 * MIB

ANSWER_TIMEOUT_S: Final = 60.0

# The header of a wire batch: base offset i64, length i32, …, last offset delta i32 at 23, …,
# number of records i32 at 57.
BATCH_LENGTH_AT: Final = 8
BATCH_PREFIX_BYTES: Final = 12
LAST_OFFSET_DELTA_AT: Final = 23
RECORD_COUNT_AT: Final = 57
BATCH_HEADER_BYTES: Final = 61


class Link:
    """One blocking connection to one broker; responses land in one buffer.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str, *, buffer_bytes: int = FETCH_BYTES_MAX + SLACK_BYTES) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(buffer_bytes)
        self._correlation = itertools.count(1)

    def send(self, api_key: int, version: int, *parts: bytes) -> None:
        """Send a request; its parts are its body."""
        size = sum(map(len, parts))
        head = struct.pack(">hhih", api_key, version, next(self._correlation), -1)
        self._socket.sendall(b"".join((I32.pack(len(head) + size), head, *parts)))

    def receive(self) -> memoryview:
        """Return the body of the next response, valid until the next call."""
        (size,) = I32.unpack(self._receive_into(I32.size))
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        return self._receive_into(size)[I32.size :]

    def _receive_into(self, size: int) -> memoryview:
        view = memoryview(self._buffer)[:size]
        at = 0
        while at < size:
            received = self._socket.recv_into(view[at:])
            if not received:
                raise FlowguardError("the broker closed the connection; look at its log")
            at += received
        return view

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


# Produce.


def fill(topic: str, leaders: Mapping[int, str], records: int) -> None:
    """Write records to all partitions in turn.

    Args:
        topic: It exists.
        leaders: Partition → `host:port` of its leader.
        records: How many in all.

    Raises:
        FlowguardError: The broker refused a batch.
        OSError: The connection was lost.
    """
    links = {address: Link(address, buffer_bytes=MIB) for address in set(leaders.values())}
    waiting: dict[Link, int] = defaultdict(int)
    try:
        partitions = itertools.cycle(sorted(leaders))
        for (batch, _), partition in zip(wire_batches(records), partitions, strict=False):
            link = links[leaders[partition]]
            if waiting[link] == IN_FLIGHT_MAX:
                check_produced(link.receive(), topic)
                waiting[link] -= 1
            link.send(PRODUCE, PRODUCE_VERSION, *produce_body(topic, partition, batch))
            waiting[link] += 1
        for link, count in waiting.items():
            for _ in range(count):
                check_produced(link.receive(), topic)
    finally:
        for link in links.values():
            link.close()


def produce_body(topic: str, partition: int, batch: bytes) -> tuple[bytes, bytes]:
    """Return the body of a Produce v7 request for one batch."""
    head = b"".join(
        (
            I16.pack(-1),  # no transaction
            I16.pack(ACKS_LEADER),
            I32.pack(PRODUCE_TIMEOUT_MS),
            I32.pack(1) + text(topic),
            struct.pack(">iii", 1, partition, len(batch)),
        )
    )
    return head, batch


def check_produced(body: memoryview, topic: str) -> None:
    """Raise FlowguardError if the one batch of a request was refused."""
    (error,) = I16.unpack_from(body, 4 + 2 + len(topic.encode()) + 4 + 4)
    if error:
        raise FlowguardError(f"the broker refused records for topic {topic!r}: error {error}")


def produce(topic: str, leader: str, partition: int, batch: bytes) -> None:
    """Write one finished wire batch.

    Raises:
        FlowguardError: The broker refused it.
    """
    link = Link(leader, buffer_bytes=MIB)
    try:
        link.send(PRODUCE, PRODUCE_VERSION, *produce_body(topic, partition, batch))
        check_produced(link.receive(), topic)
    finally:
        link.close()


# Fetch.


def fetch(link: Link, topic: str, offsets: dict[int, int]) -> int:
    """Fetch once, advance `offsets` past what came, and return its number of records."""
    link.send(FETCH, FETCH_VERSION, fetch_body(topic, offsets))
    return skim_fetch(link.receive(), offsets)


def fetch_body(topic: str, offsets: Mapping[int, int]) -> bytes:
    """Return the body of a Fetch v4 request, read committed as a feed reads."""
    head = struct.pack(">iiiibi", -1, FETCH_WAIT_MS, 1, FETCH_BYTES_MAX, 1, 1)
    asked = [
        struct.pack(">iqi", partition, offset, PARTITION_BYTES_MAX)
        for partition, offset in offsets.items()
    ]
    return head + text(topic) + I32.pack(len(asked)) + b"".join(asked)


def skim_fetch(body: memoryview, offsets: dict[int, int]) -> int:
    """Advance `offsets` past whole batches of a Fetch v4 response; return their records."""
    records = 0
    for partition, start, end in sections(body):
        for at in whole_batches(body, start, end):
            (base,) = I64.unpack_from(body, at)
            (last,) = I32.unpack_from(body, at + LAST_OFFSET_DELTA_AT)
            (count,) = I32.unpack_from(body, at + RECORD_COUNT_AT)
            offsets[partition] = base + last + 1
            records += count
    return records


def sections(body: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield partition, start and end of the records in a Fetch v4 response of one topic."""
    at = 4 + 4  # throttle time, number of topics
    (name_bytes,) = I16.unpack_from(body, at)
    at += 2 + name_bytes
    (count,) = I32.unpack_from(body, at)
    at += 4
    for _ in range(count):
        partition, error, _, _, aborted = struct.unpack_from(">ihqqi", body, at)
        if error:
            raise FlowguardError(f"the broker refused to read partition {partition}: error {error}")
        at += 26 + 16 * max(0, aborted)
        (size,) = I32.unpack_from(body, at)
        at += 4
        yield partition, at, at + max(0, size)
        at += max(0, size)


def whole_batches(body: memoryview, start: int, end: int) -> Iterator[int]:
    """Yield the position of each batch that is complete."""
    at = start
    while at + BATCH_HEADER_BYTES <= end:
        size = BATCH_PREFIX_BYTES + I32.unpack_from(body, at + BATCH_LENGTH_AT)[0]
        if at + size > end:
            return
        yield at
        at += size


def links_of(leaders: Mapping[int, str]) -> Sequence[tuple[Link, list[int]]]:
    """Return a connection to each broker, with the partitions it leads."""
    led: dict[str, list[int]] = defaultdict(list)
    for partition, address in leaders.items():
        led[address].append(partition)
    return [(Link(address), partitions) for address, partitions in led.items()]
