"""aiokafka's hooks, pinned by what they do. `tests/unit/intake` has the connection at work."""

from __future__ import annotations

import inspect
import io
import struct

import aiokafka
import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11

from flowguard._native import wire
from flowguard.intake.consumer import FeedSubscription
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


def test_a_fetch_request_v11_is_laid_out_as_the_protocol_says() -> None:
    request = FetchRequest_v11(
        -1, 500, 1, 4096, 1, 0, -1, [("t", [(3, -1, 77, -1, 1024)])], [], "rack"
    )

    expected = struct.pack(">iiiibii", -1, 500, 1, 4096, 1, 0, -1)
    expected += struct.pack(">ih1si", 1, 1, b"t", 1) + struct.pack(">iiqqi", 3, -1, 77, -1, 1024)
    expected += struct.pack(">ih4s", 0, 4, b"rack")

    assert request.encode() == expected
    assert (request.API_KEY, request.API_VERSION) == (1, 11)


def test_a_request_header_v1_comes_before_it() -> None:
    request = FetchRequest_v11(-1, 0, 0, 0, 0, 0, -1, [], [], "")

    header = request.build_request_header(correlation_id=9, client_id="me").encode()

    assert header == struct.pack(">hhih2s", 1, 11, 9, 2, b"me")


def test_our_parser_and_aiokafka_read_the_same_response() -> None:
    frame = frame_of(wire_batch([Row(value=b"v")]))

    _, _, (section,) = wire.read_fetch_response(frame)
    theirs = FetchResponse_v11.decode(io.BytesIO(frame))

    ((topic, ((partition, error, high, stable, start, *_),)),) = theirs.topics
    assert (section.topic, section.partition, section.error_code) == (topic, partition, error)
    assert (section.high_watermark, section.last_stable_offset) == (high, stable)
    assert section.log_start_offset == start


def test_a_batch_builder_takes_records_until_it_is_full() -> None:
    builder = BatchBuilder(4096, 0, is_transactional=False)
    taken = 0
    while builder.append(timestamp=1, key=b"k", value=b"x" * 100, headers=[("h", b"1")]):
        taken += 1
    builder.close()

    assert 20 <= taken < 41
    assert builder.record_count() == taken


def test_a_single_record_larger_than_the_builder_is_still_taken_if_it_is_the_first() -> None:
    builder = BatchBuilder(4096, 0, is_transactional=False)

    assert builder.append(timestamp=1, key=None, value=b"x" * 10_000, headers=[]) is not None
    assert builder.append(timestamp=1, key=None, value=b"x", headers=[]) is None


async def test_the_accumulator_knows_the_compression() -> None:
    assert "self._compression_type = compression_type" in inspect.getsource(
        MessageAccumulator.__init__
    )
    assert "self._message_accumulator" in inspect.getsource(aiokafka.AIOKafkaProducer.__init__)


def test_whole_batches_are_sent_to_a_partition() -> None:
    parameters = inspect.signature(aiokafka.AIOKafkaProducer.send_batch).parameters

    assert list(parameters) == ["self", "batch", "topic", "partition"]
    assert parameters["partition"].kind is inspect.Parameter.KEYWORD_ONLY
