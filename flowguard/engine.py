"""The decisions of a worker, without I/O, clock, tasks or logging.

    facts ─▶ observe() ─▶ commands

The worker tells the engine what happened and carries out what it answers; tests and the
simulator do the same. It is called once a fetch or a batch, never once a record: what is
done per record happens in `flowguard._native`.

Invariants:

- A partition's committed offset never passes a record that an agent has not finished.
- A record that was read is in exactly one of the counts of its lane.
- Unless order is none, an agent has one batch of a sub-queue at most. The next one starts
  when the agent came back from it; if it fails, when it has been settled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

from flowguard._native.histogram import LatencyHistogram
from flowguard.chunk import Chunk, TopicPartition, rows_by_slice
from flowguard.commands import Command, Fetch, Resume, StartBatch
from flowguard.control.decision import DecisionLog
from flowguard.control.memory import MemoryBudget
from flowguard.control.rate import RateLimit
from flowguard.facts import (
    Assigned,
    CommitPoint,
    Committed,
    Fact,
    Failed,
    Fetched,
    Finished,
    FrameGone,
    LogsBegin,
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
from flowguard.failing import Failing
from flowguard.holdings import Flight, Partition
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.overflow import Overflow
from flowguard.settle.ledger import PartitionLedger
from flowguard.snapshot import Counts
from flowguard.spilling import Spilling
from flowguard.steering import Steering
from flowguard.tally import Settled, Tally
from flowguard.units import MILLISECOND, SECOND
from flowguard.view import AgentPlan, View

__all__ = ["Engine", "LaneBook"]

#: A recent percentile covers the last one to two of these.
RECENT_NS: Final = 15 * SECOND

#: Control loops look at the worker so often, at most.
STEER_NS: Final = 90 * MILLISECOND

#: An event loop that was late by more than this has held up batches that were under way.
STALL_NS: Final = 50 * MILLISECOND

#: A batch of large records is cut here, whatever its number of records.
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
BATCH_BYTES_MIN: Final = 64 * 1024


@dataclass(slots=True)
class LaneBook:
    """What is known of one lane."""

    lane: Lane
    counts: Counts = field(default_factory=Counts)
    degraded: int = 0  # settled by a fallback; once for each agent whose fallback it was
    recent: LatencyHistogram = field(default_factory=LatencyHistogram)
    before: LatencyHistogram = field(default_factory=LatencyHistogram)
    older: LatencyHistogram = field(default_factory=LatencyHistogram)

    def turn_over(self) -> None:
        """Begin a new recent time."""
        self.older.add(self.before)
        self.before, self.recent = self.recent, LatencyHistogram()

    @property
    def latency_recent(self) -> LatencyHistogram:
        """Return the latencies of a short while."""
        return sum_of(self.before, self.recent)

    @property
    def latency(self) -> LatencyHistogram:
        """Return the latencies of this worker's life."""
        return sum_of(self.older, self.before, self.recent)


#: Chunks of the blocks of a fetch: lane and number of the block → chunks.
Blocks: TypeAlias = defaultdict[tuple[int, int], list[Chunk]]


