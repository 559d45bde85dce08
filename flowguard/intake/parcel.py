"""A record batch on its way to one partition, with the sends whose records are in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import errors as kafka_errors

from flowguard._native.record_batches import RecordBatch
from flowguard.chunk import TopicPartition
from flowguard.errors import SettleError
from flowguard.intake.halving import halve

__all__ = ["SEQUENCE_MASK", "TOO_LARGE", "TO_BLAME", "Compression", "Parcel", "Send", "Session",
           "advice_for", "name_of"]  # fmt: skip

SEQUENCE_MASK: Final = 0x7FFFFFFF

#: More than max.message.bytes of the topic, or than a segment of it.
TOO_LARGE: Final = frozenset({10, 18})

#: Answers about the records themselves: corrupt, too large, a timestamp or a record that the
#: topic does not take, a format that the broker does not know.
TO_BLAME: Final = TOO_LARGE | {2, 32, 43, 76, 87}

#: By the broker's code, what whoever runs the worker can do.
ADVICE: Final = {
    29: "grant the user of this worker the ACL WRITE on the topic",
    31: "grant the user of this worker the ACL IDEMPOTENT_WRITE on the cluster (from Kafka 2.8 on, "
        "WRITE on the topic is enough)",
    53: "grant the user of this worker the ACL WRITE on its transactional id",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A producer id of the cluster; each partition counts its own sequence in it."""

    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Compression:
    """How batches are packed.

    Args:
        codec: Number of the codec in Kafka's attributes.
        compressor: Bytes → packed bytes.
    """

    codec: int
    compressor: Any

    def pack(self, batch: RecordBatch) -> None:
        """Pack a batch, and close it."""
        batch.compress(self.codec, self.compressor)


@dataclass(slots=True, eq=False)
class Send:
    """Records that were sent to one partition at once, and who waits for them.

    Args:
        done: Done once all of them are acknowledged.
        parts: In how many batches they still are.
    """

    done: asyncio.Future[None]
    parts: int = 1
    failed: bool = False

    def acknowledge(self) -> None:
        """Note that the part of them in one batch is acknowledged."""
        self.parts -= 1
        if not self.parts and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: SettleError) -> None:
        """Tell whoever waits that a part of them is not going to be written."""
        self.failed = True
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True, eq=False)
class Parcel:
    """A batch on its way to one partition.

    Args:
        sends: How many of its records are of which send, in order.
        deadline_s: When it has failed if it is not acknowledged, in seconds of the event loop.
        session: Whose sequence it was given; it keeps both while it is sent again.
        refused: The broker's code, or how the connection ended.
    """

    batch: RecordBatch
    deadline_s: float
    sends: list[tuple[int, Send]] = field(default_factory=list)
    session: Session | None = None
    sequence: int = 0
    refused: int | BaseException | None = None

    @property
    def abandoned(self) -> bool:
        """Tell whether all its sends have failed, so that they are sent again as a whole."""
        return all(send.failed for _, send in self.sends)

    def add(self, count: int, send: Send) -> None:
        """Note that its next so many records are of a send."""
        self.sends.append((count, send))

    def seal(self, session: Session, sequence: int) -> None:
        """Give it its place in a session."""
        self.session, self.sequence = session, sequence
        self.batch.seal(session.producer_id, session.epoch, sequence)

    def halves(self, compression: Compression | None) -> tuple[Parcel, Parcel]:
        """Return two parcels in its place; both together have its sequence numbers."""
        first, second = (Parcel(batch, self.deadline_s) for batch in halve(self.batch))
        left = first.batch.count
        for count, send in self.sends:
            before = min(count, left)
            left -= before
            if before:
                first.add(before, send)
            if count > before:
                second.add(count - before, send)
                send.parts += before > 0
        sequence = self.sequence
        for half in (first, second):
            if compression is not None:
                compression.pack(half.batch)
            if self.session is not None:
                half.seal(self.session, sequence)
            sequence = (sequence + half.batch.count) & SEQUENCE_MASK
        return first, second

    def acknowledge(self) -> None:
        """Tell whoever waits that the broker has it."""
        for _, send in self.sends:
            send.acknowledge()

    def fail(self, name: TopicPartition, why: str, *, unavailable: bool = False) -> None:
        """Tell whoever waits that it is not going to be written.

        Args:
            unavailable: Nothing is, whatever is sent; its records are not to blame.
        """
        for count, send in self.sends:
            send.fail(
                SettleError(
                    f"topic {name.topic!r} did not take {count} records for partition "
                    f"{name.partition}: {why}",
                    topic=name.topic, partition=name.partition, unavailable=unavailable,
                )
            )  # fmt: skip

    def why_refused(self, code: int) -> str:
        """Return why the broker refused it for good, and what to do."""
        if code in TOO_LARGE:
            return (
                f"{name_of(code)}; a record of {len(self.batch)} bytes with its framing is more "
                f"than the topic's max.message.bytes; raise that, or send less in one record"
            )
        return f"{name_of(code)}{advice_for(code)}"


def advice_for(code: int) -> str:
    """Return what can be done about an error code, with a separator before it."""
    return f"; {ADVICE[code]}" if code in ADVICE else ""


def name_of(refused: int | BaseException) -> str:
    """Return an error's name."""
    if isinstance(refused, BaseException):
        return repr(refused)
    return f"{kafka_errors.for_code(refused).__name__} ({refused})"
