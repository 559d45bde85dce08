"""Read dead letters from the broker, piece by piece: a topic of millions needs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from flowguard.cli.broker import Access
from flowguard.cli.dlq_letters import Letter, Selection
from flowguard.cli.dlq_source import Source
from flowguard.cli.exit_codes import NO_BROKER, CommandError
from flowguard.cli.spans import ANSWER_WITHIN_S, Span, answered, not_before, spans_of

__all__ = ["Piece", "found_spans", "pieces"]

WAIT_MS: Final = 200

#: Enough that asking costs nothing, and little memory where each has a large value.
PIECE_RECORDS: Final = 500


@dataclass(frozen=True, slots=True)
class Piece:
    """Some letters of one partition, in order.

    Args:
        next_offset: All before it was read.
    """

    partition: TopicPartition
    letters: Sequence[Letter]
    next_offset: int


async def found_spans(source: Source) -> list[Span]:
    """Return all partitions of a source with what they hold now.

    Raises:
        CommandError: A topic that was named does not exist.
    """
    async with source.access.admin() as admin:
        topics = source.existing(await admin.list_topics())
    return await spans_of(source.access, topics)


async def pieces(
    access: Access, spans: list[Span], selection: Selection, *, records: int = PIECE_RECORDS
) -> AsyncGenerator[Piece, None]:
    """Yield the letters of some spans, those that are too old for a selection left out.

    Other letters that are not meant are among them. The last piece of a partition reaches to
    its end. Aborted letters are never seen.

    Raises:
        CommandError: The broker no longer answers, or what it sends cannot be read.
    """
    async with access.consumer() as consumer:
        wanted = await not_before(consumer, spans, selection.since_ms)
        for each in wanted:
            if not each.offsets:
                yield Piece(each.partition, (), each.end)
        ends = {each.partition: each.end for each in wanted if each.offsets}
        if not ends:
            return
        consumer.assign(list(ends))
        for each in wanted:
            if each.partition in ends:
                consumer.seek(each.partition, each.begin)
        async for piece in until(consumer, ends, records):
            yield piece


async def until(
    consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], records: int
) -> AsyncGenerator[Piece, None]:
    """Yield what a consumer reads until each partition is at its end."""
    clock = asyncio.get_running_loop().time
    moved_s = clock()
    at: dict[TopicPartition, int] = {}
    while ends:
        fetched = await fetch(consumer, list(ends), records)
        for partition, end in list(ends.items()):
            position = await answered(consumer.position(partition))
            if position == at.get(partition):
                continue
            at[partition], moved_s = position, clock()
            if position >= end:
                del ends[partition]
                consumer.pause(partition)
            letters = [letter_of(each) for each in fetched.get(partition, ()) if each.offset < end]
            yield Piece(partition, letters, min(position, end))
            moved_s = clock()  # what is done with them takes its time
        if ends and clock() - moved_s > ANSWER_WITHIN_S:
            raise CommandError(
                f"the broker sends no letters of {next(iter(ends)).topic} any more; "
                f"look at it, and try again",
                NO_BROKER,
            )


async def fetch(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], records: int
) -> Mapping[TopicPartition, Sequence[Any]]:
    """Ask for some records.

    Raises:
        CommandError: A header has a name that is no text.
    """
    try:
        fetched: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
            *partitions, timeout_ms=WAIT_MS, max_records=records
        )
    except UnicodeDecodeError as error:
        raise CommandError(
            f"{partitions[0].topic} has a record with a header whose name is no text, which "
            f"flowguard never writes; delete it with `flowguard dlq purge`, or let it expire"
        ) from error
    return fetched


def letter_of(record: Any) -> Letter:
    """Return a record of the dead-letter topic as a letter."""
    return Letter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
