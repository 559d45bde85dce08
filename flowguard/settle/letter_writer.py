"""Writing dead letters, gathered: one write at a time, and what waits goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flowguard.chunk import Slice
from flowguard.errors import LettersNotWritten
from flowguard.settle.dead_letter import (
    Position,
    Rejects,
    letters_of,
    outgoing_of,
    positions_of,
)
from flowguard.settle.egress import Outgoing

__all__ = ["DeadLetterWriter", "LetterPort"]

#: Writes begin so far apart; what comes sooner waits for others to go with it. A write costs
#: about as much for one letter as for fifty, here and at the broker, and nobody waits for a
#: letter but the commit. A letter that none came before goes at once.
PACE_S: Final = 0.05

#: So many letters are remembered while their batch is tried again. One that is forgotten is
#: only written a second time.
REMEMBERED_MAX: Final = 16_384


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
    """What one batch has rejected, and who waits for it to be acknowledged."""

    rejects: Rejects
    positions: Iterable[Position]
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
        self._not_before_s = 0.0

    def write(
        self,
        slices: Sequence[Slice],
        reasons: Mapping[int, str],
        *,
        attempt: int,
        error: str,
        again: bool = False,
    ) -> asyncio.Future[None]:
        """Write these rows of these slices.

        What an earlier attempt at the same batch has written already is left out.

        Args:
            slices: Where the rows are, counted through all of them.
            reasons: Row → why it cannot go on.
            attempt: How often the record had been tried.
            error: The kind of error, for `fg-error-type`.
            again: Its batch was started before, be it without an attempt that counts.

        Returns:
            What is done once they are acknowledged; `LettersNotWritten` if the topic did not
            take them.
        """
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        positions = positions_of(slices, reasons)
        if again or attempt > 1:
            positions = {
                row: each for row, each in positions.items() if each not in self._remembered
            }
            reasons = {row: reasons[row] for row in positions}
        if not reasons:
            written.set_result(None)
            return written
        rejects = Rejects(slices, reasons, attempt, error)
        self._waiting.append(Bundle(rejects, positions.values(), written))
        if self._sending is None:
            self._sending = loop.create_task(self._send_waiting(loop))
        return written

    async def _send_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._not_before_s - loop.time())
                self._not_before_s = loop.time() + PACE_S
                bundles, self._waiting = self._waiting, []
                await self._send_together(bundles)
        finally:
            self._sending = None
            for bundle in self._waiting:  # only if it was stopped
                bundle.written.cancel()

    async def _send_together(self, bundles: list[Bundle]) -> None:
        try:
            count = await self._send_now([bundle.rejects for bundle in bundles])
        except asyncio.CancelledError:
            for bundle in bundles:
                bundle.written.cancel()
            raise
        except Exception as problem:  # whatever it is, it belongs to whoever waits
            if len(bundles) > 1:
                await asyncio.gather(*(self._send_together([bundle]) for bundle in bundles))
            elif not bundles[0].written.done():
                bundles[0].written.set_exception(self._not_written(problem))
        else:
            self.written_total += count
            for bundle in bundles:
                self._remember(bundle.positions)
                if not bundle.written.done():
                    bundle.written.set_result(None)

    def _not_written(self, problem: Exception) -> LettersNotWritten:
        error = LettersNotWritten(
            f"dead letters cannot be written to {self.topic!r}: {problem}", topic=self.topic
        )
        error.__cause__ = problem
        return error

    def stop(self) -> None:
        """Send nothing more; who waits is told."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_now(self, rejects: Sequence[Rejects]) -> int:
        """Send what batches have rejected; return how many letters it was."""
        if not self._partition_count:
            await self._port.declare(self.topic)
            self._partition_count = await self._port.partition_count(self.topic)
        letters = letters_of(*rejects)
        await self._port.send_columns(self.topic, outgoing_of(letters, self._partition_count))
        return len(letters)

    def _remember(self, positions: Iterable[Position]) -> None:
        for position in positions:
            self._remembered[position] = None
        for _ in range(len(self._remembered) - REMEMBERED_MAX):
            del self._remembered[next(iter(self._remembered))]
