"""What Kafka remembers of a consumer group, and how a command changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from flowguard.cli.broker import Access
from flowguard.cli.spans import answered

__all__ = ["Commit", "commit_offsets", "committed_offsets", "members_of"]

Result = TypeVar("Result")

#: The first question about a group has the broker make its topic, which takes a moment.
ATTEMPTS: Final = 20
PAUSE_S: Final = 0.5


class Commit(NamedTuple):
    """A committed offset with what stands beside it."""

    offset: int
    metadata: str


async def committed_offsets(access: Access, group: str) -> dict[TopicPartition, Commit]:
    """Return all that a group has committed."""
    async with access.admin() as admin:
        found = await patiently(lambda: admin.list_consumer_group_offsets(group))
    return {
        each: Commit(commit.offset, commit.metadata or "")
        for each, commit in found.items()
        if commit.offset >= 0
    }


async def members_of(access: Access, group: str) -> int:
    """Return how many members a group has now; 0 of a group that does not exist."""
    async with access.admin() as admin:
        responses = await patiently(lambda: admin.describe_consumer_groups([group]))
    # error code, group, state, protocol type, protocol, members, …
    return sum(len(each[5]) for response in responses for each in response.groups)


async def commit_offsets(
    access: Access, group: str, commits: Mapping[TopicPartition, Commit]
) -> None:
    """Set offsets of a group that has no members; with members the broker refuses."""
    async with access.consumer(group) as consumer:
        consumer.assign(list(commits))
        consumer.pause(*commits)  # it only commits
        await answered(consumer.commit({each: tuple(commit) for each, commit in commits.items()}))


async def patiently(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask again while the broker says that this will pass."""
    for _ in range(ATTEMPTS):
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(PAUSE_S)
    return await ask()
