"""A worker under more load than it can do, on a virtual clock: its loops look each 100 ms.

    produce ─▶ log ─fetch─▶ Engine ─StartBatch─▶ agent, or its fallback ─▶ acknowledged

Nothing waits: time jumps from event to event, and the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from flowguard.chunk import TopicPartition
from flowguard.commands import Command, Cut, Fetch, Hold, StartBatch
from flowguard.control.memory import MemoryBudget, Reservation
from flowguard.engine import Engine
from flowguard.facts import Assigned, Fact, Failed, Fetched, Finished, Returned, Ticked
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.units import MIB, MILLISECOND, SECOND
from flowguard.view import AgentPlan
from tests.builders import EPOCH_MS, chunk_of

RECORD_BYTES = 200
TICK_NS = 100 * MILLISECOND
FETCH_NS = 5 * MILLISECOND
ACK_NS = 2 * MILLISECOND


class Record(NamedTuple):
    """A record in the log."""

    lane: int
    at_ns: int


class Overloaded:
    """One worker whose topics hold one lane each.

    Args:
        lanes: The app's lanes; topic `lane-N`, with one partition, holds nothing but lane N.
        serve: Cut → how long the agent or its fallback works on it, ns.
        fallback_on: The occasions of the fallback.
        refuses: Tells whether what the agent depends on is missing at an instant.

    Attributes:
        rungs: The rung after each tick.
        shares: The share of the highest lane that goes to the fallback, after each tick.
        latencies_ns: Lane → from production to settled, a value a record.
        settled: Partition and offset → how often.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        serve: Callable[[Cut], int],
        seats: int = 1,
        fallback_on: frozenset[str] = frozenset(),
        refuses: Callable[[int], bool] = lambda now_ns: False,
        memory_bytes: int = 16 * MIB,
        seed: int = 1,
    ) -> None:
        self.names = [TopicPartition(f"lane-{rank}", 0) for rank in range(len(lanes))]
        self.log: dict[TopicPartition, list[Record]] = {name: [] for name in self.names}
        self.now_ns = 0
        self.rungs: list[int] = []
        self.shares: list[float] = []
        self.latencies_ns: dict[int, list[int]] = defaultdict(list)
        self.settled: Counter[tuple[TopicPartition, int]] = Counter()
        self._serve = serve
        self._refuses = refuses
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._tick_at_ns: int | None = None
        self._reading: dict[TopicPartition, tuple[int, int]] = {}
        self._held: frozenset[TopicPartition] = frozenset()
        self.memory = MemoryBudget(memory_bytes)
        topics = {name.topic: frozenset({rank}) for rank, name in enumerate(self.names)}
        plan = AgentPlan(
            name="agent", topics=frozenset(topics), seats=seats, linger_ns=5 * MILLISECOND,
            fallback_on=fallback_on,
        )  # fmt: skip
        self.engine = Engine(
            LaneSet(tuple(lanes)), [plan], self.memory,
            ranks_of=topics, chance=random.Random(seed).random,
        )  # fmt: skip
        self._observe(Assigned(offsets=dict.fromkeys(self.names, 0), at_ns=0))
        self.at(FETCH_NS, self._fetch)
        self.at(TICK_NS, self._look)

    # The script.

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at an instant."""
        self._sequence += 1
        heapq.heappush(self._events, (at_ns, self._sequence, event))

    def produce(self, lane: int, count: int) -> None:
        """Append records of a lane to the log, now."""
        self.log[self.names[lane]] += [Record(lane, self.now_ns)] * count

    def produce_every(self, every_ms: int, lane: int, count: Callable[[float], int], *,
                      seconds: float) -> None:  # fmt: skip
        """Append as many records as are due at a time in seconds, again and again."""
        for at_ms in range(0, round(seconds * 1e3), every_ms):
            self.at(at_ms * MILLISECOND, partial(self.produce, lane, count(at_ms / 1e3)))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_ns = round(seconds * SECOND)
        while self._events and self._events[0][0] <= until_ns:
            self.now_ns, _, event = heapq.heappop(self._events)
            event()
        self.now_ns = until_ns

    @property
    def lost(self) -> int:
        """Return how many records of the log nobody settled."""
        return sum(len(records) for records in self.log.values()) - len(self.settled)

    @property
    def duplicates(self) -> int:
        """Return how many records were settled more than once."""
        return self.settled.total() - len(self.settled)

    # The worker.

    def _observe(self, fact: Fact) -> None:
        for command in self.engine.observe(fact):
            self._carry_out(command)
        for book in self.engine.books:
            assert book.counts.balanced, f"promise 2 at {self.now_ns} ns: {book.counts}"
        due_ns = self.engine.due_ns
        if due_ns is not None and (self._tick_at_ns is None or due_ns < self._tick_at_ns):
            self._tick_at_ns = due_ns
            self.at(max(self.now_ns, due_ns), self._tick)

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartBatch(cut):
                self._work(cut)
            case Fetch(offsets):
                self._reading = dict(offsets)
            case Hold(partitions):
                self._held = partitions

    def _tick(self) -> None:
        self._tick_at_ns = None
        self._observe(Ticked(at_ns=self.now_ns))

    def _look(self) -> None:
        self._observe(Ticked(at_ns=self.now_ns))
        self.rungs.append(self.engine.steering.rung)
        self.shares.append(self.engine.views["agent"].serving.shares[0])
        self.at(self.now_ns + TICK_NS, self._look)

    def _fetch(self) -> None:
        accounts = [
            (name, epoch) for name, (_, epoch) in self._reading.items() if name not in self._held
        ]
        reservation = self.memory.reserve(accounts)
        facts = [
            fact
            for account in accounts
            if account in reservation.shares and (fact := self._read(account, reservation))
        ]
        self.memory.settle(reservation)
        for fact in facts:
            self._observe(fact)
        self.at(self.now_ns + FETCH_NS, self._fetch)

    def _read(
        self, account: tuple[TopicPartition, int], reservation: Reservation
    ) -> Fetched | None:
        name, epoch = account
        offset, _ = self._reading[name]
        room = min(reservation.shares[account], self.memory.allowance(account, reservation))
        fresh = self.log[name][offset : offset + room // RECORD_BYTES]
        if not fresh:
            return None
        chunk = chunk_of(
            range(offset, offset + len(fresh)),
            partition=name,
            lane=fresh[0].lane,
            num_bytes=RECORD_BYTES * len(fresh),
        )
        chunk.fetched_ns, chunk.born_ns = self.now_ns, fresh[0].at_ns
        self.memory.charge(account, chunk.num_bytes, reservation)
        self._reading[name] = (offset + len(fresh), epoch)
        return Fetched(partition=name, epoch=epoch, chunks=[chunk],
                       next_offset=offset + len(fresh), at_ns=self.now_ns)  # fmt: skip

    def _work(self, cut: Cut) -> None:
        ended_ns = self.now_ns + self._serve(cut)
        refused = not cut.degraded and self._refuses(self.now_ns)
        self.at(ended_ns, lambda: self._refuse(cut) if refused else self._return(cut))

    def _refuse(self, cut: Cut) -> None:
        self._observe(
            Failed(batch_id=cut.batch_id, why="Unavailable", at_ns=self.now_ns, unavailable=True)
        )

    def _return(self, cut: Cut) -> None:
        self._observe(Returned(batch_id=cut.batch_id, at_ns=self.now_ns))
        self.at(self.now_ns + ACK_NS, lambda: self._settle(cut))

    def _settle(self, cut: Cut) -> None:
        for piece in cut.slices:
            name = piece.chunk.partition
            for offset in piece.columns.column(0).to_pylist():
                self.settled[name, offset] += 1
                self.latencies_ns[cut.lane].append(self.now_ns - self.log[name][offset].at_ns)
        self._observe(
            Finished(batch_id=cut.batch_id, dead_letters=(), at_ns=self.now_ns, epoch_ms=EPOCH_MS)
        )
