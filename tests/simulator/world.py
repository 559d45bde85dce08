"""A small world around the real Engine: a log, a fetcher, an agent, and a clock of its own.

    produce ─▶ log ─fetch─▶ Engine ─StartBatch─▶ agent (service time) ─▶ acknowledged
                 ▲             └── memory, commits                            │
                 └────────── crash: begin again at the committed offset ◀─────┘

Nothing waits: time jumps from event to event, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flowguard.chunk import TopicPartition
from flowguard.commands import Command, Cut, Fetch, Resume, StartBatch
from flowguard.control.memory import MemoryBudget, Reservation
from flowguard.engine import Engine
from flowguard.facts import (
    Assigned,
    Committed,
    Fact,
    Failed,
    Fetched,
    Finished,
    Returned,
    Ticked,
)
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.units import MIB, MILLISECOND, SECOND
from flowguard.view import AgentPlan
from tests.builders import chunk_of

RECORD_BYTES = 200
EPOCH_NS = 1_700_000_000 * SECOND


class Record(NamedTuple):
    """A record in the log."""

    lane: int
    timestamp_ns: int


@dataclass
class Measured:
    """What a run has shown.

    Attributes:
        latencies_ns: Lane → time from production to settled, a value a record.
        waits_ns: Lane → time from read to started, a value a batch (of its newest record).
        settled: How often each record was settled: (partition, offset) → count.
    """

    latencies_ns: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    waits_ns: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    settled: Counter[tuple[TopicPartition, int]] = field(default_factory=Counter)
    service_ns_max: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    served: Counter[int] = field(default_factory=Counter)
    peak_bytes: int = 0
    crashes: int = 0

    @property
    def duplicates(self) -> int:
        """Return how many records were settled more than once, counted each time."""
        return sum(count - 1 for count in self.settled.values())

    def percentile_ns(self, lane: int, percent: float) -> int:
        """Return a percentile of a lane's latency."""
        ordered = sorted(self.latencies_ns[lane])
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class World:
    """One worker on a virtual clock.

    Args:
        lanes: The app's lanes.
        partitions: How many the topic has.
        service: Lane and number of records → how long the agent works on them, ns.
        fails: Tells whether an attempt fails.
        ack_ns: From the agent's return until all it sent is acknowledged.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        partitions: int = 4,
        seats: int = 1,
        records_max: int = 4096,
        linger_ns: int = 5 * MILLISECOND,
        order: str = "partition",
        memory_bytes: int = 16 * MIB,
        service: Callable[[int, int], int] = lambda lane, records: MILLISECOND,
        fails: Callable[[random.Random, Cut], bool] = lambda rng, cut: False,
        fetch_ns: int = MILLISECOND,
        ack_ns: int = 2 * MILLISECOND,
        commit_ns: int = SECOND,
        seed: int = 1,
    ) -> None:
        self.names = [TopicPartition("orders", number) for number in range(partitions)]
        self.log: dict[TopicPartition, list[Record]] = {name: [] for name in self.names}
        self.committed = dict.fromkeys(self.names, 0)
        self.watermarks: dict[TopicPartition, tuple[int, ...]] = {}
        self.measured = Measured()
        self.now_ns = SECOND
        self.lanes = LaneSet(tuple(lanes))
        self.plan = AgentPlan(
            name="agent",
            topics=frozenset({"orders"}),
            seats=seats,
            records_max=records_max,
            linger_ns=linger_ns,
            order=order,
        )
        self.memory_bytes = memory_bytes
        self.service = service
        self.fails = fails
        self.fetch_ns = fetch_ns
        self.ack_ns = ack_ns
        self.commit_ns = commit_ns
        self.rng = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._life = 0
        self._since_commit = 0
        self.settled_since_commit_max = 0
        self._start()

    # The script.

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at an instant, counted from the beginning of the world."""
        self._sequence += 1
        heapq.heappush(self._events, (SECOND + at_ns, self._sequence, event))

    def produce(self, partition: int, lane: int, count: int) -> None:
        """Append records to the log, now."""
        self.log[self.names[partition]] += [Record(lane, self.now_ns)] * count

    def produce_every(
        self, every_ns: int, *, partition: int, lane: int, until_ns: int, count: int = 1
    ) -> None:
        """Append records again and again."""
        for at_ns in range(0, until_ns, every_ns):
            self.at(at_ns, lambda: self.produce(partition, lane, count))

    def crash(self) -> None:
        """Lose the worker and all it knew; a new one begins at the committed offsets."""
        self.measured.crashes += 1
        self._start()

    def run(self, until_ns: int) -> Measured:
        """Let time pass."""
        while self._events and self._events[0][0] <= SECOND + until_ns:
            self.now_ns, _, event = heapq.heappop(self._events)
            event()
        self.now_ns = SECOND + until_ns
        return self.measured

    def lost(self) -> int:
        """Return how many records of the log nobody settled."""
        return sum(
            (name, offset) not in self.measured.settled
            for name in self.names
            for offset in range(len(self.log[name]))
        )

    # The worker.

    def _start(self) -> None:
        self._life += 1
        self.memory = MemoryBudget(self.memory_bytes)
        self.engine = Engine(self.lanes, [self.plan], self.memory)
        self._reading: dict[TopicPartition, tuple[int, int]] = {}
        self._tick_at_ns: int | None = None
        self._observe(
            Assigned(
                offsets=dict(self.committed), watermarks=dict(self.watermarks), at_ns=self.now_ns
            )
        )
        self._after(self.fetch_ns, self._fetch)
        self._after(self.commit_ns, self._commit)

    def _after(self, wait_ns: int, event: Callable[[], None]) -> None:
        """Do something later, unless the worker has crashed by then."""
        life = self._life
        self.at(self.now_ns - SECOND + wait_ns, lambda: event() if life == self._life else None)

    def _observe(self, fact: Fact) -> None:
        for command in self.engine.observe(fact):
            self._carry_out(command)
        for book in self.engine.books:
            assert book.counts.balanced, f"promise 2 at {self.now_ns} ns: {book.counts}"
        self.measured.peak_bytes = max(self.measured.peak_bytes, self.memory.used_bytes)
        due_ns = self.engine.due_ns
        if due_ns is not None and (self._tick_at_ns is None or due_ns < self._tick_at_ns):
            self._tick_at_ns = due_ns
            self._after(max(0, due_ns - self.now_ns), self._tick)

    def _tick(self) -> None:
        self._tick_at_ns = None
        self._observe(Ticked(at_ns=self.now_ns))

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartBatch(cut):
                self._work(cut)
            case Fetch(offsets):
                kept = {name: at for name, at in self._reading.items() if name in offsets}
                self._reading = {
                    name: kept[name] if name in kept and kept[name][1] == at[1] else at
                    for name, at in offsets.items()
                }
            case Resume():
                pass  # the fetcher looks every millisecond

    # Reading.

    def _fetch(self) -> None:
        accounts = [(name, epoch) for name, (_, epoch) in self._reading.items()]
        reservation = self.memory.reserve(accounts)
        facts = [
            fact
            for name in list(self._reading)
            if (name, self._reading[name][1]) in reservation.shares
            and (fact := self._read(name, reservation)) is not None
        ]
        self.memory.settle(reservation)
        for fact in facts:
            self._observe(fact)
        self._after(self.fetch_ns, self._fetch)

    def _read(self, name: TopicPartition, reservation: Reservation) -> Fetched | None:
        offset, epoch = self._reading[name]
        room = min(
            reservation.shares[name, epoch], self.memory.allowance((name, epoch), reservation)
        )
        fresh = self.log[name][offset : offset + room // RECORD_BYTES]
        if not fresh:
            return None
        by_lane: dict[int, list[int]] = defaultdict(list)
        for number, record in enumerate(fresh, offset):
            by_lane[record.lane].append(number)
        chunks = [
            chunk_of(
                offsets,
                partition=name,
                lane=lane,
                num_bytes=RECORD_BYTES * len(offsets),
                timestamps=[self._epoch_ms(self.log[name][each].timestamp_ns) for each in offsets],
            )
            for lane, offsets in by_lane.items()
        ]
        for chunk in chunks:
            chunk.fetched_ns = self.now_ns
            self.memory.charge((name, epoch), chunk.num_bytes, reservation)
        self._reading[name] = (offset + len(fresh), epoch)
        return Fetched(
            partition=name,
            epoch=epoch,
            chunks=chunks,
            next_offset=offset + len(fresh),
            at_ns=self.now_ns,
        )

    # Working and settling.

    def _work(self, cut: Cut) -> None:
        service_ns = self.service(cut.lane, cut.num_records)
        read_ns = max(piece.chunk.fetched_ns for piece in cut.slices)
        if cut.attempt == 1:
            self.measured.waits_ns[cut.lane].append(self.now_ns - read_ns)
        longest = self.measured.service_ns_max
        longest[cut.lane] = max(longest[cut.lane], service_ns)
        fails = self.fails(self.rng, cut)
        # Half of what fails raises in the agent; of the rest, what it sent is not acknowledged.
        raises = fails and self.rng.random() < 0.5
        self._after(
            service_ns, lambda: self._settle(cut, True) if raises else self._return(cut, fails)
        )

    def _return(self, cut: Cut, fails: bool) -> None:
        self._observe(Returned(batch_id=cut.batch_id, at_ns=self.now_ns))
        self._after(self.ack_ns, lambda: self._settle(cut, fails))

    def _settle(self, cut: Cut, fails: bool) -> None:
        if fails:
            self._observe(Failed(batch_id=cut.batch_id, why="no", at_ns=self.now_ns))
            return
        for piece in cut.slices:
            name = piece.chunk.partition
            for offset in piece.columns.column(0).to_pylist():
                self.measured.settled[name, offset] += 1
                produced_ns = self.log[name][offset].timestamp_ns
                self.measured.latencies_ns[cut.lane].append(self.now_ns - produced_ns)
        self.measured.served[cut.lane] += cut.num_records
        self._since_commit += cut.num_records
        self.settled_since_commit_max = max(self.settled_since_commit_max, self._since_commit)
        self._observe(
            Finished(
                batch_id=cut.batch_id,
                dead_letters=0,
                at_ns=self.now_ns,
                epoch_ms=self._epoch_ms(self.now_ns),
            )
        )

    def _commit(self) -> None:
        self._since_commit = 0
        points = self.engine.commit_points()
        self.committed |= {name: point.offset for name, point in points.items()}
        self.watermarks |= {name: point.watermarks for name, point in points.items()}
        self._observe(Committed(points=points, at_ns=self.now_ns))
        self._after(self.commit_ns, self._commit)

    def _epoch_ms(self, at_ns: int) -> int:
        return (EPOCH_NS + at_ns) // MILLISECOND
