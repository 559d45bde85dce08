"""A store on two threads of its own, so that no disk is ever waited for on the event loop.

    event loop ──▶ writer ─ append, finish, park, upkeep ─▶ store
               └─▶ reader ─ read, probe ─────────────────▶ store
               ◀── facts ── deliver (from either thread)

What is asked for is done in the order in which it was asked for, by each thread. A disk that
hangs keeps its thread: nothing is taken back from it, and nothing waits for it at the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeVar

import pyarrow as pa

from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import Clock
from flowguard.commands import ReadFrame, WriteFrame
from flowguard.errors import SpillError, SpillRefused
from flowguard.facts import DiskSeen, NotSpilled, Restored, Spilled, SpillWatched
from flowguard.spill.manifest import Frame, FrameQueue, Probe, Run
from flowguard.spill.quota import SpillState
from flowguard.spill.reader import lost
from flowguard.spill.store import SpillStore
from flowguard.units import SECOND

__all__ = ["Hand", "SpillDisk"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A directory that cannot be used is tried again so much later.
OPEN_RETRY_NS: Final = 30 * SECOND


class Hand:
    """A thread that does one thing after the other; it ends with the process."""

    def __init__(self, name: str) -> None:
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    def ask(self, task: Callable[[], None]) -> None:
        """Let the thread do something."""
        self._asked.put(task)

    def _run(self) -> None:
        while True:
            task = self._asked.get()
            try:
                task()
            except Exception:
                logger.exception("spill: this is a bug; records stay in memory or in Kafka")


class SpillDisk:
    """Does what the engine asks of the disk, and tells how it ended.

    Args:
        open_store: Opens the store; raises `SpillError` if its directory cannot be used.
        lanes: Rank and name of each lane that spills.
        deliver: Takes in facts; called on other threads.
        lost: Takes in what could not be read, and why; called on the reader's thread.
        rebuild: Makes blocks of chunks of what was read; any exception means: try again.
        hand: Makes what does one thing after the other, by its name; a thread without it.

    Thread-safety: all methods on the event loop's thread.
    """

    def __init__(
        self,
        open_store: Callable[[], SpillStore],
        *,
        lanes: Mapping[int, str],
        clock: Clock,
        deliver: Callable[..., None],
        lost: Callable[[ReadFrame, Exception], None],
        rebuild: Callable[[TopicPartition, int, Sequence[pa.RecordBatch]], list[list[Chunk]]],
        hand: Callable[[str], Hand] | None = None,
    ) -> None:
        self._open_store = open_store
        self._lanes = lanes
        self._clock = clock
        self._deliver = deliver
        self._lost = lost
        self._rebuild = rebuild
        self._store: SpillStore | None = None
        self._why = "its directory is not open yet"
        self._open_after_ns = 0
        self._watching = False
        new_hand = hand or Hand
        self._writer = new_hand("spill writer")
        self._reader = new_hand("spill reader")

    # Commands.

    def write(self, command: WriteFrame) -> None:
        """Write records; `Spilled` or `NotSpilled` tells how it ended."""
        self._writer.ask(lambda: self._write(command))

    def read(self, command: ReadFrame) -> None:
        """Read records; `Restored` brings them, or `lost` is called."""
        self._reader.ask(lambda: self._read(command))

    def finish(self, frames: Sequence[Frame]) -> None:
        """Forget frames that nobody wants any more."""
        self._writer.ask(lambda: self._on_store(lambda store: store.finish(*frames)))

    def park(self, frames: FrameQueue, *, pinned: bool) -> None:
        """Keep the frames of a partition that went away."""
        self._writer.ask(lambda: self._on_store(lambda store: store.park(frames, pinned=pinned)))

    def look(self) -> None:
        """Look after the disk, and tell what it is like; once a second."""
        if not self._watching:
            self._watching = True
            self._writer.ask(self._look)

    # What a rebalance asks.

    async def parked(self, partition: TopicPartition) -> list[Run]:
        """Return what is kept of a partition."""
        return await self._result(self._writer, lambda store: store.parked(partition), [])

    async def probe(self, run: Run) -> Probe | None:
        """Return by which record of the log a run is recognised."""
        return await self._result(self._reader, lambda store: store.probe(run), None)

    async def adopt(self, run: Run) -> FrameQueue | None:
        """Take a kept run over; None if it is gone by now."""

        def take_over(store: SpillStore) -> FrameQueue | None:
            try:
                return store.adopt(run)
            except ValueError:  # room was short meanwhile
                return None

        return await self._result(self._writer, take_over, None)

    async def discard(self, run: Run) -> None:
        """Give a kept run up."""

        def give_up(store: SpillStore) -> None:
            if run in store.recovered:
                store.discard(run)

        await self._result(self._writer, give_up, None)

    async def _result(self, hand: Hand, ask: Callable[[SpillStore], T], without: T) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(value: T) -> None:
            if not done.done():
                done.set_result(value)

        def task() -> None:
            store = self._ready()
            found = without
            try:
                if store is not None:
                    found = ask(store)
            finally:
                loop.call_soon_threadsafe(settle, found)

        hand.ask(task)
        return await done

    async def close(self, timeout_s: float) -> None:
        """Let the writer end what it was asked to, and close the store; a hung disk is left."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def task() -> None:
            try:
                if self._store is not None:
                    self._store.close()
            finally:
                loop.call_soon_threadsafe(closed.set)

        self._writer.ask(task)
        try:
            async with asyncio.timeout(timeout_s):
                await closed.wait()
        except TimeoutError:
            logger.warning(
                "spill: the disk does not answer; what is on it stays for the next start"
            )

    # On the threads.

    def _ready(self) -> SpillStore | None:
        """Return the store, None if its directory cannot be used."""
        if self._store is None and self._clock.now_ns() >= self._open_after_ns:
            try:
                self._store = self._open_store()
            except SpillError as error:
                self._open_after_ns = self._clock.now_ns() + OPEN_RETRY_NS
                if self._why != str(error):
                    logger.error("spill: %s; lanes keep their records in memory", error)
                self._why = str(error)
        return self._store

    def _on_store(self, task: Callable[[SpillStore], None]) -> None:
        store = self._ready()
        if store is not None:
            task(store)

    def _write(self, command: WriteFrame) -> None:
        name, epoch, rank = command.partition, command.epoch, command.lane
        store = self._ready()
        try:
            if store is None:
                raise SpillRefused(self._why)
            frame = store.append(
                self._lanes[rank],
                name,
                [in_offset_order(block) for block in command.blocks],
                scan_lo=command.scan_lo,
                scan_hi=command.scan_hi,
                deadline_ms=command.deadline_ms,
            )
        except Exception as error:
            if not isinstance(error, SpillRefused):
                logger.exception("spill: this is a bug; the records stay in memory")
            why, now_ns = str(error), self._clock.now_ns()
            self._deliver(
                SpillWatched(lanes={rank: self._seen(rank, why)}, at_ns=now_ns),
                NotSpilled(partition=name, epoch=epoch, lane=rank, why=why, at_ns=now_ns),
            )
        else:
            now_ns = self._clock.now_ns()
            self._deliver(
                Spilled(partition=name, epoch=epoch, lane=rank, frame=frame, at_ns=now_ns)
            )

    def _read(self, command: ReadFrame) -> None:
        frame = command.frame
        try:
            if self._store is None:
                raise lost(frame, "missing", self._why)
            batches = self._store.read(frame)
            blocks = self._rebuild(frame.partition, command.lane, batches)
        except Exception as error:
            self._lost(command, error)
            return
        self._deliver(
            Restored(
                frame=frame,
                epoch=command.epoch,
                lane=command.lane,
                blocks=blocks,
                at_ns=self._clock.now_ns(),
            )
        )

    def _look(self) -> None:
        try:
            self._on_store(SpillStore.upkeep)
            seen = {rank: self._seen(rank, self._why) for rank in self._lanes}
            self._deliver(SpillWatched(lanes=seen, at_ns=self._clock.now_ns()))
        finally:
            self._watching = False

    def _seen(self, rank: int, why_closed: str) -> DiskSeen:
        store = self._store
        if store is None:
            return DiskSeen(accepts=False, why=why_closed, stored_bytes=0)
        name = self._lanes[rank]
        return DiskSeen(
            accepts=store.state(name) < SpillState.HARD,
            why=store.why(name),
            stored_bytes=store.usage(name).stored_bytes,
        )


def in_offset_order(block: Sequence[Chunk]) -> pa.RecordBatch:
    """Return the records of a block as one batch; copied only if it has several flows."""
    if len(block) == 1:
        return block[0].columns
    table = pa.Table.from_batches([chunk.columns for chunk in block])
    (columns,) = table.sort_by("offset").combine_chunks().to_batches()
    return columns
