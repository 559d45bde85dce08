"""The scheduler, slow and obvious: the oracle of `flowguard._native.scheduler`.

Same policy, nothing clever: sums are added up when they are asked for, rings and ranks
are lists that are searched, records are added one by one, and shares are computed each
time. Short schedules are still quick enough to be played by the million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTUM_COST = 65536
SHARE_ONE = 1_000_000
BATCH_RECORDS_MAX = 2**24
BATCH_BYTES_MAX = 2**31 - 1
NEVER = 2**63 - 1

Entry = tuple[int, int, int, int]


@dataclass(slots=True, eq=False)
class Slice:
    handle: int
    records: int
    num_bytes: int
    stamp_ns: int
    owner: int
    born_ns: int
    start: int = 0

    def bytes_between(self, start: int, end: int) -> int:
        return self.num_bytes * end // self.records - self.num_bytes * start // self.records

    @property
    def bytes_left(self) -> int:
        return self.bytes_between(self.start, self.records)


@dataclass(slots=True, eq=False)
class SubQueue:
    number: int
    slices: list[Slice] = field(default_factory=list)
    deficit: int = 0
    closed: bool = False
    demoted: bool = False
    order: int = 0  # when it became ready, or its first slice the first

    @property
    def records(self) -> int:
        return sum(each.records - each.start for each in self.slices)

    @property
    def num_bytes(self) -> int:
        return sum(each.bytes_left for each in self.slices)

    @property
    def ready(self) -> bool:
        return bool(self.slices) and not self.closed

    @property
    def has_turns(self) -> bool:
        return self.ready and not self.demoted


@dataclass(slots=True, eq=False)
class Lane:
    weight: int
    has_deadlines: bool = False
    demote_after_ns: int | None = None
    batch_records: int = BATCH_RECORDS_MAX
    credit: int = 0
    queues: dict[int, SubQueue] = field(default_factory=dict)
    fresh: list[SubQueue] = field(default_factory=list)
    old: list[SubQueue] = field(default_factory=list)
    fresh_left: int = 0
    owes_old: bool = False

    @property
    def in_place(self) -> list[SubQueue]:
        return [queue for queue in self.queues.values() if queue.ready and not queue.demoted]

    @property
    def demoted(self) -> list[SubQueue]:
        return [queue for queue in self.queues.values() if queue.ready and queue.demoted]

    def linked(self, queue: SubQueue) -> bool:
        return queue in self.fresh or queue in self.old

    def tidy(self) -> None:
        """Forget sub-queues that say nothing, and the credit of a lane without work."""
        for queue in list(self.queues.values()):
            if not (queue.slices or queue.closed or self.linked(queue)):
                del self.queues[queue.number]
        if not self.in_place:
            self.credit = 0

    def next_turn(self) -> SubQueue:
        while True:
            old_is_next = self.owes_old and self.fresh_left == 0 and self.old
            ring = self.old if old_is_next or not self.fresh else self.fresh
            queue = ring[0]
            if queue.has_turns and queue.deficit > 0:
                return queue
            ring.pop(0)
            if ring is self.fresh:
                counting = self.owes_old and self.fresh_left > 0
                self.fresh_left = self.fresh_left - 1 if counting else len(self.fresh)
                self.owes_old = True
                if queue.has_turns:
                    queue.deficit += QUANTUM_COST
                self.old.append(queue)
            elif queue.has_turns or queue.deficit < 0:
                queue.deficit += QUANTUM_COST
                self.old.append(queue)


@dataclass(slots=True, eq=False)
class Batch:
    records_max: int
    bytes_max: int
    seats: int
    single_queue: bool
    demoted: bool = False
    in_order: bool = False
    lane_records_max: int = 0
    queues_max: int = 0
    queues: list[SubQueue] = field(default_factory=list)  # by first cut
    records: int = 0
    num_bytes: int = 0
    cuts: dict[int, list[int]] = field(default_factory=dict)  # by handle

    def most_queues(self, ready: int) -> int:
        """Return from how many of the ready sub-queues it may take."""
        return 1 if self.single_queue else -(-ready // self.seats)

    @property
    def is_bound(self) -> bool:
        return self.single_queue or self.seats > 1

    @property
    def has_its_queues(self) -> bool:
        return self.is_bound and len(self.queues) == self.queues_max

    def note(self, queue: int, handle: int, start: int, count: int) -> None:
        self.cuts.setdefault(handle, [queue, handle, start, 0])[3] += count


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
        deadlines: Sequence[bool] | None = None,
        demote_after_ns: Sequence[int | None] | None = None,
    ) -> None:
        self.lanes = [
            Lane(weight, has_deadlines, age)
            for weight, has_deadlines, age in zip(
                weights or [1] * lane_count,
                deadlines or [False] * lane_count,
                demote_after_ns or [None] * lane_count,
                strict=True,
            )
        ]
        self.demoted = Lane(weight=1)  # only its weight and its credit
        self.cap = round(cap * SHARE_ONE)
        self.floor = round(floor * SHARE_ONE)
        self.record_cost = record_cost
        self.now_ns: int | None = None
        self.last_order = 0

    def admit(
        self,
        lane: int,
        queue: int,
        handle: int,
        records: int,
        num_bytes: int,
        stamp_ns: int = 0,
        owner: int = -1,
        born_ns: int = NEVER,
    ) -> None:
        its = self.lanes[lane]
        to = its.queues.setdefault(queue, SubQueue(queue))
        owner = queue if owner == -1 else owner
        to.slices.append(Slice(handle, records, num_bytes, stamp_ns, owner, born_ns))
        if len(to.slices) == 1 and not to.closed:
            self._enter(its, to, is_new=True)

    def put_back(
        self,
        lane: int,
        queue: int,
        handle: int,
        records: int,
        num_bytes: int,
        stamp_ns: int = 0,
        owner: int = -1,
        born_ns: int = NEVER,
    ) -> None:
        its = self.lanes[lane]
        to = its.queues.setdefault(queue, SubQueue(queue))
        owner = queue if owner == -1 else owner
        to.slices.insert(0, Slice(handle, records, num_bytes, stamp_ns, owner, born_ns))
        if not to.closed:
            self._enter(its, to)
        self._tidy()

    def extract(
        self, lane: int, queue: int, records_max: int, bytes_max: int
    ) -> list[tuple[int, int, int]]:
        its = self.lanes[lane]
        taken: dict[int, list[int]] = {}  # by handle
        source = its.queues.get(queue, SubQueue(queue))
        records, num_bytes = 0, 0
        while source.slices and records < records_max:
            first = source.slices[0]
            record_bytes = first.bytes_between(first.start, first.start + 1)
            if records and num_bytes + record_bytes > bytes_max:
                break
            taken.setdefault(first.handle, [first.handle, first.start, 0])[2] += 1
            records, num_bytes = records + 1, num_bytes + record_bytes
            first.start += 1
            if first.start == first.records:
                source.slices.pop(0)
        if taken and source.ready:
            self._enter(its, source)
        self._tidy()
        return [(cut[0], cut[1], cut[2]) for cut in taken.values()]

    def sub_queues(self, lane: int) -> list[tuple[int, int, int]]:
        filled = [queue for queue in self.lanes[lane].queues.values() if queue.slices]
        filled.sort(key=lambda each: (-each.num_bytes - self.record_cost * each.records,
                                      each.number))  # fmt: skip
        return [(each.number, each.records, each.num_bytes) for each in filled]

    def take(
        self,
        lane_mask: int,
        records_max: int,
        bytes_max: int,
        *,
        exclusive: bool = True,
        single_queue: bool = False,
        now_ns: int = 0,
        seats: int = 1,
    ) -> tuple[int, list[Entry]] | None:
        self._demote(now_ns)
        mine = [lane for index, lane in enumerate(self.lanes) if lane_mask >> index & 1]
        contenders = [lane for lane in mine if lane.in_place]
        oldest = min((self._rank(lane)[0] for lane in mine if lane.demoted), default=None)
        if oldest is not None:
            contenders.append(self.demoted)
        if not contenders:
            return None
        batch = Batch(
            min(records_max, BATCH_RECORDS_MAX),
            min(bytes_max, BATCH_BYTES_MAX),
            seats if exclusive else 1,
            single_queue,
        )
        chosen = self._choose(contenders, mine, batch)
        served = self._source(chosen, mine)
        batch.demoted = chosen is self.demoted
        self._fill(served, batch)
        self._settle_credit(contenders, chosen, batch)
        entries = [(cut[0], cut[1], cut[2], cut[3]) for cut in batch.cuts.values()]
        for entry in entries if exclusive else []:
            served.queues[entry[0]].closed = True
        self._tidy()
        return self.lanes.index(served), entries

    def correct(self, lane: int, queue: int, delta_cost: int) -> None:
        its = self.lanes[lane]
        if its.has_deadlines or delta_cost == 0 or (queue not in its.queues and delta_cost < 0):
            return
        corrected = its.queues.setdefault(queue, SubQueue(queue))
        deficit = corrected.deficit
        if delta_cost > 0:
            corrected.deficit = max(deficit - delta_cost, min(deficit, -QUANTUM_COST))
        else:
            corrected.deficit = min(deficit - delta_cost, 2 * QUANTUM_COST)
        if corrected.deficit < 0 and not its.linked(corrected):
            its.old.append(corrected)

    def set_batch_records(self, lane: int, records_max: int) -> None:
        self.lanes[lane].batch_records = min(records_max, BATCH_RECORDS_MAX)

    def open(self, lane: int, queue: int) -> None:
        its = self.lanes[lane]
        opened = its.queues.get(queue)
        if opened is not None and opened.closed:
            opened.closed = False
            if opened.slices:
                self._enter(its, opened)
            self._tidy()

    def close(self, lane: int, queue: int) -> None:
        its = self.lanes[lane]
        its.queues.setdefault(queue, SubQueue(queue)).closed = True
        self._tidy()

    def drop_queue(self, queue: int) -> list[int]:
        handles = []
        for lane in self.lanes:
            dropped = lane.queues.get(queue, SubQueue(queue))
            handles += [each.handle for each in dropped.slices]
            dropped.slices.clear()
            dropped.closed = False
        self._tidy()
        return handles

    def drop_owner(self, owner: int) -> list[int]:
        handles = []
        for lane in self.lanes:
            for _, queue in sorted(lane.queues.items()):
                dropped = [each.handle for each in queue.slices if each.owner == owner]
                handles += dropped
                queue.slices = [each for each in queue.slices if each.owner != owner]
                if dropped and queue.ready:
                    self._enter(lane, queue)
        self._tidy()
        return handles

    def ready_records(self, lane: int) -> int:
        return sum(queue.records for queue in self.lanes[lane].queues.values() if queue.ready)

    def demoted_records(self, lane: int) -> int:
        return sum(queue.records for queue in self.lanes[lane].demoted)

    def queued_records(self, lane: int) -> int:
        return sum(queue.records for queue in self.lanes[lane].queues.values())

    def queued_bytes(self, lane: int) -> int:
        return sum(queue.num_bytes for queue in self.lanes[lane].queues.values())

    def head(self, lane: int, queue: int) -> tuple[int, int] | None:
        waiting = self.lanes[lane].queues.get(queue, SubQueue(queue)).slices
        return (waiting[0].handle, waiting[0].start) if waiting else None

    def ready_lanes(self) -> int:
        return sum(
            1 << index
            for index, lane in enumerate(self.lanes)
            if any(queue.ready for queue in lane.queues.values())
        )

    # -- What is ready -------------------------------------------------------

    def _enter(self, lane: Lane, queue: SubQueue, *, is_new: bool = False) -> None:
        """Find the place of a sub-queue that is ready now or has another first slice."""
        self.last_order += 1
        queue.order = self.last_order
        queue.demoted = self._is_old(lane, queue)
        if not (queue.demoted or lane.has_deadlines or lane.linked(queue)):
            if is_new:
                queue.deficit = QUANTUM_COST
            (lane.fresh if is_new else lane.old).append(queue)

    def _is_old(self, lane: Lane, queue: SubQueue) -> bool:
        if lane.demote_after_ns is None or self.now_ns is None:
            return False
        return self.now_ns - queue.slices[0].born_ns > lane.demote_after_ns

    def _demote(self, now_ns: int) -> None:
        self.now_ns = now_ns if self.now_ns is None else max(self.now_ns, now_ns)
        for lane in self.lanes:
            if lane.demote_after_ns is not None:
                old = [queue for queue in lane.in_place if self._is_old(lane, queue)]
                for queue in sorted(old, key=lambda queue: (queue.slices[0].born_ns, queue.order)):
                    self._enter(lane, queue)
        self._tidy()

    def _tidy(self) -> None:
        for lane in self.lanes:
            lane.tidy()
        if not any(lane.demoted for lane in self.lanes):
            self.demoted.credit = 0

    def _rank(self, lane: Lane) -> list[tuple[int, int, SubQueue]]:
        """Return a lane's demoted sub-queues, oldest first."""
        return sorted((queue.slices[0].born_ns, queue.order, queue) for queue in lane.demoted)

    # -- Between lanes -------------------------------------------------------

    def _source(self, contender: Lane, mine: list[Lane]) -> Lane:
        """Return the lane whose records a contender would give."""
        if contender is not self.demoted:
            return contender
        return min((lane for lane in mine if lane.demoted), key=lambda lane: self._rank(lane)[0])

    def _shares(self, contenders: list[Lane]) -> list[tuple[Lane, int]]:
        below = contenders[1:]
        weights = sum(lane.weight for lane in below)
        spare = SHARE_ONE - self.cap
        return [(lane, max(self.floor, spare * lane.weight // weights)) for lane in below]

    def _choose(self, contenders: list[Lane], mine: list[Lane], batch: Batch) -> Lane:
        due = []
        for index, (lane, share) in enumerate(self._shares(contenders)):
            if lane.credit <= 0:
                continue
            wanted = self._next_cost(lane, mine, batch) * SHARE_ONE
            if lane.credit >= wanted:
                due.append((max(2 * wanted - lane.credit, 0) // max(share, 1), index + 1))
        return contenders[min(due)[1]] if due else contenders[0]

    def _next_cost(self, contender: Lane, mine: list[Lane], batch: Batch) -> int:
        lane = self._source(contender, mine)
        sources = lane.demoted if contender is self.demoted else lane.in_place
        queues_max = batch.most_queues(len(sources))
        if batch.is_bound and queues_max == 1:
            sources = [self._first(lane, contender is self.demoted)]
        records = sum(queue.records for queue in sources)
        num_bytes = sum(queue.num_bytes for queue in sources)
        if batch.is_bound and queues_max > 1:
            records = records // len(sources) * queues_max
            num_bytes = num_bytes // len(sources) * queues_max
        mean_bytes = num_bytes // records
        count = min(records, batch.records_max, lane.batch_records)
        while count > 1 and count * mean_bytes > batch.bytes_max:
            count -= 1
        return count * (mean_bytes + self.record_cost)

    def _first(self, lane: Lane, demoted: bool) -> SubQueue:
        """Return the sub-queue that goes next in a lane, or among its demoted ones."""
        if demoted:
            return self._rank(lane)[0][2]
        if lane.has_deadlines:
            return min(lane.in_place, key=lambda queue: (queue.slices[0].stamp_ns, queue.order))
        return lane.next_turn()

    def _settle_credit(self, contenders: list[Lane], served: Lane, batch: Batch) -> None:
        cost = batch.num_bytes + self.record_cost * batch.records
        for lane, share in self._shares(contenders):
            most = min(batch.records_max, lane.batch_records)
            full = batch.bytes_max + self.record_cost * most
            lane.credit = min(lane.credit + share * cost, 2 * full * SHARE_ONE)
        if served is contenders[0]:
            served.credit = 0
        else:
            served.credit -= cost * SHARE_ONE

    # -- Inside a lane -------------------------------------------------------

    def _fill(self, lane: Lane, batch: Batch) -> None:
        batch.lane_records_max = min(batch.records_max, lane.batch_records)
        batch.queues_max = batch.most_queues(len(self._sources(lane, batch)))
        batch.in_order = batch.demoted or lane.has_deadlines
        while self._sources(lane, batch) and batch.records < batch.lane_records_max:
            if not (self._next_in_order if batch.in_order else self._next_turn)(lane, batch):
                return

    def _sources(self, lane: Lane, batch: Batch) -> list[SubQueue]:
        return lane.demoted if batch.demoted else lane.in_place

    def _next_turn(self, lane: Lane, batch: Batch) -> bool:
        """Take what the sub-queue whose turn it is may give; tell whether to go on."""
        alone = len(lane.in_place) == 1
        queue = lane.next_turn()
        if queue in lane.old:
            lane.owes_old = False
        cost = self._turn(lane, queue, batch, None if alone else queue.deficit)
        if not alone:
            queue.deficit -= cost
        elif queue in lane.old:
            lane.old.append(lane.old.pop(0))
        if cost and batch.has_its_queues:
            self._fill_up(lane, batch)
        return cost > 0 and not batch.has_its_queues

    def _next_in_order(self, lane: Lane, batch: Batch) -> bool:
        """Take of the first slice of all; tell whether to go on."""
        queue = self._first(lane, batch.demoted)
        if batch.has_its_queues and queue not in batch.queues:
            self._fill_up(lane, batch)
            return False
        return self._cut(lane, queue, batch, None) > 0

    def _fill_up(self, lane: Lane, batch: Batch) -> None:
        """Go round those the batch has, a quantum each, until nothing of them fits."""
        records_before = -1
        while batch.records > records_before:
            records_before = batch.records
            for queue in batch.queues:
                cost = self._turn(lane, queue, batch, QUANTUM_COST)
                queue.deficit -= 0 if batch.in_order else cost

    def _turn(self, lane: Lane, queue: SubQueue, batch: Batch, limit: int | None) -> int:
        """Take records of one sub-queue that cost `limit`, and return what they cost."""
        cost = 0
        while queue in self._sources(lane, batch) and (limit is None or cost < limit):
            cut = self._cut(lane, queue, batch, None if limit is None else limit - cost)
            if cut == 0:
                break
            cost += cut
        return cost

    def _cut(self, lane: Lane, queue: SubQueue, batch: Batch, limit: int | None) -> int:
        """Move records of the first slice to the batch and return their cost."""
        first = queue.slices[0]
        count = self._cut_size(first, batch, limit)
        if count == 0:
            return 0
        num_bytes = first.bytes_between(first.start, first.start + count)
        batch.note(queue.number, first.handle, first.start, count)
        if queue not in batch.queues:
            batch.queues.append(queue)
        batch.records += count
        batch.num_bytes += num_bytes
        first.start += count
        if first.start == first.records:
            queue.slices.pop(0)
            if queue.slices:
                self._enter(lane, queue)
        return num_bytes + self.record_cost * count

    def _cut_size(self, first: Slice, batch: Batch, limit: int | None) -> int:
        """Add records while they fit, one by one."""
        most = first.records - first.start
        if limit is not None:
            most = min(most, self._within_cost(first, limit))
        most = min(most, batch.lane_records_max - batch.records)
        room = batch.bytes_max - batch.num_bytes
        if first.bytes_left <= room:
            return most
        fits = 0
        while fits < most and first.bytes_between(first.start, first.start + fits + 1) <= room:
            fits += 1
        return max(fits, min(most, 1)) if batch.records == 0 else fits

    def _within_cost(self, first: Slice, limit: int) -> int:
        left = first.records - first.start
        if first.bytes_left + self.record_cost * left <= limit:
            return left
        total = first.num_bytes + self.record_cost * first.records
        return max(limit * first.records // total, 1)
