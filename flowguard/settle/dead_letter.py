"""Dead letters: records that cannot go on, kept as they were, with the reason."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import Slice, TopicPartition
from flowguard.errors import LettersNotWritten
from flowguard.settle.egress import Header, Outgoing

Position: TypeAlias = tuple[TopicPartition, int]

__all__ = ["DeadLetter", "DeadLetterWriter", "LetterPort", "letters_of"]

#: Larger values are not kept: the broker refuses a record over 1 MiB unless told otherwise.
VALUE_BYTES_MAX: Final = 900 * 1024

#: Reading so few records by themselves costs less than reading them together.
FEW_ROWS: Final = 4

#: As they are on the wire.
NO_HEADERS: Final = wire.encode_headers([])

#: Letters wait so long for others to go with them. Nobody waits for a letter but the commit.
LINGER_S: Final = 0.005

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


@dataclass(frozen=True, slots=True)
class Bundle:
    """The letters of one batch, and who waits for them to be acknowledged."""

    letters: list[DeadLetter]
    written: asyncio.Future[None]


class DeadLetterWriter:
    """Write rejected records to the app's dead-letter topic.

    One write is under way at a time; what comes meanwhile goes together with the next one. If
    that fails, each batch of it goes by itself, so that none suffers for the letters of another.

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
        self._waiting: list[Bundle] = []
        self._sending: asyncio.Task[None] | None = None

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
        positions = positions_of(slices, reasons)
        if again or attempt > 1:
            positions = {
                row: each for row, each in positions.items() if each not in self._remembered
            }
            reasons = {row: reasons[row] for row in positions}
        if not reasons:
            return
        letters = letters_of(slices, reasons, attempt=attempt, error=error)
        await self._send(letters)
        self.written_total += len(letters)
        self._remember(positions.values())

    async def _send(self, letters: list[DeadLetter]) -> None:
        """Send letters with the others that wait, and wait until these are acknowledged."""
        loop = asyncio.get_running_loop()
        bundle = Bundle(letters, loop.create_future())
        self._waiting.append(bundle)
        if self._sending is None:
            self._sending = loop.create_task(self._send_waiting())
        await bundle.written

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(LINGER_S)
                bundles, self._waiting = self._waiting, []
                await self._send_together(bundles)
        finally:
            self._sending = None

    async def _send_together(self, bundles: list[Bundle]) -> None:
        try:
            await self._send_now([letter for bundle in bundles for letter in bundle.letters])
        except Exception as error:  # belongs to whoever waits
            if len(bundles) > 1:
                await asyncio.gather(*(self._send_together([bundle]) for bundle in bundles))
            elif not bundles[0].written.done():
                bundles[0].written.set_exception(error)
        else:
            for bundle in bundles:
                if not bundle.written.done():
                    bundle.written.set_result(None)

    def stop(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_now(self, letters: list[DeadLetter]) -> None:
        if not self._partition_count:
            await self._port.declare(self.topic)
            self._partition_count = await self._port.partition_count(self.topic)
        await self._port.send_columns(self.topic, outgoing_of(letters, self._partition_count))

    def _remember(self, positions: Iterable[Position]) -> None:
        for position in positions:
            self._remembered[position] = None
        for _ in range(len(self._remembered) - REMEMBERED_MAX):
            del self._remembered[next(iter(self._remembered))]


def split_rows(
    slices: Sequence[Slice], rows: Iterable[int]
) -> Iterator[tuple[Slice, list[int], list[int]]]:
    """Return each slice with any of these rows: those, ascending, and where it has them."""
    wanted = deque(sorted(rows))
    start = 0
    for piece in slices:
        found = []
        while wanted and wanted[0] < start + piece.count:
            found.append(wanted.popleft())
        if found:
            yield piece, found, [row - start for row in found]
        start += piece.count


def positions_of(slices: Sequence[Slice], rows: Iterable[int]) -> dict[int, Position]:
    """Return where in the log these rows are, ascending by row."""
    return {
        row: (piece.chunk.partition, piece.offsets[place].as_py())
        for piece, found, places in split_rows(slices, rows)
        for row, place in zip(found, places, strict=True)
    }


def letters_of(
    slices: Sequence[Slice], reasons: Mapping[int, str], *, attempt: int, error: str
) -> list[DeadLetter]:
    """Return the rejected rows as dead letters, in their order.

    A value that is too large is left out; its digest tells which one it was.
    """
    letters = []
    for piece, rows, places in split_rows(slices, reasons):
        for row, record in zip(rows, records_at(piece.columns, places), strict=True):
            record |= piece.chunk.partition._asdict()
            letters.append(letter_of(record, reasons[row], attempt, error))
    return letters


def records_at(columns: pa.RecordBatch, places: Sequence[int]) -> list[dict[str, Any]]:
    """Return records as dicts, their headers as dicts of name and value."""
    if len(places) <= FEW_ROWS:  # to take them costs more than all else
        records = [columns.slice(place, 1).to_pylist()[0] for place in places]
    else:
        records = columns.take(pa.array(places, pa.int64())).to_pylist()
    with_headers = [record for record in records if record["headers"] != NO_HEADERS]
    encoded = pa.array([record["headers"] for record in with_headers], pa.binary())
    decoded = wire.decode_headers(encoded).to_pylist() if with_headers else []
    for record in records:
        record["headers"] = []
    for record, headers in zip(with_headers, decoded, strict=True):
        record["headers"] = headers
    return records


def letter_of(record: Mapping[str, Any], reason: str, attempt: int, error: str) -> DeadLetter:
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
    kept: list[Header] = [(each["name"], each["value"]) for each in record["headers"]]
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
