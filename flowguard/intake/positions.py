"""Positions of a group as the coordinator keeps them, asked for and stored within bounds.

aiokafka's own ways go on for as long as an error may pass: a commit with one topic in it that
was deleted never ends, and a partition without a leader holds up the positions of all others
until Faust ends the process. Runs on the consumer's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

__all__ = ["EARLIEST", "LATEST", "find_offsets", "store"]

logger = logging.getLogger(__name__)

#: A commit that took longer is left for the next one; nothing is lost by it.
COMMIT_WITHIN_S: Final = 5.0

#: Where a log begins or ends its leader knows at once, if there is one. Whoever has not said so
#: within this is asked again, while the other partitions are read.
FIND_WITHIN_S: Final = 3.0

#: What they are called in requests.
LATEST: Final = -1
EARLIEST: Final = -2


async def store(consumer: Any, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Commit, and try again for a short while where an error may pass by itself.

    Partitions of topics that are gone are left out.

    Raises:
        CommitFailedError, KafkaError, TimeoutError: Not everything is stored.
    """
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None:
        raise IllegalStateError("no partitions are assigned")
    coordinator = consumer._coordinator
    left = dict(offsets)
    async with asyncio.timeout(COMMIT_WITHIN_S):
        while left:
            await coordinator.ensure_coordinator_known()
            try:
                async with coordinator._commit_lock:
                    # It is not cancelled: half a request would end the connection of the group.
                    storing = asyncio.ensure_future(
                        coordinator._do_commit_offsets(assignment, left)
                    )
                    storing.add_done_callback(look_at)
                    await asyncio.shield(storing)
                return
            except UnknownTopicOrPartitionError:
                before, left = left, await still_there(consumer._client, left)
                if before == left:  # if one was made anew meanwhile, these are not its offsets
                    raise
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(coordinator._retry_backoff_ms / 1e3)


def look_at(stored: asyncio.Future[None]) -> None:
    """Look at how a commit ended for which nobody waits any more."""
    if not stored.cancelled():
        stored.exception()


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
