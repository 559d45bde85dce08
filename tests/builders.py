"""Chunks, slices, lanes and an engine on a virtual clock, for tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from flowguard._native import wire
from flowguard.chunk import Chunk, Slice, TopicPartition
from flowguard.commands import (
    BuryBatch,
    Command,
    Cut,
    DivertBatch,
    Fetch,
    FinishFrames,
    Hold,
    Park,
    ReadFrame,
    Resume,
    Seek,
    StartBatch,
    Unprocessed,
    WriteFrame,
)
from flowguard.control.memory import MemoryBudget
from flowguard.dispatch.concurrency import Adaptive
from flowguard.engine import Engine
from flowguard.facts import (
    Assigned,
    Committed,
    DiskSeen,
    Fact,
    Failed,
    Fetched,
    Finished,
    FrameGone,
    Nack,
    NotSpilled,
    Restored,
    Returned,
    Revoked,
    Revoking,
    Spilled,
    SpillWatched,
    Stopped,
    Ticked,
)
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.settle.dead_letter import DeadLetter, Rejects, letters_of
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.units import MIB, MILLISECOND, SECOND
from flowguard.view import AgentPlan

EPOCH_MS = 1_700_000_000_000
NO_HEADERS = wire.encode_headers([])

#: The columns that the parser makes.
PARSED = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.binary(), nullable=False),
    ]
)

A = TopicPartition("orders", 0)
B = TopicPartition("orders", 1)
C = TopicPartition("orders", 2)

REALTIME = Lane("realtime", target="50ms")
BULK = Lane("bulk")


def columns_of(
    offsets: Sequence[int],
    *,
    timestamps: Sequence[int] | None = None,
    keys: Sequence[bytes | None] | None = None,
    values: Sequence[bytes | None] | None = None,
    headers: Sequence[Sequence[tuple[bytes, bytes | None]]] | None = None,
) -> pa.RecordBatch:
    """Return what the parser makes of records with these offsets."""
    size = len(offsets)
    packed = [NO_HEADERS] * size if headers is None else [wire.encode_headers(h) for h in headers]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(offsets, pa.int64()),
            pa.array(timestamps or [EPOCH_MS] * size, pa.int64()),
            pa.array(keys if keys is not None else [None] * size, pa.binary()),
            pa.array(values if values is not None else [b"{}"] * size, pa.binary()),
            pa.array(packed, pa.binary()),
        ],
        schema=PARSED,
    )


def chunk_of(
    offsets: Sequence[int],
    *,
    partition: TopicPartition = A,
    lane: int = 0,
    num_bytes: int | None = None,
    **columns: object,
) -> Chunk:
    """Return a chunk of these records."""
    batch = columns_of(offsets, **columns)  # type: ignore[arg-type]
    return Chunk(
        partition=partition,
        lane=lane,
        columns=batch,
        num_bytes=100 * len(offsets) if num_bytes is None else num_bytes,
        first_offset=offsets[0],
        first_timestamp_ms=min(batch.column(1).to_pylist()),
        fetched_ns=0,
    )


def slice_of(chunk: Chunk, start: int = 0, count: int | None = None) -> Slice:
    """Return rows of a chunk, all of them by default."""
    return Slice(chunk, start, chunk.num_records - start if count is None else count)


def dead_letter(
    chunk: Chunk, reason: str, error: str
) -> tuple[DeadLetter, list[tuple[str, bytes | None]]]:
    """Return the only record of a chunk as a dead letter, and that letter's headers."""
    (letter,) = letters_of(Rejects([slice_of(chunk)], {0: reason}, 1, error))
    return letter, headers_of(letter)


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes | None]]:
    """Return the headers of a dead letter."""
    (headers,) = wire.decode_headers(pa.array([letter.headers], pa.binary())).to_pylist()
    return [(each["name"], each["value"]) for each in headers]


