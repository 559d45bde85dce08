"""What the partitions of a topic hold when a command looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from flowguard.cli.broker import Access
from flowguard.cli.exit_codes import NO_BROKER, CommandError

__all__ = ["ANSWER_WITHIN_S", "Span", "answered", "not_before", "spans_of"]

#: How long one question to the broker may take until it counts as unanswered.
ANSWER_WITHIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Span:
    """What a partition holds, as it was when the command began.

    What arrives later is not part of it: letters that come back while they are redriven
    would never end.
    """

    partition: TopicPartition
    begin: int
    end: int

    @property
    def offsets(self) -> int:
        """How many offsets it has; markers of transactions count."""
        return max(0, self.end - self.begin)

    def from_(self, offset: int) -> Span:
        """Return what of it is not before an offset."""
        return replace(self, begin=min(self.end, max(self.begin, offset)))


async def spans_of(access: Access, topics: Sequence[str]) -> list[Span]:
    """Return all partitions of topics that exist with what they hold now: committed records."""
    if not topics:
        return []
    async with access.admin() as admin:
        described = await answered(admin.describe_topics(list(topics)))
    places = [
        TopicPartition(each["topic"], partition["partition"])
        for each in sorted(described, key=lambda topic: topics.index(topic["topic"]))
        for partition in sorted(each["partitions"], key=lambda one: int(one["partition"]))
    ]
    async with access.consumer() as consumer:
        begins = await answered(consumer.beginning_offsets(places))
        ends = await answered(consumer.end_offsets(places))
    return [Span(each, begins[each], ends[each]) for each in places]


async def not_before(
    consumer: AIOKafkaConsumer, spans: Sequence[Span], moment_ms: int
) -> list[Span]:
    """Return what of these spans begins with the first record that is not older."""
    if not moment_ms or not spans:
        return list(spans)
    asked = {each.partition: moment_ms for each in spans}
    found = await answered(consumer.offsets_for_times(asked))
    return [
        each.from_(each.end if (at := found[each.partition]) is None else at.offset)
        for each in spans
    ]


async def answered(question: Any) -> Any:
    """Wait for an answer of the broker, but not for ever.

    Raises:
        CommandError: There was none in time.
    """
    try:
        return await asyncio.wait_for(question, ANSWER_WITHIN_S)
    except TimeoutError as error:
        raise CommandError("the broker does not answer; look at it, and try again",
                           NO_BROKER) from error  # fmt: skip
