"""Send dead letters back, each acknowledged before it counts as redriven."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from flowguard.cli.broker import Access, worded
from flowguard.cli.dlq_letters import REDRIVEN, Letter, Selection, original_headers
from flowguard.cli.dlq_progress import METADATA_BYTES_MAX, Progress, decoded, encoded
from flowguard.cli.dlq_reading import PIECE_RECORDS, Piece, pieces
from flowguard.cli.dlq_source import group_of
from flowguard.cli.exit_codes import CommandError
from flowguard.cli.groups import committed_offsets
from flowguard.cli.spans import Span, answered

__all__ = ["Order", "Redriver", "Sorted", "check_room", "remembered"]

#: All replicas acknowledge a batch in this time, or something is wrong with the broker.
ACKNOWLEDGED_WITHIN_S: Final = 60.0

#: With --rate, so often a second something is sent.
TICKS_PER_S: Final = 10

#: Letters that cannot be redriven are named up to so many; all are counted.
NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be redriven.

    Args:
        selection: Which letters.
        to: The topic; None is each letter's original one.
        limit: Most letters.
        rate_per_s: Most letters a second; None is as fast as the broker takes them.
        again: Also what was redriven before.
    """

    selection: Selection
    to: str | None = None
    limit: int | None = None
    rate_per_s: float | None = None
    again: bool = False

    def target(self, letter: Letter) -> str | None:
        """Return where a letter goes, None if nobody knows."""
        return self.to or letter.original_topic


