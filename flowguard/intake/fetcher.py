"""The fetch loop: requests out, chunks in.

Runs on the consumer's thread. One task for each broker and haste of partitions keeps a
request under way as long as a partition has room. Where a response's batches end is plain
from their headers, so the next request is sent before the response is parsed, and the
connection's own thread receives the next response while this one is parsed:

    reserve ─▶ request 1 ─▶ receive 1 ─▶ skim 1 ─▶ parse 1, deliver ─▶ skim 2 ─▶ …
                                            └─▶ reserve ─▶ request 2 ─▶ receive 2 ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient

from flowguard._native import wire
from flowguard.chunk import TopicPartition
from flowguard.clock import Clock
from flowguard.control.memory import MemoryBudget, Reservation
from flowguard.errors import WireError
from flowguard.facts import Fetched, Stopped
from flowguard.intake.chunks import Arrival, chunks_of
from flowguard.intake.compression import decompress
from flowguard.intake.connection import Awaited, Connect, FetchConnection, open_connection
from flowguard.intake.cursors import Cursor, Haste, PartitionPlan
from flowguard.intake.fetch_request import FetchRequest
from flowguard.intake.lost_offsets import LostOffsets
from flowguard.intake.topic_lives import TopicLives

__all__ = ["Fetcher"]

logger = logging.getLogger(__name__)

#: The broker holds a request this long when it has nothing new. A partition that gets room
#: meanwhile joins the next request, so it must be short for partitions that are paused.
URGENT_WAIT_MS: Final = 500
SHARED_WAIT_MS: Final = 50
#: While partitions are left out, and for a moment after, requests are short: one that is taken
#: in again is read within 50 ms, also if there is little in it.
HELD_WAIT_MS: Final = 20
AFTER_HOLD_S: Final = 0.2

#: Where no record is urgent, a little more at a time saves most of the requests.
BULK_BYTES_MIN: Final = 64 * 1024

#: A broker that does not wait for records, as small embedded ones do, is asked this often.
EMPTY_PAUSE_S: Final = 0.005

#: After a response of so few bytes more is on its way, and worth waiting `pace_s` for.
LITTLE_BYTES: Final = 64 * 1024

RETRY_BACKOFF_S: Final = 0.1
RETRY_BACKOFF_S_MAX: Final = 5.0
SPLIT_BACKOFF_S: Final = 1.0
#: A broker of which no byte comes for so long hangs, or its host went away without a word; no
#: request is held back for longer than `URGENT_WAIT_MS`.
ANSWER_TIMEOUT_S: Final = 10.0
#: Whether another broker leads its partitions by now is looked up after a silence of this.
SUSPECT_AFTER_S: Final = 3.0

#: aiokafka leaves the group when nothing is polled for long; a paused feed still polls.
POLL_TOUCH_S: Final = 1.0

#: Errors that new metadata cures.
STALE_METADATA: Final = frozenset(
    {
        3,  # UNKNOWN_TOPIC_OR_PARTITION
        5,  # LEADER_NOT_AVAILABLE
        6,  # NOT_LEADER_OR_FOLLOWER
        9,  # REPLICA_NOT_AVAILABLE
        56,  # KAFKA_STORAGE_ERROR
        74,  # FENCED_LEADER_EPOCH
        75,  # UNKNOWN_LEADER_EPOCH
        78,  # OFFSET_NOT_AVAILABLE
        100,  # UNKNOWN_TOPIC_ID
    }
)
#: What a broker or the network may do at any time; anything else is logged with its place.
EXPECTED: Final = (OSError, TimeoutError, kafka_errors.KafkaError, WireError)

OFFSET_OUT_OF_RANGE: Final = 1
TOPIC_AUTHORIZATION_FAILED: Final = 29


@dataclass(slots=True)
class Asked:
    """A request, and what has become of it.

    Args:
        offsets: Where it begins in each partition. A section that does not begin where its
            cursor is by then was asked for ahead of a response that could not be used whole.
        moved: It brought a partition forward.
        pace_s: While little comes at a time, the next request is sent so long after it.
    """

    cursors: dict[TopicPartition, Cursor]
    offsets: dict[TopicPartition, int]
    reservation: Reservation
    moved: bool = False
    awaited: Awaited | None = None
    sent_s: float = 0.0
    pace_s: float = 0.0


class Fetcher:
    """Keep fetch requests under way for the partitions that have room.

    Args:
        client: aiokafka's, for metadata, brokers and credentials.
        plans: How each feed topic is read.
        lane_count: Number of lanes of the app.
        memory: Where room is reserved.
        clock: For the time of arrival.
        deliver: Called on this thread with what was fetched; must not block.
        touch: Called now and then so that the group knows that we poll.
        find_offset: Coroutine: partition, "earliest" or "latest" → offset.
        begin_anew: Called with partition, epoch and an offset that is before what was read: the
            log is another one, and what is held of the former one has to be let go.
        lives: Whether topics were made anew; None to take them for the same.
        connect: Coroutine that opens a connection to a broker.

    Thread-safety: `assign`, `seek`, `stop` on the consumer's thread; `wake`, `hold` on any.
    """

    def __init__(
        self,
        *,
        client: AIOKafkaClient,
        plans: Mapping[str, PartitionPlan],
        lane_count: int,
        memory: MemoryBudget,
        clock: Clock,
        deliver: Callable[[Sequence[Fetched | Stopped]], None],
        touch: Callable[[], None],
        find_offset: Callable[[TopicPartition, str], Any],
        begin_anew: Callable[[TopicPartition, int, int], None],
        lives: TopicLives | None = None,
        connect: Connect = open_connection,
    ) -> None:
        self._client = client
        self._connect = connect
        self._plans = plans
        self._lane_count = lane_count
        self._memory = memory
        self._clock = clock
        self._deliver = deliver
        self._touch = touch
        self._loop = asyncio.get_running_loop()
        self._cursors: dict[TopicPartition, Cursor] = {}
        self._tasks: dict[tuple[int, Haste], asyncio.Task[None]] = {}
        self._lost_offsets = LostOffsets(
            client=client,
            cursors=lambda: self._cursors.values(),
            deliver=deliver,
            find_offset=find_offset,
            begin_anew=begin_anew,
            lives=lives,
            moved=self._pulse,
            clock=clock,
        )
        self._held: frozenset[TopicPartition] = frozenset()
        self._quick_until_s = 0.0
        self._changed = asyncio.Event()
        self._director: asyncio.Task[None] | None = None
        self._requests = 0
        self._sent_s: dict[tuple[int, Haste], float] = {}  # of the request that is waited for
        self.errors_total = 0

    # Control.

    def assign(self, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """Read these partitions, and no others.

        Args:
            offsets: Partition → (next offset, epoch); one that is being read in the same
                epoch goes on where it is.
        """
        before = self._cursors
        self._cursors = {}
        for name, (offset, epoch) in offsets.items():
            cursor = before.get(name)
            if cursor is None or cursor.epoch != epoch:
                cursor = Cursor(name, offset, epoch, self._plans[name.topic])
                self._lost_offsets.doubt(cursor)
            self._cursors[name] = cursor
        if self._director is None:
            self._director = self._loop.create_task(self._direct(), name="feed fetcher")
        self._pulse()

    def seek(self, name: TopicPartition, epoch: int, offset: int) -> None:
        """Go on at a later offset; what a request under way brings of the rest is ignored."""
        cursor = self._cursors.get(name)
        if cursor is not None and cursor.epoch == epoch:
            cursor.offset = max(cursor.offset, offset)
            self._pulse()

    def is_certain(self, name: TopicPartition) -> bool:
        """Tell whether the offsets of a partition are of the topic that is there now."""
        cursor = self._cursors.get(name)
        return cursor is None or not (cursor.doubted or cursor.former)

    def hold(self, partitions: frozenset[TopicPartition]) -> None:
        """Leave these partitions out of requests, and take in all others; on any thread.

        Their cursors stay where they are, also through an assignment.
        """
        self._held = partitions
        self._quick_until_s = self._loop.time() + AFTER_HOLD_S
        self.wake()

    def wake(self) -> None:
        """Look again for partitions with room."""
        if not self._loop.is_closed():  # on the way down the engine may still decide something
            self._loop.call_soon_threadsafe(self._pulse)

    async def stop(self) -> None:
        """Stop fetching; what is under way is forgotten."""
        tasks = [*self._tasks.values(), *self._lost_offsets.tasks]
        if self._director is not None:
            tasks.append(self._director)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _pulse(self) -> None:
        self._changed.set()

    async def _direct(self) -> None:
        """Keep a loop running for each broker that leads partitions of ours."""
        while True:
            self._touch()
            self._look_for_silent()
            leaders = {self._loop_key(cursor) for cursor in self._cursors.values()}
            if None in leaders:
                self._client.force_metadata_update()
            for key in leaders - self._tasks.keys() - {None}:
                assert key is not None
                self._tasks[key] = self._loop.create_task(self._serve(*key))
                self._tasks[key].add_done_callback(partial(self._served, key))
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_BACKOFF_S if None in leaders else POLL_TOUCH_S):
                    await self._changed.wait()

    def _look_for_silent(self) -> None:
        """Ask who leads what, while a broker does not answer."""
        suspect_s = self._loop.time() - SUSPECT_AFTER_S
        if any(sent_s < suspect_s for sent_s in self._sent_s.values()):
            self._client.force_metadata_update()

    def _loop_key(self, cursor: Cursor) -> tuple[int, Haste] | None:
        leader = self._client.cluster.leader_for_partition(cursor.name)
        return None if leader is None or leader < 0 else (leader, cursor.plan.haste)

    # One broker.

    async def _serve(self, node: int, haste: Haste) -> None:
        """Fetch from one broker, connecting again as often as it takes.

        Ends when the broker leads no partition of ours any more.
        """
        backoff_s = RETRY_BACKOFF_S
        while self._leads(node, haste):
            answered = False
            connection: FetchConnection | None = None
            try:
                connection = await self._connect(
                    self._client,
                    node,
                    buffer_bytes=lambda: self._memory.fetch_bytes_max,
                    memory_bytes=self._memory.memory_bytes,
                )
                async for _ in self._exchange(connection, node, haste):
                    answered = True
            except Exception as error:  # whatever it is, the broker's partitions are read on
                backoff_s = RETRY_BACKOFF_S if answered else backoff_s
                self._lost(node, error, backoff_s)
                for cursor in self._cursors.values():
                    if self._loop_key(cursor) == (node, haste):
                        self._lost_offsets.doubt(cursor)
                await asyncio.sleep(backoff_s)
                backoff_s = min(RETRY_BACKOFF_S_MAX, backoff_s * 2)
            finally:
                if connection is not None:
                    connection.close()
                self._memory.receive_into((node, haste), 0)

    def _served(self, key: tuple[int, Haste], task: asyncio.Task[None]) -> None:
        """Forget a task that ended; a partition may have come to its broker meanwhile."""
        if self._tasks.get(key) is task:
            del self._tasks[key]
        self._pulse()

    async def _exchange(
        self, connection: FetchConnection, node: int, haste: Haste
    ) -> AsyncIterator[None]:
        """Send requests and take in answers as long as there is what to ask for."""
        asked: Asked | None = None
        while asked is not None or self._leads(node, haste):
            asked = asked or self._ask(node, haste)
            if asked is None:
                await self._wait_for_room()
                continue
            ahead: Asked | None = None
            try:
                awaited = asked.awaited or self._send(connection, asked, haste)
                self._sent_s[node, haste] = asked.sent_s
                frame = await connection.receive(awaited, timeout_s=ANSWER_TIMEOUT_S)
                self._memory.receive_into((node, haste), connection.buffer_bytes)
                throttle_ms, error_code, sections = wire.read_fetch_response(frame)
                if error_code:
                    raise kafka_errors.for_code(error_code)()
                if len(frame) > LITTLE_BYTES or self._early_s(asked, asked.pace_s) <= 0:
                    ahead = self._ask_ahead(frame, sections, asked, (node, haste))
                if ahead is not None:
                    ahead.awaited = self._send(connection, ahead, haste)
                self._take_in(frame, sections, asked)
            except BaseException:
                if ahead is not None:
                    self._memory.settle(ahead.reservation)
                raise
            finally:
                self._sent_s.pop((node, haste), None)
                self._memory.settle(asked.reservation)
            pause_s = throttle_ms / 1e3
            if not asked.moved:
                pause_s = max(pause_s, self._early_s(asked, EMPTY_PAUSE_S))
            elif len(frame) <= LITTLE_BYTES:
                pause_s = max(pause_s, self._early_s(asked, asked.pace_s))
            asked = ahead
            yield
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    def _early_s(self, asked: Asked, pace_s: float) -> float:
        """Return how long it is until the next request may follow a request at a pace."""
        return asked.sent_s + pace_s - self._loop.time()

    def _leads(self, node: int, haste: Haste) -> bool:
        """Tell whether the broker leads a partition of ours."""
        return any(self._loop_key(each) == (node, haste) for each in self._cursors.values())

    async def _wait_for_room(self) -> None:
        """Wait until something changes; look again soon, as leaders and backoffs do too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_BACKOFF_S):
                await self._changed.wait()
        self._changed.clear()

    def _lost(self, node: int, error: BaseException, backoff_s: float) -> None:
        self.errors_total += 1
        self._client.force_metadata_update()
        logger.warning(
            "broker %s: %s: %s; trying again in %.1f s",
            node, type(error).__name__, str(error) or "no answer", backoff_s,
            exc_info=None if isinstance(error, EXPECTED) else error,
        )  # fmt: skip

    def _ask(self, node: int, haste: Haste) -> Asked | None:
        """Reserve memory for the partitions of a broker that may be fetched now."""
        return self._reserve({each: each.offset for each in self._fetchable(node, haste)})

    def _fetchable(self, node: int, haste: Haste) -> list[Cursor]:
        """Return the partitions of a broker that may be fetched now, if memory has room."""
        now_s = self._loop.time()
        return [
            cursor
            for cursor in self._cursors.values()
            if cursor.readable
            and cursor.name not in self._held
            and cursor.not_before_s <= now_s
            and self._loop_key(cursor) == (node, haste)
        ]

    def _ask_ahead(
        self,
        frame: memoryview,
        sections: Sequence[wire.PartitionSection],
        asked: Asked,
        key: tuple[int, Haste],
    ) -> Asked | None:
        """Reserve memory for what comes after a response that is not parsed yet.

        Where an unpacked batch ends up is not known before, and an error changes what to
        do; then there is nothing to ask ahead. Partitions that were not in the request, as
        they had no room or are new, join the next one.
        """
        offsets = {
            cursor: asked.offsets[cursor.name]
            if asked.cursors.get(cursor.name) is cursor
            else cursor.offset
            for cursor in self._fetchable(*key)
            if cursor.needed_bytes <= self._memory.room(cursor.account)
        }
        found = False
        for section in sections:
            cursor = asked.cursors.get(TopicPartition(section.topic, section.partition))
            if section.error_code:
                return None
            if section.size == 0 or cursor is None or cursor not in offsets:
                continue
            next_offset, compressed = wire.skim(frame, section.start, section.size)
            if compressed or next_offset <= offsets[cursor]:
                return None
            offsets[cursor] = next_offset
            found = True
        return self._reserve(offsets) if found else None

    def _reserve(self, offsets: Mapping[Cursor, int]) -> Asked | None:
        """Reserve memory for a request; None if no partition of it has room."""
        if not offsets:
            return None
        needs = {cursor.account: cursor.needed_bytes for cursor in offsets}
        reservation = self._memory.reserve(needs)
        if not reservation.shares:
            self._memory.settle(reservation)
            return None
        cursors = {each.name: each for each in offsets if each.account in reservation.shares}
        return Asked(cursors, {name: offsets[each] for name, each in cursors.items()}, reservation)

    def _send(self, connection: FetchConnection, asked: Asked, haste: Haste) -> Awaited:
        may_be_urgent = any(each.plan.may_be_urgent for each in asked.cursors.values())
        self._requests += 1
        shares = asked.reservation.shares
        total_bytes = asked.reservation.total_bytes
        request = FetchRequest(
            wait_ms=self._wait_ms(haste),
            bytes_min=1 if may_be_urgent else min(BULK_BYTES_MIN, total_bytes),
            bytes_max=total_bytes,
            places={
                name: (offset, shares[asked.cursors[name].account])
                for name, offset in rotate(list(asked.offsets.items()), self._requests)
            },
        )
        asked.sent_s = self._loop.time()
        asked.pace_s = min(each.plan.pace_s for each in asked.cursors.values())
        return connection.send_fetch(request)

    def _wait_ms(self, haste: Haste) -> int:
        """Return how long the broker may hold a request that has nothing to bring."""
        if haste is Haste.MOST:
            return URGENT_WAIT_MS
        quick = self._held or self._loop.time() < self._quick_until_s
        return HELD_WAIT_MS if quick else SHARED_WAIT_MS

    # The response.

    def _take_in(
        self, frame: memoryview, sections: Sequence[wire.PartitionSection], asked: Asked
    ) -> None:
        """Parse a response and deliver it."""
        facts: list[Fetched | Stopped] = []
        try:
            for section in sections:
                name = TopicPartition(section.topic, section.partition)
                cursor = asked.cursors.get(name)
                if cursor is None or self._cursors.get(name) is not cursor or not cursor.readable:
                    continue  # revoked or stopped while the request was under way
                if section.error_code:
                    facts += self._refused(cursor, section)
                elif section.size and cursor.offset == asked.offsets[name]:
                    facts += self._parse(frame, section, cursor, asked)
        finally:  # the cursors of what was parsed have moved, whatever came after it
            if facts:
                self._deliver(facts)

    def _parse(
        self, frame: memoryview, section: wire.PartitionSection, cursor: Cursor, asked: Asked
    ) -> Iterable[Fetched | Stopped]:
        parsed = wire.parse_records(
            frame,
            section,
            asked_offset=cursor.offset,
            rule=cursor.plan.rule,
            lane_count=self._lane_count,
            max_bytes=self._memory.allowance(cursor.account, asked.reservation),
            batch_bytes_max=self._memory.wire_batch_bytes_max,
            decompress=decompress,
        )
        arrival = Arrival(self._clock.now_ns(), self._clock.epoch_ms())
        try:
            chunks = chunks_of(
                cursor.name,
                parsed.lanes,
                arrival,
                splitter=cursor.plan.splitter,
                in_blocks=cursor.plan.in_blocks,
            )
        except Exception as error:  # a codec of the user's, or a registry that is not there
            self._not_split(cursor, error)
            return
        moved = parsed.next_offset != cursor.offset
        cursor.offset = parsed.next_offset
        cursor.begun |= moved
        cursor.needed_bytes = parsed.needed_bytes
        num_bytes = sum(chunk.num_bytes for chunk in chunks)
        asked.moved |= moved
        self._memory.charge(cursor.account, num_bytes, asked.reservation)
        if moved:
            yield Fetched(
                partition=cursor.name,
                epoch=cursor.epoch,
                chunks=chunks,
                next_offset=parsed.next_offset,
                at_ns=arrival.at_ns,
            )
        if parsed.error is not None:
            yield self._lost_offsets.stop(
                cursor, f"{parsed.error}; its lanes stop here, other partitions go on"
            )

    def _not_split(self, cursor: Cursor, error: Exception) -> None:
        """Read a partition again later, because the lanes of its records cannot be told now."""
        cursor.not_before_s = self._loop.time() + SPLIT_BACKOFF_S
        self.errors_total += 1
        logger.warning(
            "%s[%s]: cannot tell the lanes of its records: %s: %s; trying again in %.0f s",
            *cursor.name, type(error).__name__, error, SPLIT_BACKOFF_S,
        )  # fmt: skip

    def _refused(self, cursor: Cursor, section: wire.PartitionSection) -> list[Fetched | Stopped]:
        """React to an error that the broker reports for one partition."""
        code = section.error_code
        place = cursor.place
        if code == OFFSET_OUT_OF_RANGE:
            return self._lost_offsets.out_of_range(cursor)
        if code == TOPIC_AUTHORIZATION_FAILED:
            why = f"{place}: not authorized to read; grant READ on the topic and restart"
            return [self._lost_offsets.stop(cursor, why)]
        cursor.not_before_s = self._loop.time() + RETRY_BACKOFF_S
        if code in STALE_METADATA:
            self._client.force_metadata_update()
            self._lost_offsets.doubt(cursor)
        else:
            self.errors_total += 1
            logger.warning("%s: %s; trying again", place, kafka_errors.for_code(code).__name__)
        return []


def rotate(items: list[Any], turn: int) -> list[Any]:
    """Return the items beginning at another one, so that none is always served last."""
    start = turn % max(1, len(items))
    return items[start:] + items[:start]