def offsets_of(cut: Cut) -> list[tuple[int, int]]:
    """Return partition and offset of each record of a cut, in order."""
    return [
        (piece.chunk.partition.partition, offset)
        for piece in cut.slices
        for offset in piece.columns.column(0).to_pylist()
    ]


def only_offsets(cut: Cut) -> list[int]:
    """Return the offsets of a cut, in order."""
    return [offset for _, offset in offsets_of(cut)]


def copy_of(chunk: Chunk) -> Chunk:
    """Return a chunk as it comes back from disk."""
    return replace(chunk)


def frame_of(command: WriteFrame, *, lane: str, number: int) -> Frame:
    """Return what the store would say of records that it has written."""
    chunks = [chunk for block in command.blocks for chunk in block]
    timestamps = [ms for chunk in chunks for ms in chunk.columns.column(1).to_pylist()]
    num_bytes = sum(chunk.num_bytes for chunk in chunks)
    return Frame(
        lane=lane,
        partition=command.partition,
        segment=0,
        number=number,
        position=4096,
        stored_bytes=num_bytes,
        raw_bytes=num_bytes,
        records=len(timestamps),
        scan_lo=command.scan_lo,
        scan_hi=command.scan_hi,
        min_timestamp_ms=min(timestamps),
        max_timestamp_ms=max(timestamps),
        deadline_ms=command.deadline_ms,
    )


