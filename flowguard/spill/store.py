"""The spill store of one worker: records go to disk and come back.

    append ─▶ stream of the lane ─▶ segments ─▶ read ─▶ finish ─▶ a segment in which nothing
    park ─▶ parked ─▶ adopt, or discard                           is wanted is deleted

Thread-safety: one thread writes, and calls everything but `read` and `probe`. These two belong
to one other thread, which may read while the first one writes or deletes. `state`, `why` and
`usage` may be asked from anywhere, also while the disk hangs.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from flowguard.chunk import TopicPartition
from flowguard.clock import Clock, SystemClock
from flowguard.errors import SpillRefused
from flowguard.spill.cipher import EphemeralKey, NoKey, require_library
from flowguard.spill.layout import NO_DEADLINE, SEGMENT_HEADER_BYTES
from flowguard.spill.manifest import Frame, FrameQueue, Probe, Run
from flowguard.spill.opening import open_directory
from flowguard.spill.options import FRAME_BYTES_TARGET, Identity, LaneSpill, StoreLimits
from flowguard.spill.parking import Parking
from flowguard.spill.ports import FileSystem
from flowguard.spill.quarantine import Quarantine
from flowguard.spill.quota import DiskState, LaneQuota, SpillState
from flowguard.spill.reader import FrameReader
from flowguard.spill.reading import fill
from flowguard.spill.recovery import frame_of
from flowguard.spill.segments import Segments
from flowguard.spill.slot import PROBE_NAME, Slot
from flowguard.spill.stream import Draft, LaneStream, write_all
from flowguard.units import MILLISECOND, format_size

__all__ = ["SpillStore", "Usage"]

logger = logging.getLogger(__name__)

FULL: Final = {errno.ENOSPC, errno.EDQUOT}
PROBE_BYTES: Final = b"flowguard" * 512

QUARANTINE_BYTES_MAX: Final = 1 << 30


class Usage(NamedTuple):
    """What a lane has on disk.

    Args:
        stored_bytes: Of its files, with the finished frames in them.
        live_bytes: Payloads that somebody wants.
        parked_bytes: Payloads that belong to nobody now, among the live ones.
        max_bytes: Its quota.
    """

    stored_bytes: int
    live_bytes: int
    parked_bytes: int
    max_bytes: int
    segments: int
    frames: int


class SpillStore:
    """What a worker has on disk; the directory is a cache and may vanish at any instant.

    Nothing here waits for a disk to have written: what is lost by that is in Kafka. Opening
    takes over what the last worker of the slot left, and never refuses to.

    Args:
        slot: The worker's directory.
        identity: For whom records are kept.
        lanes: What each lane may spill, by name.
        clock: Time of states and of parked runs.
        entropy: Returns so many random bytes.

    Raises:
        ConfigError: A lane is to be encrypted, and the package for that is missing.
    """

    def __init__(
        self,
        slot: Slot,
        identity: Identity,
        lanes: Mapping[str, LaneSpill],
        *,
        limits: StoreLimits | None = None,
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if any(lane.keys is not None for lane in lanes.values()):
            require_library()
        self._slot = slot
        self._filesystem: Final[FileSystem] = slot.filesystem
        self._identity = identity
        self._lanes = dict(lanes)
        self._limits = limits or StoreLimits()
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._next_number = 0
        self._opened = False
        self._run_numbers: dict[tuple[str, TopicPartition], int] = {}
        self._parking = Parking(self._limits.park_ms)
        self._disk = DiskState(self._limits.min_free_bytes)
        self._told = SpillState.OK
        quotas = {name: LaneQuota(lane.max_bytes) for name, lane in lanes.items()}
        self._segments = Segments(self._filesystem, slot.directory, quotas)
        self._streams = {
            name: self._stream_of(name, lane, quotas[name]) for name, lane in lanes.items()
        }
        self._reader = FrameReader(self._filesystem, self._segments)
        self._quarantine = Quarantine(self._filesystem, slot.directory, self._quarantine_bytes())
        self._open()

    def _stream_of(self, name: str, lane: LaneSpill, quota: LaneQuota) -> LaneStream:
        return LaneStream(
            lane=name,
            options=lane,
            quota=quota,
            limits=self._limits,
            identity=self._identity,
            filesystem=self._filesystem,
            directory=self._slot.directory,
            clock=self._clock,
            entropy=self._entropy,
            take_number=self._take_number,
            retire=self._segments.retire,
        )

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _quarantine_bytes(self) -> int:
        most = sum(lane.max_bytes for lane in self._lanes.values())
        return min(QUARANTINE_BYTES_MAX, int(most * self._limits.quarantine_ratio))

    def _now_ms(self) -> int:
        """Return an instant of the clock that nobody sets."""
        return self._clock.now_ns() // MILLISECOND

    def _open(self) -> None:
        """Take over what the last worker of this slot left."""
        try:
            self._quarantine.measure()
            opened = open_directory(
                self._filesystem,
                self._slot.directory,
                self._identity,
                self._lanes,
                self._quarantine,
                now_ms=self._now_ms(),
            )
        except OSError as error:
            self._fail(error)
            return
        self._opened = True
        self._next_number = opened.next_number
        for segment in opened.segments.values():
            self._segments.add(segment)
            self._streams[segment.lane].quota.charge(segment.num_bytes)
        for run in opened.runs:
            self._parking.add(run)
        self._share_quarantine()
        if opened.segments or opened.deleted or opened.quarantined:
            logger.info("spill: %s: %s", self._slot.directory, opened)

    # What may be asked from anywhere.

    def state(self, lane: str) -> SpillState:
        """Return how far a lane may spill."""
        return max(self._streams[lane].quota.state, self._disk.state)

    def why(self, lane: str) -> str:
        """Return why a lane does not spill freely, for people; empty if it does."""
        quota = self._streams[lane].quota
        if self._disk.state > SpillState.OK and self._disk.state >= quota.state:
            return self._disk.why
        if quota.state is SpillState.OK:
            return ""
        used, most = format_size(quota.used_bytes), format_size(quota.max_bytes)
        return f"{used} of its {most} on disk are used"

    def usage(self, lane: str) -> Usage:
        """Return what a lane has on disk."""
        segments = self._segments.of_lane(lane)
        quota = self._streams[lane].quota
        return Usage(
            stored_bytes=quota.used_bytes,
            live_bytes=sum(segment.live_bytes for segment in segments),
            parked_bytes=self._parking.stored_bytes(lane),
            max_bytes=quota.max_bytes,
            segments=len(segments),
            frames=sum(segment.live_frames for segment in segments),
        )

    # Writing.

    def append(
        self,
        lane: str,
        partition: TopicPartition,
        batches: Sequence[pa.RecordBatch],
        *,
        scan_lo: int,
        scan_hi: int,
        deadline_ms: int = NO_DEADLINE,
    ) -> Frame:
        """Write records as one frame; return when all of it is written.

        Args:
            batches: In offset order, with the columns of a chunk; must not change meanwhile.
            scan_lo: First offset of the range of which the lane's records are all here.
            scan_hi: Offset after that range.
            deadline_ms: The earliest deadline among them, wall clock.

        Raises:
            SpillRefused: Nothing was written, or nobody knows what; the caller keeps the
                records.
            ValueError: There are no records, or they are not in the range.
        """
        stream = self._streams[lane]
        if self._disk.state >= SpillState.HARD:
            raise SpillRefused(f"{self._refusal(lane)}: {self._disk.why}")
        run = self._run_numbers.get((lane, partition))
        if run is None:
            run = int.from_bytes(self._entropy(8), "little")
        draft = stream.draft(
            partition,
            batches,
            scan=(scan_lo, scan_hi),
            deadline_ms=deadline_ms,
            run=run,
            state=self.state(lane),
        )
        self._make_room(stream, draft)
        try:
            header, segment = stream.write(draft)
        except OSError as error:
            stream.give_up(cut=error.errno in FULL)
            self._fail(error)
            raise SpillRefused(f"{self._refusal(lane)}: {self._disk.why}") from error
        except NoKey as error:
            raise SpillRefused(f"{self._refusal(lane)}: {error}; see to its provider") from error
        except BaseException:
            stream.give_up(cut=False)
            raise
        self._run_numbers[lane, partition] = run
        self._segments.add(segment)
        return frame_of(header, lane, partition.topic, segment.header.number)

    def _refusal(self, lane: str) -> str:
        return f"lane {lane!r} cannot spill to {self._slot.directory} and keeps its records"

    def _make_room(self, stream: LaneStream, draft: Draft) -> None:
        """Let go of what nobody owns until a frame fits, or refuse it."""
        size = max(draft.header.stored_bytes, draft.header.raw_bytes)
        needed = draft.num_bytes + SEGMENT_HEADER_BYTES
        if size > self._limits.frame_bytes_max or needed > stream.options.max_bytes:
            raise SpillRefused(
                f"{self._refusal(stream.lane)}: {format_size(size)} are too much for a frame",
                too_large=True,
            )
        while not stream.quota.admits(needed):
            if not self._let_go([stream.lane]):
                raise SpillRefused(f"{self._refusal(stream.lane)}: {self.why(stream.lane)}")

    # Reading.

    def read(self, frame: Frame) -> list[pa.RecordBatch]:
        """Return the records of a frame, whose checksum agreed.

        Raises:
            FrameLost: They cannot be had; call `finish`, and fetch them from Kafka.
        """
        return self._reader.read(frame)

    def probe(self, run: Run) -> Probe | None:
        """Return by which record of the log a run is recognised, None if it has none left."""
        return self._reader.probe(run)

    # What is not wanted any more.

    def finish(self, *frames: Frame) -> None:
        """Note that nobody wants these frames any more."""
        self._finish(frames)

    def _finish(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            try:
                self._segments.finish(frame)
            except OSError as error:
                self._fail(error)

    # What belongs to nobody.

    def park(self, frames: FrameQueue, *, pinned: bool = False) -> None:
        """Keep the frames of a partition that was revoked, for whoever gets it again.

        Args:
            frames: All that is wanted of one lane of it; what was read and is not finished
                has come back to the front.
            pinned: Kafka has lost some of it: it never makes way for anything.
        """
        number = self._run_numbers.pop((frames.lane, frames.partition), None)
        if not len(frames) or number is None:
            self._finish(frames)
            return
        rule = self._identity.rule(frames.partition.topic)
        self._parking.add(Run(frames, number, rule, self._now_ms(), pinned))

    @property
    def recovered(self) -> list[Run]:
        """Return all that is parked; after a start, what was found."""
        return self._parking.runs()

    def parked(self, partition: TopicPartition) -> list[Run]:
        """Return what may be adopted of a partition, if its probe agrees with the log.

        Runs that were made by another rule than the present one are discarded.
        """
        for run in self._parking.runs(partition):
            if run.rule != self._identity.rule(partition.topic):
                self.discard(run)
        return self._parking.runs(partition)

    def adopt(self, run: Run) -> FrameQueue:
        """Take a parked run over; what is appended there continues it.

        Raises:
            ValueError: It is not parked, or something was appended to its place already.
        """
        place = run.lane, run.partition
        if place in self._run_numbers:
            raise ValueError(f"{run.frames!r} comes too late: its place has newer frames")
        self._parking.remove(run)
        self._run_numbers[place] = run.number
        return run.frames

    def discard(self, run: Run) -> None:
        """Give a parked run up."""
        self._parking.remove(run)
        self._finish(run.frames)

    def _let_go(self, lanes: Iterable[str]) -> bool:
        """Free some room: quarantine first, then what is parked longest; False: there is none."""
        try:
            if self._quarantine.give_way():
                self._share_quarantine()
                return True
        except OSError as error:
            self._fail(error)
        run = self._parking.oldest(lambda each: each.lane in lanes)
        if run is not None:
            self.discard(run)
        return run is not None

    def _share_quarantine(self) -> None:
        """Take what is in quarantine off the quotas, so that all together keep to them."""
        most = sum(lane.max_bytes for lane in self._lanes.values())
        share = self._quarantine.num_bytes / most if most else 0.0
        for stream in self._streams.values():
            stream.quota.limit(stream.options.max_bytes - int(stream.options.max_bytes * share))

    # Once a second.

    def upkeep(self) -> None:
        """Look after directory, disk and quotas; to be called about once a second."""
        if self._disk.retry_due(self._clock.now_ns()):
            self._try_disk()
        if self._disk.state < SpillState.DISABLED:
            try:
                self._look_after_directory()
            except FileNotFoundError:
                pass  # deleted while it was looked at; the next time it is made again
            except OSError as error:
                self._fail(error)
        for run in self._parking.expired(self._now_ms()):
            self.discard(run)
        for lane, stream in self._streams.items():
            self._close_if_idle(stream)
            while (
                stream.quota.state > SpillState.OK
                and self._disk.state < SpillState.DISABLED
                and self._let_go([lane])
            ):
                pass
        if self._disk.state is SpillState.HARD:
            self._let_go(self._streams)  # one at a time: what is free then is known in a second
        self._tell()

    def _look_after_directory(self) -> None:
        """Notice what somebody else has deleted, and how much room there is."""
        if not self._slot.hold():
            taken = f"{self._slot.directory} was deleted and another worker has it now"
            self._disk.fail(f"{taken}; restart this one", self._clock.now_ns())
            return
        directory = self._slot.directory
        names = {entry.name for entry in self._filesystem.list_directory(directory)}
        missing = self._segments.forget_missing(names)
        for stream in self._streams.values():
            if stream.active in missing:
                stream.give_up(cut=False)
        if missing:
            logger.warning(
                "spill: %d files in %s were deleted by somebody else; what was in them is read "
                "from Kafka again", len(missing), directory,
            )  # fmt: skip
        self._segments.delete_rest()
        if self._quarantine.num_bytes:  # somebody may have deleted from it too
            self._quarantine.measure()
            self._share_quarantine()
        space = self._filesystem.space(directory)
        self._disk.observe(space.free_bytes, space.total_bytes)

    def _close_if_idle(self, stream: LaneStream) -> None:
        """Delete the active segment of a lane whose frames are all finished."""
        if stream.active is not None and not stream.active.live_frames:
            stream.give_up(cut=False)

    def _try_disk(self) -> None:
        """Find out whether the disk works again: write something and read it."""
        path = f"{self._slot.directory}/{PROBE_NAME}"
        try:
            self._filesystem.make_directory(self._slot.directory)
            if not self._slot.hold():
                self._disk.fail(self._disk.why, self._clock.now_ns())
                return
            self._write_probe(path)
            self._filesystem.unlink(path)
        except OSError as error:
            self._fail(error)
            return
        self._disk.recover()
        if not self._opened:
            self._open()

    def _write_probe(self, path: str) -> None:
        try:
            self._filesystem.unlink(path)
        except FileNotFoundError:
            pass
        file = self._filesystem.create(path)
        try:
            file.reserve(FRAME_BYTES_TARGET)
            write_all(file, [PROBE_BYTES], 0)
            file.sync()
            found = bytearray(len(PROBE_BYTES))
            if fill(file, found, 0) < len(found) or found != PROBE_BYTES:
                raise OSError(errno.EIO, "the disk returns other bytes than were written")
        finally:
            file.close()

    def _fail(self, error: OSError) -> None:
        """Take in what the disk said."""
        said, now_ns = error.strerror or str(error), self._clock.now_ns()
        if error.errno in FULL:
            self._disk.full(f"the disk is full ({said}); free some room", now_ns)
        else:
            self._disk.fail(f"the disk fails ({said}); look at it", now_ns)
        self._tell()

    def _tell(self) -> None:
        """Say once when the state of the disk changes."""
        if self._disk.state is self._told:
            return
        self._told = self._disk.state
        if self._told is SpillState.OK:
            logger.warning("spill: %s takes records again", self._slot.directory)
        else:
            logger.warning(
                "spill: nothing is written to %s: %s; lanes keep their records in memory and "
                "stop reading when that is full", self._slot.directory, self._disk.why,
            )  # fmt: skip

    def close(self) -> None:
        """End writing; what is spilled stays for the next start, unless its key ends now."""
        for lane, stream in self._streams.items():
            stream.seal()
            if isinstance(stream.options.keys, EphemeralKey):
                self._segments.clear(self._segments.of_lane(lane))
