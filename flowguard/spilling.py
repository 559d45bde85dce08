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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowguard.chunk import Chunk, TopicPartition
from flowguard.commands import (
    Command,
    FinishFrames,
    OffsetRanges,
    Park,
    ReadFrame,
    Resume,
    Seek,
    Unprocessed,
    WriteFrame,
)
from flowguard.facts import FrameGone, NotSpilled, Restored, Spilled, SpillWatched
from flowguard.gate import spill_share_bytes
from flowguard.holdings import Partition
from flowguard.lanes.overflow import Spill
from flowguard.line import LAST, Block, Line
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

#: After a refusal the disk is asked again so much later.
RETRY_NS: Final = SECOND


@dataclass(slots=True)
class LaneDisk:
    """What is known of the disk of one lane.

    Args:
        full: The lane was above its share and is not back at half of it.
        writes: Frames under way.
        reading_bytes: What is on its way back.
        accepts: The disk takes more.
        why: Why it takes no more or not freely, for people; empty if it does.
        stored_bytes: What the lane's files take.
        retry_ns: When it may be asked again after a refusal.
    """

    full: bool = False
    writes: int = 0
    reading_bytes: int = 0
    accepts: bool = True
    why: str = ""
    stored_bytes: int = 0
    retry_ns: int = 0