@dataclass(slots=True)
class Sorted:
    """What became of the letters so far, or would.

    Args:
        sent: By topic.
        before: Redriven by an earlier run.
        left_out: Of these the value was too large to be kept.
        foreign: These do not say where they belong.
        named: Positions of some that cannot be redriven.
    """

    sent: Counter[str] = field(default_factory=Counter)
    before: int = 0
    left_out: int = 0
    foreign: int = 0
    named: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many were sent."""
        return self.sent.total()

    def take(self, letter: Letter, order: Order, done: Progress) -> bool:
        """Count a letter, and tell whether it is to be sent."""
        if not order.selection.has(letter):
            return False
        if done.has(letter):
            self.before += 1
            return False
        target = order.target(letter)
        if letter.value_left_out or target is None:
            self.left_out += letter.value_left_out
            self.foreign += not letter.value_left_out
            if len(self.named) < NAMED:
                self.named.append(letter.place)
            return False
        self.sent[target] += 1
        return True


async def remembered(access: Access, spans: Sequence[Span]) -> dict[TopicPartition, Progress]:
    """Return how far each partition was redriven before."""
    found = {each.partition: Progress() for each in spans}
    ends = {each.partition: each.end for each in spans}
    for topic in dict.fromkeys(each.topic for each in found):
        for partition, commit in (await committed_offsets(access, group_of(topic))).items():
            # More than there is: it is another topic of the same name now.
            if commit.offset <= ends.get(partition, -1):
                found[partition] = decoded(*commit)
    return found


def check_room(
    progress: Mapping[TopicPartition, Progress], order: Order, spans: Sequence[Span]
) -> None:
    """Raise before anything is sent if it could not be remembered.

    Raises:
        CommandError: Too many selections are remembered already.
    """
    for span in spans:
        after = progress[span.partition].advanced(order.selection, span.end)
        if len(encoded(after).encode()) > METADATA_BYTES_MAX:
            raise CommandError(
                f"nothing is redriven: {span.partition.topic} was redriven by so many different "
                f"selections that another one cannot be remembered; redrive all of it, without "
                f"--type, --orig-topic and --since"
            )


class Redriver:
    """Sends the letters of one topic, and commits how far it is after each batch.

    Args:
        topics: Every topic there is.
        progress: How far each partition of the letters is; changed as it goes on.
        done: What is not to be sent again.
        result: Counts what is done.
    """

    def __init__(
        self,
        access: Access,
        order: Order,
        *,
        producer: AIOKafkaProducer,
        committer: AIOKafkaConsumer,
        topics: frozenset[str],
        progress: dict[TopicPartition, Progress],
        done: Mapping[TopicPartition, Progress],
        result: Sorted,
    ) -> None:
        self._access = access
        self._order = order
        self._producer = producer
        self._committer = committer
        self._topics = topics
        self._progress = progress
        self._done = done
        self._result = result
        self._began_s = time.monotonic()

    async def run(self, spans: list[Span]) -> None:
        """Redrive all letters of these spans that are meant and not done.

        Raises:
            CommandError: A letter was not acknowledged; those before are committed.
        """
        partitions = [each.partition for each in spans]
        self._committer.assign(partitions)
        self._committer.pause(*partitions)  # it only commits
        found = pieces(self._access, spans, self._order.selection, records=self._piece_records())
        async with aclosing(found):
            async for piece in found:
                if await self._redrive(piece):
                    return

    def _piece_records(self) -> int:
        rate = self._order.rate_per_s
        if rate is None:
            return PIECE_RECORDS
        return max(1, min(PIECE_RECORDS, int(rate / TICKS_PER_S)))

    async def _redrive(self, piece: Piece) -> bool:
        """Send a piece, wait until it is acknowledged, commit; tell whether that was the limit."""
        limit = self._order.limit
        done = self._done[piece.partition]
        chosen: list[Letter] = []
        until = piece.next_offset
        for letter in piece.letters:
            if limit is not None and self._result.total >= limit:
                until = letter.offset
                break
            if self._result.take(letter, self._order, done):
                chosen.append(letter)
        if chosen:
            await self._pace(len(chosen))
            await self._send(chosen)
        progress = self._progress[piece.partition]
        await self._commit(piece.partition, progress.advanced(self._order.selection, until))
        return limit is not None and self._result.total >= limit

    async def _pace(self, count: int) -> None:
        """Wait until as many letters may be sent as the rate permits."""
        if self._order.rate_per_s is not None:
            due_s = self._began_s + (self._result.total - count) / self._order.rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _send(self, letters: Sequence[Letter]) -> None:
        """Send letters and wait until all are acknowledged.

        Raises:
            CommandError: One was not; nothing of this is committed.
        """
        for target in {str(self._order.target(each)) for each in letters}:
            if target not in self._topics:
                raise stopped(
                    next(each for each in letters if self._order.target(each) == target),
                    f"its topic {target!r} does not exist; create it, or choose others with "
                    f"--orig-topic, or another topic with --to",
                )
        acknowledged: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN_S):
                for letter in letters:  # one by one: what was handed over counts
                    acknowledged.append(await self._hand_over(letter))  # noqa: PERF401
                await asyncio.wait(acknowledged)
            failures = [each.exception() for each in acknowledged]
        except (KafkaError, TimeoutError) as error:
            taken = sum(1 for _ in takewhile(is_taken, acknowledged))
            letters = letters[taken : taken + 1] or letters[-1:]
            failures = [error]
            abandon(acknowledged)
        for letter, failure in zip(letters, failures, strict=True):
            if failure is not None:
                raise stopped(
                    letter,
                    f"{self._order.target(letter)!r} did not take it: {said(failure)}; choose "
                    f"others with --type or --orig-topic, or another topic with --to",
                ) from failure

    async def _hand_over(self, letter: Letter) -> asyncio.Future[Any]:
        """Give a letter to the producer, as the record that it was."""
        topic = str(self._order.target(letter))
        partition = await self._partition(letter, topic)
        headers = [pair for pair in original_headers(letter) if pair[0] != REDRIVEN]
        headers.append((REDRIVEN, str(letter.redriven + 1).encode()))
        timestamp_ms = letter.original_timestamp_ms
        if letter.key is None and letter.value is None:  # `send` takes neither
            batch = self._producer.create_batch()
            batch.append(timestamp=timestamp_ms, key=None, value=None, headers=headers)
            batch.close()
            sent: asyncio.Future[Any] = await self._producer.send_batch(
                batch, topic, partition=partition or 0
            )
            return sent
        sent = await self._producer.send(
            topic, letter.value, letter.key, partition, timestamp_ms, headers
        )
        return sent

    async def _partition(self, letter: Letter, topic: str) -> int | None:
        """Return where a record goes: back to where it was, elsewhere by its key (None)."""
        count = len(await self._producer.partitions_for(topic))
        was = letter.original_partition
        if topic == letter.original_topic and was is not None and was < count:
            return was
        if letter.key is not None:
            return None
        return (letter.partition if was is None else was) % count

    async def _commit(self, partition: TopicPartition, progress: Progress) -> None:
        if progress == self._progress[partition]:
            return
        self._progress[partition] = progress
        commit = {partition: (progress.offset, encoded(progress))}
        await answered(self._committer.commit(commit))


def is_taken(acknowledged: asyncio.Future[Any]) -> bool:
    """Tell whether a letter is acknowledged."""
    return acknowledged.done() and not acknowledged.cancelled() and acknowledged.exception() is None


def abandon(acknowledged: Sequence[asyncio.Future[Any]]) -> None:
    """Wait no longer for these; what became of them is nobody's business."""
    for each in acknowledged:
        if not each.cancel() and not each.cancelled():
            each.exception()


def said(error: BaseException) -> str:
    """Return why a letter was not taken."""
    if isinstance(error, TimeoutError):
        return f"no answer within {ACKNOWLEDGED_WITHIN_S:.0f} s"
    return worded(error)


def stopped(letter: Letter, why: str) -> CommandError:
    """Return the error of a letter that stops the run."""
    return CommandError(f"stopped at {letter.place}, what was before it is redriven: {why}")
