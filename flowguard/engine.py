"""The decisions of a worker, without I/O, clock, tasks or logging.

    facts ─▶ observe() ─▶ commands

The worker tells the engine what happened and carries out what it answers; tests and the
simulator do the same. It is called once a fetch or a batch, never once a record: what is
done per record happens in `flowguard._native`.

Invariants:

- A partition's committed offset never passes a record that is not finished.
- A record that was read is in exactly one of the counts of its lane.
- With `ordered`, agents have one batch of a lane of a partition at most. The next one
  starts when the agent came back from it; if it fails, when it has been settled.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from flowguard._native.histogram import LatencyHistogram
from flowguard._native.scheduler import Scheduler
from flowguard.chunk import Chunk, Slice, TopicPartition
from flowguard.commands import Command, Cut, Fetch, Resume, StartBatch
from flowguard.control.memory import MemoryBudget
from flowguard.dispatch.sizing import BatchLimit
from flowguard.facts import (
    Assigned,
    Committed,
    Fact,
    Failed,
    Fetched,
    Finished,
    Returned,
    Revoked,
    Revoking,
    Stopped,
    Ticked,
)
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.settle.ledger import PartitionLedger, Run
from flowguard.settle.retry import RetryQueue, backoff_ns
from flowguard.snapshot import AgentState, Counts, LaneState, PartitionState, Snapshot
from flowguard.units import SECOND

__all__ = ["AgentPlan", "Engine"]

#: A recent percentile covers the last one to two of these.
RECENT_NS = 15 * SECOND

#: The highest ready lane gets this share of the work of an agent that has no time left,
#: and every other at least this floor; the floors of many lanes shrink to fit beside it.
CAP = 0.8
FLOOR = 0.05

#: Where both a retry that is due and new records could be started, the one that would wait
#: for the other gets every so manieth start: the same share that `CAP` leaves to lower lanes.
PASSED_OVER_MAX = round(1 / (1 - CAP)) - 1

#: Batches of one lane that wait for acknowledgement, for each seat of the agent.
UNSETTLED_PER_SEAT = 8

#: A batch of large records is cut here, whatever its number of records.
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_BYTES_MIN = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """What the engine must know of an agent.

    Args:
        name: Unique in the app.
        topics: The topics of its feed.
        seats: Most batches at once, >= 1.
        records_max: Most records a batch.
        linger_ns: Longest wait of a lane without a target for a batch to fill.
        by_partition: A batch has records of one partition only.
        ordered: A lane of a partition goes on only when its last batch is settled.
    """

    name: str
    topics: frozenset[str]
    seats: int = 1
    records_max: int = 4096
    linger_ns: int = 0
    by_partition: bool = False
    ordered: bool = True


@dataclass(slots=True, eq=False)
class Partition:
    """A partition that is ours."""

    name: TopicPartition
    number: int  # its sub-queue in the scheduler
    epoch: int
    ledger: PartitionLedger
    committed: int
    failed: list[int]  # failed and unsettled batches, by lane
    revoking: bool = False
    gone: bool = False
    why: str | None = None  # it cannot be read any further

    @property
    def account(self) -> tuple[TopicPartition, int]:
        """Return what memory is counted by: the partition in this assignment."""
        return self.name, self.epoch


@dataclass(slots=True, eq=False)
class Waiting:
    """A chunk in the scheduler, of which `taken` records were handed out."""

    partition: Partition
    chunk: Chunk
    taken: int = 0


@dataclass(slots=True, eq=False)
class Flight:
    """A cut with what must be settled for it, in flight or waiting for its retry."""

    cut: Cut
    parts: list[tuple[Partition, Slice, Run]]
    seated: bool = False
    failed: bool = False  # once; its sub-queues stay closed until it is settled
    why: str = ""

    @property
    def revoking(self) -> bool:
        """Tell whether a partition of it may go away."""
        return any(part.revoking for part, _, _ in self.parts)

    def holds(self, partition: Partition) -> bool:
        """Tell whether records of the partition are among it."""
        return any(part is partition for part, _, _ in self.parts)


@dataclass(slots=True)
class LaneBook:
    """What is known of one lane."""

    lane: Lane
    counts: Counts = field(default_factory=Counts)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    recent: LatencyHistogram = field(default_factory=LatencyHistogram)
    before: LatencyHistogram = field(default_factory=LatencyHistogram)


class View:
    """One agent's view of its feed: what waits for it, and which seats are taken."""

    def __init__(self, plan: AgentPlan, lanes: LaneSet) -> None:
        self.plan = plan
        self.lanes = lanes
        self.scheduler = Scheduler(
            len(lanes),
            weights=[lane.weight for lane in lanes],
            floor=min(FLOOR, (1 - CAP) / max(1, len(lanes) - 1)),
            cap=CAP,
        )
        self.limit = BatchLimit(plan.records_max, target_ns=lanes.target_ns_min)
        self.retries = RetryQueue()
        self.flights: dict[int, Flight] = {}
        self.seats_by_lane = [0] * len(lanes)
        self.unsettled_by_lane = [0] * len(lanes)
        self.waiting_since_ns: list[int | None] = [None] * len(lanes)
        self.service_ns = 0.0
        self.passed_over = 0
        self.reserved = [int(lane.reserve * plan.seats) for lane in lanes]

    @property
    def seats_free(self) -> int:
        """Return how many batches may be started now."""
        return self.plan.seats - sum(self.seats_by_lane)

    def lane_mask(self, now_ns: int) -> int:
        """Return the lanes that may have a seat now, as bits."""
        mask = 0
        ready = self.scheduler.ready_lanes()
        for rank in range(len(self.lanes)):
            if not ready >> rank & 1:
                self.waiting_since_ns[rank] = None
            elif self._may_sit(rank) and not self._lingers(rank, now_ns):
                mask |= 1 << rank
        return mask

    def _may_sit(self, rank: int) -> bool:
        """Tell whether a seat is left that no other lane has reserved.

        A seat is free as soon as the agent came back, but what it sent may not be
        acknowledged yet; the bound on such batches bounds the output held in memory.
        """
        if self.unsettled_by_lane[rank] >= UNSETTLED_PER_SEAT * self.plan.seats:
            return False
        kept = sum(
            max(0, self.reserved[other] - self.seats_by_lane[other])
            for other in range(len(self.lanes))
            if other != rank
        )
        return self.seats_free > kept

    def _lingers(self, rank: int, now_ns: int) -> bool:
        """Tell whether the lane waits for its batch to fill."""
        if self.lanes[rank].target_ns is not None or self.plan.linger_ns == 0:
            return False
        if self.scheduler.ready_records(rank) >= self.limit.records:
            return False
        since_ns = self.waiting_since_ns[rank]
        if since_ns is None:
            since_ns = self.waiting_since_ns[rank] = now_ns
        return now_ns - since_ns < self.plan.linger_ns

    def may_retry(self, cut: Cut) -> bool:
        """Tell whether nothing but time keeps a failed batch from being tried again."""
        flight = self.flights[cut.batch_id]
        return (
            self._may_sit(cut.lane)
            and not flight.revoking
            and not (self.plan.ordered and self._follows_another(flight))
        )

    def _follows_another(self, flight: Flight) -> bool:
        """Tell whether a failed batch must wait for another one of its partitions' lane.

        What an agent sends may fail after it came back, when it has the next batch already,
        so several batches of a lane can wait for their retry: they go one by one, in order.
        """
        return any(
            other.cut.lane == flight.cut.lane
            and (other.seated or (other.failed and other.cut.batch_id < flight.cut.batch_id))
            and any(other.holds(partition) for partition, _, _ in flight.parts)
            for other in self.flights.values()
            if other is not flight
        )

    def next_retry(self, now_ns: int) -> Cut | None:
        """Return a batch that may be tried again now: of the highest lane, the first due."""
        due = [
            cut for due_ns, cut in self.retries.items() if due_ns <= now_ns and self.may_retry(cut)
        ]
        return min(due, key=lambda cut: cut.lane, default=None)

    @property
    def due_ns(self) -> int | None:
        """Return the next instant at which waiting alone changes what may be started."""
        if self.seats_free <= 0:
            return None
        ready = self.scheduler.ready_lanes()
        due = [
            since_ns + self.plan.linger_ns
            for rank, since_ns in enumerate(self.waiting_since_ns)
            if since_ns is not None and ready >> rank & 1 and self._may_sit(rank)
        ]
        due += [due_ns for due_ns, cut in self.retries.items() if self.may_retry(cut)]
        return min(due, default=None)


