"""Which records go to disk, and when they come back.

    fetched ─▶ lane above its share?  ─▶ line ─▶ tail too long? ─▶ WriteFrame ─▶ Spilled
                                          │                         └─▶ NotSpilled: they stay
               lane below half of it? ◀───┴── ReadFrame ─▶ Restored
                                                  └─▶ FrameGone ─▶ read from Kafka ─▶ Restored

- What is newest goes: it is due last, and what was read first is served first. So nothing
  that agents have is ever taken from them for this.
- A record in a line is unfinished for the ledger, whatever becomes of the disk.
- Where by rule a partition holds nothing but lanes that are above their share, nothing is
  written: reading stops there, and Kafka keeps it. Only what more urgent records hide behind
  is worth a disk.
- When the disk takes no more, tails grow until the partition has no memory left and is not
  read: then the lanes that share it wait as well (`hol_blocked`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowguard.chunk import Chunk
from flowguard.commands import (
    Command,
    FinishFrames,
    OffsetRanges,
    Park,
    ReadFrame,
    Resume,
    Unprocessed,
    WriteFrame,
)
from flowguard.control.retention import GUARD_S, RetentionGuard
from flowguard.facts import FrameGone, LogsBegin, NotSpilled, Restored, Spilled, SpillWatched
from flowguard.gate import spill_share_bytes
from flowguard.holdings import Partition
from flowguard.line import Line
from flowguard.lines import Lines
from flowguard.reuse import Reuse
from flowguard.spill.layout import NO_DEADLINE
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.units import KIB, MIB, MILLISECOND, SECOND, format_duration, format_size

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Spilling"]

#: A lane's agents get more from its lines when so much of its share is left in their queues.
LOW: Final = 0.5

#: Of the memory for columns: what tails of all lanes may hold before they are written.
TAILS_PART: Final = 10

#: Frames under way to the disk, for each lane: one is written while the next one waits.
WRITES_MAX: Final = 2

FRAME_BYTES_MAX: Final = 4 * MIB
FRAME_BYTES_MIN: Final = 64 * KIB
FRAME_PART: Final = 32

#: A disk that has not answered for so long hangs.
HUNG_NS: Final = 5 * SECOND

#: After a refusal the disk is asked again so much later.
RETRY_NS: Final = SECOND


@dataclass(slots=True)
class LaneDisk:
    """What is known of the disk of one lane.

    Args:
        full: The lane was above its share and is not back at half of it.
        writes: Frames under way.
        reads: Frames that it was asked for.
        reading_bytes: What is on its way back, from the disk or from Kafka.
        asked_ns: When it was last asked for something while it had nothing to do, or answered.
        accepts: The disk takes more.
        why: Why it takes no more or not freely, for people; empty if it does.
        stored_bytes: What the lane's files take.
        retry_ns: When it may be asked again after a refusal.
    """

    full: bool = False
    writes: int = 0
    reads: int = 0
    reading_bytes: int = 0
    asked_ns: int = 0
    accepts: bool = True
    why: str = ""
    stored_bytes: int = 0
    retry_ns: int = 0

    def ask(self, now_ns: int) -> None:
        """Note that something is asked of it."""
        if not (self.writes or self.reads):
            self.asked_ns = now_ns

    def hangs(self, now_ns: int) -> bool:
        """Tell whether it was asked for something and has not answered for long."""
        return bool(self.writes or self.reads) and now_ns - self.asked_ns > HUNG_NS

    def trouble(self, now_ns: int) -> str:
        """Return why it does not do freely what it is asked, for people; empty if it does."""
        if self.hangs(now_ns):
            return f"the disk has not answered for {(now_ns - self.asked_ns) // SECOND} s"
        return self.why


class Spilling:
    """Keep the lines of the lanes that may spill.

    Args:
        engine: What holds the records.
    """

    def __init__(self, engine: Engine) -> None:
        self.lines = Lines(engine)
        self.retention = RetentionGuard()
        self._engine = engine
        self._reuse = Reuse(engine, self.lines)
        self._policies = engine.lanes.spilling
        self.disks = {rank: LaneDisk() for rank in self._policies}
        columns_bytes = engine.memory.columns_bytes_max
        self._share_bytes = spill_share_bytes(engine.lanes, engine.memory)
        self._tail_bytes_max = columns_bytes // TAILS_PART // max(1, len(self._policies))
        self._frame_bytes = max(FRAME_BYTES_MIN, min(FRAME_BYTES_MAX, columns_bytes // FRAME_PART))
        self._commands: list[Command] = []
        self._now_ns = 0

    # What the engine tells.

    def assigned(self, partition: Partition, frames: Iterable[FrameQueue]) -> None:
        """Take up what an earlier life has left on disk of a partition that begins."""
        self._reuse.begin(partition, frames)
        self.read_up_to(partition)

    def rest(self, partition: Partition, chunk: Chunk) -> Sequence[Chunk]:
        """Return what of a chunk comes before and behind what is on disk; nothing is copied."""
        return self._reuse.rest(partition, chunk)

    def is_behind(self, partition: Partition, chunk: Chunk) -> bool:
        """Tell whether a chunk comes behind what is on disk from an earlier life."""
        return self._reuse.is_behind(partition, chunk)

    def read_up_to(self, partition: Partition) -> None:
        """Let lines begin that wait for what comes before them, and read on behind them."""
        seek = self._reuse.read_up_to(partition)
        if seek is not None:
            self._commands.append(seek)

    def takes(self, partition: Partition, rank: int) -> bool:
        """Tell whether what is fetched of a lane joins a line instead of its agents' queues."""
        if rank not in self.disks:
            return False
        line = self.lines.get(partition, rank)
        if line is not None:
            return line.opened
        return self._is_full(rank) and not self._is_deferred(partition.name.topic)

    def join(
        self, partition: Partition, rank: int, chunks: Sequence[Chunk], scan: tuple[int, int]
    ) -> None:
        """Let one block of a lane's records wait at the end of its line.

        Args:
            scan: Range of offsets of which all records of the lane are in it.
        """
        line = self.lines.get(partition, rank)
        if line is None:
            line = self.lines.begin(partition, rank, scanned=scan[0])
        self.lines.join(line, chunks, scan[1])

    def observe(
        self, fact: Spilled | NotSpilled | Restored | FrameGone | SpillWatched | LogsBegin
    ) -> None:
        """Take in what became of what was asked of the disk, and how it and the log are."""
        if isinstance(fact, Spilled | NotSpilled | Restored | FrameGone):
            self.disks[fact.lane].asked_ns = fact.at_ns
        match fact:
            case Spilled():
                self._spilled(fact)
            case NotSpilled():
                self._not_spilled(fact)
            case Restored():
                self._restored(fact)
            case FrameGone():
                self._gone(fact)
            case LogsBegin():
                self.retention.observe(fact.starts, fact.at_ns)
            case SpillWatched():
                for rank, seen in fact.lanes.items():
                    disk = self.disks[rank]
                    disk.accepts, disk.why, disk.stored_bytes = seen

    def move(self, now_ns: int) -> None:
        """Write what is too much, and give agents what they have room for."""
        self._now_ns = now_ns
        if not self.lines:
            return
        for rank in self.disks:
            self._expire(rank)
            self._write(rank, now_ns)
            self._refill(rank, now_ns)

    def drop(self, partition: Partition, rank: int | None = None) -> None:
        """Let go of the lines of a partition that is not ours any more; the disk keeps them.

        Args:
            rank: Only that of a lane, which does not go on there.
        """
        for line in list(self.lines.of(partition)):
            if rank is not None and line.rank != rank:
                continue
            counts, disk = self._engine.books[line.rank].counts, self.disks[line.rank]
            counts.held -= line.tail_records
            counts.spilled -= line.spilled_records
            counts.released += line.tail_records + line.spilled_records
            if line.reading is not None:
                disk.reading_bytes -= line.reading.raw_bytes
                if line.refetching:
                    counts.refetching -= line.reading.records
                    counts.released += line.reading.records
                    self._commands.append(FinishFrames((line.reading,)))
                else:
                    disk.reads -= 1
                    line.frames.appendleft(line.reading)
            if line.writing:
                disk.writes -= 1
            self.lines.forget(line)
            self._commands.append(Park(line.frames, pinned=self._left_s(line) == 0.0))
        if rank is None:
            self._reuse.end(partition)

    def take_commands(self) -> list[Command]:
        """Return what there is to do since the last time."""
        commands, self._commands = self._commands, []
        return commands

    # Questions.

    def may_spill(self, rank: int) -> bool:
        """Tell whether a lane has the policy."""
        return rank in self.disks

    def relieves(self, rank: int) -> bool:
        """Tell whether what is fetched of a lane can go to disk, so that nothing has to leave."""
        disk = self.disks.get(rank)
        return disk is not None and disk.accepts and not disk.hangs(self._now_ns)

    def has_line(self, rank: int) -> bool:
        """Tell whether records of a lane wait behind its agents' queues."""
        return any(line.rank == rank for line in self.lines)

    def tail_bytes(self, rank: int) -> int:
        """Return the bytes of a lane that wait in memory behind its agents' queues."""
        return sum(line.tail_bytes for line in self.lines.of_lane(rank))

    def spilled_bytes(self, rank: int) -> int:
        """Return what a lane's records take on disk."""
        return sum(
            line.frames.stored_bytes + (line.reading.stored_bytes if line.reading else 0)
            for line in self.lines.of_lane(rank)
        )

    def fullness(self) -> tuple[float, str]:
        """Return how full the disk is of the lane that has least room left, 0..1, and why."""
        ratios = {
            disk.stored_bytes / self._policies[rank].max_bytes: rank
            for rank, disk in self.disks.items()
        }
        if not ratios:
            return 0.0, "no lane spills"
        ratio = max(ratios)
        rank = ratios[ratio]
        used = format_size(self.disks[rank].stored_bytes)
        most = format_size(self._policies[rank].max_bytes)
        return min(1.0, ratio), f"lane {self._lane(rank)} has {used} of {most} on disk"

    def oldest_timestamps(self) -> Iterator[tuple[int, int]]:
        """Yield rank and oldest timestamp, ms, of each line."""
        for line in self.lines:
            yield line.rank, line.first_timestamp_ms

    def condition(self, rank: int) -> tuple[str, str] | None:
        """Return the state of a lane that spills, and why; None if it does not."""
        lines = self.lines.of_lane(rank)
        if not lines:
            return None
        trouble = self.disks[rank].trouble(self._now_ns)
        for line in lines:
            name = line.partition.name
            if self._left_s(line) == 0.0:
                return "pinned", (
                    f"Kafka has deleted records of {name.topic}[{name.partition}] that are not "
                    "finished; this worker's memory and disk are all that has them"
                )
        for line in lines:
            name = line.partition.name
            paused = line.partition.account in self._engine.memory.paused
            if paused and line.tail and not self.relieves(rank):
                return "hol_blocked", (
                    f"{name.topic}[{name.partition}] is not fetched, and more urgent records may "
                    f"wait there: its memory is full, and {trouble or 'the disk takes no more'}"
                )
        records = sum(line.spilled_records for line in lines)
        if not records:
            return None  # what little there is will be given before it is ever written
        size = format_size(self.spilled_bytes(rank))
        why = [f"{records} records ({size}) wait on disk for its agents"]
        why += [trouble] if trouble else []
        return "spilling", "; ".join([*why, *self.endangered(rank)])

    def endangered(self, rank: int) -> list[str]:
        """Return of which partitions of a lane Kafka will soon delete what is not finished."""
        return [
            f"Kafka deletes unfinished records of {topic}[{number}] in about "
            f"{format_duration(left_s)}; give its agents more, or the topic a longer retention"
            for line in self.lines.of_lane(rank)
            if (left_s := self._left_s(line)) is not None and 0.0 < left_s < GUARD_S
            for topic, number in [line.partition.name]
        ]

    def _left_s(self, line: Line) -> float | None:
        """Return in how many seconds Kafka deletes the first unfinished record of a line's lane."""
        partition = line.partition
        return self.retention.left_s(partition.name, partition.ledger.watermark(line.rank))

    def _lane(self, rank: int) -> str:
        return self._engine.lanes[rank].name

    def _queued_bytes(self, rank: int) -> int:
        """Return what waits with the agent that is farthest behind."""
        return max(
            (view.backlog.queued_bytes(rank) for view in self._engine.views.values()), default=0
        )

    def _queued_by_partition(self, rank: int) -> Counter[Partition]:
        """Return what waits of each partition, with the agent that has most of it."""
        most: Counter[Partition] = Counter()
        for view in self._engine.views.values():
            most |= view.backlog.bytes_by_partition(rank)
        return most

    def _is_full(self, rank: int) -> bool:
        disk, queued_bytes = self.disks[rank], self._queued_bytes(rank)
        disk.full = queued_bytes > (LOW if disk.full else 1.0) * self._share_bytes
        return disk.full

    def _is_deferred(self, topic: str) -> bool:
        """Tell whether by rule a topic holds nothing but lanes that are above their share."""
        ranks = self._engine.ranks(topic)
        return ranks <= self.disks.keys() and all(self._is_full(rank) for rank in ranks)

    # Out to the disk.

    def _write(self, rank: int, now_ns: int) -> None:
        """Write the longest tails until what is left in memory is short enough."""
        disk = self.disks[rank]
        if not disk.accepts or now_ns < disk.retry_ns:
            return
        while disk.writes < WRITES_MAX:
            lines = [line for line in self.lines.of_lane(rank) if line.may_be_written]
            if sum(line.tail_bytes for line in lines) <= self._tail_bytes_max:
                # With what is left a partition that has no room may be read again.
                paused = self._engine.memory.paused
                lines = [line for line in lines if line.partition.account in paused]
            if not lines:
                return
            self._write_front(max(lines, key=lambda line: line.tail_bytes))

    def _write_front(self, line: Line) -> None:
        blocks = line.write_front(self._frame_bytes)
        self.disks[line.rank].ask(self._now_ns)
        self.disks[line.rank].writes += 1
        target_ns = self._engine.lanes[line.rank].target_ns
        first_ms = min(block.first_timestamp_ms for block in blocks)
        self._commands.append(
            WriteFrame(
                partition=line.partition.name,
                epoch=line.partition.epoch,
                lane=line.rank,
                blocks=tuple(block.chunks for block in blocks),
                scan_lo=blocks[0].scan_lo,
                scan_hi=blocks[-1].scan_hi,
                deadline_ms=NO_DEADLINE
                if target_ns is None
                else first_ms + target_ns // MILLISECOND,
            )
        )

    def _spilled(self, fact: Spilled) -> None:
        line = self.lines.find(fact.partition, fact.epoch, fact.lane)
        if line is None:  # it went away meanwhile, and what was written belongs to nobody
            self._commands.append(FinishFrames((fact.frame,)))
            return
        self.disks[line.rank].writes -= 1
        made_room = False
        for _ in range(line.writing):
            block = line.take()
            made_room |= self._engine.memory.release(line.partition.account, block.num_bytes)
        line.writing = 0
        line.frames.append(fact.frame)
        self._engine.tally.spilled(line.rank, fact.frame.records)
        if made_room:
            self._commands.append(Resume())

    def _not_spilled(self, fact: NotSpilled) -> None:
        line = self.lines.find(fact.partition, fact.epoch, fact.lane)
        if line is None:
            return
        disk = self.disks[line.rank]
        disk.writes -= 1
        line.writing = 0
        disk.retry_ns = fact.at_ns + RETRY_NS
        disk.why = fact.why

    # Back from the disk.

    def _refill(self, rank: int, now_ns: int) -> None:
        """Let agents have what comes first in the lines, while they have less than half.

        Partitions of which they have little come first, so that none of them waits for the disk
        while others have more than their part; then what is oldest.
        """
        disk = self.disks[rank]
        low_bytes = LOW * self._share_bytes
        while self._queued_bytes(rank) + disk.reading_bytes < low_bytes:
            lines = [line for line in self.lines.of_lane(rank) if line.may_give]
            if not lines:
                return
            queued, part_bytes = self._queued_by_partition(rank), low_bytes / len(lines)
            line = min(
                lines,
                key=lambda each: (
                    queued[each.partition] >= part_bytes, each.first_timestamp_ms
                ),
            )  # fmt: skip
            if len(line.frames):
                if not self._read_first(line):
                    return
            else:
                block = line.take()
                self.lines.give(line, [block.chunks], block.num_records, now_ns)

    def _read_first(self, line: Line) -> bool:
        """Ask for the first frame of a line; False if memory has no room for it now.

        One that nothing of its lane is in memory beside always comes, so that none waits for
        ever.
        """
        frame, memory = line.frames[0], self._engine.memory
        disk = self.disks[line.rank]
        alone = self._queued_bytes(line.rank) + disk.reading_bytes == 0
        if memory.room(line.partition.account) < frame.raw_bytes and not alone:
            return False
        line.reading = line.frames.popleft()
        disk.ask(self._now_ns)
        disk.reads += 1
        disk.reading_bytes += frame.raw_bytes
        memory.hold(line.partition.account, frame.raw_bytes)
        self._commands.append(ReadFrame(frame, line.partition.epoch, line.rank))
        return True

    def _restored(self, fact: Restored) -> None:
        line = self.lines.find(fact.frame.partition, fact.epoch, fact.lane)
        if line is None or line.reading != fact.frame:
            return
        frame = fact.frame
        blocks = [kept for block in fact.blocks if (kept := self._unfinished(line, block))]
        records = sum(chunk.num_records for block in blocks for chunk in block)
        num_bytes = sum(chunk.num_bytes for block in blocks for chunk in block)
        found = sum(chunk.num_records for block in fact.blocks for chunk in block)
        self._engine.memory.hold(line.partition.account, num_bytes - frame.raw_bytes)
        self.disks[line.rank].reading_bytes -= frame.raw_bytes
        counts = self._engine.books[line.rank].counts
        if line.refetching:
            counts.refetching -= frame.records
        else:
            self.disks[line.rank].reads -= 1
            counts.spilled -= frame.records
        counts.held += records
        counts.skipped += found - records
        self._count_missing(line, frame, frame.records - found)
        line.reading, line.refetching = None, False
        self.lines.give(line, blocks, frame.records, fact.at_ns)
        self._commands.append(FinishFrames((frame,)))

    def _unfinished(self, line: Line, block: Sequence[Chunk]) -> list[Chunk]:
        """Return what of a block was not finished before this worker began."""
        restored = line.partition.ledger.restored[line.rank]
        return [kept for chunk in block if (kept := chunk.from_offset(restored)) is not None]

    def _count_missing(self, line: Line, frame: Frame, missing: int) -> None:
        """Count what neither the disk nor Kafka has any more."""
        counts = self._engine.books[line.rank].counts
        if missing < 0:  # it never happens; if it did, the sum would still be right
            counts.read -= missing
        if missing > 0:
            counts.expired += missing
            self._log_expired(
                line, frame, missing,
                "neither the spill directory nor Kafka has them any more, by retention or "
                "compaction",
            )  # fmt: skip

    def _gone(self, fact: FrameGone) -> None:
        line = self.lines.find(fact.frame.partition, fact.epoch, fact.lane)
        if line is None or line.reading != fact.frame or line.refetching:
            return
        line.refetching = True
        self.disks[line.rank].reads -= 1
        counts = self._engine.books[line.rank].counts
        counts.spilled -= fact.frame.records
        counts.refetching += fact.frame.records

    # Too old.

    def _expire(self, rank: int) -> None:
        """Let whole frames go that are too old, without reading them."""
        epoch_ms = self._engine.epoch_ms
        ages_ns = [
            each
            for each in (self._policies[rank].ttl_ns, self._engine.lanes[rank].max_age_ns)
            if each is not None
        ]
        if not ages_ns or epoch_ms is None:
            return
        max_age_ns = min(ages_ns)
        oldest_ms = epoch_ms - max_age_ns // MILLISECOND
        for line in self.lines.of_lane(rank):
            if not line.opened or line.reading is not None:
                continue
            expired: list[Frame] = []
            while len(line.frames) and line.frames[0].max_timestamp_ms < oldest_ms:
                expired.append(line.frames.popleft())
            if expired:
                self._let_go(line, expired, max_age_ns)

    def _let_go(self, line: Line, frames: Sequence[Frame], max_age_ns: int) -> None:
        counts = self._engine.books[line.rank].counts
        why = f"older than {format_duration(max_age_ns / SECOND)} on disk"
        for frame in frames:
            counts.spilled -= frame.records
            counts.expired += frame.records
            line.ordinal += frame.records
            self._log_expired(line, frame, frame.records, why)
        self._commands.append(FinishFrames(tuple(frames)))
        self.lines.anchor(line)

    def _log_expired(self, line: Line, frame: Frame, count: int, why: str) -> None:
        self._commands.append(
            Unprocessed(
                outcome="expired",
                lane=line.rank,
                partition=line.partition.name,
                ranges=OffsetRanges(array("q", [frame.scan_lo, frame.scan_hi])),
                count=count,
                why=why,
            )
        )
