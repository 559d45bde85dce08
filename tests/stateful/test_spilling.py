"""Lanes that spill under any order of events: what the disk does, loses, and is found again.

The model of the disk is that of the store: frames belong to runs, a rebalance parks a run, a
restart finds the newest one of each lane and partition, and finished frames may be among it.

A failure prints the steps that lead to it; see `test_engine.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from flowguard.chunk import Chunk, TopicPartition
from flowguard.commands import Command, Cut, FinishFrames, Park, ReadFrame, Unprocessed, WriteFrame
from flowguard.facts import Assigned
from flowguard.holdings import Part
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Spill
from flowguard.spill.manifest import Frame, FrameQueue, usable
from flowguard.spill.recovery import Found, newest_runs
from flowguard.units import KIB, MIB
from tests.builders import EPOCH_MS, EngineDriver
from tests.stateful.test_engine import MANY, NAMES, EngineMachine, which

LANES = (
    Lane("realtime", target="50ms", reserve=0.25),
    Lane("middle", weight=3, overflow=Spill("1GiB")),
    Lane("bulk", overflow=Spill("1GiB")),
)
RANKS = {lane.name: rank for rank, lane in enumerate(LANES)}
SPILLING = (1, 2)

#: Of 4 MiB a lane that spills has 448 KiB: 11 records; a frame is cut at 80 KiB.
RECORD_BYTES = 40 * KIB

#: Records of a fetch that come in one block.
BLOCK = 6

#: How much of what is left of each lane another worker does, while a partition is its.
shares = st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.0])] * len(LANES))

Place = tuple[str, TopicPartition]


@dataclass
class DiskDriver(EngineDriver):
    """A worker with a store that knows runs.

    Args:
        shelf: Runs that belong to nobody: their number, and their frames.
        runs: Number of the run that is written to, by lane and partition.
        finished: Frames that nobody wants; a restart may find them nevertheless.
        asked: By what was to be written, the run that was current when it was asked for.
    """

    shelf: list[tuple[int, FrameQueue]] = field(default_factory=list)
    runs: dict[Place, int] = field(default_factory=dict)
    run_of: dict[Frame, int] = field(default_factory=dict)
    finished: dict[Frame, list[list[Chunk]]] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    last_run: int = 0

    def _carry_out(self, commands: Sequence[Command]) -> list[Cut]:
        for command in commands:
            match command:
                case WriteFrame():
                    place = self.engine.lanes[command.lane].name, command.partition
                    self.asked[id(command)] = self._run_at(place)
                case FinishFrames(frames):
                    self.give_up(frames)
                case Park(frames):
                    number = self.runs.pop((frames.lane, frames.partition), None)
                    if len(frames):
                        assert number is not None
                        self.shelf.append((number, frames))
        return super()._carry_out(commands)

    def _run_at(self, place: Place) -> int:
        if place not in self.runs:
            self.last_run += 1
            self.runs[place] = self.last_run
        return self.runs[place]

    def write(self, command: WriteFrame | None = None) -> list[Cut]:
        """Write, in the run that was current when it was asked for."""
        command = command or self.writes[0]
        known = self.disk.keys() | self.finished.keys()
        started = super().write(command)
        (frame,) = (self.disk.keys() | self.finished.keys()) - known
        self.run_of[frame] = self.asked[id(command)]
        return started

    def give_up(self, frames: Iterable[Frame]) -> None:
        """Note that nobody wants frames."""
        for frame in frames:
            if (blocks := self.disk.pop(frame, None)) is not None:
                self.finished[frame] = blocks

    def adopt(
        self, name: TopicPartition, watermarks: Sequence[int], agreed: Collection[int]
    ) -> list[FrameQueue]:
        """Take over what is parked of a partition, as far as the log agrees and it is of use."""
        queues = []
        for entry in [each for each in self.shelf if each[1].partition == name]:
            number, frames = entry
            rank, place = RANKS[frames.lane], (frames.lane, name)
            if rank not in agreed:
                self.shelf.remove(entry)
                self.give_up(frames)
                continue
            if place in self.runs:
                continue
            self.shelf.remove(entry)
            self.runs[place] = number
            fit = usable(frames, watermarks[rank])
            self.give_up([*fit.outdated, *fit.beyond])
            if fit.kept:
                queues.append(FrameQueue(frames.lane, name, fit.kept))
        return queues

    def restart(self, found: Mapping[Frame, list[list[Chunk]]], before: DiskDriver) -> None:
        """Find what an earlier life has left."""
        self.last_run, self.written = before.last_run, before.written
        self.run_of = dict(before.run_of)
        runs, _ = newest_runs([Found(frame, self.run_of[frame], b"") for frame in found])
        for run in runs:
            frames = [each.frame for each in run]
            self.disk |= {frame: found[frame] for frame in frames}
            queue = FrameQueue(frames[0].lane, frames[0].partition, frames)
            self.shelf.append((run[0].run, queue))


class SpillMachine(EngineMachine):
    """The same with lanes that spill.

    What Kafka has lost meanwhile is in `gone`; what another worker has done, while a partition
    was not ours, is done.
    """

    lanes = LANES
    record_bytes = RECORD_BYTES
    ttl: ClassVar[str | None] = None

    d: DiskDriver

    def __init__(self) -> None:
        super().__init__()
        self.gone: dict[TopicPartition, set[int]] = defaultdict(set)
        self.refetching: list[ReadFrame] = []
        self.frame_bytes_max = 0

    def new_worker(self) -> EngineDriver:
        made = super().new_worker()
        worker = DiskDriver(lanes=made.lanes, agents=made.agents, memory_bytes=4 * MIB)
        worker.engine.failing.failed_in_row_max = self.failed_in_row_max
        return worker

    # Kafka.

    @precondition(lambda self: self.d.reading)
    @rule(pick=which, most=st.integers(1, 20), ahead=st.booleans())
    def fetch(self, pick: int, most: int, ahead: bool = False) -> None:
        self.read_on(sorted(self.d.reading)[pick % len(self.d.reading)], most, ahead=ahead)

    def read_on(self, name: TopicPartition, most: int, *, ahead: bool = False) -> bool:
        """Read what memory has room for; False if that is nothing.

        Args:
            ahead: In three responses that were asked for before the first one was looked at.
        """
        partition = self.d.engine.partitions[name]
        memory = self.d.memory
        reservation = memory.reserve([partition.account])
        room = memory.allowance(partition.account, reservation) // self.record_bytes
        memory.settle(reservation)
        position, end = partition.ledger.position, self.end[name]
        here = [each for each in self.log[name] if each[0] >= position]
        fresh = [each for each in here if each[0] not in self.gone[name]][: min(most, room)]
        if not reservation.shares or position >= end or (here and not fresh and room == 0):
            return False
        third = -(-len(fresh) // 3) if ahead else len(fresh)
        parts = [fresh[at : at + third] for at in range(0, len(fresh), third or 1)] or [fresh]
        for part in parts:
            after = part[-1][0] + 1 if part else end
            if part and part[-1] == fresh[-1] and all(each[0] < after for each in here):
                after = end
            self.d.fetch(name, *self.chunks(name, part), next_offset=after, epoch=partition.epoch)
        return True

    def chunks(self, name: TopicPartition, records: Sequence[tuple[int, int]]) -> list[Chunk]:
        split: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for index, (offset, lane) in enumerate(records):
            split[index // BLOCK, lane, self.flow_of(offset)].append(offset)
        return [
            replace(self.chunk(name, lane, flow, offsets), block=block)
            for (block, lane, flow), offsets in split.items()
        ]

    @initialize(lanes=st.lists(st.sampled_from(SPILLING), min_size=3, max_size=3))
    def begin(self, lanes: list[int]) -> None:
        """Begin with more of each partition than there is memory for."""
        self.assign(set(NAMES))
        for name, lane in zip(NAMES, lanes, strict=True):
            self.flood(name, lane, 25, write=True)

    @rule(name=st.sampled_from(NAMES), lane=st.sampled_from(SPILLING), count=st.integers(10, 25),
          write=st.booleans())  # fmt: skip
    def flood(self, name: TopicPartition, lane: int, count: int, write: bool) -> None:
        """Let a lane have more than its share, with some of the others between."""
        lanes = [lane if number % 5 else number % len(LANES) for number in range(1, count)]
        self.produce(name, lanes, 0)
        for _ in range(3):
            if name in self.d.reading:
                self.read_on(name, 20)
            while write and self.d.writes:
                self.write()

    @rule(name=st.sampled_from(NAMES), rest=st.integers(0, 4))
    def compact(self, name: TopicPartition, rest: int) -> None:
        """Lose some records that were read before, as retention and compaction do."""
        self.gone[name] |= {offset for offset, _ in self.log[name] if offset % 5 == rest}

    # The disk.

    @precondition(lambda self: self.d.writes)
    @rule()
    def write(self) -> None:
        command = self.d.writes[0]
        chunks = [chunk for block in command.blocks for chunk in block]
        num_bytes = sum(chunk.num_bytes for chunk in chunks)
        self.frame_bytes_max = max(self.frame_bytes_max, num_bytes)
        self.d.write()

    @precondition(lambda self: self.d.writes)
    @rule(accepts=st.booleans())
    def refuse_write(self, accepts: bool) -> None:
        self.d.refuse_write(accepts=accepts)

    @rule(lane=st.sampled_from(SPILLING), accepts=st.booleans())
    def watch(self, lane: int, accepts: bool) -> None:
        self.d.watch_disk(lane, accepts=accepts, why="" if accepts else "it is full")

    @precondition(lambda self: self.d.reads)
    @rule()
    def read_back(self) -> None:
        if self.d.reads[0].frame in self.d.disk:
            self.d.read_back()
        else:
            self.lose()

    @precondition(lambda self: self.d.reads)
    @rule()
    def lose(self) -> None:
        command = self.d.reads.pop(0)
        self.refetching.append(command)
        self.d.lose(command)

    @precondition(lambda self: self.refetching)
    @rule(pick=which)
    def refetch(self, pick: int) -> None:
        """Read from Kafka what the disk has lost, as far as Kafka has it."""
        command = self.refetching.pop(pick % len(self.refetching))
        frame = command.frame
        found = [
            (offset, lane)
            for offset, lane in self.log[frame.partition]
            if lane == command.lane
            and frame.scan_lo <= offset < frame.scan_hi
            and offset not in self.gone[frame.partition]
        ]
        blocks = [
            self.chunks(frame.partition, found[start : start + BLOCK])
            for start in range(0, len(found), BLOCK)
        ]
        self.d.restore(command, blocks)

    # Rebalances.

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        agreed=st.sets(st.sampled_from(SPILLING)).map(frozenset),
    )
    def assign(
        self, names: set[TopicPartition], agreed: frozenset[int] = frozenset(SPILLING)
    ) -> None:
        """A rebalance; of what is parked only the lanes that the log agrees with are used."""
        held = self.d.engine.partitions
        self.d.revoke(*(held.keys() - names))
        found = {
            name: queues
            for name in sorted(names - held.keys())
            if (queues := self.d.adopt(name, self.marks(name), agreed))
        }
        self.d.tell(
            Assigned(
                offsets={name: self.committed[name] for name in names},
                watermarks=self.watermarks,
                spilled=found,
                at_ns=self.d.now_ns,
            )
        )

    def marks(self, name: TopicPartition) -> tuple[int, ...]:
        return self.watermarks.get(name, (self.committed[name],) * len(LANES))

    @rule(name=st.sampled_from(NAMES), ends=shares)
    def work_elsewhere(self, name: TopicPartition, ends: tuple[float, ...]) -> None:
        """Let another worker do some of a partition that is not ours, each lane so far."""
        if name in self.d.engine.partitions:
            return
        marks = tuple(
            mark + round(share * (self.end[name] - mark))
            for mark, share in zip(self.marks(name), ends, strict=True)
        )
        for offset, lane in self.log[name]:
            for agent in self.agents if offset < marks[lane] else ():
                self.done_by[agent, name].add(offset)
        self.watermarks[name] = marks
        self.committed[name] = min(marks)

    @rule(
        name=st.sampled_from(NAMES),
        ends=shares,
        reads=st.integers(0, 3),
    )
    def lend(self, name: TopicPartition, ends: tuple[float, ...], reads: int) -> None:
        """Let a partition go away and come back, after another worker had it for a while."""
        names = self.d.engine.partitions.keys() | {name}
        self.commit()
        self.d.revoke(name)
        self.work_elsewhere(name, ends)
        self.assign(set(names))
        for _ in range(reads):  # up to where what is on disk begins, and beyond
            self.read_on(name, 40, ahead=True)

    @rule(resurrected=st.booleans(), lost=st.sampled_from([None, 2, 1]))
    def crash(self, resurrected: bool = False, lost: int | None = None) -> None:
        """Lose the worker, and of its disk nothing, every second frame, or all."""
        before = self.d
        frames = before.disk | (before.finished if resurrected else {})
        found = {
            frame: blocks
            for index, (frame, blocks) in enumerate(frames.items())
            if lost is None or index % lost
        }
        self.d = self.new_worker()  # type: ignore[assignment]
        self.d.restart(found, before)
        self.refetching = []
        self.begin_anew()
        self.assign(set(NAMES))
        for name in NAMES:
            after = self.d.engine.partitions[name].ledger.point.watermarks
            assert all(new >= old for new, old in zip(after, self.marks(name), strict=True))

    # What must be so.

    def is_done(self, name: TopicPartition, offset: int) -> bool:
        return offset in self.gone[name] or super().is_done(name, offset)

    def absorb(self) -> list[Unprocessed]:
        told, self.d.unprocessed = self.d.unprocessed, []
        for each in told:
            assert each.outcome == "expired"
            offsets = self.offsets_of(each)
            if "older than" in each.why:
                assert self.ttl is not None
                self.left[each.partition] |= offsets
                # A frame has what the log had when it was read: some of it may have gone since.
                assert len(offsets - self.gone[each.partition]) <= each.count <= len(offsets)
            else:  # only what Kafka has lost may leave otherwise
                assert each.count == len(offsets & self.gone[each.partition])
        return told

    @invariant()
    def memory_is_exceeded_by_one_frame_of_each_lane_at_most(self) -> None:
        memory = self.d.memory
        most = memory.columns_bytes_max + len(SPILLING) * self.frame_bytes_max
        assert 0 <= memory.held_bytes <= most

    def note_done(self, cut: Cut, records: Sequence[tuple[Part, int]]) -> None:
        for part, offset in records:
            if part.live:
                restored = part.partition.ledger.restored[cut.lane]
                assert offset >= restored, f"{part.partition.name}: {offset} again"
        super().note_done(cut, records)

    def teardown(self) -> None:
        """Work until nothing is left: all is served, and the log is committed to its end."""
        self.assign(set(NAMES))
        for rank in SPILLING:
            self.d.watch_disk(rank, accepts=True)
        self.d.wait(2_000)
        idle = 0
        for step in range(20_000):
            if step == 1_000:
                self.heal()  # if nothing else is left that could show that the agent works
            if self.step():
                idle = 0
                continue
            self.d.wait(20_000)
            idle += 1
            if idle == 3 and not self.poison:
                break
            if idle == 3:
                self.heal()
                idle = 0
        self.absorb()
        for name in NAMES:
            wanted = {each[0] for each in self.log[name]} - self.gone[name]
            for agent in self.agents:
                assert wanted <= self.done_by[agent, name] | self.left[name], "lost"
        assert self.d.commit() == self.end
        assert self.d.memory.used_bytes == 0
        for book in self.d.engine.books:
            counts = book.counts
            assert counts.in_flight == counts.held == counts.spilled == counts.refetching == 0
        parked = {frame for _, frames in self.d.shelf for frame in frames}
        assert self.d.disk.keys() <= parked, "frames that nobody will ever finish"
        assert not len(self.d.engine.spilling.lines)

    def step(self) -> bool:
        """Let one thing happen that is about to; False if there is none."""
        if self.d.writes:
            self.write()
        elif self.d.reads:
            self.read_back()
        elif self.refetching:
            self.refetch(0)
        elif self.d.running:
            self.settle(self.d.running[0], 0)
        elif self.d.burying:
            self.bury(0)
        else:
            return any(self.read_on(name, 20) for name in sorted(self.d.reading))
        return True


class SpillTooOldMachine(SpillMachine):
    """The same, and what is on disk gets too old now and then."""

    ttl = "10s"
    lanes = (
        LANES[0],
        Lane("middle", weight=3, overflow=Spill("1GiB", ttl="10s")),
        Lane("bulk", overflow=Spill("1GiB", ttl="10s")),
    )

    @rule(age_ms=st.sampled_from([0, 20_000]))
    def age(self, age_ms: int) -> None:
        """Let all records be so old from now on, until it is said otherwise."""
        self.d.epoch_ms = EPOCH_MS + age_ms
        self.d.wait(1)
        if age_ms:
            lines = list(self.d.engine.spilling.lines)
            assert not any(len(line.frames) for line in lines if line.opened and not line.reading)


class SpillUnorderedMachine(SpillMachine):
    order = "none"


class SpillByKeyMachine(SpillMachine):
    order = "key"
    flows = 3


class SpillSeveralAgentsMachine(SpillMachine):
    agents = ("one", "two")


#: Each step is long, so fewer of them find as much.
SOME = settings(MANY, max_examples=50, stateful_step_count=30)

TestSpill = SpillMachine.TestCase
TestSpillTooOld = SpillTooOldMachine.TestCase
TestSpillUnordered = SpillUnorderedMachine.TestCase
TestSpillByKey = SpillByKeyMachine.TestCase
TestSpillSeveralAgents = SpillSeveralAgentsMachine.TestCase
TestSpill.settings = TestSpillUnordered.settings = SOME
TestSpillTooOld.settings = TestSpillByKey.settings = TestSpillSeveralAgents.settings = SOME