class Engine:
    """The whole decision logic of a worker.

    Args:
        lanes: The app's lanes, highest first.
        agents: The agents on feeds; a topic belongs to one of them at most.
        memory: The budget that the fetcher charges and the engine releases.

    Thread-safety: one thread, the event loop's.
    """

    def __init__(self, lanes: LaneSet, agents: Sequence[AgentPlan], memory: MemoryBudget) -> None:
        self.lanes = lanes
        self.memory = memory
        self.books = [LaneBook(lane) for lane in lanes]
        self.views = {plan.name: View(plan, lanes) for plan in agents}
        self.partitions: dict[TopicPartition, Partition] = {}
        self.memory_peak = 0
        seats = sum(plan.seats for plan in agents)
        # Decoded frames take about twice the bytes of their records, and have an eighth.
        self._batch_bytes_max = max(
            BATCH_BYTES_MIN, min(BATCH_BYTES_MAX, memory.memory_bytes // 16 // max(1, seats))
        )
        self._view_of = {topic: self.views[plan.name] for plan in agents for topic in plan.topics}
        self._waiting: dict[int, Waiting] = {}
        self._last_handle = 0
        self._last_batch = 0
        self._last_epoch = 0
        self._numbers: dict[TopicPartition, int] = {}
        self._recent_since_ns = 0

    # Facts.

    def observe(self, fact: Fact) -> list[Command]:
        """Take in one fact and return what must happen now."""
        self.memory_peak = max(self.memory_peak, self.memory.used_bytes)
        match fact:
            case Fetched():
                return self._fetched(fact)
            case Returned():
                return self._returned(fact)
            case Finished():
                return self._finished(fact)
            case Failed():
                return self._failed(fact)
            case Ticked():
                return self._ticked(fact.at_ns)
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
            case _:
                assert_never(fact)

    def _fetched(self, fact: Fetched) -> list[Command]:
        partition = self.partitions.get(fact.partition)
        if partition is None or partition.epoch != fact.epoch:
            return []
        view = self._view_of[fact.partition.topic]
        for chunk in fact.chunks:
            self._last_handle += 1
            self._waiting[self._last_handle] = Waiting(partition, chunk)
            view.scheduler.admit(
                chunk.lane, partition.number, self._last_handle, chunk.num_records, chunk.num_bytes
            )
            if view.waiting_since_ns[chunk.lane] is None:
                view.waiting_since_ns[chunk.lane] = fact.at_ns
            partition.ledger.lanes[chunk.lane].admit(chunk.first_offset)
            counts = self.books[chunk.lane].counts
            counts.read += chunk.num_records
            counts.held += chunk.num_records
        partition.ledger.position = fact.next_offset
        return self._start_batches(view, fact.at_ns)

    def _returned(self, fact: Returned) -> list[Command]:
        view = self._view_with(fact.batch_id)
        flight = view.flights[fact.batch_id]
        self._stand_up(view, flight)
        if not flight.failed:
            self._go_on(view, flight)
        service_ns = fact.at_ns - flight.cut.started_ns
        view.limit.sample(records=flight.cut.num_records, service_ns=service_ns)
        view.service_ns += (service_ns - view.service_ns) / (8 if view.service_ns else 1)
        return self._start_batches(view, fact.at_ns)

    def _finished(self, fact: Finished) -> list[Command]:
        view, flight = self._land(fact.batch_id)
        if flight.failed:
            self._recover(view, flight)
        settled = 0
        commands: list[Command] = []
        for partition, piece, run in flight.parts:
            if partition.gone:
                continue
            partition.ledger.lanes[flight.cut.lane].finish(run)
            self._record_latency(flight.cut.lane, piece, fact)
            settled += piece.count
            if self._let_go(partition, piece):
                commands = [Resume()]
        counts = self.books[flight.cut.lane].counts
        dead_letters = min(fact.dead_letters, settled)
        counts.in_flight -= settled
        counts.dead_letters += dead_letters
        counts.settled += settled - dead_letters
        return commands + self._start_batches(view, fact.at_ns)

    def _failed(self, fact: Failed) -> list[Command]:
        view, flight = self._land(fact.batch_id)
        flight.parts = [part for part in flight.parts if not part[0].gone]
        if flight.parts:
            cut = flight.cut
            flight.why = fact.why
            self._hold_back(view, flight)
            cut.slices = tuple(piece for _, piece, _ in flight.parts)
            counts = self.books[cut.lane].counts
            counts.in_flight -= cut.num_records
            counts.held += cut.num_records
            view.flights[cut.batch_id] = flight
            view.retries.add(cut, due_ns=fact.at_ns + backoff_ns(cut.attempt))
        return self._start_batches(view, fact.at_ns)

    def _ticked(self, now_ns: int) -> list[Command]:
        if now_ns - self._recent_since_ns >= RECENT_NS:
            self._recent_since_ns = now_ns
            for book in self.books:
                book.before, book.recent = book.recent, LatencyHistogram()
        commands: list[Command] = []
        for view in self.views.values():
            commands += self._start_batches(view, now_ns)
        return commands

    def _assigned(self, fact: Assigned) -> list[Command]:
        """Keep partitions that came back as they were; begin the others anew."""
        for name, offset in fact.offsets.items():
            held = self.partitions.get(name)
            if held is not None and held.committed == offset and held.why is None:
                self._take_up_again(held)
                continue
            if held is not None:
                self._drop(held)
            self._last_epoch += 1
            number = self._numbers.setdefault(name, len(self._numbers))
            ledger = PartitionLedger.starting_at(offset, lane_count=len(self.lanes))
            self.partitions[name] = Partition(
                name, number, self._last_epoch, ledger, offset, [0] * len(self.lanes)
            )
        self.memory.assign([each.account for each in self.partitions.values()])
        return [self._fetch(), *self._ticked(fact.at_ns)]

    def _revoking(self, fact: Revoking) -> list[Command]:
        for name in fact.partitions & self.partitions.keys():
            partition = self.partitions[name]
            partition.revoking = True
            for lane in range(len(self.lanes)):
                self._view_of[name.topic].scheduler.close(lane, partition.number)
        return []

    def _revoked(self, fact: Revoked) -> list[Command]:
        for name in fact.partitions & self.partitions.keys():
            self._drop(self.partitions[name])
        return [self._fetch()]

    def _committed(self, fact: Committed) -> list[Command]:
        for name, offset in fact.offsets.items():
            if name in self.partitions:
                self.partitions[name].committed = offset
        return []

    def _stopped(self, fact: Stopped) -> list[Command]:
        partition = self.partitions.get(fact.partition)
        if partition is not None and partition.epoch == fact.epoch:
            partition.why = fact.why
        return []

    # Decisions.

    def _start_batches(self, view: View, now_ns: int) -> list[Command]:
        """Fill the free seats: retries that are due first, then what the scheduler says."""
        commands: list[Command] = []
        while view.seats_free > 0:
            flight = self._next_flight(view, now_ns)
            if flight is None:
                break
            cut = flight.cut
            cut.started_ns = now_ns
            flight.seated = True
            view.seats_by_lane[cut.lane] += 1
            view.unsettled_by_lane[cut.lane] += 1
            counts = self.books[cut.lane].counts
            counts.held -= cut.num_records
            counts.in_flight += cut.num_records
            commands.append(StartBatch(cut))
        return commands

    def _next_flight(self, view: View, now_ns: int) -> Flight | None:
        """Return what is started next: of a retry and new records the higher lane, in turn."""
        mask = view.lane_mask(now_ns)
        retry = view.next_retry(now_ns)
        if retry is None:
            return self._next_cut(view, mask)
        if mask == 0:
            return self._retry(view, retry)
        higher_is_new = mask & ((1 << retry.lane) - 1) != 0
        view.passed_over += 1
        if view.passed_over > PASSED_OVER_MAX:
            view.passed_over = 0
            higher_is_new = not higher_is_new
        return self._next_cut(view, mask) if higher_is_new else self._retry(view, retry)

    def _retry(self, view: View, cut: Cut) -> Flight:
        view.retries.remove(cut)
        cut.attempt += 1
        return view.flights[cut.batch_id]

    def _next_cut(self, view: View, mask: int) -> Flight | None:
        taken = mask and view.scheduler.take(
            mask,
            view.limit.records,
            self._batch_bytes_max,
            exclusive=view.plan.ordered,
            single_queue=view.plan.by_partition,
        )
        if not taken:
            return None
        lane, pieces = taken
        view.waiting_since_ns[lane] = None
        parts = [self._take(lane, handle, start, count) for _, handle, start, count in pieces]
        self._last_batch += 1
        slices = tuple(piece for _, piece, _ in parts)
        flight = Flight(Cut(self._last_batch, view.plan.name, lane, slices), parts)
        view.flights[self._last_batch] = flight
        return flight

    def _take(self, lane: int, handle: int, start: int, count: int) -> tuple[Partition, Slice, Run]:
        waiting = self._waiting[handle]
        partition, chunk, end = waiting.partition, waiting.chunk, start + count
        waiting.taken = end
        if end == chunk.num_records:
            del self._waiting[handle]
        rest_offset = chunk.offset_at(end) if end < chunk.num_records else None
        run = partition.ledger.lanes[lane].take(chunk.offset_at(start), rest_offset)
        return partition, Slice(chunk, start, count), run

    def _view_with(self, batch_id: int) -> View:
        return next(view for view in self.views.values() if batch_id in view.flights)

    def _land(self, batch_id: int) -> tuple[View, Flight]:
        """End a flight, one way or the other."""
        view = self._view_with(batch_id)
        flight = view.flights.pop(batch_id)
        self._stand_up(view, flight)
        view.unsettled_by_lane[flight.cut.lane] -= 1
        return view, flight

    def _stand_up(self, view: View, flight: Flight) -> None:
        """Free the seat of a batch, once."""
        if flight.seated:
            flight.seated = False
            view.seats_by_lane[flight.cut.lane] -= 1

    def _let_go(self, partition: Partition, piece: Slice) -> bool:
        """Release a chunk once all its records are settled; True if that made room."""
        piece.chunk.unsettled -= piece.count
        if piece.chunk.unsettled > 0:
            return False
        return self.memory.release(partition.account, piece.chunk.num_bytes)

    def _go_on(self, view: View, flight: Flight) -> None:
        """Let the sub-queues of a batch go on, unless a failed batch holds them back."""
        lane = flight.cut.lane
        for partition, _, _ in flight.parts:
            idle = partition.gone or partition.revoking or partition.failed[lane]
            if view.plan.ordered and not idle:
                view.scheduler.open(lane, partition.number)

    def _hold_back(self, view: View, flight: Flight) -> None:
        """Keep the sub-queues of a failed batch closed until it is settled."""
        if flight.failed or not view.plan.ordered:
            return
        flight.failed = True
        for partition in {part for part, _, _ in flight.parts}:
            partition.failed[flight.cut.lane] += 1
            view.scheduler.close(flight.cut.lane, partition.number)

    def _recover(self, view: View, flight: Flight) -> None:
        """Let the sub-queues go on after a failed batch was settled at last."""
        for partition in {part for part, _, _ in flight.parts}:
            partition.failed[flight.cut.lane] -= 1
        self._go_on(view, flight)

    def _take_up_again(self, partition: Partition) -> None:
        """Start a partition's batches again after a rebalance gave it back."""
        partition.revoking = False
        view = self._view_of[partition.name.topic]
        busy = {
            flight.cut.lane
            for flight in view.flights.values()
            if flight.seated and flight.holds(partition)
        }
        for lane in range(len(self.lanes)):
            if not view.plan.ordered or (lane not in busy and not partition.failed[lane]):
                view.scheduler.open(lane, partition.number)

    def _drop(self, partition: Partition) -> None:
        """Let go of everything of a partition; whoever has it now reads it again."""
        view = self._view_of[partition.name.topic]
        partition.gone = True
        del self.partitions[partition.name]
        for handle in view.scheduler.drop_queue(partition.number):
            waiting = self._waiting.pop(handle)
            self._release(waiting.chunk.lane, waiting.chunk.num_records - waiting.taken, "held")
        for flight in list(view.flights.values()):
            self._drop_from(view, flight, partition)
        for lane in range(len(self.lanes)):
            view.scheduler.open(lane, partition.number)
        self.memory.revoke([partition.account])

    def _drop_from(self, view: View, flight: Flight, partition: Partition) -> None:
        """Take a partition's records out of a batch that is in flight or waits."""
        cut = flight.cut
        count = sum(piece.count for part, piece, _ in flight.parts if part is partition)
        if count == 0:
            return
        self._release(cut.lane, count, "held" if cut in view.retries else "in_flight")
        if cut not in view.retries:
            return
        flight.parts = [part for part in flight.parts if part[0] is not partition]
        cut.slices = tuple(piece for _, piece, _ in flight.parts)
        if not flight.parts:
            view.retries.remove(cut)
            del view.flights[cut.batch_id]

    def _release(self, lane: int, count: int, was: str) -> None:
        counts = self.books[lane].counts
        setattr(counts, was, getattr(counts, was) - count)
        counts.released += count

    def _fetch(self) -> Fetch:
        return Fetch(
            {
                name: (partition.ledger.position, partition.epoch)
                for name, partition in self.partitions.items()
                if partition.why is None
            }
        )

    def _record_latency(self, lane: int, piece: Slice, fact: Finished) -> None:
        timestamps = piece.columns.column(1)
        self.books[lane].latency.record_since(timestamps, fact.epoch_ms)
        self.books[lane].recent.record_since(timestamps, fact.epoch_ms)

    # Questions.

    def committable(self) -> dict[TopicPartition, int]:
        """Return the offset of each partition below which everything is finished."""
        return {name: partition.ledger.committable for name, partition in self.partitions.items()}

    def records_in_flight(self, partitions: frozenset[TopicPartition] | None = None) -> int:
        """Return how many records agents have now, of these partitions or of all."""
        return sum(
            piece.count
            for view in self.views.values()
            for flight in view.flights.values()
            if flight.cut not in view.retries
            for partition, piece, _ in flight.parts
            if not partition.gone and (partitions is None or partition.name in partitions)
        )

    @property
    def due_ns(self) -> int | None:
        """Return when to tick next, None if only a fact can change anything."""
        return min((due for view in self.views.values() if (due := view.due_ns)), default=None)

    def snapshot(self, *, now_ns: int, epoch_ms: int) -> Snapshot:
        """Return what the engine shows of itself."""
        paused = self.memory.paused
        oldest = self._oldest_timestamps()
        return Snapshot(
            lanes=[
                self._lane_state(rank, paused, oldest, now_ns, epoch_ms)
                for rank in range(len(self.lanes))
            ],
            agents=[self._agent_state(view) for view in self.views.values()],
            partitions=[self._partition_state(each, paused) for each in self.partitions.values()],
            memory_used=self.memory.used_bytes,
            memory_peak=self.memory_peak,
            memory_budget=self.memory.memory_bytes,
        )

    def _oldest_timestamps(self) -> dict[int, int]:
        """Return the oldest timestamp of each lane that has unfinished records, in ms."""
        oldest: dict[int, int] = {}
        chunks = [waiting.chunk for waiting in self._waiting.values()]
        for view in self.views.values():
            for flight in view.flights.values():
                chunks += [piece.chunk for _, piece, _ in flight.parts]
        for chunk in chunks:
            known = oldest.get(chunk.lane, chunk.first_timestamp_ms)
            oldest[chunk.lane] = min(known, chunk.first_timestamp_ms)
        return oldest

    def _lane_state(
        self,
        rank: int,
        paused: frozenset[Hashable],
        oldest: Mapping[int, int],
        now_ns: int,
        epoch_ms: int,
    ) -> LaneState:
        book = self.books[rank]
        recent = LatencyHistogram()
        recent.add(book.before)
        recent.add(book.recent)
        state, why = self._lane_condition(rank, paused, now_ns)
        first_ms = oldest.get(rank)
        return LaneState(
            name=book.lane.name,
            counts=replace(book.counts),
            queued_bytes=sum(v.scheduler.queued_bytes(rank) for v in self.views.values()),
            oldest_age=None if first_ms is None else max(0.0, (epoch_ms - first_ms) / 1e3),
            p50=seconds(book.latency.percentile(50)),
            p99=seconds(book.latency.percentile(99)),
            p999=seconds(book.latency.percentile(99.9)),
            p99_recent=seconds(recent.percentile(99)),
            on_time=on_time(book),
            target=book.lane.target,
            state=state,
            why=why,
        )

    def _lane_condition(
        self, rank: int, paused: frozenset[Hashable], now_ns: int
    ) -> tuple[str, str | None]:
        """Return the lane's state and, unless it is ok, the reason for people."""
        for partition in self.partitions.values():
            if partition.why is not None:
                return "stopped", partition.why
        for view in self.views.values():
            for due_ns, cut in view.retries.items():
                if cut.lane == rank:
                    flight = view.flights[cut.batch_id]
                    places = sorted({str_partition(part.name) for part, _, _ in flight.parts})
                    wait = max(0, due_ns - now_ns) / 1e9
                    return "stopped", (
                        f"{', '.join(places)} waits: {flight.why}; "
                        f"attempt {cut.attempt + 1} in {wait:.1f} s"
                    )
        for partition in self.partitions.values():
            scheduler = self._view_of[partition.name.topic].scheduler
            if partition.account in paused and scheduler.head(rank, partition.number) is not None:
                place = str_partition(partition.name)
                return "paused", f"{place} is not fetched: its memory is full"
        return "ok", None

    def _agent_state(self, view: View) -> AgentState:
        return AgentState(
            name=view.plan.name,
            limit=view.plan.seats,
            in_flight=sum(view.seats_by_lane),
            batch_size=view.limit.records,
            service_time=view.service_ns / 1e9 if view.service_ns else None,
        )

    def _partition_state(self, partition: Partition, paused: frozenset[Hashable]) -> PartitionState:
        return PartitionState(
            partition=partition.name,
            position=partition.ledger.position,
            committable=partition.ledger.committable,
            committed=partition.committed,
            held_bytes=self.memory.held_by(partition.account),
            paused=partition.account in paused,
            why=partition.why,
        )


def seconds(value_ms: int | None) -> float | None:
    """Return milliseconds as seconds; unknown stays unknown."""
    return None if value_ms is None else value_ms / 1e3


def on_time(book: LaneBook) -> float | None:
    """Return the share of records settled within the target, None without one."""
    if book.lane.target_ns is None or book.latency.total == 0:
        return None
    return book.latency.count_at_most(book.lane.target_ns // 1_000_000) / book.latency.total


def str_partition(name: TopicPartition) -> str:
    """Return a partition as people write it: `topic[3]`."""
    return f"{name.topic}[{name.partition}]"
