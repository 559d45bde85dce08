"""What a live run asks of its broker: topics, and what its worker has committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from flowguard.errors import FlowguardError

__all__ = ["committed_offsets", "delete_topics", "make_topics", "partitions_of"]

#: A broker that is not there is known not to be after this.
REACH_WITHIN_MS: Final = 5000


async def connect(bootstrap: str) -> AIOKafkaAdminClient:
    """Return a started client.

    Raises:
        FlowguardError: No broker answers.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REACH_WITHIN_MS)
    try:
        await admin.start()
    except KafkaError as error:
        await admin.close()
        raise FlowguardError(
            f"no Kafka answers at {bootstrap}, and nothing was started; check --broker"
        ) from error
    return admin


async def make_topics(bootstrap: str, topics: Mapping[str, int]) -> None:
    """Create topics: name → partitions."""
    admin = await connect(bootstrap)
    try:
        await admin.create_topics([NewTopic(name, count, 1) for name, count in topics.items()])
    finally:
        await admin.close()


async def delete_topics(bootstrap: str, topics: Mapping[str, int]) -> None:
    """Delete topics; that a broker refuses is its business."""
    admin = await connect(bootstrap)
    try:
        await admin.delete_topics(list(topics))
    except KafkaError:
        pass
    finally:
        await admin.close()


async def committed_offsets(bootstrap: str, group: str) -> dict[str, dict[int, int]]:
    """Return a group's committed offset of each partition, by topic."""
    admin = await connect(bootstrap)
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    found: dict[str, dict[int, int]] = {}
    for place, at in offsets.items():
        found.setdefault(place.topic, {})[place.partition] = at.offset
    return found


async def partitions_of(bootstrap: str, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of those topics that exist."""
    admin = await connect(bootstrap)
    try:
        existing = set(await admin.list_topics())
        described = await admin.describe_topics([each for each in topics if each in existing])
    finally:
        await admin.close()
    return {each["topic"]: len(each["partitions"]) for each in described}
