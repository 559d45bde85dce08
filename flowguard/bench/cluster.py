"""Topics of a run: made before it, found, and deleted after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from flowguard.errors import FlowguardError
from flowguard.stress.embedded import answers

__all__ = ["create_topic", "delete_topics", "leaders_of", "reached", "topics"]

LEADER_ATTEMPTS: Final = 100
LEADER_PAUSE_S: Final = 0.1


def reached(broker: str) -> bool:
    """Tell whether one of the bootstrap servers answers."""
    addresses = [each.rpartition(":") for each in broker.split(",")]
    return any(port.isdigit() and answers(host, int(port)) for host, _, port in addresses)


@contextmanager
def topics(broker: str, *names: str, partitions: int) -> Iterator[None]:
    """Create topics, and delete them at the end of the `with` block."""
    made: list[str] = []
    try:
        for name in names:
            create_topic(broker, name, partitions)
            made.append(name)
        yield
    finally:
        delete_topics(broker, made)


def create_topic(broker: str, name: str, partitions: int) -> None:
    """Create a topic and wait until each partition has a leader.

    Raises:
        FlowguardError: The broker refused.
    """
    asyncio.run(_create_topic(broker, name, partitions))


def delete_topics(broker: str, names: Sequence[str]) -> None:
    """Delete topics; a broker that is gone by now keeps them."""
    asyncio.run(_delete_topics(broker, names))


def leaders_of(broker: str, topic: str) -> dict[int, str]:
    """Return partition → `host:port` of its leader."""
    return asyncio.run(_leaders_of(broker, topic))


@asynccontextmanager
async def admin_of(broker: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield an admin client; what the broker refuses becomes a FlowguardError."""
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    try:
        await client.start()
        yield client
    except KafkaError as error:
        raise FlowguardError(f"the broker at {broker} refused: {error!r}") from error
    finally:
        await client.close()


async def _create_topic(broker: str, name: str, partitions: int) -> None:
    async with admin_of(broker) as admin:
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1)
        response = await admin.create_topics([topic])
        for _, code, *why in response.topic_errors:
            if code:
                said = why[0] if why and why[0] else for_code(code).__name__
                raise FlowguardError(f"the broker did not create topic {name!r}: {said}")
    for _ in range(LEADER_ATTEMPTS):
        if len(await _leaders_of(broker, name)) == partitions:
            break
        await asyncio.sleep(LEADER_PAUSE_S)
    else:
        raise FlowguardError(f"topic {name!r} has no leaders after {LEADER_ATTEMPTS / 10:.0f} s")
    await _until_led(broker, name, partitions)


async def _until_led(broker: str, topic: str, partitions: int) -> None:
    """Wait until each leader acts as one: it is named a moment before it does."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker)
    await consumer.start()
    try:  # it asks again as long as one of them is not the leader
        await consumer.end_offsets([TopicPartition(topic, each) for each in range(partitions)])
    except KafkaError as error:
        raise FlowguardError(f"topic {topic!r} cannot be written to: {error!r}") from error
    finally:
        await consumer.stop()


async def _delete_topics(broker: str, names: Sequence[str]) -> None:
    if not names:
        return
    try:
        async with admin_of(broker) as admin:
            await admin.delete_topics(list(names))
    except FlowguardError:
        pass


async def _leaders_of(broker: str, topic: str) -> dict[int, str]:
    async with admin_of(broker) as admin:
        cluster: dict[str, Any] = await admin.describe_cluster()
        addresses = {
            each["node_id"]: f"{each['host']}:{each['port']}" for each in cluster["brokers"]
        }
        (described,) = await admin.describe_topics([topic])
        return {
            each["partition"]: addresses[each["leader"]]
            for each in described["partitions"]
            if each["leader"] in addresses
        }
