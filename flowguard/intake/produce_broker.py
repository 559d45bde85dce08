"""One broker that batches are sent to: its connection, and what is under way on it."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from aiokafka import errors as kafka_errors
from aiokafka.errors import KafkaError
from mode import get_logger

from flowguard.intake.lineup import Lineup
from flowguard.intake.parcel import Parcel
from flowguard.intake.produce_connection import ProduceConnection, read_answer

__all__ = ["EXPECTED", "Broker", "Request"]

logger = get_logger(__name__)

#: The broker remembers the sequences of so many batches of a producer and partition.
IN_FLIGHT_MAX: Final = 5

BACKOFF_S: Final = 0.1
BACKOFF_S_MAX: Final = 2.0

#: How talking to a broker may fail.
EXPECTED: Final = (KafkaError, OSError, TimeoutError, struct.error, ValueError)


class Sender(Protocol):
    """Who is told what becomes of batches."""

    def answered(self, lineup: Lineup, parcel: Parcel, refused: int | BaseException) -> None:
        """What became of a batch: 0, the broker's error code, or a lost connection."""

    def wake(self) -> None:
        """There may be room for more."""

    def refresh(self) -> None:
        """The metadata may be stale."""


@dataclass(slots=True, eq=False)
class Request:
    """A request whose answer is on its way."""

    correlation_id: int
    sent_s: float
    parcels: list[tuple[Lineup, Parcel]]


class Broker:
    """One broker, and what is under way to it."""

    def __init__(self, sender: Sender, node: int) -> None:
        self.node = node
        self.connection: ProduceConnection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.requests: deque[Request] = deque()
        self.backoff_s = BACKOFF_S
        self.not_before_s = 0.0
        self._sender = sender

    @property
    def has_room(self) -> bool:
        """Tell whether another request can be sent now."""
        return (
            self.connection is not None
            and self.connection.alive
            and not self.connection.full
            and len(self.requests) < IN_FLIGHT_MAX
        )

    def answered(self, frame: memoryview) -> None:
        """Take in an answer; they come in the order of the requests."""
        try:
            correlation_id, errors = read_answer(frame)
            if not self.requests or self.requests[0].correlation_id != correlation_id:
                raise ValueError("it answers another request than the oldest")
        except (struct.error, ValueError) as error:
            logger.warning("broker %s: an answer cannot be read: %s", self.node, error)
            self.drop()
            return
        self.backoff_s = BACKOFF_S
        for lineup, parcel in self.requests.popleft().parcels:
            self._sender.answered(lineup, parcel, errors.get(lineup.name, -1))

    def lost(self, error: BaseException) -> None:
        """Note that the connection is gone; what was under way goes back."""
        if self.connection is not None:
            self.connection.abandon()
        self.connection = None
        requests, self.requests = self.requests, deque()
        if requests:
            self.wait(error)
        for request in requests:
            for lineup, parcel in request.parcels:
                self._sender.answered(lineup, parcel, error)
        self._sender.wake()

    def resumed(self) -> None:
        """Note that the socket takes more."""
        self._sender.wake()

    def wait(self, error: BaseException) -> None:
        """Leave the broker alone for a while, each time for longer."""
        logger.warning(
            "broker %s: %s: %s; trying again in %.1f s",
            self.node, type(error).__name__, str(error) or "no answer", self.backoff_s,
            exc_info=None if isinstance(error, EXPECTED) else error,
        )  # fmt: skip
        self.not_before_s = asyncio.get_running_loop().time() + self.backoff_s
        self.backoff_s = min(BACKOFF_S_MAX, self.backoff_s * 2)
        self._sender.refresh()

    def drop(self) -> None:
        """Close the connection; what was under way goes back."""
        if self.connection is not None:
            self.lost(kafka_errors.KafkaConnectionError("the connection was closed"))
