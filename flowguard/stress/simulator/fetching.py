"""Fetching, as `intake/fetcher.py` does it, from the simulated log.

One loop for topics that hold nothing but lanes with a target, and one for the rest. Each
keeps one request under way as long as a partition has room: the broker answers when there is
something, and after little has come the next request waits for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowguard.chunk import Chunk, TopicPartition
from flowguard.control.memory import MemoryBudget, Reservation
from flowguard.facts import Fetched
from flowguard.intake.chunks import BLOCK_RECORDS, Arrival
from flowguard.stress.simulator.log import EPOCH_MS, PartitionLog, Span
from flowguard.units import KIB, MILLISECOND

if TYPE_CHECKING:
    from flowguard.stress.simulator.broker import Broker

__all__ = ["FetchLoop", "FetchPlan", "epoch_ms_at", "pace_of"]

#: As in the fetcher: how long the broker holds a request, what it waits for where nothing is
#: urgent, after how little more is worth waiting for, and how often what has no room is asked.
URGENT_WAIT_NS: Final = 500 * MILLISECOND
SHARED_WAIT_NS: Final = 50 * MILLISECOND
BULK_BYTES_MIN: Final = 64 * KIB
LITTLE_BYTES: Final = 64 * KIB
LOOK_AGAIN_NS: Final = 100 * MILLISECOND

#: What a partition's part of a response takes beside its records.
BUFFER_BYTES: Final = 256 * KIB


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """How a loop fetches.

    Args:
        urgent: Its topics hold nothing but lanes with a target.
        may_be_urgent: They can hold a record of one.
        pace_ns: After little has come, so long from one request to the next.
        in_blocks: The order lets a lane run ahead; a response has one block of records.
    """

    urgent: bool
    may_be_urgent: bool
    pace_ns: int
    in_blocks: bool


@dataclass(slots=True, eq=False)
class Cursor:
    """Where one partition is being read."""

    log: PartitionLog
    offset: int
    epoch: int
    needed_bytes: int = 0

    @property
    def account(self) -> tuple[TopicPartition, int]:
        """Return what memory is counted by."""
        return self.log.name, self.epoch


class FetchLoop:
    """Keep one request under way.

    Args:
        plan: How.
        broker: Who answers.
        memory: Where room is reserved.
        later: Does something after a while, unless the worker is lost by then.
        deliver: Told what was fetched.
        clocks: Returns the present: monotonic, and the worker's wall clock in ms.
    """

    def __init__(
        self,
        plan: FetchPlan,
        *,
        broker: Broker,
        memory: MemoryBudget,
        later: Callable[[int, Callable[[], None]], None],
        deliver: Callable[[Sequence[Fetched]], None],
        clocks: Callable[[], tuple[int, int]],
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._memory = memory
        self._later = later
        self._deliver = deliver
        self._clocks = clocks
        self._cursors: dict[TopicPartition, Cursor] = {}
        self._waiting = True  # for room, or for partitions
        self._looks = 0
        self._turn = 0
        self._asked_ns = 0
        memory.receive_into(id(self), min(memory.fetch_bytes_max, BUFFER_BYTES))

    def assign(
        self,
        offsets: Mapping[TopicPartition, tuple[int, int]],
        log: Mapping[TopicPartition, PartitionLog],
    ) -> None:
        """Read these partitions; one that is being read in the same epoch goes on."""
        before, self._cursors = self._cursors, {}
        for name, (offset, epoch) in offsets.items():
            cursor = before.get(name)
            if cursor is None or cursor.epoch != epoch:
                cursor = Cursor(log[name], offset, epoch)
            self._cursors[name] = cursor
        self.wake()

    def wake(self) -> None:
        """Look again for partitions with room, unless a request is under way."""
        if self._waiting:
            self._ask()

    def _ask(self) -> None:
        """Send a request, or look again when something changes."""
        needs = {each.account: each.needed_bytes for each in self._cursors.values()}
        reservation = self._memory.reserve(needs)
        asked = {
            cursor: cursor.offset
            for cursor in self._in_turn()
            if cursor.account in reservation.shares
        }
        if not asked:
            self._memory.settle(reservation)
            self._look_again()
            return
        self._waiting = False
        now_ns, _ = self._clocks()
        self._asked_ns = now_ns
        enough = min(BULK_BYTES_MIN, reservation.total_bytes)
        at_ns = self._broker.answers_at(now_ns, self._first_news_ns(asked, now_ns, enough))
        # What is there by then comes with it, and takes its time on the way.
        num_bytes = self._bytes_at(asked, at_ns, reservation)
        at_ns += self._broker.transfer_ns(num_bytes)
        self._later(at_ns - now_ns, lambda: self._take_in(asked, reservation))

    def _in_turn(self) -> list[Cursor]:
        """Return the partitions beginning at another one each time."""
        cursors = list(self._cursors.values())
        self._turn += 1
        start = self._turn % max(1, len(cursors))
        return cursors[start:] + cursors[:start]

    def _look_again(self) -> None:
        self._waiting = True
        if not self._cursors:
            return
        self._looks += 1
        look = self._looks
        self._later(LOOK_AGAIN_NS, lambda: self.wake() if look == self._looks else None)

    def _first_news_ns(self, asked: Mapping[Cursor, int], now_ns: int, enough: int) -> int:
        """Return when there is enough to answer with, or the broker has waited long enough."""
        wait_ns = URGENT_WAIT_NS if self._plan.urgent else SHARED_WAIT_NS
        if self._plan.may_be_urgent:
            news = [c.log.instants[at] for c, at in asked.items() if at < len(c.log)]
            return max(now_ns, min([now_ns + wait_ns, *news]))
        if self._there(asked, now_ns) >= enough:
            return now_ns
        low, high = now_ns, now_ns + wait_ns
        while high - low > MILLISECOND:
            middle = (low + high) // 2
            if self._there(asked, middle) >= enough:
                high = middle
            else:
                low = middle
        return high

    def _there(self, asked: Mapping[Cursor, int], at_ns: int) -> int:
        return sum(c.log.bytes_between(at, c.log.end_at(at_ns)) for c, at in asked.items())

    def _bytes_at(self, asked: Mapping[Cursor, int], at_ns: int, reservation: Reservation) -> int:
        """Return how much a response brings."""
        there = sum(
            min(c.log.bytes_between(at, c.log.end_at(at_ns)), reservation.shares[c.account])
            for c, at in asked.items()
        )
        return min(there, reservation.total_bytes)

    def _take_in(self, asked: Mapping[Cursor, int], reservation: Reservation) -> None:
        """Take what the response brings, as far as memory has room, and ask again."""
        now_ns, epoch_ms = self._clocks()
        arrival = Arrival(now_ns, epoch_ms)
        facts: list[Fetched] = []
        num_bytes, left = 0, reservation.total_bytes
        for cursor, offset in asked.items():
            if self._cursors.get(cursor.log.name) is not cursor or cursor.offset != offset:
                continue  # it went to somebody else meanwhile, or began anew
            fact, size = self._read(cursor, arrival, reservation, left)
            num_bytes += size
            left = max(0, left - size)
            if fact is not None:
                facts.append(fact)
        self._memory.settle(reservation)
        pace_ns = self._plan.pace_ns if num_bytes <= LITTLE_BYTES else 0
        pause_ns = max(0, self._asked_ns + pace_ns - now_ns)
        if facts:
            self._deliver(facts)
        self._later(pause_ns, self._ask)

    def _read(
        self, cursor: Cursor, arrival: Arrival, reservation: Reservation, left: int
    ) -> tuple[Fetched | None, int]:
        """Read one partition of a response; nothing if there is no room for what it brings."""
        log, first = cursor.log, cursor.offset
        end = log.end_at(arrival.at_ns)
        if end <= first:
            return None, 0
        share = min(reservation.shares[cursor.account], max(left, 1))
        end = min(end, log.end_within(first, share))
        if self._plan.in_blocks:
            end = min(end, first + BLOCK_RECORDS)
        room = self._memory.allowance(cursor.account, reservation)
        spans = log.spans(first, end)
        while sum([span.num_bytes for span in spans]) > room:
            if end == first + 1:
                cursor.needed_bytes = spans[0].num_bytes
                return None, 0
            end = first + max(1, (end - first) // 2)
            spans = log.spans(first, end)
        cursor.needed_bytes = 0
        chunks = [chunk_of(span, arrival) for span in spans]
        for chunk in chunks:
            self._memory.charge(cursor.account, chunk.num_bytes, reservation)
        cursor.offset = end
        fact = Fetched(
            partition=log.name, epoch=cursor.epoch, chunks=chunks, next_offset=end,
            at_ns=arrival.at_ns,
        )  # fmt: skip
        return fact, log.bytes_between(first, end)


def chunk_of(span: Span, arrival: Arrival) -> Chunk:
    """Return records as the engine gets them."""
    segment = span.segment
    first_timestamp_ms = segment.timestamps_ms[span.start]
    return Chunk(
        partition=segment.partition,
        lane=segment.lane,
        columns=span.columns,
        num_bytes=span.num_bytes,
        first_offset=segment.offsets[span.start],
        first_timestamp_ms=first_timestamp_ms,
        fetched_ns=arrival.at_ns,
        born_ns=arrival.born_ns(first_timestamp_ms),
        flow=segment.flow,
    )


def pace_of(targets_ns: Iterable[int]) -> int:
    """Return how long requests may wait for more: as long as no target notices."""
    return min([5 * MILLISECOND, *(target // 16 for target in targets_ns)])


def epoch_ms_at(now_ns: int, skew_ns: int = 0) -> int:
    """Return the wall clock at an instant of the scenario."""
    return EPOCH_MS + (now_ns + skew_ns) // MILLISECOND
