"""A batch in an agent's hands: what was sent for it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from flowguard.batch import Batch
from flowguard.errors import Nacked
from flowguard.facts import Nack

__all__ = ["Delivered", "current_delivered"]

current: ContextVar[Delivered | None] = ContextVar("flowguard_delivered", default=None)


def current_delivered() -> Delivered | None:
    """Return the batch that the running code works on, None outside of an agent's loop."""
    delivered = current.get()
    return delivered if delivered is not None and delivered.open else None


class Outcome(Protocol):
    """Where a delivered batch reports to."""

    def returned(self, batch_id: int, *, nacked: bool = False) -> None:
        """The agent came back for its next batch, and nothing has failed so far."""

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        """All that was sent is acknowledged, too."""

    def failed(self, batch_id: int, error: BaseException) -> None:
        """The agent raised, or something sent was not acknowledged."""


class Delivered:
    """One batch on its way through an agent.

    Args:
        batch_id: The engine's name for it.
        batch: What the agent sees.
        dead_letters: Rows of its records that are not in `batch`, because they were rejected.
        outcome: Whom to tell how it ended; told exactly once.
        bury: Writes rows of it to the dead letters: row → why.
    """

    def __init__(
        self,
        batch_id: int,
        batch: Batch,
        *,
        dead_letters: Collection[int],
        outcome: Outcome,
        bury: Callable[[Mapping[int, str]], Awaitable[None]],
    ) -> None:
        self.batch = batch
        self.open = True  # the agent has it now
        self._batch_id = batch_id
        self._dead_letters = frozenset(dead_letters)
        self._outcome = outcome
        self._bury = bury
        self._pending: set[asyncio.Future[Any]] = set()
        self._error: BaseException | None = None

    def hold(self, sent: Awaitable[Any]) -> None:
        """Let the batch wait until something sent for it is acknowledged."""
        future = asyncio.ensure_future(sent)
        self._pending.add(future)
        future.add_done_callback(self._acknowledged)

    def returned(self) -> None:
        """Note that the agent came back for its next batch."""
        self._close()

    def failed(self, error: BaseException) -> None:
        """Note that the agent raised, or left its loop."""
        self._error = self._error or error
        self._close()

    def _close(self) -> None:
        if not self.open:
            return
        self.open = False
        batch = self.batch
        if self._error is None and batch.nack_all is not None:
            self._error = Nacked(batch.nack_all.reason, batch.nack_all.after_ns)
        if self._error is None:
            if batch.rejections:
                self._dead_letters |= batch.rejections.keys()
                self.hold(self._bury(batch.rejections))
            self._outcome.returned(self._batch_id, nacked=bool(batch.nacks))
        self._settle()

    def _acknowledged(self, future: asyncio.Future[Any]) -> None:
        self._pending.discard(future)
        if future.cancelled():
            self._error = self._error or asyncio.CancelledError("a send was cancelled")
        elif (error := future.exception()) is not None:
            self._error = self._error or error
        if not self.open:
            self._settle()

    def _settle(self) -> None:
        """Report how it ended, once nothing sent for it is under way."""
        if self._pending:
            return
        if self._error is None:
            self._outcome.finished(self._batch_id, self._dead_letters, self.batch.nacks)
        else:
            self._outcome.failed(self._batch_id, self._error)


Inbox = asyncio.Queue[Delivered]