class Engine:
    """The whole decision logic of a worker.

    Args:
        lanes: The app's lanes, highest first.
        agents: The agents on feeds; several may read one topic.
        memory: The budget that the fetcher charges and the engine releases.
        shadow: Control loops that only say what they would do.
        ranks_of: Topic → ranks of the lanes that its records may have by rule; all lanes
            where it is not named.
        chance: Returns a number, 0..1, for the jitter of probes.

    Thread-safety: one thread, the event loop's.
    """

    def __init__(
        self,
        lanes: LaneSet,
        agents: Sequence[AgentPlan],
        memory: MemoryBudget,
        *,
        shadow: frozenset[str] = frozenset(),
        ranks_of: Mapping[str, frozenset[int]] | None = None,
        chance: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.lanes = lanes
        self.decisions = DecisionLog()
        self.shadow = shadow
        self.ranks_of = ranks_of or {}
        self.memory = memory
        self.memory_peak = 0
        self.books = [LaneBook(lane) for lane in lanes]
        self.tally = Tally([book.counts for book in self.books])
        self.partitions: dict[TopicPartition, Partition] = {}
        rates = [RateLimit(lane.rate_per_s) if lane.rate_per_s else None for lane in lanes]
        bytes_max = batch_bytes_max(memory, seats=sum(plan.seats for plan in agents))
        self.views = {
            plan.name: View(
                plan,
                lanes,
                rates=rates,
                bytes_max=bytes_max,
                decisions=self.decisions,
                shadow=shadow,
                chance=chance,
            )
            for plan in agents
        }
        self._views_of: dict[str, list[View]] = defaultdict(list)
        for view in self.views.values():
            for topic in view.plan.topics:
                self._views_of[topic].append(view)
        self._view_with: dict[int, View] = {}  # by the batches that are not settled
        self._stirred: dict[View, None] = {}  # in the order of what stirred them
        self._last_batch = 0
        self._last_epoch = 0
        self._numbers: dict[TopicPartition, int] = {}
        self._recent_since_ns = 0
        self._steered_ns = 0
        self._lag_ns = 0
        self.epoch_ms: int | None = None  # the wall clock, as far as it was told
        self.spilling = Spilling(self)
        self.failing = Failing(self)
        self.overflow = Overflow(self)
        self.steering = Steering(self)

    # Facts.

    def observe(self, *facts: Fact) -> list[Command]:
        """Take in what happened at one instant, and return what must happen now.

        Batches are started when all of it is known: what a response brought of several
        partitions can share one.
        """
        self.memory_peak = max(self.memory_peak, self.memory.used_bytes)
        commands = [command for fact in facts for command in self._take_in(fact)]
        now_ns = facts[-1].at_ns
        self.spilling.move(now_ns)
        stirred, self._stirred = self._stirred, {}
        commands += self._start_batches(stirred, now_ns)
        return [
            *commands,
            *self.failing.take_commands(),
            *self.spilling.take_commands(),
            *self.overflow.take_commands(),
        ]

    def _take_in(self, fact: Fact) -> list[Command]:
        match fact:
            case Fetched():
                return self._fetched(fact)
            case Returned():
                return self._returned(fact)
            case Finished():
                return self.finished(fact)
            case Failed():
                return self._failed(fact)
            case Ticked():
                return self._ticked(fact)
            case Assigned():
                return self._assigned(fact)
            case Revoking():
                return self._revoking(fact)
            case Revoked():
                return self._revoked(fact)
            case Committed():
                return self._committed(fact)
            case Stopped():
                return self._stopped(fact)
            case Spilled() | NotSpilled() | Restored() | FrameGone() | SpillWatched() | LogsBegin():
                self.spilling.observe(fact)
                return []
            case _:
                assert_never(fact)

    def _fetched(self, fact: Fetched) -> list[Command]:
        partition = self.partitions.get(fact.partition)
        if partition is None or partition.epoch != fact.epoch:
            return []
        views = self._views_of[fact.partition.topic]
        before: Blocks = defaultdict(list)  # of what an earlier life has left on disk, if it has
        behind: Blocks = defaultdict(list)
        made_room = False
        for chunk in fact.chunks:
            unfinished = chunk.from_offset(partition.ledger.restored[chunk.lane])
            if unfinished is not chunk:
                made_room |= self._skip(partition, chunk, unfinished)
            if unfinished is not None and chunk.lane in partition.stopped:
                self.tally.passed_over(chunk.lane, unfinished.num_records)
                made_room |= self.memory.release(partition.account, unfinished.num_bytes)
            elif unfinished is not None:
                made_room |= self._sort(partition, unfinished, before, behind)
        self._take_blocks(partition, before, fact)
        partition.ledger.position = max(partition.ledger.position, fact.next_offset)
        self.spilling.read_up_to(partition)
        self._take_blocks(partition, behind, fact)
        ranks = {lane for lane, _ in [*before, *behind]}
        self.overflow.fetched(views, ranks, fact.at_ns)
        self.stir(views)
        return [Resume()] if made_room else []

    def _sort(self, partition: Partition, chunk: Chunk, before: Blocks, behind: Blocks) -> bool:
        """Tell apart what comes before and behind what is on disk; True if that made room."""
        parts = self.spilling.rest(partition, chunk)
        for part in parts:
            blocks = behind if self.spilling.is_behind(partition, part) else before
            blocks[part.lane, part.block].append(part)
        left_bytes = sum(part.num_bytes for part in parts)
        if left_bytes == chunk.num_bytes:
            return False
        return self.memory.release(partition.account, chunk.num_bytes - left_bytes)

    def _take_blocks(self, partition: Partition, blocks: Blocks, fact: Fetched) -> None:
        """Give blocks to the agents, or let them wait in the lines of their lanes."""
        scans = scans_of(blocks, fact.next_offset) if self.spilling.disks else {}
        for (lane, block), chunks in blocks.items():
            if self.spilling.takes(partition, lane):
                self.spilling.join(partition, lane, chunks, scans[lane, block])
                continue
            ordinal = partition.lane_records[lane]
            records = sum(chunk.num_records for chunk in chunks)
            partition.lane_records[lane] += records
            self.tally.read(lane, records)
            self.admit(partition, lane, chunks, ordinal, fact.at_ns)

    def admit(
        self,
        partition: Partition,
        lane: int,
        chunks: Sequence[Chunk],
        ordinal: int,
        now_ns: int,
    ) -> None:
        """Give the records of one block of a lane to all agents.

        Args:
            ordinal: How many records of the lane were read before it.
        """
        views = self._views_of[partition.name.topic]
        for chunk in chunks:
            self.tally.admitted(chunk, agents=len(views))
            partition.chunks.add(chunk)
        for view, ledgers in zip(views, partition.ledger.agents, strict=True):
            view.admit(partition, ledgers[lane], chunks, ordinal, now_ns)

    def _skip(self, partition: Partition, chunk: Chunk, rest: Chunk | None) -> bool:
        """Count what was finished before, and let it go; True if that made room."""
        left_records, left_bytes = (rest.num_records, rest.num_bytes) if rest else (0, 0)
        self.tally.skipped(chunk.lane, chunk.num_records - left_records)
        return self.memory.release(partition.account, chunk.num_bytes - left_bytes)

    def _returned(self, fact: Returned) -> list[Command]:
        view = self._view_with[fact.batch_id]
        flight = view.flights[fact.batch_id]
        flight.nacked = fact.nacked
        view.stand_up(flight, fact.at_ns, fact.held_ns)
        self.stir([view])
        return []

    def finished(self, fact: Finished) -> list[Command]:
        """Take in that a batch is settled; return what must happen now."""
        if self.overflow.is_diversion(fact.batch_id):
            self.stir([self.overflow.diverted(fact)])
            return []
        view = self._view_with.pop(fact.batch_id)
        flight = view.flights[fact.batch_id]
        letters = 0
        if not flight.doomed:
            letters = live_rows(flight, fact.dead_letters)
            if fact.nacked:
                self.failing.nacked(view, flight, fact)
            view.serving.finished(flight, fact.at_ns)
            view.serving.clock_ns = fact.epoch_ms * MILLISECOND - fact.at_ns
            if flight.parts:
                self.failing.settled(view, flight, fact.at_ns)
        view.land(flight)
        lane = flight.cut.lane
        commands: list[Command] = []
        finished = 0
        for part in flight.live:
            part.ledger.finish(part.run)
            view.backlog.advance(part.partition, lane, part.ledger)
            if flight.doomed:
                self.tally.failed(part.piece)  # no longer in flight ...
                self.tally.gave_up(part.piece, "dead_letters")  # ... but done
            else:
                self._record_latency(lane, self.tally.settled(part.piece), fact.epoch_ms)
                finished += part.piece.count
            if part.piece.chunk.unsettled == 0 and self.let_go(part.partition, part.piece.chunk):
                commands = [Resume()]
        self.tally.dead_letters(lane, letters)
        if flight.cut.degraded:
            self.books[lane].degraded += finished - letters
        self.stir([view])
        return commands

    def _failed(self, fact: Failed) -> list[Command]:
        if self.overflow.is_diversion(fact.batch_id):
            self.stir([self.overflow.diverted(fact)])
            return []
        view = self._view_with[fact.batch_id]
        flight = view.flights[fact.batch_id]
        for part in flight.live:
            self.tally.failed(part.piece)
        if flight.live:
            self.failing.failed(view, flight, fact)
        else:
            self.failing.gone(view, flight, fact)
            del self._view_with[fact.batch_id]
        self.stir([view])
        return []

    def _ticked(self, fact: Ticked) -> list[Command]:
        if fact.at_ns - self._recent_since_ns >= RECENT_NS:
            self._recent_since_ns = fact.at_ns
            for book in self.books:
                book.turn_over()
        self.stir(self.views.values())
        self._lag_ns = max(self._lag_ns, fact.loop_lag_ns)
        if fact.epoch_ms is not None:
            self.epoch_ms = fact.epoch_ms
            for view in self.views.values():
                view.serving.clock_ns = fact.epoch_ms * MILLISECOND - fact.at_ns
        return self._steer(fact) if fact.at_ns - self._steered_ns >= STEER_NS else []

    def _steer(self, fact: Ticked) -> list[Command]:
        """Run the control loops."""
        self._steered_ns = fact.at_ns
        loop_lag_ns, self._lag_ns = self._lag_ns, 0
        if loop_lag_ns > STALL_NS:
            self.invalidate(f"the event loop stood still for {loop_lag_ns // MILLISECOND} ms")
        for view in self.views.values():
            view.steer(fact.at_ns)
        return self.overflow.tick(fact.at_ns) + self.steering.tick(fact.at_ns, loop_lag_ns)

    def invalidate(self, why: str) -> None:
        """Let the limits learn nothing from what is under way: something else has moved.

        Whatever changes what batches take or how many there are calls this: a rung, a
        brownout's step, a stall.
        """
        for view in self.views.values():
            view.invalidate(why)

    def _assigned(self, fact: Assigned) -> list[Command]:
        """Keep partitions that came back as they were; begin the others anew."""
        for name, offset in fact.offsets.items():
            held = self.partitions.get(name)
            if held is not None and held.committed.offset == offset and held.why is None:
                self._take_up_again(held)
                continue
            if held is not None:
                self._drop(held)
            self.partitions[name] = self._begin(name, offset, fact.watermarks.get(name, ()))
            self.spilling.assigned(self.partitions[name], fact.spilled.get(name, ()))
        self.memory.assign([each.account for each in self.partitions.values()])
        self.stir(self.views.values())
        return [self._fetch(), *self.steering.assigned()]

    def _begin(self, name: TopicPartition, offset: int, watermarks: Sequence[int]) -> Partition:
        self._last_epoch += 1
        ledger = PartitionLedger(
            offset,
            agents=len(self._views_of[name.topic]),
            watermarks=watermarks or [offset] * len(self.lanes),
        )
        number = self._numbers.setdefault(name, len(self._numbers))
        lane_records = [0] * len(self.lanes)
        return Partition(name, number, self._last_epoch, ledger, ledger.point, lane_records)

    def _take_up_again(self, partition: Partition) -> None:
        partition.revoking = False
        for view in self._views_of[partition.name.topic]:
            view.take_up_again(partition)

    def _revoking(self, fact: Revoking) -> list[Command]:
        for name in fact.partitions & self.partitions.keys():
            self.partitions[name].revoking = True
            for view in self._views_of[name.topic]:
                view.revoking(self.partitions[name])
        return self.overflow.flush()

    def _revoked(self, fact: Revoked) -> list[Command]:
        for name in fact.partitions & self.partitions.keys():
            self._drop(self.partitions[name])
        return [self._fetch(), *self.overflow.flush()]

    def _committed(self, fact: Committed) -> list[Command]:
        for name, point in fact.points.items():
            if name in self.partitions:
                self.partitions[name].committed = point
        return []

    def _stopped(self, fact: Stopped) -> list[Command]:
        partition = self.partitions.get(fact.partition)
        if partition is not None and partition.epoch == fact.epoch:
            partition.why = fact.why
        return []

    # Decisions.

    def stir(self, views: Iterable[View]) -> None:
        """Note that these agents may get a batch now."""
        self._stirred.update(dict.fromkeys(views))

    def _start_batches(self, views: Iterable[View], now_ns: int) -> list[Command]:
        """Fill the free seats: retries that are due first, then what the scheduler says."""
        commands: list[Command] = []
        for view in views:
            self.overflow.expire(view, now_ns)
            self.failing.bury_again(view, now_ns)
            while view.seats_free > 0:
                flight = view.next_flight(now_ns)
                if flight is None:
                    break
                if not self.overflow.may_start(view, flight, now_ns):
                    self._view_with.pop(flight.cut.batch_id, None)
                    continue  # all of it has expired
                self._start(view, flight, now_ns)
                commands.append(StartBatch(flight.cut))
        return commands

    def _start(self, view: View, flight: Flight, now_ns: int) -> None:
        if not flight.failed:
            flight.cut.batch_id = self.next_batch_id()
        self.overflow.started(view, flight, now_ns)
        self.name_view(flight, view)
        view.start(flight, now_ns)
        for part in flight.parts:
            self.tally.started(part.piece)

    def name_view(self, flight: Flight, view: View) -> None:
        """Note whose a batch is that is not settled."""
        self._view_with[flight.cut.batch_id] = view

    def forget(self, batch_ids: Iterable[int]) -> None:
        """Let go of batches that have no records any more."""
        for batch_id in batch_ids:
            self._view_with.pop(batch_id, None)

    def next_batch_id(self) -> int:
        """Return a number that no batch has had."""
        self._last_batch += 1
        return self._last_batch

    def let_go(self, partition: Partition, chunk: Chunk) -> bool:
        """Release a chunk that all agents are done with; True if that made room."""
        partition.chunks.discard(chunk)
        return self.memory.release(partition.account, chunk.num_bytes)

    def _drop(self, partition: Partition) -> None:
        """Let go of everything of a partition; whoever has it now reads it again."""
        partition.gone = True
        del self.partitions[partition.name]
        for chunk in partition.chunks:
            self.tally.released(chunk)
        partition.chunks.clear()
        self.spilling.drop(partition)
        for view in self._views_of[partition.name.topic]:
            view.drop(partition)
        self._view_with = {
            batch_id: view for batch_id, view in self._view_with.items() if batch_id in view.flights
        }
        self.memory.revoke([partition.account])

    def _fetch(self) -> Fetch:
        return Fetch(
            {
                name: (partition.ledger.position, partition.epoch)
                for name, partition in self.partitions.items()
                if partition.why is None
            }
        )

    def _record_latency(self, lane: int, settled: Settled, epoch_ms: int) -> None:
        if settled.count:
            self.books[lane].recent.record_since(settled.timestamps, epoch_ms)

    # Questions.

    def commit_points(self) -> dict[TopicPartition, CommitPoint]:
        """Return how far each partition may be committed, all at one instant."""
        return {name: partition.ledger.point for name, partition in self.partitions.items()}

    def views_of(self, topic: str) -> Sequence[View]:
        """Return the agents that read a topic."""
        return self._views_of[topic]

    def ranks(self, topic: str) -> frozenset[int]:
        """Return the ranks of the lanes that a topic's records may have by rule."""
        return self.ranks_of.get(topic) or frozenset(range(len(self.lanes)))

    def committable(self) -> dict[TopicPartition, int]:
        """Return the offset of each partition below which everything is finished."""
        return {name: point.offset for name, point in self.commit_points().items()}

    def records_in_flight(self, partitions: frozenset[TopicPartition] | None = None) -> int:
        """Return how many records agents have now, of these partitions or of all.

        A record that several agents have is counted for each; so is one that is on its way to
        another topic.
        """
        return sum(
            part.piece.count
            for view in self.views.values()
            for flight in [*view.flights.values(), *view.diversions]
            if flight.cut not in view.retries
            for part in flight.live
            if partitions is None or part.partition.name in partitions
        )

    @property
    def due_ns(self) -> int | None:
        """Return when to tick next, None if only a fact can change anything."""
        return min((due for view in self.views.values() if (due := view.due_ns)), default=None)


def live_rows(flight: Flight, rows: Collection[int]) -> int:
    """Return how many of these rows of a batch are still ours."""
    if not rows:
        return 0
    found = rows_by_slice((part.piece for part in flight.parts), rows)
    return sum(len(own) for part, own in zip(flight.parts, found, strict=True) if part.live)


def scans_of(blocks: Blocks, next_offset: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return of each block the range of offsets of which all records of its lane are in it."""
    scans: dict[tuple[int, int], tuple[int, int]] = {}
    ends: dict[int, int] = {}
    for lane, block in sorted(blocks, reverse=True):
        first_offset = min(chunk.first_offset for chunk in blocks[lane, block])
        scans[lane, block] = first_offset, ends.get(lane, next_offset)
        ends[lane] = first_offset
    return scans


def sum_of(*histograms: LatencyHistogram) -> LatencyHistogram:
    """Return a histogram of all that these have."""
    total = LatencyHistogram()
    for each in histograms:
        total.add(each)
    return total


def batch_bytes_max(memory: MemoryBudget, *, seats: int) -> int:
    """Return where batches are cut: their frames take twice as much, and have an eighth."""
    share_bytes = memory.memory_bytes // 16 // max(1, seats)
    return max(BATCH_BYTES_MIN, min(BATCH_BYTES_MAX, share_bytes))
