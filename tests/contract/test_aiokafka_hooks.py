"""aiokafka's hooks, pinned by what they do. `tests/unit/intake` has the connection at work."""

from __future__ import annotations

import asyncio
import inspect
import io
import struct

import aiokafka
import pyarrow as pa
import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.protocol.fetch import FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.transaction import (
    InitProducerIdRequest,
    InitProducerIdRequest_v0,
    InitProducerIdResponse_v0,
)

from flowguard._native import wire
from flowguard._native.record_batches import Rows
from flowguard.intake.consumer_thread import FeedSubscription
from flowguard.intake.produce_connection import read_answer, request_of
from tests.native.batches import Row, frame_of, wire_batch
from tests.scripted_broker import ScriptedBroker

FEED, PLAIN = TopicPartition("orders", 0), TopicPartition("plain", 0)


def subscribed() -> FeedSubscription:
    subscription = FeedSubscription(is_feed=lambda topic: topic == "orders")
    subscription.subscribe({"orders", "plain"})
    subscription.assign_from_subscribed({FEED, PLAIN})
    return subscription


async def test_feed_partitions_are_paused_the_moment_they_are_assigned() -> None:
    subscription = subscribed()

    assert subscription.paused_partitions() == {FEED}
    assert subscription.assigned_partitions() == {FEED, PLAIN}


async def test_a_paused_partition_stays_so_through_another_assignment() -> None:
    subscription = subscribed()

    subscription.assign_from_subscribed({FEED})

    assert subscription.paused_partitions() == {FEED}


async def test_polling_is_noted_by_entering_the_fetch_context() -> None:
    subscription = subscribed()

    with subscription.fetch_context():
        pass

    assert subscription.fetcher_idle_time == pytest.approx(0, abs=5)
    assert isinstance(subscription, SubscriptionState)


def test_the_consumer_has_the_parts_we_reach_for() -> None:
    source = inspect.getsource(aiokafka.AIOKafkaConsumer)

    for part in ("self._subscription", "self._client", "self._coordinator"):
        assert part in source


def test_committed_offsets_are_fetched_with_their_metadata() -> None:
    parameters = inspect.signature(GroupCoordinator.fetch_committed_offsets).parameters

    assert list(parameters) == ["self", "partitions"]
    assert inspect.iscoroutinefunction(GroupCoordinator.fetch_committed_offsets)


def test_a_partition_without_metadata_has_no_leader() -> None:
    cluster = ClusterMetadata()

    assert cluster.leader_for_partition(FEED) is None
    assert cluster.broker_metadata(1) is None


def test_the_client_has_the_credentials_of_connections() -> None:
    source = inspect.getsource(AIOKafkaClient.__init__)

    for name in (
        "_client_id", "_request_timeout_ms", "_ssl_context", "_security_protocol",
        "_sasl_mechanism", "_sasl_plain_username", "_sasl_plain_password",
        "_sasl_kerberos_service_name", "_sasl_kerberos_domain_name", "_sasl_oauth_token_provider",
    ):  # fmt: skip
        assert f"self.{name} =" in source


async def test_a_connection_can_be_taken_over_once_it_has_negotiated() -> None:
    async with ScriptedBroker(fetch_versions=(4, 16)).running() as broker:
        connection = AIOKafkaConnection("127.0.0.1", broker.port)
        await connection.connect()
        try:
            assert connection._versions[1] == (4, 16)
            assert connection._writer.transport.get_protocol() is connection._protocol
            assert connection._reader is not None
            assert not connection._read_task.done()
            assert connection.connected()
            first, second = connection._next_correlation_id(), connection._next_correlation_id()
            assert second == first + 1
        finally:
            connection.close()


def test_our_parser_and_aiokafka_read_the_same_response() -> None:
    frame = frame_of(wire_batch([Row(value=b"v")]))

    _, _, (section,) = wire.read_fetch_response(frame)
    theirs = FetchResponse_v11.decode(io.BytesIO(frame))

    ((topic, ((partition, error, high, stable, start, *_),)),) = theirs.topics
    assert (section.topic, section.partition, section.error_code) == (topic, partition, error)
    assert (section.high_watermark, section.last_stable_offset) == (high, stable)
    assert section.log_start_offset == start


async def test_what_aiokafka_still_has_to_send_is_found_by_topic() -> None:
    accumulator = MessageAccumulator(ClusterMetadata(), 4096, 0, 30)
    sent = await accumulator.add_message(FEED, b"k", b"v", 1)

    (batch,) = accumulator._batches[FEED]
    assert batch.tp.topic == "orders"
    assert not accumulator._pending_batches

    taken = accumulator._pop_batch(FEED)
    assert accumulator._pending_batches == {taken}
    taken.done(base_offset=5)
    await batch.future
    assert sent.result().offset == 5
    await asyncio.sleep(0)
    assert not accumulator._pending_batches
    source = inspect.getsource(aiokafka.AIOKafkaProducer.__init__)
    assert "self._message_accumulator" in source and "self.client =" in source


def test_packers_take_bytes_and_return_what_kafka_reads() -> None:
    data = b"something to pack " * 100

    for pack in (gzip_encode, snappy_encode, lz4_encode, zstd_encode):
        assert len(pack(data)) < len(data)


def test_a_producer_id_is_asked_for_without_a_transaction() -> None:
    request = InitProducerIdRequest(None, 0x7FFFFFFF).build(InitProducerIdRequest_v0)

    assert request.encode() == struct.pack(">hi", -1, 0x7FFFFFFF)
    answer = InitProducerIdResponse_v0.decode(io.BytesIO(struct.pack(">ihqh", 0, 0, 77, 3)))
    assert (answer.error_code, answer.producer_id, answer.producer_epoch) == (0, 77, 3)


async def test_a_produce_request_v7_is_laid_out_as_aiokafka_does() -> None:
    (_, batch), (_, other) = Rows(
        pa.nulls(2, pa.binary()), pa.array([b"a", b"bb"]), pa.array([1, 2], pa.int32()),
        pa.array([0, 0], pa.int64()), b"\0", 3,
    ).encode(4096)  # fmt: skip
    batch.seal(1, 2, 3)
    other.seal(1, 2, 4)
    names = [TopicPartition("t", 1), TopicPartition("t", 2)]
    ours = b"".join(request_of(9, "me", dict(zip(names, (batch, other), strict=True))))

    theirs = ProduceRequest_v7(
        None, -1, 30_000, [("t", [(1, bytes(memoryview(batch))), (2, bytes(memoryview(other)))])]
    )
    header = theirs.build_request_header(correlation_id=9, client_id="me").encode()
    body = header + theirs.encode()
    assert ours == struct.pack(">i", len(body)) + body


def test_an_answer_of_produce_v7_says_what_each_partition_met() -> None:
    answer = ProduceResponse_v7(
        topics=[("t", [(1, 0, 5, -1, 0), (2, 6, -1, -1, 0)]), ("u", [(0, 10, -1, -1, 0)])],
        throttle_time_ms=0,
    ).encode()

    assert read_answer(memoryview(struct.pack(">i", 9) + answer)) == (
        9, {TopicPartition("t", 1): 0, TopicPartition("t", 2): 6, TopicPartition("u", 0): 10}
    )  # fmt: skip
