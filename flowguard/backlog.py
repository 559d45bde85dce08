"""What one agent has not been given: the records in its scheduler, and those too far ahead.

    admit ─▶ ahead (order key, none) ─▶ scheduler ─┬─▶ hand_out   to the agent
               by partition and lane               └─▶ take_out   shed, expired, diverted
                                             put_back ─▲

The scheduler knows a slice by its handle, and this knows what the handle stands for. The
slices of a lane are kept in the order in which they were read.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from flowguard._native.scheduler import Scheduler
from flowguard.chunk import Chunk, Slice
from flowguard.control.relief import fattest_first
from flowguard.holdings import Part, Partition, Waiting
from flowguard.lanes.lane_set import LaneSet
from flowguard.settle.ledger import LaneLedger

__all__ = ["ALL", "FLOW_QUEUES", "Backlog"]

#: Sub-queues by flow are numbered from here on, those by partition below.
FLOW_QUEUES: Final = 1 << 32

#: Handles count up in steps of as many lanes as there can be: a handle names its lane.
LANE_BITS: Final = 6

#: More records, or bytes, than a sub-queue can have.
ALL: Final = 1 << 62


@dataclass(slots=True, eq=False)
class Ahead:
    """Records of one lane and partition that are too far ahead to be started."""

    end: int  # how many records of the lane come before its end
    waiting: list[Waiting]


class Backlog:
    """The records that wait for one agent.

    Args:
        scheduler: Chooses among those that may be started.
        queue_of: Which sub-queue a chunk waits in.
        in_order: They start by partition, so nothing is ever too far ahead.
        skew_records: How far a lane of a partition may run ahead of its own oldest record.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        lanes: LaneSet,
        *,
        queue_of: Callable[[Chunk, Partition], int],
        in_order: bool,
        skew_records: int,
    ) -> None:
        self.scheduler = scheduler
        self.waiting: list[dict[int, Waiting]] = [{} for _ in lanes]  # by handle, oldest first
        self.ahead: dict[tuple[Partition, int], deque[Ahead]] = defaultdict(deque)
        self.ahead_bytes = [0] * len(lanes)
        #: By lane, what takes out of a slice that has come what is not to wait at all; False
        #: if nothing is left.
        self.sift: list[Callable[[Waiting], bool] | None] = [None] * len(lanes)
        self._lanes = lanes
        self._queue_of = queue_of
        self._in_order = in_order
        self._skew_records = skew_records
        self._last = 0

    # What comes in.

    def admit(
        self, partition: Partition, ledger: LaneLedger, chunks: Iterable[Chunk], ordinal: int
    ) -> None:
        """Take in one block of a lane's records.

        Args:
            ordinal: How many records of the lane were read before it.
        """
        waiting = [
            Waiting(
                partition,
                ledger,
                ledger.admit(chunk.first_offset, ordinal),
                self._queue_of(chunk, partition),
                Slice(chunk, 0, chunk.num_records),
            )
            for chunk in chunks
        ]
        lane = waiting[0].piece.chunk.lane
        end = ordinal + sum(each.piece.count for each in waiting)
        if (sift := self.sift[lane]) is not None:
            waiting = [each for each in waiting if sift(each)]
        if self._in_order:
            self._enqueue(waiting)
        if self._in_order or not waiting:
            return
        self.ahead[partition, lane].append(Ahead(end, waiting))
        self.ahead_bytes[lane] += sum(each.piece.num_bytes for each in waiting)
        self.advance(partition, lane, ledger)

    def advance(self, partition: Partition, lane: int, ledger: LaneLedger) -> None:
        """Queue what is no longer too far ahead of the lane's oldest unfinished record."""
        blocks = self.ahead.get((partition, lane))
        while blocks and ledger.oldest is not None:
            oldest, first = ledger.oldest, blocks[0].waiting[0].run
            near = blocks[0].end - oldest.ordinal <= self._skew_records
            if not near and oldest.ordinal != first.ordinal:
                return
            waiting = blocks.popleft().waiting
            self.ahead_bytes[lane] -= sum(each.piece.num_bytes for each in waiting)
            self._enqueue(waiting)
        self.ahead.pop((partition, lane), None)

    def _enqueue(self, waiting: Iterable[Waiting]) -> None:
        for each in waiting:
            lane = each.piece.chunk.lane
            handle = self._next_handle(lane)
            self.waiting[lane][handle] = each
            self._admit(self.scheduler.admit, handle, each)

    def _next_handle(self, lane: int) -> int:
        self._last += 1
        return self._last << LANE_BITS | lane

    def _admit(self, admit: Callable[..., None], handle: int, waiting: Waiting) -> None:
        piece = waiting.piece
        chunk = piece.chunk
        waiting.base = piece.start
        admit(
            chunk.lane,
            waiting.queue,
            handle,
            piece.count,
            piece.num_bytes,
            chunk.born_ns + (self._lanes[chunk.lane].target_ns or 0),
            waiting.partition.number,
            chunk.born_ns,
        )

    # What goes out.

    def hand_out(self, lane: int, handle: int, start: int, count: int) -> Part:
        """Return the next records of a slice, as the scheduler has cut them off."""
        waiting = self.waiting[lane][handle]
        chunk, row, run = waiting.piece.chunk, waiting.base + start, waiting.run
        end, stop = row + count, waiting.piece.start + waiting.piece.count
        if end == stop:
            del self.waiting[lane][handle]
        else:
            waiting.run = waiting.ledger.split(run, chunk.offset_at(end))
            waiting.piece = Slice(chunk, end, stop - end)
        return Part(waiting.partition, Slice(chunk, row, count), waiting.ledger, run, waiting.queue)

    def take_out(
        self,
        lane: int,
        queue: int,
        *,
        records_max: int = ALL,
        bytes_max: int = ALL,
        whole: bool = False,
    ) -> list[Part]:
        """Take the oldest records of a sub-queue, open or not, without serving them.

        Args:
            whole: Take all of the last slice, too.
        """
        cuts = self.scheduler.extract(lane, queue, records_max, bytes_max)
        taken = [self.hand_out(lane, *cut) for cut in cuts]
        if whole and cuts and (rest := self.waiting[lane].get(cuts[-1][0])) is not None:
            taken += self.take_out(lane, queue, records_max=rest.piece.count)
        return taken

    def take_ahead(self, lane: int, wanted: Callable[[Waiting], int]) -> list[Part]:
        """Take records that are too far ahead to be started, the oldest first.

        Args:
            wanted: Tells how many records of the next slice are taken; 0 ends it.
        """
        taken: list[Part] = []
        for key in [key for key in self.ahead if key[1] == lane]:
            blocks = self.ahead[key]
            while blocks and (count := wanted(blocks[0].waiting[0])):
                block = blocks[0].waiting
                first = block[0]
                before_bytes = first.piece.num_bytes
                taken.append(self._take_first(block, count))
                left_bytes = first.piece.num_bytes if block and block[0] is first else 0
                self.ahead_bytes[lane] -= before_bytes - left_bytes
                if not block:
                    blocks.popleft()
            if not blocks:
                del self.ahead[key]
        return taken

    def _take_first(self, block: list[Waiting], count: int) -> Part:
        """Take the first records of a block that waits ahead."""
        waiting = block[0]
        part = waiting.part
        if count >= part.piece.count:
            del block[0]
            return part
        chunk, start = part.piece.chunk, part.piece.start
        waiting.run = waiting.ledger.split(part.run, chunk.offset_at(start + count))
        waiting.piece = Slice(chunk, start + count, part.piece.count - count)
        return part._replace(piece=Slice(chunk, start, count))

    def take_bytes(
        self,
        lane: int,
        wanted_bytes: int,
        *,
        may_leave: Callable[[int], bool],
        whole: bool = False,
    ) -> list[Part]:
        """Take the oldest records, of the fattest sub-queues first, until it is enough.

        When what may be started is not enough, what is too far ahead for that is taken, too.

        Args:
            wanted_bytes: So many; more by what the last record of each sub-queue has beyond it.
            may_leave: Tells of a sub-queue whether it may give.
            whole: Take whole slices, because a part of one gives no memory back.
        """
        taken: list[Part] = []
        left_bytes = wanted_bytes
        while left_bytes > 0 and (given := self._take_fattest(lane, left_bytes, may_leave, whole)):
            taken += given
            left_bytes -= sum(part.piece.num_bytes for part in given)

        def wanted(waiting: Waiting) -> int:
            nonlocal left_bytes
            if left_bytes <= 0 or not may_leave(waiting.queue):
                return 0
            piece = waiting.piece
            count = piece.count if whole else records_of(left_bytes, piece)
            left_bytes -= piece.num_bytes * count // piece.count
            return count

        return taken + self.take_ahead(lane, wanted)

    def _take_fattest(
        self, lane: int, wanted_bytes: int, may_leave: Callable[[int], bool], whole: bool
    ) -> list[Part]:
        """Take as much of each sub-queue as it has to give, in whole records."""
        sizes = [
            (queue, num_bytes)
            for queue, _, num_bytes in self.scheduler.sub_queues(lane)
            if may_leave(queue)
        ]
        return [
            part
            for queue, num_bytes in fattest_first(sizes, wanted_bytes).items()
            for part in self.take_out(lane, queue, bytes_max=num_bytes, whole=whole)
        ]

    def take_while(
        self, lane: int, wanted: Callable[[Waiting], bool], *, may_leave: Callable[[int], bool]
    ) -> list[Part]:
        """Take the slices that were read first, as long as they are wanted.

        Args:
            may_leave: Tells of a sub-queue whether it may give.
        """
        records: Counter[int] = Counter()
        for waiting in self.waiting[lane].values():
            if not wanted(waiting):
                break
            records[waiting.queue] += waiting.piece.count
        taken: list[Part] = []
        for queue, count in records.items():
            if may_leave(queue):
                taken += self.take_out(lane, queue, records_max=count)
        return taken + self.take_ahead(
            lane,
            lambda waiting: waiting.piece.count if may_leave(waiting.queue) and wanted(waiting)
            else 0,
        )  # fmt: skip

    def put_back(self, lane: int, parts: Iterable[Part]) -> None:
        """Let records wait again, before all others of their sub-queues."""
        returned: dict[int, Waiting] = {}
        for part in reversed(list(parts)):
            partition, piece, ledger, run, queue = part
            handle = self._next_handle(lane)
            returned[handle] = Waiting(partition, ledger, run, queue, piece)
            self._admit(self.scheduler.put_back, handle, returned[handle])
        oldest_first = dict(reversed(returned.items()))
        self.waiting[lane] = {**oldest_first, **self.waiting[lane]}

    # What changes while it waits.

    def of_partition(self, lane: int, partition: Partition) -> list[Waiting]:
        """Return what waits of one lane and partition, in the order in which it was read."""
        ahead = self.ahead.get((partition, lane), ())
        return [
            *(each for each in self.waiting[lane].values() if each.partition is partition),
            *(each for block in ahead for each in block.waiting),
        ]

    def renew(self, lane: int, changed: Iterable[Waiting]) -> None:
        """Let the scheduler know that slices wait with other records now, or with none."""
        changed = list(changed)
        for queue in dict.fromkeys(each.queue for each in changed):
            self._renew_queue(lane, queue)
        for partition in dict.fromkeys(each.partition for each in changed):
            self._renew_ahead(partition, lane)

    def _renew_queue(self, lane: int, queue: int) -> None:
        for handle, _, _ in self.scheduler.extract(lane, queue, ALL, ALL):
            waiting = self.waiting[lane][handle]
            if waiting.piece.count:
                self._admit(self.scheduler.admit, handle, waiting)
            else:
                del self.waiting[lane][handle]

    def _renew_ahead(self, partition: Partition, lane: int) -> None:
        blocks = self.ahead.pop((partition, lane), None)
        if blocks is None:
            return
        for block in blocks:
            block.waiting = [each for each in block.waiting if each.piece.count]
        if left := deque(block for block in blocks if block.waiting):
            self.ahead[partition, lane] = left
        self.ahead_bytes[lane] = sum(each.piece.num_bytes for each in self._ahead_of(lane))

    def _ahead_of(self, lane: int) -> Iterator[Waiting]:
        for (_, rank), blocks in self.ahead.items():
            if rank == lane:
                for block in blocks:
                    yield from block.waiting

    def drop(self, partition: Partition) -> None:
        """Forget everything of a partition that is gone."""
        for handle in self.scheduler.drop_owner(partition.number):
            del self.waiting[handle & (1 << LANE_BITS) - 1][handle]
        for key in [key for key in self.ahead if key[0] is partition]:
            blocks = self.ahead.pop(key)
            self.ahead_bytes[key[1]] -= sum(
                each.piece.num_bytes for block in blocks for each in block.waiting
            )

    # Questions.

    def queued_bytes(self, lane: int) -> int:
        """Return the bytes of a lane's records that no batch has."""
        return self.scheduler.queued_bytes(lane) + self.ahead_bytes[lane]

    def bytes_by_partition(self, lane: int) -> Counter[Partition]:
        """Return the bytes of each partition that no batch has."""
        found: Counter[Partition] = Counter()
        for each in (*self.waiting[lane].values(), *self._ahead_of(lane)):
            found[each.partition] += each.piece.num_bytes
        return found

    def is_empty(self, lane: int) -> bool:
        """Tell whether nothing of a lane waits."""
        return not self.waiting[lane] and not any(rank == lane for _, rank in self.ahead)

    def oldest_fetched_ns(self, lane: int) -> int | None:
        """Return when the oldest record was read that may be started; None if there is none."""
        first = next(iter(self.waiting[lane].values()), None)
        return None if first is None else first.piece.chunk.fetched_ns


def records_of(num_bytes: int, piece: Slice) -> int:
    """Return how many records of a slice have so many bytes, rounded up."""
    return min(piece.count, -(-num_bytes * piece.count // max(1, piece.num_bytes)))
