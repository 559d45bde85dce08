"""What becomes of a partition whose position means nothing any more.

A position is lost when the log does not have it (retention was faster than we, or the log was
cut), and when the topic was deleted and made anew: then it is of another log, even if the new
one has such an offset. What to do is the feed's policy, `on_offset_loss`; nothing is passed over
or read again in silence. Runs on the consumer's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from aiokafka import errors as kafka_errors

from flowguard.chunk import TopicPartition
from flowguard.clock import Clock
from flowguard.facts import Fetched, Stopped
from flowguard.intake.cursors import Cursor
from flowguard.intake.topic_lives import TopicLives

__all__ = ["LostOffsets"]

logger = logging.getLogger(__name__)

RETRY_BACKOFF_S: Final = 0.1

#: How asking a broker may fail.
EXPECTED: Final = (OSError, TimeoutError, kafka_errors.KafkaError)

MADE_ANEW: Final = (
    "%s: the topic was deleted and made anew, and offset %s is of the former one; the partition "
    "stops. To read the new one, set on_offset_loss to 'earliest' or 'latest', or reset the "
    "group's offset and restart"
)
NOT_THERE: Final = (
    "%s: offset %s is not in the log any more, so records were lost before they were read; the "
    "partition stops. To go on, set on_offset_loss to 'earliest' or 'latest', or reset the "
    "group's offset"
)


class LostOffsets:
    """Stops cursors, or moves them, as their feeds say.

    Args:
        client: aiokafka's, for who leads what.
        cursors: Returns all that are being read.
        deliver: Takes in facts.
        find_offset: Coroutine: partition, "earliest" or "latest" → offset.
        begin_anew: Called with partition, epoch and offset where what is held of a partition is
            of another log, and has to be let go.
        lives: Tells which topic it is; None takes all for the same.
        moved: Called when a cursor can be read again.
    """

    def __init__(
        self,
        *,
        client: Any,
        cursors: Callable[[], Iterable[Cursor]],
        deliver: Callable[[Sequence[Fetched | Stopped]], None],
        find_offset: Callable[[TopicPartition, str], Any],
        begin_anew: Callable[[TopicPartition, int, int], None],
        lives: TopicLives | None,
        moved: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._cursors = cursors
        self._deliver = deliver
        self._find_offset = find_offset
        self._begin_anew = begin_anew
        self._lives = lives
        self._moved = moved
        self._clock = clock
        self._verifying: set[str] = set()
        #: Of partitions, not topics: one that is let go while the answer is on its way, and comes
        #: back with a position of the former topic, has not been told yet.
        self._topic_ids: dict[TopicPartition, bytes] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def stop(self, cursor: Cursor, why: str) -> Stopped:
        """Read a partition no further, and say so."""
        cursor.stopped = True
        logger.error("%s", why)
        return Stopped(
            partition=cursor.name, epoch=cursor.epoch, why=why, at_ns=self._clock.now_ns()
        )

    def out_of_range(self, cursor: Cursor) -> list[Fetched | Stopped]:
        """React to a broker that does not have the next offset."""
        if cursor.plan.on_offset_loss == "stop":
            return [self.stop(cursor, NOT_THERE % (cursor.place, cursor.offset))]
        cursor.losing = True
        self._run(self._find_again(cursor))
        return []

    async def _find_again(self, cursor: Cursor) -> None:
        policy = cursor.plan.on_offset_loss
        try:
            offset = await self._find_offset(cursor.name, policy)
        except EXPECTED as error:
            logger.warning("%s: cannot find the %s offset: %r", cursor.place, policy, error)
            cursor.not_before_s = asyncio.get_running_loop().time() + RETRY_BACKOFF_S
            cursor.losing = False
            return
        logger.warning(
            "%s: offset %s is not in the log any more; going on at the %s one, %s",
            cursor.place, cursor.offset, policy, offset,
        )  # fmt: skip
        if offset < cursor.offset:  # the log was cut: what is counted is not of what it has now
            self._begin_anew(cursor.name, cursor.epoch, offset)
            return
        cursor.offset = offset
        cursor.losing = False
        passed_over = Fetched(
            partition=cursor.name,
            epoch=cursor.epoch,
            chunks=(),
            next_offset=offset,
            at_ns=self._clock.now_ns(),
        )
        self._deliver([passed_over])
        self._moved()

    # Topics that were made anew.

    def doubt(self, cursor: Cursor) -> None:
        """Read, and commit, only once it is certain which topic it is."""
        if self._lives is None:
            return
        cursor.doubted = True
        topic = cursor.name.topic
        if topic not in self._verifying:
            self._verifying.add(topic)
            self._run(self._verify(self._lives, topic))

    async def _verify(self, lives: TopicLives, topic: str) -> None:
        """Ask until it is known which topic it is, and let its partitions go on."""
        try:
            topic_id = await self._find_id(lives, topic)
        finally:
            self._verifying.discard(topic)
        for cursor in self._of(topic):
            cursor.doubted = False
            if self._is_other(cursor.name, topic_id) and not cursor.stopped and not cursor.losing:
                cursor.losing = cursor.former = True
                self._run(self._go_to_new(cursor))
        self._moved()

    async def _find_id(self, lives: TopicLives, topic: str) -> bytes | None:
        """Return what who leads the topic says; None without ids, and once it is not ours."""
        while cursors := self._of(topic):
            leader = self._client.cluster.leader_for_partition(cursors[0].name)
            if leader is not None and leader >= 0:
                try:
                    return await lives.id_of(topic, leader)
                except EXPECTED as error:
                    logger.debug("%s: which topic it is cannot be told: %r", topic, error)
            self._client.force_metadata_update()
            await asyncio.sleep(RETRY_BACKOFF_S)
        return None

    def _is_other(self, name: TopicPartition, topic_id: bytes | None) -> bool:
        """Tell whether a partition was of another topic when it was last ours."""
        if topic_id is None:
            return False
        before = self._topic_ids.get(name, topic_id)
        self._topic_ids[name] = topic_id
        return before != topic_id

    def _of(self, topic: str) -> list[Cursor]:
        return [cursor for cursor in self._cursors() if cursor.name.topic == topic]

    async def _go_to_new(self, cursor: Cursor) -> None:
        """Do as the feed says where offsets are lost: all those of the former topic are."""
        policy = cursor.plan.on_offset_loss
        first, offset = await self._find_in_new(cursor)
        if not cursor.begun and cursor.offset <= first:  # nobody had a position in the former
            logger.warning(
                "%s: the topic was deleted and made anew; it is read from its beginning",
                cursor.place,
            )
            cursor.losing = cursor.former = False
            self._moved()
        elif policy == "stop":
            self._deliver([self.stop(cursor, MADE_ANEW % (cursor.place, cursor.offset))])
        else:
            logger.warning(
                "%s: the topic was deleted and made anew, and offset %s is of the former one; "
                "going on at the %s one, %s", cursor.place, cursor.offset, policy, offset,
            )  # fmt: skip
            self._begin_anew(cursor.name, cursor.epoch, offset)

    async def _find_in_new(self, cursor: Cursor) -> tuple[int, int]:
        """Return where the new log begins, and where its feed wants to go on."""
        while True:  # until `stop` of the fetcher, if the partition is never led again
            try:
                first = await self._find_offset(cursor.name, "earliest")
                if cursor.plan.on_offset_loss != "latest":
                    return first, first
                return first, await self._find_offset(cursor.name, "latest")
            except EXPECTED as error:
                logger.warning("%s: cannot find an offset: %r", cursor.place, error)
                await asyncio.sleep(RETRY_BACKOFF_S)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
