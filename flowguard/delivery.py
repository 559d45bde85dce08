"""Batches on their way to agents: decoded, freed of what cannot be decoded, handed over.

StartBatch ─▶ decode, here or aside ─┬─▶ rejected rows ─▶ dead letters
                                     └─▶ Batch ─▶ inbox of the agent
DivertBatch ─▶ another topic
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl
from mode import get_logger

from flowguard.agents.delivered import Delivered, Outcome
from flowguard.agents.event import FaustDelivery
from flowguard.agents.feed import Feed
from flowguard.batch import Batch
from flowguard.chunk import Slice, TopicPartition, rows_by_slice
from flowguard.commands import Cut
from flowguard.control.memory import MemoryBudget
from flowguard.declared import Declared
from flowguard.errors import LettersNotWritten
from flowguard.facts import Found
from flowguard.intake.codec import Decoded
from flowguard.intake.codec.raw import RawCodec
from flowguard.settle.divert import Diverter
from flowguard.settle.letter_writer import DeadLetterWriter

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["Delivery"]

logger = get_logger(__name__)

#: Decoding less than this costs less than handing it to another thread.
INLINE_BYTES: Final = 16 * 1024


class BatchOutcome(Outcome, Protocol):
    """Where batches report to, also those that no agent has."""

    def too_many_letters(
        self, agent: str, lane: int, letters: Mapping[TopicPartition, tuple[int, int]]
    ) -> Mapping[TopicPartition, str]:
        """Return of each partition that may have no more dead letters why."""
        ...

    def failed(
        self,
        batch_id: int,
        error: BaseException,
        *,
        logged: bool = False,
        found: Found | None = None,
    ) -> None:
        """It must be tried again; `logged`: why was said already."""


class Delivery:
    """Hands batches to agents, and writes what goes elsewhere.

    Args:
        app: The app.
        declared: Its agents and lanes.
        memory: Where decoded frames are counted.
        outcome: Whom to tell how each batch ended.
        loop: The event loop.
    """

    def __init__(
        self,
        app: App,
        declared: Declared,
        *,
        memory: MemoryBudget,
        outcome: BatchOutcome,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._app = app
        self._declared = declared
        self._memory = memory
        self._outcome = outcome
        self._loop = loop
        self._events = FaustDelivery(app)
        self._frame_bytes: dict[int, int] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._decoding = asyncio.Lock()
        self._letters: dict[str, DeadLetterWriter] = {}

    def letters_of(self, agent: str) -> DeadLetterWriter:
        """Return what writes an agent's dead letters."""
        topic = self._declared.agents[agent].dead_letters.topic_in(self._app.conf.id)
        if topic not in self._letters:
            self._letters[topic] = DeadLetterWriter(topic, self._app.letters)
        return self._letters[topic]

    @cached_property
    def diverter(self) -> Diverter:
        """Return what writes records to the topics that lanes divert to."""
        return Diverter(self._app.letters)

    def start(self, cut: Cut) -> None:
        """Let an agent have a batch."""
        feed = self._declared.agents[cut.agent].feed
        if isinstance(feed.codec, RawCodec):
            self._deliver(cut, feed, None)
        elif not feed.codec.waits and cut.num_bytes <= INLINE_BYTES:
            try:
                decoded = decode(feed, cut)
            except Exception as error:  # a codec of the user's may raise anything
                self._refuse(cut, error)
            else:
                self._deliver(cut, feed, decoded)
        else:
            self._keep(self._loop.create_task(self._decode_aside(cut, feed)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done, or the worker stops."""
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def divert(self, cut: Cut, topic: str) -> None:
        """Write records to another topic, and tell how it ended."""
        self._keep(self._loop.create_task(self._divert(cut, topic)))

    async def _divert(self, cut: Cut, topic: str) -> None:
        try:
            await self.diverter.write(topic, cut.slices)
        except Exception as error:  # whatever it is, the records wait
            logger.warning(
                "lane %s: cannot divert %s records to %r, trying again: %s; they wait meanwhile",
                self._declared.lanes[cut.lane].name, cut.num_records, topic, error,
            )  # fmt: skip
            self._outcome.failed(cut.batch_id, error, logged=True)
        else:
            self._outcome.finished(cut.batch_id, ())

    def bury(self, cut: Cut, error: str, reason: str) -> None:
        """Write records to the dead letters of their agent, and tell how it ended."""
        self._keep(self._loop.create_task(self._bury(cut, error, reason)))

    async def _bury(self, cut: Cut, error: str, reason: str) -> None:
        reasons = dict.fromkeys(range(cut.num_records), reason)
        try:
            await self.letters_of(cut.agent).write(
                cut.slices, reasons, attempt=cut.attempt, error=error, again=cut.again
            )
        except Exception as problem:  # whatever it is, the records wait
            logger.warning("agent %s: %s; the records wait", cut.agent, problem)
            self._outcome.failed(cut.batch_id, problem, logged=True)
        else:
            self._outcome.finished(cut.batch_id, range(cut.num_records))

    def _write_letters(
        self,
        agent: str,
        lane: int,
        slices: Sequence[Slice],
        reasons: Mapping[int, str],
        error: str,
        *,
        attempt: int,
        again: bool,
    ) -> asyncio.Future[None]:
        """Write rows of a batch to the dead letters, unless there are too many.

        Returns:
            What is done once they are acknowledged; `LettersNotWritten` if they are too many,
            or were not taken.
        """
        stops = self._outcome.too_many_letters(agent, lane, letters_in(slices, reasons))
        writer = self.letters_of(agent)
        if stops:
            refused = self._loop.create_future()
            refused.set_exception(
                LettersNotWritten("; ".join(stops.values()), topic=writer.topic, stops=stops)
            )
            return refused
        return writer.write(slices, reasons, attempt=attempt, error=error, again=again)

    async def _decode_aside(self, cut: Cut, feed: Feed) -> None:
        """Decode on another thread; columns that are being inferred one batch at a time."""
        try:
            if feed.options.columns is None:
                async with self._decoding:
                    decoded = await asyncio.to_thread(decode, feed, cut)
            else:
                decoded = await asyncio.to_thread(decode, feed, cut)
        except Exception as error:  # a codec of the user's may raise anything
            self._refuse(cut, error)
        else:
            self._deliver(cut, feed, decoded)

    def _refuse(self, cut: Cut, error: Exception) -> None:
        logger.error("cannot decode a batch: %r", error, exc_info=error)
        self._outcome.failed(cut.batch_id, error)

    def _deliver(self, cut: Cut, feed: Feed, decoded: Decoded | None) -> None:
        """Hand a batch to its agent, and its rejected rows to dead letters."""
        rejected = {} if decoded is None else dict(decoded.rejected)
        letters = frozenset(rejected if cut.agent in self._declared.first_agents else ())
        batch = Batch(
            feed=feed,
            lane=self._declared.lanes[cut.lane],
            slices=cut.slices,
            frame=cache(lambda: (decoded or decode(feed, cut)).frame),
            rejected=sorted(rejected),
            attempt=cut.attempt,
            delivery=self._events,
            occasion=cut.degraded,
        )
        if decoded is not None:
            self._count_frame(cut.batch_id, decoded.frame)
        write = partial(  # as it is now: what becomes of the batch may change the cut
            self._write_letters, cut.agent, cut.lane, cut.slices,
            attempt=cut.attempt, again=cut.again,
        )  # fmt: skip
        delivered = Delivered(
            cut.batch_id,
            batch,
            dead_letters=letters,
            outcome=self._outcome,
            bury=lambda rows: write(rows, "Rejected"),
        )
        if letters:
            delivered.hold(write(rejected, "Undecodable"))
        self._note_codec(feed)
        if len(batch):
            agent = self._declared.agents[cut.agent]
            agent.inbox_of(degraded=batch.degraded).put_nowait(delivered)
        else:
            delivered.returned()

    def _note_codec(self, feed: Feed) -> None:
        while feed.codec.notices:
            notice = feed.codec.notices.pop(0)
            logger.warning("feed %s: %s", feed, notice)

    def _count_frame(self, batch_id: int, frame: pl.DataFrame) -> None:
        self._frame_bytes[batch_id] = int(frame.estimated_size())
        self._memory.frame_bytes += self._frame_bytes[batch_id]

    def let_frame_go(self, batch_id: int) -> None:
        """Count a batch's frame no more: it has ended."""
        self._memory.frame_bytes -= self._frame_bytes.pop(batch_id, 0)

    def stop(self) -> None:
        """Forget what was never delivered."""
        for task in list(self._starting):
            task.cancel()
        for writer in self._letters.values():
            writer.stop()


def letters_in(
    slices: Sequence[Slice], rows: Iterable[int]
) -> dict[TopicPartition, tuple[int, int]]:
    """Return for each partition how many of these rows it has, and how many records."""
    found: dict[TopicPartition, tuple[int, int]] = {}
    for piece, letters in zip(slices, rows_by_slice(slices, rows), strict=True):
        name = piece.chunk.partition
        counted, records = found.get(name, (0, 0))
        found[name] = counted + len(letters), records + piece.count
    return {name: counts for name, counts in found.items() if counts[0]}


def decode(feed: Feed, cut: Cut) -> Decoded:
    """Return a cut's values as columns; runs on any thread."""
    return feed.codec.decode([piece.columns.column("value") for piece in cut.slices])
