"""Spilling in a worker: the disk, what it has lost, and what an earlier life has left on it.

    engine ─▶ WriteFrame, ReadFrame, FinishFrames, Park ─▶ SpillDisk ─▶ facts ─▶ engine
                       └─ lost ─▶ FrameGone ─▶ read from Kafka ─▶ Restored ─▶ engine
    rebalance ─▶ find ─▶ parked runs, whose probe is compared with the log ─▶ Assigned.spilled

Everything here runs on the event loop unless its name says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import pyarrow as pa

from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import Clock
from flowguard.commands import FinishFrames, Park, ReadFrame, WriteFrame
from flowguard.errors import FrameLost
from flowguard.facts import Fact, FrameGone, Restored
from flowguard.intake.chunks import Arrival, block_of
from flowguard.intake.cursors import PartitionPlan
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Spill
from flowguard.spill.cipher import EphemeralKey, require_library
from flowguard.spill.disk import Hand, SpillDisk
from flowguard.spill.filesystem import RealFileSystem, filesystem_of
from flowguard.spill.manifest import Frame, FrameQueue, Run, usable
from flowguard.spill.options import Identity, LaneSpill
from flowguard.spill.payload import probe_crc
from flowguard.spill.slot import Slot, take_slot
from flowguard.spill.store import SpillStore
from flowguard.units import SECOND, format_size

__all__ = ["LogReader", "SpillService", "spill_lanes"]

logger = logging.getLogger("flowguard.spill")

#: Reading again is tried so often while it fails.
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 10.0

#: Where a directory was deleted, one of its frames is named so often.
SAY_MISSING_NS: Final = 5 * SECOND

#: What a rebalance waits for runs to be compared with the log; what takes longer is not used.
FIND_WITHIN_S: Final = 5.0

#: File systems that are no disk, and those that are somebody else's.
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})

#: What stopping waits for the disk.
CLOSE_WITHIN_S: Final = 5.0


class LogReader(Protocol):
    """Reads records of Kafka beside what is being fetched."""

    async def read_range(
        self, name: TopicPartition, first: int, end: int, lane: int
    ) -> list[list[Chunk]]:
        """Return the records of a lane in a range, as blocks; fewer if the log lost some."""

    async def record_at(self, name: TopicPartition, offset: int) -> Mapping[str, Any] | None:
        """Return one record as column → value, None if there is none."""


def spill_lanes(lanes: LaneSet) -> dict[int, Spill]:
    """Return the lanes that may spill, by rank, with their policy.

    Raises:
        ConfigError: One is to be encrypted, and the package for that is missing.
    """
    found = lanes.spilling
    if any(policy.encrypt for policy in found.values()):
        require_library()
    return found


class SpillService:
    """Carries out what the engine wants of the disk.

    Args:
        directory: The spill directory; the worker has a slot of its own in it.
        app: Id of the app, and name of its group.
        lanes: The lanes of the app.
        fingerprints: Topic → fingerprint of its rule.
        plans: How each feed topic is read; may grow until the first rebalance.
        observe: Takes in facts on the event loop.
        slot: The number of this worker among those of the machine, if it has one.
        hand: What the disk works with; threads without it.
    """

    def __init__(
        self,
        directory: str,
        *,
        app: str,
        lanes: LaneSet,
        fingerprints: Callable[[], Mapping[str, str]],
        plans: Callable[[], Mapping[str, PartitionPlan]],
        clock: Clock,
        log: LogReader,
        observe: Callable[..., None],
        loop: asyncio.AbstractEventLoop,
        slot: int | None = None,
        hand: Callable[[str], Hand] | None = None,
    ) -> None:
        self.directory = directory
        self._slot = slot
        self._app = app
        self._lanes = lanes
        self._policies = spill_lanes(lanes)
        self._fingerprints = fingerprints
        self._plans = plans
        self._clock = clock
        self._log = log
        self._observe = observe
        self._loop = loop
        self._hand = hand
        self._disk: SpillDisk | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[Frame, ReadFrame] = {}  # that are being read from Kafka again
        self._missing = 0  # frames that nothing was said of
        self._say_missing_ns = 0
        self._found: dict[TopicPartition, list[FrameQueue]] = {}  # for partitions about to come

    # Life.

    def open(self, cluster: str) -> None:
        """Take a slot and look at what is in it, aside; again for each rebalance, to no effect."""
        if self._disk is not None:
            return
        identity = Identity(
            app=self._app, group=self._app, cluster=cluster, rules=self._fingerprints()
        )
        options = {
            self._lanes[rank].name: LaneSpill(max_bytes=policy.max_bytes, keys=keys_of(policy))
            for rank, policy in self._policies.items()
        }

        def open_store() -> SpillStore:
            slot = take_slot(RealFileSystem(), self.directory, self._app, preferred=self._slot)
            logger.info("spill: this worker's directory is %s", slot.directory)
            most_bytes = sum(policy.max_bytes for policy in self._policies.values())
            for line in doubts(slot, most_bytes):
                logger.warning("spill: %s", line)
            return SpillStore(slot, identity, options, clock=self._clock)

        self._disk = SpillDisk(
            open_store,
            lanes={rank: self._lanes[rank].name for rank in self._policies},
            clock=self._clock,
            deliver=self._deliver_threadsafe,
            lost=self._lost_threadsafe,
            rebuild=self._rebuild_threadsafe,
            hand=self._hand,
        )
        self._disk.look()

    def look(self) -> None:
        """Look after the disk; once a second."""
        if self._disk is not None:
            self._disk.look()

    async def close(self) -> None:
        """Leave what is on disk to the next start."""
        for task in self._tasks:
            task.cancel()
        if self._disk is not None:
            await self._disk.close(CLOSE_WITHIN_S)

    # Commands.

    def carry_out(self, command: WriteFrame | ReadFrame | FinishFrames | Park) -> None:
        """Let the disk do something."""
        assert self._disk is not None, "partitions are assigned after the disk was opened"
        match command:
            case WriteFrame():
                self._disk.write(command)
            case ReadFrame():
                self._disk.read(command)
            case FinishFrames(frames):
                for frame in frames:
                    self._wanted.pop(frame, None)
                self._disk.finish(frames)
            case Park(frames, pinned):
                self._disk.park(frames, pinned=pinned)

    # What the disk tells, on its threads.

    def _deliver_threadsafe(self, *facts: Fact) -> None:
        self._call_threadsafe(self._observe, *facts)

    def _lost_threadsafe(self, command: ReadFrame, error: Exception) -> None:
        self._call_threadsafe(self._lost, command, error)

    def _call_threadsafe(self, call: Callable[..., None], *values: Any) -> None:
        if not self._loop.is_closed():  # a worker that ends does not wait for its disk
            self._loop.call_soon_threadsafe(call, *values)

    def _rebuild_threadsafe(
        self, name: TopicPartition, lane: int, batches: Sequence[pa.RecordBatch]
    ) -> list[list[Chunk]]:
        """Make blocks of chunks of what was read from disk."""
        arrival = Arrival(self._clock.now_ns(), self._clock.epoch_ms())
        splitter = self._plans()[name.topic].splitter
        return [block_of(name, lane, columns, arrival, splitter) for columns in batches]

    # What the disk has lost.

    def _lost(self, command: ReadFrame, error: Exception) -> None:
        if not isinstance(error, FrameLost):  # it was read, but a schema is not there
            logger.warning(
                "spill: what was read back cannot be told apart: %s: %s; trying again in %.0f s",
                type(error).__name__, error, RETRY_S,
            )  # fmt: skip
            self._loop.call_later(RETRY_S, self.carry_out, command)
            return
        self._say_lost(error)
        self._wanted[command.frame] = command
        self._observe(
            FrameGone(
                frame=command.frame,
                epoch=command.epoch,
                lane=command.lane,
                at_ns=self._clock.now_ns(),
            )
        )
        self._keep(self._read_again(command))

    def _say_lost(self, error: FrameLost) -> None:
        """Name what is damaged; of what is gone with its directory one frame in a while."""
        now_ns = self._clock.now_ns()
        if error.reason == "missing" and now_ns < self._say_missing_ns:
            self._missing += 1
            return
        more = f"; so were {self._missing} frames before it" if self._missing else ""
        logger.warning("spill: %s%s", error, more)
        if error.reason == "missing":
            self._missing, self._say_missing_ns = 0, now_ns + SAY_MISSING_NS

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_again(self, command: ReadFrame) -> None:
        """Read the records of a frame from Kafka, however long it takes."""
        frame, wait_s = command.frame, RETRY_S
        while self._wanted.get(frame) is command:  # not one of another assignment
            try:
                blocks = await self._log.read_range(
                    frame.partition, frame.scan_lo, frame.scan_hi, command.lane
                )
            except Exception as error:  # a broker, a registry, a codec of the user's
                logger.warning(
                    "spill: offsets %s to %s of %s[%s] cannot be read again: %s: %s; trying again "
                    "in %.0f s", frame.scan_lo, frame.scan_hi - 1, *frame.partition,
                    type(error).__name__, error, wait_s,
                )  # fmt: skip
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, 2 * wait_s)
                continue
            if self._wanted.get(frame) is command:
                del self._wanted[frame]
                self._observe(
                    Restored(
                        frame=frame,
                        epoch=command.epoch,
                        lane=command.lane,
                        blocks=blocks,
                        at_ns=self._clock.now_ns(),
                    )
                )

    # What an earlier life has left.

    def take_found(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, list[FrameQueue]]:
        """Return what was found of these partitions; what was found of others is kept on disk."""
        found, self._found = self._found, {}
        taken = {name: found.pop(name) for name in names if name in found}
        for queues in found.values():
            for frames in queues:
                self.carry_out(Park(frames))
        return taken

    async def find(self, watermarks: Mapping[TopicPartition, Sequence[int]]) -> None:
        """Find what is on disk of these partitions and is still what the log has.

        Args:
            watermarks: Partition → by lane, the first offset that is not finished.
        """
        assert self._disk is not None, "the disk was opened before"
        self.take_found(())  # of a rebalance that another one has overtaken
        try:
            async with asyncio.timeout(FIND_WITHIN_S):
                for name, of_lanes in watermarks.items():
                    queues = [
                        frames
                        for run in await self._disk.parked(name)
                        if (frames := await self._take(run, of_lanes)) is not None
                    ]
                    if queues:
                        self._found[name] = queues
        except TimeoutError:
            logger.warning(
                "spill: %.0f s were not enough to compare what is on disk with the log; what was "
                "not compared is read from Kafka again", FIND_WITHIN_S,
            )  # fmt: skip

    async def _take(self, run: Run, watermarks: Sequence[int]) -> FrameQueue | None:
        """Take a run over as far as it can be used; what cannot be is given up."""
        assert self._disk is not None
        rank = next((r for r in self._policies if self._lanes[r].name == run.lane), None)
        if rank is None or not await self._agrees(run):
            await self._disk.discard(run)
            return None
        fit = usable(run.frames, watermarks[rank])
        frames = await self._disk.adopt(run)
        if frames is None:
            return None
        self._disk.finish([*fit.outdated, *fit.beyond])
        if not fit.kept:
            return None
        logger.info(
            "spill: lane %s: %s records of %s[%s] are on disk already and are not read again",
            run.lane, sum(frame.records for frame in fit.kept), *run.partition,
        )  # fmt: skip
        return FrameQueue(run.lane, run.partition, fit.kept)

    async def _agrees(self, run: Run) -> bool:
        """Tell whether the log still has, at the newest offset of a run, the same record."""
        assert self._disk is not None
        probe = await self._disk.probe(run)
        if probe is None:
            return False
        try:
            record = await self._log.record_at(run.partition, probe.offset)
        except Exception as error:  # whatever it is, the log is read instead
            why = f"{type(error).__name__}: {error}"
        else:
            if record is not None and crc_of(record) == probe.crc:
                return True
            why = "the log has another record there" if record else "the log has no record there"
        logger.warning(
            "spill: what lane %s has on disk of %s[%s] is not used, and read from Kafka again: "
            "offset %s: %s", run.lane, *run.partition, probe.offset, why,
        )  # fmt: skip
        return False


def doubts(slot: Slot, most_bytes: int) -> list[str]:
    """Return what speaks against a directory, for people.

    Args:
        most_bytes: What all lanes of the worker may have there.
    """
    found: list[str] = []
    try:
        space = slot.filesystem.space(slot.directory)
    except OSError:  # the store will say more of it
        return found
    if most_bytes > space.free_bytes:
        free = format_size(space.free_bytes)
        found.append(
            f"lanes may have {format_size(most_bytes)} on disk, and {slot.directory} has {free} "
            "free; when it is full they keep their records in memory. Lower fg.Spill(…), or name "
            "another directory"
        )
    kind = filesystem_of(slot.directory)
    if kind in IN_MEMORY:
        found.append(
            f"{slot.directory} is a {kind}: what goes there takes memory again; name a directory "
            "on a disk"
        )
    if kind in REMOTE:
        found.append(
            f"{slot.directory} is on {kind}: it may be slow, and its locks may not hold; name a "
            "directory on a local disk"
        )
    return found


def keys_of(policy: Spill) -> Any:
    """Return where the key of a lane comes from, None if it is not encrypted."""
    return EphemeralKey(os.urandom) if policy.encrypt is True else policy.encrypt or None


def crc_of(record: Mapping[str, Any]) -> int:
    """Return the CRC by which a record of the log is compared with one that was spilled."""
    return probe_crc(record["timestamp"], record["key"], record["value"], record["headers"])