class Spilling:
    """Keep the lines of the lanes that may spill.

    Args:
        engine: What holds the records.
    """

    def __init__(self, engine: Engine) -> None:
        self.lines: dict[tuple[Partition, int], Line] = {}
        self._engine = engine
        self._policies = {
            rank: policy
            for rank, lane in enumerate(engine.lanes)
            for policy in lane.policies
            if isinstance(policy, Spill)
        }
        self.disks = {rank: LaneDisk() for rank in self._policies}
        self._ranks = {lane.name: rank for rank, lane in enumerate(engine.lanes)}
        #: Offsets that are not read from Kafka again: they are in frames of an earlier life.
        self._covered: dict[tuple[Partition, int], tuple[int, int]] = {}
        #: Offsets over which reading has gone on; what was asked for before brings them still.
        self._passed: dict[Partition, tuple[int, int]] = {}
        columns_bytes = engine.memory.columns_bytes_max
        self._share_bytes = spill_share_bytes(engine.lanes, engine.memory)
        self._tail_bytes_max = columns_bytes // TAILS_PART // max(1, len(self._policies))
        self._frame_bytes = max(FRAME_BYTES_MIN, min(FRAME_BYTES_MAX, columns_bytes // FRAME_PART))
        self._commands: list[Command] = []

    # What the engine tells.

    def assigned(self, partition: Partition, frames: Iterable[FrameQueue]) -> None:
        """Take up what an earlier life has left on disk of a partition that begins.

        Nothing anchors it before what comes first was read: until then, how far that is holds
        the watermark back.
        """
        for queue in frames:
            rank = self._ranks[queue.lane]
            self._covered[partition, rank] = (queue[0].scan_lo, queue[-1].scan_hi)
            self._begin(partition, rank, queue).opened = False
            counts = self._engine.books[rank].counts
            counts.read += queue.records
            counts.spilled += queue.records
        self.read_up_to(partition)

    def takes(self, partition: Partition, rank: int) -> bool:
        """Tell whether what is fetched of a lane joins a line instead of its agents' queues."""
        if rank not in self.disks:
            return False
        line = self.lines.get((partition, rank))
        if line is not None:
            return line.opened
        return self._is_full(rank) and not self._is_deferred(partition.name.topic)

    def rest(self, partition: Partition, chunk: Chunk) -> Sequence[Chunk]:
        """Return what of a chunk comes before and after what was on disk already, no copies."""
        parts: Sequence[Chunk] = (chunk,)
        for ours in (self._covered.get((partition, chunk.lane)), self._passed.get(partition)):
            if ours is not None:
                parts = [part for each in parts for part in each.without(*ours)]
        return parts

    def is_behind(self, partition: Partition, chunk: Chunk) -> bool:
        """Tell whether a chunk comes behind what is on disk from an earlier life."""
        low, _ = self._covered.get((partition, chunk.lane), (LAST, LAST))
        return chunk.first_offset >= low

    def join(
        self, partition: Partition, rank: int, chunks: Sequence[Chunk], scan: tuple[int, int]
    ) -> None:
        """Let one block of a lane's records wait at the end of its line.

        Args:
            scan: Range of offsets of which all records of the lane are in it.
        """
        line = self.lines.get((partition, rank))
        if line is None:
            line = self._begin(partition, rank, FrameQueue(self._lane(rank), partition.name))
            line.scanned = scan[0]
            line.ordinal = partition.lane_records[rank]
        block = Block(tuple(chunks), line.scanned, scan[1])
        line.scanned = scan[1]
        line.tail.append(block)
        records = block.num_records
        self._engine.tally.read(rank, records)
        partition.lane_records[rank] += records
        self._anchor(line)

    def read_up_to(self, partition: Partition) -> None:
        """Let lines begin that wait for what comes before them, and read on behind them."""
        ledger = partition.ledger
        if ledger.position > self._passed.get(partition, (0, LAST))[1]:
            del self._passed[partition]
        covered = [key for key in self._covered if key[0] is partition]
        if not covered:
            return
        start = ledger.position
        while True:
            self._open(partition, covered)
            needed = [self._needed_from(partition, rank) for rank in range(len(ledger.restored))]
            if min(needed) <= ledger.position:
                break
            ledger.position = min(needed)
        if ledger.position > start:
            self._passed[partition] = (self._passed.get(partition, (start,))[0], ledger.position)
            self._commands.append(Seek(partition.name, partition.epoch, ledger.position))
        for key in covered:
            if ledger.position >= self._covered[key][1]:
                del self._covered[key]

    def _open(self, partition: Partition, covered: Iterable[tuple[Partition, int]]) -> None:
        """Let lines begin of which all that comes before was read."""
        for key in covered:
            line = self.lines.get(key)
            if line is None or line.opened or partition.ledger.position < line.first_offset:
                continue
            line.opened = True
            line.ordinal = partition.lane_records[line.rank]
            partition.lane_records[line.rank] += line.frames.records
            self._anchor(line)

    def _needed_from(self, partition: Partition, rank: int) -> int:
        """Return from which offset on a lane's records have to be read from Kafka."""
        ledger = partition.ledger
        needed = max(ledger.position, ledger.restored[rank])
        low, high = self._covered.get((partition, rank), (needed, needed))
        return high if low <= needed < high else needed

    def observe(self, fact: Spilled | NotSpilled | Restored | FrameGone | SpillWatched) -> None:
        """Take in what became of what was asked of the disk."""
        match fact:
            case Spilled():
                self._spilled(fact)
            case NotSpilled():
                self._not_spilled(fact)
            case Restored():
                self._restored(fact)
            case FrameGone():
                self._gone(fact)
            case SpillWatched():
                for rank, seen in fact.lanes.items():
                    disk = self.disks[rank]
                    disk.accepts, disk.why, disk.stored_bytes = seen

    def move(self, now_ns: int) -> None:
        """Write what is too much, and give agents what they have room for."""
        if not self.lines:
            return
        for rank in self.disks:
            self._expire(rank)
            self._write(rank, now_ns)
            self._refill(rank, now_ns)

    def drop(self, partition: Partition) -> None:
        """Let go of the lines of a partition that is not ours any more; the disk keeps them."""
        for line in list(self._of(partition)):
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
                    line.frames.appendleft(line.reading)
            if line.writing:
                disk.writes -= 1
            del self.lines[partition, line.rank]
            self._commands.append(Park(line.frames))
        for key in [key for key in self._covered if key[0] is partition]:
            del self._covered[key]
        self._passed.pop(partition, None)

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
        return rank in self.disks and self.disks[rank].accepts

    def has_line(self, rank: int) -> bool:
        """Tell whether records of a lane wait behind its agents' queues."""
        return any(key[1] == rank for key in self.lines)

    def tail_bytes(self, rank: int) -> int:
        """Return the bytes of a lane that wait in memory behind its agents' queues."""
        return sum(line.tail_bytes for line in self._of_lane(rank))

    def spilled_bytes(self, rank: int) -> int:
        """Return what a lane's records take on disk."""
        return sum(
            line.frames.stored_bytes + (line.reading.stored_bytes if line.reading else 0)
            for line in self._of_lane(rank)
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
        for line in self.lines.values():
            yield line.rank, line.first_timestamp_ms

    def condition(self, rank: int) -> tuple[str, str] | None:
        """Return the state of a lane that spills, and why; None if it does not."""
        lines = list(self._of_lane(rank))
        if not lines:
            return None
        disk = self.disks[rank]
        for line in lines:
            paused = line.partition.account in self._engine.memory.paused
            if paused and line.tail and not disk.accepts:
                name = line.partition.name
                return "hol_blocked", (
                    f"{name.topic}[{name.partition}] is not fetched, and more urgent records may "
                    f"wait there: its memory is full, and {disk.why or 'the disk is busy'}"
                )
        records = sum(line.spilled_records for line in lines)
        size = format_size(self.spilled_bytes(rank))
        why = f"{records} records ({size}) wait on disk for its agents"
        return "spilling", why + (f"; {disk.why}" if disk.why else "")

    def _of(self, partition: Partition) -> Iterator[Line]:
        return (line for key, line in self.lines.items() if key[0] is partition)

    def _of_lane(self, rank: int) -> Iterator[Line]:
        return (line for key, line in self.lines.items() if key[1] == rank)

    def _lane(self, rank: int) -> str:
        return self._engine.lanes[rank].name

    def _queued_bytes(self, rank: int) -> int:
        """Return what waits with the agent that is farthest behind."""
        return max(
            (view.backlog.queued_bytes(rank) for view in self._engine.views.values()), default=0
        )

    def _queued_of(self, line: Line, rank: int) -> int:
        """Return what waits of a partition with the agent that is farthest behind."""
        views = self._engine.views_of(line.partition.name.topic)
        return max(
            sum(each.piece.num_bytes for each in view.backlog.of_partition(rank, line.partition))
            for view in views
        )

    def _is_full(self, rank: int) -> bool:
        disk, queued_bytes = self.disks[rank], self._queued_bytes(rank)
        disk.full = queued_bytes > (LOW if disk.full else 1.0) * self._share_bytes
        return disk.full

    def _is_deferred(self, topic: str) -> bool:
        """Tell whether by rule a topic holds nothing but lanes that are above their share."""
        ranks = self._engine.ranks(topic)
        return ranks <= self.disks.keys() and all(self._is_full(rank) for rank in ranks)

    # Lines.

    def _begin(self, partition: Partition, rank: int, frames: FrameQueue) -> Line:
        line = Line(partition, rank, frames, partition.ledger.position)
        if len(frames):
            line.scanned = frames[-1].scan_hi
        self.lines[partition, rank] = line
        return line

    def _anchor(self, line: Line) -> None:
        """Keep unfinished what is in a line, and nothing else; an empty line ends."""
        views = self._engine.views_of(line.partition.name.topic)
        ledgers = [agent[line.rank] for agent in line.partition.ledger.agents]
        before, line.anchors = line.anchors, []
        if line.is_empty:
            del self.lines[line.partition, line.rank]
        else:
            restored = line.partition.ledger.restored[line.rank]
            first_offset = max(line.first_offset, restored)
            if (
                before
                and before[0].first_offset == first_offset
                and before[0].ordinal == line.ordinal
            ):
                line.anchors = before
                return
            line.anchors = [ledger.admit(first_offset, line.ordinal) for ledger in ledgers]
        for ledger, run in zip(ledgers, before, strict=False):
            ledger.finish(run)
        for view, ledger in zip(views, ledgers, strict=True):
            view.backlog.advance(line.partition, line.rank, ledger)

    def _give(
        self, line: Line, blocks: Iterable[Sequence[Chunk]], records: int, now_ns: int
    ) -> None:
        """Hand what comes first in a line to the agents.

        Args:
            records: How many it counted for in the line.
        """
        views = self._engine.views_of(line.partition.name.topic)
        ordinal = line.ordinal
        for chunks in blocks:
            self._engine.admit(line.partition, line.rank, chunks, ordinal, now_ns)
            ordinal += sum(chunk.num_records for chunk in chunks)
        line.ordinal += records
        self._anchor(line)
        self._engine.stir(views)

    # Out to the disk.

    def _write(self, rank: int, now_ns: int) -> None:
        """Write the longest tails until what is left in memory is short enough."""
        disk = self.disks[rank]
        if not disk.accepts or now_ns < disk.retry_ns:
            return
        paused = self._engine.memory.paused
        while disk.writes < WRITES_MAX:
            sizes = {
                line: line.unwritten_bytes
                for line in self._of_lane(rank)
                if not line.writing and not line.partition.revoking
            }
            line = max(sizes, key=sizes.__getitem__, default=None)
            if line is None or not sizes[line]:
                return
            total = sum(sizes.values())
            if total <= self._tail_bytes_max:
                # With what is left a partition that has no room may be read again.
                starved = [each for each in sizes if each.partition.account in paused]
                line = max(starved, key=sizes.__getitem__, default=None)
                if line is None or not sizes[line]:
                    return
            self._write_front(line)

    def _write_front(self, line: Line) -> None:
        blocks: list[Block] = []
        num_bytes = 0
        for block in line.tail:
            if blocks and num_bytes + block.num_bytes > self._frame_bytes:
                break
            blocks.append(block)
            num_bytes += block.num_bytes
        line.writing = len(blocks)
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

    def _line_of(self, name: TopicPartition, epoch: int, rank: int) -> Line | None:
        partition = self._engine.partitions.get(name)
        if partition is None or partition.epoch != epoch:
            return None
        return self.lines.get((partition, rank))

    def _spilled(self, fact: Spilled) -> None:
        line = self._line_of(fact.partition, fact.epoch, fact.lane)
        if line is None:  # it went away meanwhile, and what was written belongs to nobody
            self._commands.append(FinishFrames((fact.frame,)))
            return
        self.disks[line.rank].writes -= 1
        made_room = False
        for _ in range(line.writing):
            block = line.tail.popleft()
            made_room |= self._engine.memory.release(line.partition.account, block.num_bytes)
        line.writing = 0
        line.frames.append(fact.frame)
        self._engine.tally.spilled(line.rank, fact.frame.records)
        if made_room:
            self._commands.append(Resume())

    def _not_spilled(self, fact: NotSpilled) -> None:
        line = self._line_of(fact.partition, fact.epoch, fact.lane)
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
            lines = [line for line in self._of_lane(rank) if line.may_give]
            part_bytes = low_bytes / max(1, len(lines))
            line = min(
                lines,
                key=lambda each: (
                    self._queued_of(each, rank) >= part_bytes, each.first_timestamp_ms
                ),
                default=None,
            )  # fmt: skip
            if line is None:
                return
            if len(line.frames):
                if not self._read_first(line):
                    return
            else:
                block = line.tail.popleft()
                self._give(line, [block.chunks], block.num_records, now_ns)

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
        disk.reading_bytes += frame.raw_bytes
        memory.hold(line.partition.account, frame.raw_bytes)
        self._commands.append(ReadFrame(frame, line.partition.epoch, line.rank))
        return True

    def _restored(self, fact: Restored) -> None:
        line = self._line_of(fact.frame.partition, fact.epoch, fact.lane)
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
            counts.spilled -= frame.records
        counts.held += records
        counts.skipped += found - records
        self._count_missing(line, frame, frame.records - found)
        line.reading, line.refetching = None, False
        self._give(line, blocks, frame.records, fact.at_ns)
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
        line = self._line_of(fact.frame.partition, fact.epoch, fact.lane)
        if line is None or line.reading != fact.frame or line.refetching:
            return
        line.refetching = True
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
        for line in list(self._of_lane(rank)):
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
        self._anchor(line)

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
