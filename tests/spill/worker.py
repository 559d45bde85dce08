"""A worker as simple as it can be, on a log, a disk that crashes, and the store.

What it owes is plain: every record of the log is delivered once or more, each as it is in the
log, in the order of its lane and partition; nothing twice but what was not committed. What a
real worker does with memory, time and threads is left out.

    head ─ in memory, next ─▶ frames ─ spilled ─▶ tail ─ in memory, behind them
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from flowguard.chunk import TopicPartition
from flowguard.errors import FrameLost, SpillRefused
from flowguard.spill.cipher import Key
from flowguard.spill.inspection import Problem, verify_slot
from flowguard.spill.manifest import Frame, FrameQueue, usable
from flowguard.spill.options import LaneSpill, StoreLimits
from flowguard.spill.quota import SpillState
from tests.spill.builders import DIRECTORY, ROOT, StoppedClock, records, slot_on, store_on
from tests.spill.crash_disk import CrashDisk
from tests.spill.ledger import LANES, PLACES, Committed, Log

LIMITS = StoreLimits(segment_bytes=9_000, frame_bytes_max=20_000, min_free_bytes=0)
QUOTA_BYTES = 40_000

KEY = Key("k", bytes(range(32)))


class OneKey:
    """A provider of one key."""

    def current(self) -> Key:
        return KEY

    def find(self, key_id: str) -> Key | None:
        return KEY if key_id == KEY.id else None


SPILLED = {
    "bulk": LaneSpill(max_bytes=QUOTA_BYTES),
    "slow": LaneSpill(max_bytes=QUOTA_BYTES, compression="lz4", keys=OneKey()),
}


@dataclass
class Chunk:
    """Records in memory, and the frame they were read from, if any."""

    offsets: deque[int]
    scan_lo: int
    scan_hi: int
    frame: Frame | None = None

    def pop(self) -> int:
        """Take the first record out; what is spilled later is spilled without it."""
        offset = self.offsets.popleft()
        self.scan_lo = offset + 1
        return offset


@dataclass
class LaneState:
    """What a worker has of a lane of a partition."""

    restored: int  # what is below was finished before
    frames: FrameQueue
    covered: tuple[int, int]  # what the frames had when they were adopted
    next_lo: int
    head: deque[Chunk] = field(default_factory=deque)
    tail: deque[Chunk] = field(default_factory=deque)
    last: int = -1

    @property
    def hole(self) -> bool:
        """Tell whether records before the frames are still to be read from Kafka."""
        return self.next_lo < self.covered[0]

    def watermark(self, position: int) -> int:
        if self.head:
            return max(self.restored, self.head[0].offsets[0])
        if self.hole:
            return self.next_lo
        if len(self.frames):
            return max(self.restored, self.frames[0].scan_lo)
        if self.tail:
            return self.tail[0].offsets[0]
        return max(self.restored, position, self.next_lo)  # what was adopted may be ahead


class Worker:
    """One process."""

    def __init__(
        self, log: Log, disk: Any, random: Random, clock: StoppedClock, *, root: str = ROOT
    ) -> None:
        self.log, self.disk, self.random, self.clock = log, disk, random, clock
        self.written: dict[Frame, int] = {}  # how often the disk had been harmed by then
        self.positions: dict[TopicPartition, int] = {}
        self.lanes: dict[tuple[TopicPartition, str], LaneState] = {}
        self.refetched = self.reused = self.refused = 0
        self.store = store_on(
            disk, slot=slot_on(disk, root=root), lanes=SPILLED, limits=LIMITS, clock=clock,
            entropy=random.randbytes,
        )  # fmt: skip

    # Partitions come and go.

    def assign(self, place: TopicPartition) -> None:
        committed = self.log.committed.get(place, Committed())
        kept: dict[str, list[Frame]] = {}
        for run in self.store.parked(place):
            probe = self.store.probe(run)
            if probe is None or not self.log.probe_agrees(place, probe):
                self.store.discard(run)
                continue
            found = usable(self.store.adopt(run), committed.of(run.lane))
            self.store.finish(*found.outdated, *found.beyond)
            kept[run.lane] = found.kept
        starts = []
        for lane in LANES:
            frames, watermark = kept.get(lane, []), committed.of(lane)
            covered = (frames[0].scan_lo, frames[-1].scan_hi) if frames else (watermark, watermark)
            start = watermark if watermark < covered[0] else max(watermark, covered[1])
            self.lanes[place, lane] = LaneState(
                watermark, FrameQueue(lane, place, frames), covered, start
            )
            self.reused += len(frames)
            starts.append(start)
        self.positions[place] = min(starts)

    def revoke(self, place: TopicPartition, *, commit: bool) -> None:
        if commit:
            self.commit(place)
        self.log.forget(place)
        del self.positions[place]
        for lane in LANES:
            state = self.lanes.pop((place, lane))
            for chunk in reversed(state.head):
                if chunk.frame is not None:
                    state.frames.appendleft(chunk.frame)
            if lane in SPILLED:
                self.store.park(state.frames)

    def commit(self, place: TopicPartition) -> None:
        marks = {lane: self.lanes[place, lane].watermark(self.positions[place]) for lane in LANES}
        self.log.commit(place, Committed(min(marks.values()), marks))

    # Records.

    def fetch(self, place: TopicPartition, count: int) -> None:
        start = self.positions[place]
        stop = max(start, min(start + count, self.log.ends[place]))
        for lane in LANES:
            self.take_in(place, lane, stop)
        self.positions[place] = stop

    def take_in(self, place: TopicPartition, lane: str, stop: int) -> None:
        """Put what was read of a lane before or behind its frames."""
        state = self.lanes[place, lane]
        low, high = state.covered
        if state.next_lo < low:
            self.put(place, lane, state.head, min(stop, low))
        if stop >= low and state.next_lo <= low:
            state.next_lo = max(state.next_lo, high)
        if state.next_lo >= high:
            behind = len(state.frames) or state.tail
            self.put(place, lane, state.tail if behind else state.head, stop)

    def put(self, place: TopicPartition, lane: str, where: deque[Chunk], stop: int) -> None:
        state = self.lanes[place, lane]
        offsets = self.log.offsets(place, lane, state.next_lo, stop)
        if offsets:
            where.append(Chunk(deque(offsets), state.next_lo, stop))
            state.next_lo = stop

    def spill(self, place: TopicPartition, lane: str) -> None:
        state = self.lanes[place, lane]
        where = state.tail if len(state.frames) else state.head
        if not where or (where is state.head and where[-1].frame is not None):
            return
        chunk = where[0] if where is state.tail else where[-1]
        size = self.log.size(place)
        offsets = list(chunk.offsets)
        cut = self.random.randrange(len(offsets))
        batches = [records(place, each, size=size) for each in (offsets[:cut], offsets[cut:])]
        try:
            frame = self.store.append(
                lane, place, batches, scan_lo=chunk.scan_lo, scan_hi=chunk.scan_hi
            )
        except SpillRefused:
            self.refused += 1
            return
        self.written[frame] = self.disk.harms
        where.remove(chunk)
        state.frames.append(frame)

    def load(self, place: TopicPartition, lane: str) -> None:
        state = self.lanes[place, lane]
        if len(state.head) >= 2 or state.hole:
            return
        if not len(state.frames):
            state.head += state.tail
            state.tail.clear()
            return
        frame = state.frames.popleft()
        expected = self.log.offsets(place, lane, frame.scan_lo, frame.scan_hi)
        chunk = Chunk(deque(expected), frame.scan_lo, frame.scan_hi, frame)
        try:
            batches = self.store.read(frame)
        except FrameLost as lost:
            self.excuse(frame)
            expected = self.log.offsets(place, lane, lost.scan_lo, lost.scan_hi)
            chunk = Chunk(deque(expected), frame.scan_lo, frame.scan_hi)
            self.store.finish(frame)
            self.refetched += 1
        else:
            rows = [row for batch in batches for row in batch.to_pylist()]
            true = records(place, expected, size=self.log.size(place))
            assert rows == true.to_pylist(), "what was read is not what the log has"
        while chunk.offsets and chunk.offsets[0] < state.restored:
            chunk.pop()
        if chunk.offsets:
            state.head.append(chunk)
        elif chunk.frame is not None:
            self.store.finish(chunk.frame)

    def excuse(self, frame: Frame) -> None:
        """Make sure that a frame is gone because somebody has harmed the disk."""
        harmed = self.disk.faults or self.written.get(frame, 0) != self.disk.harms
        assert harmed, f"nobody has harmed {frame}"

    def deliver(self, place: TopicPartition, lane: str, count: int) -> None:
        state = self.lanes[place, lane]
        for _ in range(count):
            if not state.head:
                return
            chunk = state.head[0]
            offset = chunk.pop()
            assert offset > state.last, "out of order"
            state.last = offset
            self.log.deliver(place, offset)
            if not chunk.offsets:
                state.head.popleft()
                if chunk.frame is not None:
                    self.store.finish(chunk.frame)

    def drain(self) -> None:
        """Deliver all that there is."""
        for place in list(self.positions):
            while self.positions[place] < self.log.ends[place]:
                self.fetch(place, 50)
            for lane in LANES:
                state = self.lanes[place, lane]
                while state.head or len(state.frames) or state.tail:
                    self.load(place, lane)
                    self.deliver(place, lane, 100)
            self.commit(place)

    def check(self) -> None:
        """Check what holds at every instant."""
        for lane, spilled in SPILLED.items():
            usage = self.store.usage(lane)
            assert usage.stored_bytes <= spilled.max_bytes + LIMITS.segment_bytes
            assert usage.live_bytes <= usage.stored_bytes or usage.stored_bytes == 0
            wanted = sum(
                len(state.frames) + sum(chunk.frame is not None for chunk in state.head)
                for (_, of), state in self.lanes.items()
                if of == lane
            )
            parked = sum(len(run.frames) for run in self.store.recovered if run.lane == lane)
            assert usage.frames <= wanted + parked  # files may have been deleted


class World:
    """The log, one worker at a time, and what happens to them.

    Args:
        seed: Everything follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = StoppedClock()
        self.log = Log()
        self.disk = CrashDisk(self.random, short=self.random.random() < 0.2)
        self.crashes = self.faults = self.reused = self.refetched = 0
        self.flips = self.torn = 0  # all of them were found by `verify`
        self.story: list[str] = []
        self.worker = self.start()

    def start(self) -> Worker:
        worker = Worker(self.log, self.disk, self.random, self.clock)
        for place in PLACES:
            worker.assign(place)
        return worker

    def produce(self, place: TopicPartition, count: int) -> None:
        self.log.ends[place] += count

    def do(self, what: Callable[..., object], *arguments: Any) -> None:
        """Do something, and note it."""
        told = [
            f"{each.topic}[{each.partition}]" if each in PLACES else str(each)
            for each in arguments
            if each is not self
        ]
        self.story.append(" ".join([what.__name__, *told]))
        what(*arguments)

    def restart(self, how: str) -> None:
        """End the worker in some way, and start the next one."""
        worker = self.worker
        if how == "kill" and self.disk.torn in self.disk.files:
            self.torn += 1
            assert self.problems(self.disk.torn), "verify does not find a torn frame"
        self.reused += worker.reused
        self.refetched += worker.refetched
        if how == "close":
            for place in list(worker.positions):
                worker.revoke(place, commit=True)
            worker.store.close()
            self.disk = self.disk.after_kill()
        elif how == "kill":
            self.disk = self.disk.after_kill()
        else:
            self.disk = self.disk.after_power_cut()
        for place in PLACES:
            self.log.forget(place)
        self.crashes += 1

    def elsewhere(self, place: TopicPartition, count: int) -> None:
        """Let another worker have a partition for a while."""
        committed = self.log.committed.get(place, Committed())
        marks = {lane: committed.of(lane) for lane in LANES}
        for lane in LANES:
            for offset in self.log.offsets(place, lane, marks[lane], marks[lane] + count):
                self.log.deliver(place, offset)
            marks[lane] = max(marks[lane], min(marks[lane] + count, self.log.ends[place]))
        self.log.commit(place, Committed(min(marks.values()), marks))

    def fault(self) -> None:
        """Let the disk fail in some way, for a while or once."""
        self.faults += 1
        random = self.random
        before = len(self.disk.faults)
        match random.randrange(5):
            case 0:
                self.disk.capacity_bytes = self.disk.used_bytes + random.randrange(3_000)
            case 1:
                self.disk.remove_tree("/spill")
            case 2:
                self.flip()
            case _:
                op = random.choice(
                    ["*", "write_at", "read_into", "create", "unlink", "open", "truncate",
                     "list_directory", "space", "reserve", "rename"]
                )  # fmt: skip
                number = random.choice(
                    [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE]
                )
                self.disk.fail(
                    op, number, after=random.randrange(4), times=random.choice([1, 1, 5, 1 << 30]),
                    effect=random.random() < 0.5,
                )  # fmt: skip
        self.story += [f"  {fault}" for fault in self.disk.faults[before:]]

    def flip(self) -> None:
        """Change a bit of a segment; where nothing was wrong before, `verify` has to find it."""
        path = self.random.choice(self.disk.names(".fgs") or [""])
        data = self.disk.files[path].data if path else b""
        if not data:
            return
        whole = path.startswith(f"{DIRECTORY}/") and "/quarantine/" not in path
        whole = whole and not self.problems(path)
        byte, bit = self.random.randrange(len(data)), self.random.randrange(8)
        data[byte] ^= 1 << bit
        self.disk.harms += 1
        self.story.append(f"  flip bit {bit} of byte {byte} of {path}")
        if whole:
            self.flips += 1
            assert self.problems(path), "verify does not find a flip"

    def problems(self, path: str) -> list[Problem]:
        """Return what is wrong with a segment."""
        report = verify_slot(self.disk.copy(path), path.rpartition("/")[0], lambda _: None)
        return [problem for segment in report.segments for problem in segment.problems]

    def heal(self) -> None:
        self.disk.heal()

    def end(self) -> None:
        """Let nothing more go wrong, deliver everything, and settle accounts."""
        self.heal()
        for place in PLACES:
            if place not in self.worker.positions:
                self.worker.assign(place)
        for _ in range(3):
            self.clock.move(31)
            self.worker.store.upkeep()
        self.worker.drain()
        for run in self.worker.store.recovered:
            self.worker.store.discard(run)
        self.worker.store.upkeep()
        assert self.log.lost() == []
        assert self.log.repeated <= self.log.may_repeat
        for lane in SPILLED:
            assert self.worker.store.state(lane) is SpillState.OK
            usage = self.worker.store.usage(lane)
            assert (usage.frames, usage.stored_bytes) == (0, 0)
        left = [path for path in self.disk.names(".fgs") if "quarantine" not in path]
        assert left == [], "files that nobody knows of"
