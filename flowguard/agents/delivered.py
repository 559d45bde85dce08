"""A batch in an agent's hands: what was sent for it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

from flowguard.agents.failures import concerns_records
from flowguard.agents.narrowing import Narrowing
from flowguard.batch import Batch
from flowguard.errors import Nacked
from flowguard.facts import Found, Nack

__all__ = ["Delivered", "current_delivered"]

#: An agent that spends more on a batch leaves the search to whoever handed it out: meanwhile the
#: batch keeps its seat.
NARROW_WITHIN_S: Final = 0.01

current: ContextVar[Delivered | None] = ContextVar("flowguard_delivered", default=None)


def current_delivered() -> Delivered | None:
    """Return the batch that the running code works on, None outside of an agent's loop."""
    delivered = current.get()
    return delivered if delivered is not None and delivered.open else None


class Outcome(Protocol):
    """Where a delivered batch reports to."""

    def returned(
        self,
        batch_id: int,
        *,
        nacked: bool = False,
        held_ns: int | None = None,
        settled: bool = False,
    ) -> None:
        """The agent came back for its next batch, and nothing has failed so far.

        Args:
            held_ns: The longest time for which it held the event loop, None if nobody looked.
            settled: Nothing is waited for, so that `finished` follows at once.
        """

    def finished(
        self, batch_id: int, dead_letters: Collection[int], nacked: Mapping[int, Nack] | None = None
    ) -> None:
        """All that was sent is acknowledged, too."""

    def failed(self, batch_id: int, error: BaseException, *, found: Found | None = None) -> None:
        """The agent raised, or something sent was not acknowledged.

        Args:
            found: Which records are done all the same; None: all have failed.
        """


class Delivered:
    """One batch on its way through an agent.

    Args:
        batch_id: The engine's name for it.
        batch: What the agent sees.
        dead_letters: Rows of its records that are not in `batch`, because they were rejected.
        outcome: Whom to tell how it ended; told exactly once.
        bury: Writes rows of it to the dead letters: row → why.

    Attributes:
        batch: What the agent has now: all of it, or a part.
        open: The agent is not done with it.
        parts: With which of its records the agent was called again, after all of them failed.
        held_ns: The longest time for which the agent held the event loop, None if nobody looked.
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
        self.open = True
        self.parts: list[range] = []
        self.held_ns: int | None = None
        self._batch_id = batch_id
        self._dead_letters = frozenset(dead_letters)
        self._outcome = outcome
        self._bury = bury
        self._pending: set[asyncio.Future[Any]] = set()
        self._error: BaseException | None = None
        self._whole: Batch | None = None  # if it may be tried in parts
        self._began_s = 0.0
        self._spent_s: float | None = None
        self._narrowing: Narrowing | None = None

    def begin(self, now_s: float) -> None:
        """Note that the agent gets it, or a part of it.

        Args:
            now_s: By the event loop's time.
        """
        self._began_s = now_s
        if self._spent_s is None:
            self._spent_s = 0.0
            if self.batch.whole and len(self.batch) > 1 and not self.batch.degraded:
                self._whole = self.batch

    def hold(self, sent: Awaitable[Any]) -> None:
        """Let the batch wait until something sent for it is acknowledged."""
        future = asyncio.ensure_future(sent)
        self._pending.add(future)
        future.add_done_callback(self._acknowledged)

    def returned(self) -> None:
        """Note that the agent came back for its next batch, or for more of this one."""
        if self._narrowing is None:
            self._close()
        else:
            self._part_returned(self._narrowing)

    def failed(self, error: BaseException) -> None:
        """Note that the agent raised, or left its loop; it may go on with a part of it."""
        narrowing = self._narrowing
        if self._whole is None or self._error is not None or not concerns_records(error):
            if narrowing is None:
                self._error = self._error or error
            else:
                narrowing.give_up(error)
            self._close()
            return
        if narrowing is None:
            narrowing = self._narrowing = Narrowing(len(self._whole), error)
        else:
            narrowing.failed(error)
        self._go_on(narrowing)

    def _part_returned(self, narrowing: Narrowing) -> None:
        part = self.batch
        if part.nack_all is not None:
            self.failed(Nacked(part.nack_all.reason, part.nack_all.after_ns))
        elif part.nacks:
            nack = next(iter(part.nacks.values()))
            narrowing.give_up(Nacked(nack.reason, nack.after_ns))
            self._close()
        else:
            if part.rejections:
                rows = {narrowing.done + row: why for row, why in part.rejections.items()}
                self._dead_letters |= rows.keys()
                self.hold(self._bury(rows))
            narrowing.succeeded()
            self._go_on(narrowing)

    def _go_on(self, narrowing: Narrowing) -> None:
        """Let the agent have the next part, or report what is known."""
        assert self._whole is not None
        assert self._spent_s is not None
        self._spent_s += asyncio.get_running_loop().time() - self._began_s
        late = self._spent_s > NARROW_WITHIN_S and narrowing.suspects
        if narrowing.over or self._error is not None or late:
            self._close()
        else:
            start, count = narrowing.next()
            self.batch = self._whole.part(start, count)
            self.parts.append(range(start, start + count))

    def _close(self) -> None:
        if not self.open:
            return
        self.open = False
        if self._narrowing is not None:
            if self._error is None and self._narrowing.error is None:
                self._came_back()
            self._settle()
            return
        batch = self.batch
        if self._error is None and batch.nack_all is not None:
            self._error = Nacked(batch.nack_all.reason, batch.nack_all.after_ns)
        if self._error is None:
            if batch.rejections:
                self._dead_letters |= batch.rejections.keys()
                self.hold(self._bury(batch.rejections))
            self._came_back(nacked=bool(batch.nacks))
        self._settle()

    def _came_back(self, *, nacked: bool = False) -> None:
        settled = not self._pending
        self._outcome.returned(self._batch_id, nacked=nacked, held_ns=self.held_ns, settled=settled)

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
        narrowing = self._narrowing
        if self._error is not None:
            self._outcome.failed(self._batch_id, self._error)
        elif narrowing is not None and narrowing.error is not None:
            found = narrowing.found(self._dead_letters)
            self._outcome.failed(self._batch_id, narrowing.error, found=found)
        else:
            self._outcome.finished(self._batch_id, self._dead_letters, self.batch.nacks)


Inbox = asyncio.Queue[Delivered]
