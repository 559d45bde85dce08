"""Invariants of lanes: memory is bounded, counts balance, priority holds, and nobody starves."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from flowguard.commands import Unprocessed
from flowguard.engine import Engine
from flowguard.lanes.lane import Lane
from flowguard.snapshot import COUNTS
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.invariants.checker import Checker
from flowguard.units import SECOND, format_duration
from flowguard.view import CAP, FLOOR, UNSETTLED_PER_SEAT

__all__ = ["Balanced", "Bounded", "Priority", "Starvation"]

#: What becomes of records that were read, as the engine counts them.
PARTS: Final = attrgetter(*COUNTS[1:])

#: Of what is left out without an agent having it, what each overflow policy is called.
POLICIES: Final = {"shed": "Shed", "conflated": "Conflate", "diverted": "Divert"}

#: What never goes to an agent, and is logged as it leaves.
LEFT: Final = ("shed", "conflated", "expired")


class Bounded(Checker):
    """I7: memory stays in its budget."""

    name = "memory"

    def observed(self, engine: Engine, started: Sequence[Handed], now_ns: int) -> None:
        """Compare what is held with what may be."""
        used, most = engine.memory.used_bytes, engine.memory.memory_bytes
        if used > most:
            self.broken(f"{used:,} bytes are held, and {most:,} may be")


class Balanced(Checker):
    """I8: every record that was read is in one count, and none leaves but by a policy.

    Args:
        lanes: Of the worker.
    """

    name = "unbalanced"

    def __init__(self, history: History, lanes: Sequence[Lane]) -> None:
        super().__init__(history)
        self._lanes = lanes
        self._left: Counter[int] = Counter()

    def restarted(self) -> None:
        """Counts begin anew."""
        self._left.clear()

    def observed(self, engine: Engine, started: Sequence[Handed], now_ns: int) -> None:
        """Compare what was read with what became of it."""
        for rank, book in enumerate(engine.books):
            counts = book.counts
            if counts.read != sum(PARTS(counts)):
                self.broken(f"lane {book.lane.name}: {counts}")
            counted = counts.shed + counts.conflated + counts.expired
            if counted != self._left[rank]:
                self.broken(
                    f"lane {book.lane.name}: {counted:,} records are counted as left out, and "
                    f"{self._left[rank]:,} were logged"
                )

    def left(self, command: Unprocessed, count: int) -> None:
        """Look whether the lane declares what was done."""
        lane = self._lanes[command.lane]
        if command.outcome in LEFT:
            self._left[command.lane] += command.count
        if command.count != count:
            self.broken(f"lane {lane.name}: {command.count:,} left, {count:,} offsets are logged")
        if not allows(lane, command.outcome):
            self.broken(f"lane {lane.name} declares nothing by which records are {command.outcome}")


def allows(lane: Lane, outcome: str) -> bool:
    """Tell whether a lane declares that its records may leave like this."""
    if outcome == "expired":
        return lane.max_age_ns is not None
    given = lane.overflow
    policies = given if isinstance(given, (list, tuple)) else [given]
    return any(type(policy).__name__ == POLICIES[outcome] for policy in policies)


class Waits(Checker):
    """The base of what is about lanes that wait while others are served."""

    def __init__(self, history: History, lanes: Sequence[Lane]) -> None:
        super().__init__(history)
        self._lanes = lanes
        self._unsettled = Counter[int]()
        self._most_seats = 1
        self._floor = min(FLOOR, (1 - CAP) / max(1, len(lanes) - 1))

    def restarted(self) -> None:
        """Nothing is under way."""
        self._unsettled.clear()

    def started(self, batch: Handed) -> None:
        """Count what is not settled."""
        self._unsettled[batch.cut.lane] += 1

    def failed(self, batch: Handed) -> None:
        """It waits for its retry, and holds nothing."""
        self._unsettled[batch.cut.lane] -= 1

    def settled(self, batch: Handed) -> None:
        """Count what is not settled."""
        self._unsettled[batch.cut.lane] -= 1

    def waiting(self, engine: Engine) -> list[int]:
        """Return the lanes that have records which could be started, if they had a seat.

        Lanes with a rate, and those that wait for acknowledgements or in a rebalance, wait for
        another reason.
        """
        if any(partition.revoking for partition in engine.partitions.values()):
            return []
        ready = 0
        for view in engine.views.values():
            ready |= view.scheduler.ready_lanes()
        self._most_seats = max(self._most_seats, *(v.plan.seats for v in engine.views.values()))
        held = UNSETTLED_PER_SEAT  # with one seat; with more the bound is higher
        return [
            rank
            for rank, lane in enumerate(self._lanes)
            if ready >> rank & 1 and lane.rate_per_s is None and self._unsettled[rank] < held
        ]


class Priority(Waits):
    """I9: a lane with a target waits for at most one lower batch a seat, within its cap."""

    name = "priority-inversion"

    def __init__(self, history: History, lanes: Sequence[Lane]) -> None:
        super().__init__(history, lanes)
        self._overtaken = Counter[int]()
        self._targets = [rank for rank, lane in enumerate(lanes) if lane.target_ns is not None]
        self._highest = min(self._targets, default=len(lanes))
        self._work: deque[tuple[int, int, int]] = deque()  # at, lane, cost
        self._work_of = Counter[int]()

    def observed(self, engine: Engine, started: Sequence[Handed], now_ns: int) -> None:
        """Look which lanes wait after lower ones were served."""
        if not started:
            return
        for batch in started:
            lane = batch.cut.lane
            self._work.append((now_ns, lane, batch.cost))
            self._work_of[lane] += batch.cost
            self._overtaken[lane] = 0
        while self._work and self._work[0][0] < now_ns - SECOND:
            _, lane, cost = self._work.popleft()
            self._work_of[lane] -= cost
        fresh = [batch.cut.lane for batch in started if not batch.cut.again]
        if max(fresh, default=0) <= self._highest:
            return
        waiting = self.waiting(engine)
        for rank in self._targets:
            lower = sum(lane > rank for lane in fresh)
            if rank not in waiting:
                self._overtaken[rank] = 0
            if rank not in waiting or rank in fresh or not lower:
                continue
            self._overtaken[rank] += lower
            if self._overtaken[rank] > self._most_seats and self._within_cap(rank):
                self.broken(
                    f"lane {self._lanes[rank].name} waits while {self._overtaken[rank]} batches of "
                    f"lower lanes are started, at {format_duration(now_ns / SECOND)}"
                )

    def _within_cap(self, rank: int) -> bool:
        """Tell whether lanes down to this one had less than their cap in the last second.

        By a margin, because the scheduler counts batch by batch and not by the clock.
        """
        high = sum(cost for lane, cost in self._work_of.items() if lane <= rank)
        return high < 0.9 * CAP * self._work_of.total()


class Starvation(Waits):
    """I10: a lane with records is served before the others had many times its share."""

    name = "starvation"

    def __init__(self, history: History, lanes: Sequence[Lane]) -> None:
        super().__init__(history, lanes)
        self._others = Counter[int]()
        self._most_cost = 0

    def observed(self, engine: Engine, started: Sequence[Handed], now_ns: int) -> None:
        """Add up what others got while a lane waits."""
        if not started:
            return
        costs = Counter[int]()
        for batch in started:
            costs[batch.cut.lane] += batch.cost
            self._most_cost = max(self._most_cost, batch.cost)
        waiting = self.waiting(engine)
        for rank in range(len(self._lanes)):
            if rank in costs or rank not in waiting:
                self._others[rank] = 0
                continue
            self._others[rank] += costs.total()
            # Its floor covers the largest batch after 1 / floor of them; twice that, and what
            # the seats may be ahead by.
            most = self._most_cost * (2 / self._floor + self._most_seats)
            if self._others[rank] > most:
                self._others[rank] = 0
                self.broken(
                    f"lane {self._lanes[rank].name} waits while others are given "
                    f"{most / self._most_cost:.0f} batches, at {format_duration(now_ns / SECOND)}"
                )