@dataclass
class EngineDriver:
    """An engine with a clock that only moves when told; every fact is followed by checks.

    Batches that the engine starts are in `running`, in the order they were started; what it
    wants written to another topic is in `diverting`, to the dead letters in `burying`.
    """

    lanes: Sequence[Lane] = (REALTIME, BULK)
    agents: Sequence[AgentPlan] | None = None
    seats: int = 1
    adaptive: Adaptive | None = None
    order: str = "partition"
    records_max: int = 4096
    linger_ns: int = 0
    by_partition: bool = False
    memory_bytes: int = 64 * MIB
    fallback_on: frozenset[str] = frozenset()
    retries: Retry = field(default_factory=Retry)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    shadow: frozenset[str] = frozenset()
    ranks_of: dict[str, frozenset[int]] | None = None
    now_ns: int = 1_000 * SECOND
    epoch_ms: int | None = None
    running: list[Cut] = field(default_factory=list)
    started: list[Cut] = field(default_factory=list)  # each start, until somebody has looked
    reading: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    resumes: int = 0
    held: frozenset[TopicPartition] = frozenset()
    diverting: list[Cut] = field(default_factory=list)
    burying: list[Cut] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)  # where to, one a diversion
    unprocessed: list[Unprocessed] = field(default_factory=list)
    writes: list[WriteFrame] = field(default_factory=list)  # that the disk was asked for
    reads: list[ReadFrame] = field(default_factory=list)
    disk: dict[Frame, list[list[Chunk]]] = field(default_factory=dict)
    parked: list[FrameQueue] = field(default_factory=list)
    pinned: list[bool] = field(default_factory=list)
    seeks: list[Seek] = field(default_factory=list)
    written: int = 0  # frames, in this life of the disk

    def __post_init__(self) -> None:
        plan = AgentPlan(
            name="agent",
            topics=frozenset({"orders"}),
            seats=self.seats if self.adaptive is None else self.adaptive.max,
            adaptive=self.adaptive,
            records_max=self.records_max,
            linger_ns=self.linger_ns,
            by_partition=self.by_partition,
            order=self.order,
            fallback_on=self.fallback_on,
            retries=self.retries,
            dead_letters=self.dead_letters,
        )
        self.memory = MemoryBudget(self.memory_bytes)
        self.engine = Engine(
            LaneSet(tuple(self.lanes)),
            self.agents or [plan],
            self.memory,
            shadow=self.shadow,
            ranks_of=self.ranks_of,
        )

    # What happens.

    def assign(self, **offsets: int) -> list[Cut]:
        """Own these partitions: `assign(A=100)`."""
        named = {"A": A, "B": B, "C": C}
        return self.own({named[name]: offset for name, offset in offsets.items()})

    def own(self, offsets: dict[TopicPartition, int]) -> list[Cut]:
        """Own these partitions, from these offsets on."""
        return self.tell(Assigned(offsets=offsets, at_ns=self.now_ns))

    def fetch(
        self,
        partition: TopicPartition,
        *chunks: Chunk,
        next_offset: int | None = None,
        epoch: int | None = None,
    ) -> list[Cut]:
        """Take in chunks, and charge the memory for them as the fetcher does."""
        last = max((each.offset_at(each.num_records - 1) for each in chunks), default=-1)
        epoch = self.reading[partition][1] if epoch is None else epoch
        num_bytes = sum(each.num_bytes for each in chunks)
        self.memory.charge((partition, epoch), num_bytes, self.memory.reserve([]))
        return self.tell(
            Fetched(
                partition=partition,
                epoch=epoch,
                chunks=chunks,
                next_offset=last + 1 if next_offset is None else next_offset,
                at_ns=self.now_ns,
            )
        )

    def records(
        self, partition: TopicPartition, offsets: Iterable[int], lane: int = 1
    ) -> list[Cut]:
        """Take in records of one lane."""
        return self.fetch(partition, chunk_of(list(offsets), partition=partition, lane=lane))

    def give_back(self, cut: Cut, *, nacked: bool = False, held_ns: int | None = None) -> list[Cut]:
        """Let the agent come back; the batch is not settled yet."""
        returned = Returned(
            batch_id=cut.batch_id, at_ns=self.now_ns, nacked=nacked, held_ns=held_ns
        )
        return self.tell(returned)

    def settle(
        self,
        cut: Cut,
        *,
        dead_letters: int | Collection[int] = 0,
        nacked: Mapping[int, Nack] | None = None,
    ) -> list[Cut]:
        """Let everything sent for a batch be acknowledged; records may be wanted again."""
        self.running = [each for each in self.running if each is not cut]
        return self.tell(
            Finished(
                batch_id=cut.batch_id,
                dead_letters=range(dead_letters) if isinstance(dead_letters, int) else dead_letters,
                at_ns=self.now_ns,
                epoch_ms=EPOCH_MS + 5,
                nacked=nacked or {},
            )
        )

    def nack(self, cut: Cut, *rows: int, after_ms: int = 0, why: str = "not yet") -> list[Cut]:
        """Let the agent come back and want some records again; the rest is settled."""
        nacked = {row: Nack(why, after_ms * MILLISECOND) for row in rows}
        return self.give_back(cut, nacked=True) + self.settle(cut, nacked=nacked)

    def finish(self, cut: Cut, *, dead_letters: int = 0) -> list[Cut]:
        """Let the agent come back, and settle the batch."""
        return self.give_back(cut) + self.settle(cut, dead_letters=dead_letters)

    def fail(self, cut: Cut, why: str = "RuntimeError: no", **how: Any) -> list[Cut]:
        """Let the agent raise or, after it came back, let a send fail."""
        self.running = [each for each in self.running if each is not cut]
        return self.tell(Failed(batch_id=cut.batch_id, why=why, at_ns=self.now_ns, **how))

    def refuse(self, cut: Cut, **how: Any) -> list[Cut]:
        """Let the agent find that something is unavailable."""
        return self.fail(cut, "Unavailable", unavailable=True, **how)

    def acknowledge(self, cut: Cut) -> list[Cut]:
        """Let the broker have what was diverted."""
        self.diverting = [each for each in self.diverting if each is not cut]
        return self.tell(
            Finished(
                batch_id=cut.batch_id, dead_letters=(), at_ns=self.now_ns, epoch_ms=EPOCH_MS + 5
            )
        )

    def bounce(self, cut: Cut, why: str = "SettleError: no") -> list[Cut]:
        """Let the broker not take what was diverted."""
        self.diverting = [each for each in self.diverting if each is not cut]
        return self.tell(Failed(batch_id=cut.batch_id, why=why, at_ns=self.now_ns))

    def bury(self, cut: Cut) -> list[Cut]:
        """Let the broker have a dead letter."""
        self.burying = [each for each in self.burying if each is not cut]
        return self.settle(cut, dead_letters=cut.num_records)

    def refuse_burial(self, cut: Cut, why: str = "SettleError: no") -> list[Cut]:
        """Let the broker not take a dead letter."""
        self.burying = [each for each in self.burying if each is not cut]
        return self.fail(cut, why, unavailable=True, common=True)

    def revoking(self, *partitions: TopicPartition) -> list[Cut]:
        """Announce that partitions may go away."""
        return self.tell(Revoking(partitions=frozenset(partitions), at_ns=self.now_ns))

    def revoke(self, *partitions: TopicPartition) -> list[Cut]:
        """Take partitions away."""
        return self.tell(Revoked(partitions=frozenset(partitions), at_ns=self.now_ns))

    def commit(self) -> dict[TopicPartition, int]:
        """Commit what may be committed, and return it."""
        points = self.engine.commit_points()
        self.tell(Committed(points=points, at_ns=self.now_ns))
        return {name: point.offset for name, point in points.items()}

    def stop_reading(self, partition: TopicPartition, why: str) -> list[Cut]:
        """Say that a partition cannot be read any further."""
        epoch = self.reading[partition][1]
        return self.tell(Stopped(partition=partition, epoch=epoch, why=why, at_ns=self.now_ns))

    def write(self, command: WriteFrame | None = None) -> list[Cut]:
        """Let the disk take what it was asked to write first, or this."""
        command = command or self.writes[0]
        self.writes.remove(command)
        lane = self.engine.lanes[command.lane].name
        frame = frame_of(command, lane=lane, number=self.written)
        self.written += 1
        self.disk[frame] = [[*map(copy_of, block)] for block in command.blocks]
        return self.tell(
            Spilled(
                partition=command.partition, epoch=command.epoch, lane=command.lane, frame=frame,
                at_ns=self.now_ns,
            )
        )  # fmt: skip

    def refuse_write(self, why: str = "the disk is full", *, accepts: bool = False) -> list[Cut]:
        """Let the disk not take what it was asked to write first."""
        command = self.writes.pop(0)
        self.watch_disk(command.lane, accepts=accepts, why=why)
        return self.tell(
            NotSpilled(
                partition=command.partition, epoch=command.epoch, lane=command.lane, why=why,
                at_ns=self.now_ns,
            )
        )  # fmt: skip

    def watch_disk(self, lane: int, *, accepts: bool, why: str = "", stored: int = 0) -> list[Cut]:
        """Look at the disk."""
        seen = {lane: DiskSeen(accepts, why, stored)}
        return self.tell(SpillWatched(lanes=seen, at_ns=self.now_ns))

    def read_back(self, command: ReadFrame | None = None) -> list[Cut]:
        """Let the disk give what it was asked for first, or this."""
        command = command or self.reads[0]
        self.reads.remove(command)
        return self.restore(command, [[*map(copy_of, block)] for block in self.disk[command.frame]])

    def lose(self, command: ReadFrame) -> list[Cut]:
        """Let the disk not have what it was asked for."""
        self.disk.pop(command.frame, None)
        return self.tell(
            FrameGone(
                frame=command.frame, epoch=command.epoch, lane=command.lane, at_ns=self.now_ns
            )
        )

    def restore(self, command: ReadFrame, blocks: Sequence[Sequence[Chunk]]) -> list[Cut]:
        """Bring records back, from wherever."""
        return self.tell(
            Restored(
                frame=command.frame, epoch=command.epoch, lane=command.lane, blocks=blocks,
                at_ns=self.now_ns,
            )
        )  # fmt: skip

    def wait(self, ms: float) -> list[Cut]:
        """Let time pass, and tick at its end."""
        self.now_ns += round(ms * MILLISECOND)
        return self.tell(Ticked(at_ns=self.now_ns, epoch_ms=self.epoch_ms))

    # What comes of it.

    def tell(self, fact: Fact) -> list[Cut]:
        """Tell the engine, do what it answers, and check what must always hold."""
        started = self._carry_out(self.engine.observe(fact))
        self.check()
        return started

    def _carry_out(self, commands: Sequence[Command]) -> list[Cut]:
        started: list[Cut] = []
        for command in commands:
            match command:
                case StartBatch(cut):
                    started.append(cut)
                case Fetch(offsets):
                    self.reading = dict(offsets)
                case Hold(partitions):
                    self.held = partitions
                case Resume():
                    self.resumes += 1
                case DivertBatch(cut, topic):
                    self.diverting.append(cut)
                    self.topics.append(topic)
                case BuryBatch(cut):
                    self.burying.append(cut)
                case Unprocessed():
                    self.unprocessed.append(command)
                case WriteFrame():
                    self.writes.append(command)
                case ReadFrame():
                    self.reads.append(command)
                case FinishFrames(frames):
                    for frame in frames:
                        self.disk.pop(frame, None)
                case Park(frames, pinned):
                    self.parked.append(frames)
                    self.pinned.append(pinned)
                case Seek(partition, epoch, offset):
                    self.seeks.append(command)
                    self.reading[partition] = offset, epoch
        self.running += started
        self.started += started
        return started

    def check(self) -> None:
        """Promise 2 and the bounds of seats, after every fact."""
        for book in self.engine.books:
            assert book.counts.balanced, f"{book.lane.name}: {book.counts}"
            assert min(book.counts.as_dict().values()) >= 0, f"{book.lane.name}: {book.counts}"
        for view in self.engine.views.values():
            assert 0 <= sum(view.seats_by_lane) <= view.plan.seats
        named = {number for view in self.engine.views.values() for number in view.flights}
        assert self.engine._view_with.keys() == named
        in_flight = sum(book.counts.in_flight for book in self.engine.books)
        with_agents = self.engine.records_in_flight()  # once for each agent that has it
        assert in_flight == with_agents or (len(self.engine.views) > 1 and in_flight < with_agents)
        due_ns = self.engine.due_ns
        assert due_ns is None or due_ns > self.now_ns or self._tick_helps(), "a tick would spin"

    def _tick_helps(self) -> bool:
        """Tell whether a tick that is due now starts anything; if not, the worker would spin."""
        burials = len(self.burying)
        started = self._carry_out(self.engine.observe(Ticked(at_ns=self.now_ns)))
        return bool(started) or len(self.burying) > burials

    def fresh(
        self,
        partition: TopicPartition,
        offsets: Iterable[int],
        lane: int = 1,
        *,
        age_ms: float = 0,
        **columns: Any,
    ) -> list[Cut]:
        """Take in records of one lane that are read now and were made so long ago.

        Args:
            age_ms: Of the oldest; timestamps are those of `chunk_of`.
        """
        chunk = chunk_of(list(offsets), partition=partition, lane=lane, **columns)
        chunk.fetched_ns = self.now_ns
        chunk.born_ns = self.now_ns - round(age_ms * MILLISECOND)
        return self.fetch(partition, chunk)

    def left(self, outcome: str, lane: int = 1) -> list[int]:
        """Return the offsets that were logged as shed, expired, conflated or diverted."""
        return [
            offset
            for each in self.unprocessed
            if (each.outcome, each.lane) == (outcome, lane)
            for start, end in each.ranges
            for offset in range(start, end)
        ]

    def counts(self, lane: int) -> dict[str, int]:
        """Return the counts of a lane that are not zero."""
        counts = self.engine.books[lane].counts.as_dict()
        return {name: count for name, count in counts.items() if count}
