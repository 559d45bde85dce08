"""Positions of a group as the coordinator keeps them, asked for and stored within bounds.

aiokafka's own ways go on for as long as an error may pass: a commit with one topic in it that
was deleted never ends, and a partition without a leader holds up the positions of all others
until Faust ends the process. Runs on the consumer's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

__all__ = ["EARLIEST", "LATEST", "find_offsets", "store"]

logger = logging.getLogger(__name__)

#: A commit that took longer is left for the next one; nothing is lost by it.
COMMIT_WITHIN_S: Final = 5.0
COMMIT_AGAIN_S: Final = 0.1

#: Where a log begins or ends its leader knows at once, if there is one. Whoever has not said so
#: within this is asked again, while the other partitions are read.
FIND_WITHIN_S: Final = 3.0

#: What they are called in requests.
LATEST: Final = -1
EARLIEST: Final = -2


async def store(
    client: Any,
    offsets: Mapping[TopicPartition, OffsetAndMetadata],
    commit: Callable[[Mapping[TopicPartition, OffsetAndMetadata]], Awaitable[bool]],
) -> bool:
    """Commit, and try again for a short while where an error may pass by itself.

    Partitions of topics that are gone are left out.

    Args:
        client: aiokafka's client.
        commit: Commits once; returns whether that was ours to do.

    Returns:
        Whether it was ours to do.

    Raises:
        CommitFailedError, KafkaError, TimeoutError: Not everything is stored.
    """
    left = dict(offsets)
    async with asyncio.timeout(COMMIT_WITHIN_S):
        while left:
            try:
                return await commit(left)
            except UnknownTopicOrPartitionError:
                before, left = left, await still_there(client, left)
                if before == left:  # if one was made anew meanwhile, these are not its offsets
                    raise
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(COMMIT_AGAIN_S)
    return True


async def still_there(
    client: Any, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the offsets of those partitions that the cluster has."""
    await client.force_metadata_update()
    left = {
        name: each
        for name, each in offsets.items()
        if name.partition in (client.cluster.partitions_for_topic(name.topic) or ())
    }
    if gone := sorted({name.topic for name in offsets.keys() - left.keys()}):
        logger.warning(
            "%s: the topic is gone; its offsets are not committed, all others are", ", ".join(gone)
        )
    return left


async def find_offsets(
    consumer: Any, names: Collection[TopicPartition], which: int
) -> dict[TopicPartition, int]:
    """Return where these partitions begin or end, of those whose leaders say so.

    Args:
        which: `EARLIEST` or `LATEST`.
    """
    if found := await ask(consumer, list(names), which):
        return found
    # One that cannot be asked spoils the answers of all: ask each for itself.
    found = {}
    for answer in await asyncio.gather(*(ask(consumer, [name], which) for name in names)):
        found |= answer
    return found


async def ask(
    consumer: Any, names: Sequence[TopicPartition], which: int
) -> dict[TopicPartition, int]:
    """Return offsets of all of these partitions, or of none."""
    try:
        found = await consumer._fetcher._retrieve_offsets(
            dict.fromkeys(names, which), round(FIND_WITHIN_S * 1e3)
        )
    except (KafkaError, TimeoutError) as error:
        logger.debug("no offsets of %s: %r", names, error)
        return {}
    return {name: offset for name, (offset, _) in found.items()}
