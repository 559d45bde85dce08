"""The scheduler, slow and obvious: the oracle of `flowguard._native.scheduler`.

Same policy, nothing clever: sums are added up when they are asked for, records
are counted one by one, rings are lists, and shares are computed each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTUM_COST = 65536
SHARE_ONE = 1_000_000
BATCH_RECORDS_MAX = 2**24
BATCH_BYTES_MAX = 2**31 - 1

Entry = tuple[int, int, int, int]


@dataclass
class Slice:
    handle: int
    records: int
    num_bytes: int
    start: int = 0

    def bytes_between(self, start: int, end: int) -> int:
        return self.num_bytes * end // self.records - self.num_bytes * start // self.records

    @property
    def bytes_left(self) -> int:
        return self.bytes_between(self.start, self.records)


@dataclass
class SubQueue:
    number: int
    slices: list[Slice] = field(default_factory=list)
    deficit: int = 0
    closed: bool = False

    @property
    def records(self) -> int:
        return sum(each.records - each.start for each in self.slices)

    @property
    def num_bytes(self) -> int:
        return sum(each.bytes_left for each in self.slices)

    @property
    def ready(self) -> bool:
        return bool(self.slices) and not self.closed


@dataclass
class Lane:
    weight: int
    credit: int = 0
    queues: dict[int, SubQueue] = field(default_factory=dict)
    fresh: list[SubQueue] = field(default_factory=list)
    old: list[SubQueue] = field(default_factory=list)

    @property
    def ready_queues(self) -> list[SubQueue]:
        return [queue for queue in self.queues.values() if queue.ready]

    def linked(self, queue: SubQueue) -> bool:
        return any(each is queue for each in self.fresh + self.old)

    def tidy(self) -> None:
        """Forget sub-queues that say nothing, and the credit of a lane without work."""
        for queue in list(self.queues.values()):
            if not (queue.slices or queue.closed or self.linked(queue)):
                del self.queues[queue.number]
        if not self.ready_queues:
            self.credit = 0

    def next_turn(self) -> SubQueue:
        while True:
            ring = self.fresh or self.old
            queue = ring[0]
            if queue.ready and queue.deficit > 0:
                return queue
            ring.pop(0)
            if queue.ready:
                queue.deficit += QUANTUM_COST
            elif ring is self.old:
                self.tidy()
                continue
            self.old.append(queue)


@dataclass
class Batch:
    records_max: int
    bytes_max: int
    single_queue: bool
    records: int = 0
    num_bytes: int = 0
    entries: list[list[int]] = field(default_factory=list)

    def note(self, queue: int, handle: int, start: int) -> None:
        """Add one record, to the entry of its slice if there is one."""
        for entry in self.entries:
            if entry[0] == queue and entry[1] == handle and entry[2] + entry[3] == start:
                entry[3] += 1
                return
        self.entries.append([queue, handle, start, 1])


class ModelScheduler:
    """Like `Scheduler`; handles must differ, and arguments are not checked."""

    def __init__(
        self,
        lane_count: int,
        *,
        weights: Sequence[int] | None = None,
        cap: float = 0.8,
        floor: float = 0.05,
        record_cost: int = 256,
    ) -> None:
        self.lanes = [Lane(weight) for weight in weights or [1] * lane_count]
        self.cap = round(cap * SHARE_ONE)
        self.floor = round(floor * SHARE_ONE)
        self.record_cost = record_cost

    def admit(self, lane: int, queue: int, handle: int, records: int, num_bytes: int) -> None:
        its = self.lanes[lane]
        to = its.queues.setdefault(queue, SubQueue(queue))
        to.slices.append(Slice(handle, records, num_bytes))
        if not to.closed and not its.linked(to):
            to.deficit = QUANTUM_COST
            its.fresh.append(to)

    def take(
        self,
        lane_mask: int,
        records_max: int,
        bytes_max: int,
        *,
        exclusive: bool = True,
        single_queue: bool = False,
    ) -> tuple[int, list[Entry]] | None:
        contenders = self._lanes_of(lane_mask & self.ready_lanes())
        if not contenders:
            return None
        batch = Batch(
            min(records_max, BATCH_RECORDS_MAX), min(bytes_max, BATCH_BYTES_MAX), single_queue
        )
        served = self._choose(contenders, batch)
        self._fill(self.lanes[served], batch)
        self._settle_credit(contenders, served, batch)
        if exclusive:
            for entry in batch.entries:
                self.lanes[served].queues[entry[0]].closed = True
        self.lanes[served].tidy()
        return served, [(entry[0], entry[1], entry[2], entry[3]) for entry in batch.entries]

    def open(self, lane: int, queue: int) -> None:
        its = self.lanes[lane]
        opened = its.queues.get(queue)
        if opened is None or not opened.closed:
            return
        opened.closed = False
        if opened.slices and not its.linked(opened):
            its.old.append(opened)
        its.tidy()

    def close(self, lane: int, queue: int) -> None:
        its = self.lanes[lane]
        its.queues.setdefault(queue, SubQueue(queue)).closed = True
        its.tidy()

    def drop_queue(self, queue: int) -> list[int]:
        handles = []
        for lane in self.lanes:
            dropped = lane.queues.get(queue, SubQueue(queue))
            handles += [each.handle for each in dropped.slices]
            dropped.slices.clear()
            dropped.closed = False
            lane.tidy()
        return handles

    def ready_records(self, lane: int) -> int:
        return sum(queue.records for queue in self.lanes[lane].ready_queues)

    def queued_records(self, lane: int) -> int:
        return sum(queue.records for queue in self.lanes[lane].queues.values())

    def queued_bytes(self, lane: int) -> int:
        return sum(queue.num_bytes for queue in self.lanes[lane].queues.values())

    def head(self, lane: int, queue: int) -> tuple[int, int] | None:
        waiting = self.lanes[lane].queues.get(queue, SubQueue(queue)).slices
        return (waiting[0].handle, waiting[0].start) if waiting else None

    def ready_lanes(self) -> int:
        return sum(1 << index for index, lane in enumerate(self.lanes) if lane.ready_queues)

    # -- Between lanes -------------------------------------------------------

    def _lanes_of(self, mask: int) -> list[int]:
        return [index for index in range(len(self.lanes)) if mask >> index & 1]

    def _shares(self, contenders: list[int]) -> dict[int, int]:
        below = contenders[1:]
        weights = sum(self.lanes[index].weight for index in below)
        spare = SHARE_ONE - self.cap
        return {
            index: max(self.floor, spare * self.lanes[index].weight // weights) for index in below
        }

    def _choose(self, contenders: list[int], batch: Batch) -> int:
        due = []
        for index, share in self._shares(contenders).items():
            lane = self.lanes[index]
            if lane.credit <= 0:
                continue
            wanted = self._next_cost(lane, batch) * SHARE_ONE
            if lane.credit >= wanted:
                due.append((max(2 * wanted - lane.credit, 0) // max(share, 1), index))
        return min(due)[1] if due else contenders[0]

    def _next_cost(self, lane: Lane, batch: Batch) -> int:
        sources = [lane.next_turn()] if batch.single_queue else lane.ready_queues
        records = sum(queue.records for queue in sources)
        mean_bytes = sum(queue.num_bytes for queue in sources) // records
        count = min(records, batch.records_max)
        while count > 1 and count * mean_bytes > batch.bytes_max:
            count -= 1
        return count * (mean_bytes + self.record_cost)

    def _settle_credit(self, contenders: list[int], served: int, batch: Batch) -> None:
        cost = batch.num_bytes + self.record_cost * batch.records
        full = batch.bytes_max + self.record_cost * batch.records_max
        for index, share in self._shares(contenders).items():
            lane = self.lanes[index]
            lane.credit = min(lane.credit + share * cost, 2 * full * SHARE_ONE)
        if served == contenders[0]:
            self.lanes[served].credit = 0
        else:
            self.lanes[served].credit -= cost * SHARE_ONE

    # -- Inside a lane -------------------------------------------------------

    def _fill(self, lane: Lane, batch: Batch) -> None:
        while lane.ready_queues and batch.records < batch.records_max:
            alone = len(lane.ready_queues) == 1
            queue = lane.next_turn()
            limit = None if alone or batch.single_queue else queue.deficit
            cost = self._take_turn(queue, batch, limit)
            if not alone:
                queue.deficit -= cost
            if cost == 0 or batch.single_queue:
                return

    def _take_turn(self, queue: SubQueue, batch: Batch, limit: int | None) -> int:
        cost = 0
        while queue.slices and (limit is None or cost < limit):
            first = queue.slices[0]
            count = self._cut_size(first, batch, None if limit is None else limit - cost)
            if count == 0:
                break
            num_bytes = first.bytes_between(first.start, first.start + count)
            for record in range(first.start, first.start + count):
                batch.note(queue.number, first.handle, record)
            first.start += count
            if first.start == first.records:
                queue.slices.pop(0)
            batch.records += count
            batch.num_bytes += num_bytes
            cost += num_bytes + self.record_cost * count
        return cost

    def _cut_size(self, first: Slice, batch: Batch, limit: int | None) -> int:
        """Add records while they fit, one by one."""
        left = first.records - first.start
        fits = 0
        while (
            fits < left
            and first.bytes_between(first.start, first.start + fits + 1)
            <= batch.bytes_max - batch.num_bytes
        ):
            fits += 1
        if batch.records == 0:
            fits = max(fits, 1)
        room = batch.records_max - batch.records
        return min(fits, room, self._within_cost(first, limit))

    def _within_cost(self, first: Slice, limit: int | None) -> int:
        left = first.records - first.start
        if limit is None or first.bytes_left + self.record_cost * left <= limit:
            return left
        total = first.num_bytes + self.record_cost * first.records
        return max(limit * first.records // total, 1)
