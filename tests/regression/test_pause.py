"""A paused partition of aiokafka throws away what it had read, and reads it again.

flowguard pauses the partitions of feeds there for good and reads them itself; how its own fetcher
holds one, and loses nothing, is `tests/unit/intake/test_hold.py`.
"""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

ORDERS = TopicPartition("orders", 0)


def wire_batch() -> bytes:
    """Return three records as a broker sends them."""
    builder = DefaultRecordBatchBuilder(
        2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=4096,
    )  # fmt: skip
    for offset in range(3):
        builder.append(offset, timestamp=0, key=None, value=b"v", headers=[])
    return bytes(builder.build())


async def test_a_paused_partition_of_aiokafka_has_lost_what_was_read() -> None:
    subscription = SubscriptionState()
    subscription.subscribe({"orders"})
    subscription.assign_from_subscribed({ORDERS})
    assignment = subscription.subscription.assignment
    assignment.state_value(ORDERS).seek(0)
    records = PartitionRecords(
        ORDERS, MemoryRecords(wire_batch()), [], 0, None, None, check_crcs=False, isolation_level=0
    )
    fetched = FetchResult(ORDERS, assignment=assignment, partition_records=records, backoff=0)

    subscription.pause(ORDERS)
    assert fetched.getall() == []
    subscription.resume(ORDERS)

    assert not fetched.has_more()
