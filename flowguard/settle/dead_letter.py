"""Dead letters: records that cannot go on, kept as they were, with the reason."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.batch import join_columns
from flowguard.chunk import Slice, TopicPartition
from flowguard.errors import LettersNotWritten
from flowguard.settle.egress import Header, Outgoing

Position: TypeAlias = tuple[TopicPartition, int]

__all__ = ["DeadLetter", "DeadLetterWriter", "LetterPort", "letters_of"]

#: Larger values are not kept: the broker refuses a record over 1 MiB unless told otherwise.
VALUE_BYTES_MAX: Final = 900 * 1024

#: So many letters are remembered while their batch is tried again. One that is forgotten is
#: only written a second time.
REMEMBERED_MAX: Final = 16_384


class DeadLetter(dict[str, Any]):
    """One record: key, value, headers, timestamp."""


class LetterPort(Protocol):
    """Where dead letters are written; acknowledged by all replicas when it returns."""

    async def declare(self, topic: str) -> None:
        """Create the topic, if Faust may create topics and it does not exist."""

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions the topic has."""
        ...

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        """Send records and wait until they are acknowledged."""


class DeadLetterWriter:
    """Write rejected records to the app's dead-letter topic.

    Args:
        topic: Where to; `<app>.dlq`.
        port: How.
    """

    def __init__(self, topic: str, port: LetterPort) -> None:
        self.topic = topic
        self.written_total = 0
        self._port = port
        self._partition_count = 0
        self._remembered: dict[Position, None] = {}  # oldest first

    async def write(
        self,
        slices: Sequence[Slice],
        reasons: Mapping[int, str],
        *,
        attempt: int,
        error: str,
        again: bool = False,
    ) -> None:
        """Write these rows of these slices, and wait until they are acknowledged.

        What an earlier attempt at the same batch has written already is left out.

        Args:
            slices: Where the rows are, counted through all of them.
            reasons: Row → why it cannot go on.
            attempt: How often the record had been tried.
            error: The kind of error, for `fg-error-type`.
            again: Its batch was started before, be it without an attempt that counts.

        Raises:
            LettersNotWritten: The topic did not take them.
        """
        try:
            await self._write(slices, reasons, attempt=attempt, error=error, again=again)
        except Exception as problem:  # whatever it is, the records wait
            raise LettersNotWritten(
                f"dead letters cannot be written to {self.topic!r}: {problem}", topic=self.topic
            ) from problem

    async def _write(
        self,
        slices: Sequence[Slice],
        reasons: Mapping[int, str],
        *,
        attempt: int,
        error: str,
        again: bool,
    ) -> None:
        if not self._partition_count:
            await self._port.declare(self.topic)
            self._partition_count = await self._port.partition_count(self.topic)
        positions = positions_of(slices, reasons)
        if again or attempt > 1:
            positions = {
                row: each for row, each in positions.items() if each not in self._remembered
            }
            reasons = {row: reasons[row] for row in positions}
        if not reasons:
            return
        letters = letters_of(slices, reasons, attempt=attempt, error=error)
        await self._port.send_columns(self.topic, outgoing_of(letters, self._partition_count))
        self.written_total += len(letters)
        self._remember(positions.values())

    def _remember(self, positions: Iterable[Position]) -> None:
        for position in positions:
            self._remembered[position] = None
        for _ in range(len(self._remembered) - REMEMBERED_MAX):
            del self._remembered[next(iter(self._remembered))]


def positions_of(slices: Sequence[Slice], rows: Iterable[int]) -> dict[int, Position]:
    """Return where in the log these rows are, ascending by row."""
    found = {}
    wanted = deque(sorted(rows))
    before = 0
    for piece in slices:
        offsets = piece.columns.column("offset")
        while wanted and wanted[0] < before + len(offsets):
            row = wanted.popleft()
            found[row] = (piece.chunk.partition, offsets[row - before].as_py())
        before += len(offsets)
    return found


def letters_of(
    slices: Sequence[Slice], reasons: Mapping[int, str], *, attempt: int, error: str
) -> list[DeadLetter]:
    """Return the rejected rows as dead letters, in their order.

    A value that is too large is left out; its digest tells which one it was.
    """
    rows = sorted(reasons)
    columns = join_columns(slices).take(pa.array(rows, pa.int64()))
    all_headers = wire.decode_headers(columns.column("headers")).to_pylist()
    return [
        letter_of(record, headers, reasons[row], attempt, error)
        for row, record, headers in zip(
            rows, columns.drop_columns(["headers"]).to_pylist(), all_headers, strict=True
        )
    ]


def letter_of(
    record: Mapping[str, Any],
    headers: Sequence[Mapping[str, Any]],
    reason: str,
    attempt: int,
    error: str,
) -> DeadLetter:
    """Return one record as a dead letter."""
    value: bytes | None = record["value"]
    if value is not None and len(value) > VALUE_BYTES_MAX:
        digest = hashlib.sha256(value).hexdigest()
        reason = f"{reason} (value of {len(value)} bytes left out, sha256 {digest})"
        value = None
    notes = {
        "fg-error-type": error,
        "fg-error-reason": reason,
        "fg-attempt": str(attempt),
        "fg-orig-topic": record["topic"],
        "fg-orig-partition": str(record["partition"]),
        "fg-orig-offset": str(record["offset"]),
        "fg-orig-timestamp": str(record["timestamp"]),
    }
    kept: list[Header] = [(each["name"], each["value"]) for each in headers]
    kept += [(name, text.encode()) for name, text in notes.items()]
    return DeadLetter(key=record["key"], value=value, timestamp=record["timestamp"], headers=kept)


def outgoing_of(letters: Sequence[DeadLetter], partition_count: int) -> Outgoing:
    """Return dead letters as columns."""
    keys = pa.array([each["key"] for each in letters], pa.binary())
    return Outgoing(
        keys=keys,
        values=pa.array([each["value"] for each in letters], pa.binary()),
        partitions=partitions_of(keys, partition_count),
        timestamps=pa.array([each["timestamp"] for each in letters], pa.int64()),
        partition_count=partition_count,
        own_headers=[each["headers"] for each in letters],
    )
