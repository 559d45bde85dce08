"""Batches on their way out: order, sequences, what is refused, what is lost on the way."""

from __future__ import annotations

import asyncio
import io
import os
import re
import struct
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from aiokafka.codec import gzip_encode
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.record.default_records import DefaultRecordBatch

from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.chunk import TopicPartition
from flowguard.errors import SettleError
from flowguard.intake import lineup, produce_broker
from flowguard.intake import sender as sending
from flowguard.intake.sender import BatchSender, Compression

LENGTH = struct.Struct(">i")
HEADER = struct.Struct(">hhih")
PRODUCE, API_VERSIONS = 0, 18
REMEMBERED = 5

NOT_LEADER, TOO_LARGE, OUT_OF_ORDER = 6, 10, 45
NO_TOPIC_RIGHT, NO_CLUSTER_RIGHT = 29, 31

P0, P1 = TopicPartition("out", 0), TopicPartition("out", 1)


@dataclass
class ProduceBroker:
    """A broker that checks sequences as Kafka does, and fails where a test says.

    As Kafka's, it takes any sequence of a producer that it does not know.

    Attributes:
        bytes_max: A larger batch is refused.
        errors: Partition → codes to answer for its next batches; 0 takes one.
        lose: So many requests are written to the log, but the connection ends unanswered.
        log: Partition → values.
    """

    port: int = 0
    produce_versions: tuple[int, int] = (3, 13)
    errors: dict[TopicPartition, deque[int]] = field(default_factory=lambda: defaultdict(deque))
    lose: int = 0
    bytes_max: int = 1 << 20
    log: dict[TopicPartition, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    batches: list[tuple[TopicPartition, int, int, int]] = field(default_factory=list)
    unanswered_most: int = 0
    _known: dict[tuple[TopicPartition, int], list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def __post_init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.received = asyncio.Condition()
        self.requests = 0
        self.connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ProduceBroker]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.connections:
                task.cancel()
            await asyncio.gather(*self.connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        waiting: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        serving = asyncio.ensure_future(self._serve(waiting, writer))
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                message = await reader.readexactly(size)
                key, _, correlation_id, client = HEADER.unpack_from(message)
                if key == API_VERSIONS:
                    answer(writer, correlation_id, versions(self.produce_versions))
                    continue
                assert key == PRODUCE
                waiting.put_nowait((correlation_id, message[HEADER.size + client :]))
                self.unanswered_most = max(self.unanswered_most, waiting.qsize())
                async with self.received:
                    self.requests += 1
                    self.received.notify_all()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            serving.cancel()
            self.connections.discard(task)
            writer.close()

    async def _serve(self, waiting: asyncio.Queue[Any], writer: asyncio.StreamWriter) -> None:
        while True:
            await self.gate.wait()
            correlation_id, body = await waiting.get()
            await self.gate.wait()
            request = ProduceRequest_v7.decode(io.BytesIO(body))
            assert (request.transactional_id, request.required_acks) == (None, -1)
            topics = [
                (topic, [(p, self._append(TopicPartition(topic, p), data)) for p, data in parts])
                for topic, parts in request.topics
            ]
            if self.lose:
                self.lose -= 1
                writer.transport.abort()
                return
            answer(writer, correlation_id, produced(topics))

    def _append(self, name: TopicPartition, data: bytes) -> int:
        batch = DefaultRecordBatch(bytes(data))
        assert batch.validate_crc()
        values = [each.value for each in batch]
        first = batch.base_sequence
        self.batches.append((name, batch.producer_id, first, len(values)))
        if self.errors[name] and (code := self.errors[name].popleft()):
            return code
        if len(data) > self.bytes_max:
            return TOO_LARGE
        known = self._known[name, batch.producer_id]
        if (first, len(values)) in known[-REMEMBERED:]:
            return 0
        if known and first != sum(known[-1]):
            return OUT_OF_ORDER
        known.append((first, len(values)))
        self.log[name] += values
        return 0

    async def until_received(self, count: int) -> None:
        async with self.received:
            await self.received.wait_for(lambda: self.requests >= count)


def answer(writer: asyncio.StreamWriter, correlation_id: int, body: bytes) -> None:
    writer.write(LENGTH.pack(len(body) + 4) + LENGTH.pack(correlation_id) + body)


def versions(produce: tuple[int, int]) -> bytes:
    apis = [(PRODUCE, *produce), (API_VERSIONS, 0, 0)]
    return struct.pack(">hi", 0, len(apis)) + b"".join(struct.pack(">hhh", *each) for each in apis)


def produced(topics: Sequence[tuple[str, list[tuple[int, int]]]]) -> bytes:
    body = LENGTH.pack(len(topics))
    for topic, parts in topics:
        body += struct.pack(">h", len(topic)) + topic.encode() + LENGTH.pack(len(parts))
        for partition, code in parts:
            body += struct.pack(">ihqqq", partition, code, 0, -1, 0)
    return body + LENGTH.pack(0)


class FakeClient:
    """aiokafka's client, as far as a sender looks at it."""

    _client_id, _request_timeout_ms, _ssl_context = "test", 5000, None
    _security_protocol, _sasl_mechanism = "PLAINTEXT", "PLAIN"
    _sasl_plain_username = _sasl_plain_password = _sasl_oauth_token_provider = None
    _sasl_kerberos_service_name, _sasl_kerberos_domain_name = "kafka", None

    def __init__(self, *brokers: ProduceBroker) -> None:
        self.brokers = brokers
        self.leader: dict[TopicPartition, int] = {}
        self.topics: set[str] = set()
        self.forgotten = False
        self.cluster = self
        self.updates = 0
        self.updated = asyncio.Event()
        self.ids = 100
        self.refuse_ids = 0
        self.refuse_with = 15

    def leader_for_partition(self, name: TopicPartition) -> int | None:
        if self.forgotten and name.topic not in self.topics:
            return None
        return self.leader.get(name, 0)

    def broker_metadata(self, node: int) -> Any:
        return SimpleNamespace(host="127.0.0.1", port=self.brokers[node].port)

    def add_topic(self, topic: str) -> None:
        self.topics.add(topic)

    def force_metadata_update(self) -> None:
        self.updates += 1
        self.updated.set()
        self.forgotten = True  # as aiokafka forgets whatever it was not told to keep

    def get_random_node(self) -> int:
        return 0

    async def send(self, node: int, request: Any) -> Any:
        if self.refuse_ids:
            self.refuse_ids -= 1
            return SimpleNamespace(error_code=self.refuse_with)
        self.ids += 1
        return SimpleNamespace(error_code=0, producer_id=self.ids, producer_epoch=0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for longer than it must."""
    for module in (sending, produce_broker):
        monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    monkeypatch.setattr(produce_broker, "BACKOFF_S_MAX", 0.002)
    monkeypatch.setattr(sending, "CLOSE_WITHIN_S", 0.01)


@asynccontextmanager
async def sender_of(
    *brokers: ProduceBroker, timeout_s: float = 5.0, compression: Compression | None = None
) -> AsyncIterator[tuple[BatchSender, FakeClient]]:
    client = FakeClient(*brokers)
    sender = BatchSender(client, timeout_s=timeout_s, open_bytes=16_384, compression=compression)
    try:
        async with asyncio.timeout(10):
            yield sender, client
    finally:
        await sender.close()


def rows_of(*values: bytes, partitions: Sequence[int] | None = None) -> Rows:
    return Rows(
        pa.nulls(len(values), pa.binary()),
        pa.array(values, pa.binary()),
        pa.array(partitions or [0] * len(values), pa.int32()),
        pa.array([7] * len(values), pa.int64()),
        b"\0",
        4,
    )


def batch_of(*values: bytes, partition: int = 0) -> list[tuple[int, RecordBatch]]:
    return rows_of(*values, partitions=[partition] * len(values)).encode(1 << 20)


async def test_batches_are_written_in_their_order_five_requests_at_a_time() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        sent = sender.send_batches("out", batch_of(b"0"))
        await asyncio.gather(*sent)
        broker.gate.clear()
        sent += [f for n in range(1, 12) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        await broker.until_received(6)
        broker.gate.set()
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"%d" % n for n in range(12)]
        assert broker.unanswered_most == 5
        assert [first for _, _, first, _ in broker.batches] == list(range(12))
        assert {producer_id for _, producer_id, _, _ in broker.batches} == {101}


async def test_batches_of_several_partitions_share_a_request() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        sent = sender.send_batches("out", batch_of(b"a") + batch_of(b"b", partition=1))
        await asyncio.gather(*sent)

        assert broker.requests == 1
        assert (broker.log[P0], broker.log[P1]) == ([b"a"], [b"b"])


async def test_few_rows_join_the_batch_that_waits() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.gate.clear()
        sent = [f for n in range(50) for f in sender.send_rows("out", rows_of(b"%d" % n))]
        await broker.until_received(1)
        sent += [f for n in range(50, 60) for f in sender.send_rows("out", rows_of(b"%d" % n))]
        broker.gate.set()
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"%d" % n for n in range(60)]
        assert len(broker.batches) <= 3


async def test_rows_that_cannot_be_written_leave_nothing_behind() -> None:
    class Unwritable:
        def spans(self) -> list[tuple[int, int, int]]:
            return [(0, 0, 1)]

        def append_to(self, *_: Any) -> int:
            raise MemoryError

    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        with pytest.raises(MemoryError):
            sender.send_rows("out", Unwritable())  # type: ignore[arg-type]
        await asyncio.gather(*sender.send_rows("out", rows_of(b"1")))

        assert broker.log[P0] == [b"1"]


async def test_a_finished_batch_is_not_joined_and_comes_in_its_turn() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        sent = sender.send_rows("out", rows_of(b"1"))
        sent += sender.send_batches("out", batch_of(b"2"))
        sent += sender.send_rows("out", rows_of(b"3"))
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"1", b"2", b"3"]


async def test_a_lost_answer_is_no_second_copy() -> None:
    async with ProduceBroker(lose=1).running() as broker, sender_of(broker) as (sender, client):
        sent = [f for n in range(8) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"%d" % n for n in range(8)]
        assert len(broker.batches) > 8
        assert client.ids == 101


async def test_what_is_refused_for_now_is_sent_again_before_what_came_after_it() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        broker.errors[P0] += [0, NOT_LEADER]
        sent = [f for n in range(9) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"%d" % n for n in range(9)]
        assert client.updates
        assert client.ids == 101


async def test_what_is_refused_for_good_fails_alone_and_the_rest_goes_on() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.errors[P0] += [0, TOO_LARGE]
        sent = [f for n in range(9) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        done = await asyncio.gather(*sent, return_exceptions=True)

        (error,) = [each for each in done if each is not None]
        assert isinstance(error, SettleError) and done[1] is error
        assert (error.topic, error.partition) == ("out", 0)
        assert "max.message.bytes" in str(error)
        assert broker.log[P0] == [b"%d" % n for n in range(9) if n != 1]
        assert broker.batches[-1][1] == 102  # the sequence had a gap, so there is a new producer


@pytest.mark.parametrize("refused", [NOT_LEADER, TOO_LARGE])
async def test_nothing_is_written_before_the_first_batch_of_a_producer_that_the_broker_meets(
    refused: int,
) -> None:
    """It takes any sequence of a producer that it does not know."""
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.errors[P0].append(refused)
        sent = [f for n in range(9) for f in sender.send_batches("out", batch_of(b"%d" % n, b"+"))]
        await asyncio.gather(*sent)

        assert broker.log[P0] == [value for n in range(9) for value in (b"%d" % n, b"+")]


async def test_nothing_is_written_before_the_first_batch_of_the_next_producer_id() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        five_under_way = [NO_TOPIC_RIGHT, 0, 0, 0, 0]  # the broker refuses the four by itself
        broker.errors[P0] += [0, *five_under_way, NOT_LEADER]
        sent = [f for n in range(9) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        await asyncio.gather(*sent, return_exceptions=True)

        assert broker.log[P0] == [b"%d" % n for n in range(9) if n != 1]


async def test_nothing_is_written_before_the_first_batch_after_a_long_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker forgets producers that were silent for long."""
    monkeypatch.setattr(lineup, "KNOWN_FOR_S", 0.0)
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        await asyncio.gather(*sender.send_batches("out", batch_of(b"0")))
        broker._known.clear()
        broker.errors[P0].append(NOT_LEADER)
        sent = [f for n in range(1, 9) for f in sender.send_batches("out", batch_of(b"%d" % n))]
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"%d" % n for n in range(9)]


async def test_a_batch_that_is_too_large_is_cut_until_it_fits() -> None:
    broker = ProduceBroker(bytes_max=300)
    async with broker.running(), sender_of(broker) as (sender, client):
        values = [b"%02d" % n + b"x" * 60 for n in range(20)]
        sent = sender.send_batches("out", batch_of(*values))
        sent += sender.send_batches("out", batch_of(b"last"))
        await asyncio.gather(*sent)

        assert broker.log[P0] == [*values, b"last"]
        assert client.ids == 101, "the sequence has no gap"


async def test_what_is_known_to_be_too_large_is_cut_before_it_is_sent() -> None:
    broker = ProduceBroker(bytes_max=300)
    async with broker.running(), sender_of(broker) as (sender, _):
        values = [b"%02d" % n + b"x" * 60 for n in range(20)]
        await asyncio.gather(*sender.send_batches("out", batch_of(*values)))
        before = len(broker.batches)
        await asyncio.gather(*sender.send_batches("out", batch_of(*values)))

        assert broker.log[P0] == values * 2
        assert sum(count for _, _, _, count in broker.batches[before:]) == len(values)


async def test_a_limit_that_was_raised_is_used_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = ProduceBroker(bytes_max=300)
    async with broker.running(), sender_of(broker) as (sender, _):
        values = [b"%02d" % n + b"x" * 60 for n in range(20)]
        await asyncio.gather(*sender.send_batches("out", batch_of(*values)))
        broker.bytes_max = 1 << 20
        sender._lineups[P0].too_large_until_s = 0.0
        await asyncio.gather(*sender.send_batches("out", batch_of(*values)))

        assert broker.batches[-1][3] == 20


async def test_a_batch_is_packed_again_after_it_was_cut() -> None:
    broker = ProduceBroker(bytes_max=300)
    packing = Compression(1, gzip_encode)
    async with broker.running(), sender_of(broker, compression=packing) as (sender, _):
        values = [os.urandom(60) + b"x" * 500 for _ in range(8)]
        (sent,) = sender.send_rows("out", rows_of(*values))
        await sent

        assert broker.log[P0] == values


async def test_a_record_that_is_too_large_fails_the_send_it_is_of_and_no_other() -> None:
    """Small sends share a batch."""
    broker = ProduceBroker(bytes_max=300)
    async with broker.running(), sender_of(broker) as (sender, _):
        large = b"x" * 400
        rows = [(b"1",), (b"2", b"3"), (b"4", large, b"5"), (b"6",), (b"7", b"8")]
        sent = [f for each in rows for f in sender.send_rows("out", rows_of(*each))]
        done = await asyncio.gather(*sent, return_exceptions=True)

        (error,) = [each for each in done if each is not None]
        assert isinstance(error, SettleError) and done[2] is error
        assert "'out'" in str(error) and "max.message.bytes" in str(error)
        assert not error.unavailable, "another record would be taken"
        assert re.search(r"a record of 4\d\d bytes", str(error))
        others = [value for value in broker.log[P0] if value not in (b"4", b"5")]
        assert others == [b"1", b"2", b"3", b"6", b"7", b"8"]


async def test_of_a_send_that_has_failed_nothing_more_is_written() -> None:
    """Whoever sent it sends it again, as a whole."""
    broker = ProduceBroker(bytes_max=300)
    async with broker.running(), sender_of(broker) as (sender, client):
        sent = sender.send_batches("out", batch_of(*[b"x" * 400] * 64))
        sent += sender.send_batches("out", batch_of(b"last"))
        done = await asyncio.gather(*sent, return_exceptions=True)

        assert isinstance(done[0], SettleError) and done[1] is None
        assert broker.log[P0] == [b"last"]
        assert client.ids == 102, "one producer id is enough to go on"


async def test_without_the_right_to_a_producer_id_a_send_fails_and_names_it() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        client.refuse_ids, client.refuse_with = 1, NO_CLUSTER_RIGHT
        (sent,) = sender.send_batches("out", batch_of(b"1"))
        with pytest.raises(SettleError, match="IDEMPOTENT_WRITE on the cluster") as caught:
            await sent

        assert (caught.value.topic, caught.value.partition) == ("out", 0)
        assert caught.value.unavailable
        await asyncio.gather(*sender.send_batches("out", batch_of(b"2")))  # it was granted
        assert broker.log[P0] == [b"2"]


async def test_a_right_that_is_missing_does_not_stop_those_who_have_a_producer_id() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        await asyncio.gather(*sender.send_batches("out", batch_of(b"1")))
        await asyncio.gather(*sender.send_batches("out", batch_of(b"1", partition=1)))
        client.refuse_ids, client.refuse_with = 1, NO_CLUSTER_RIGHT
        broker.errors[P1].append(OUT_OF_ORDER)
        (stuck,) = sender.send_batches("out", batch_of(b"2", partition=1))
        (fine,) = sender.send_batches("out", batch_of(b"2"))
        await fine

        with pytest.raises(SettleError, match="IDEMPOTENT_WRITE"):
            await stuck
        assert (broker.log[P0], broker.log[P1]) == ([b"1", b"2"], [b"1"])


async def test_a_missing_right_to_write_to_the_topic_is_named() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.errors[P0].append(NO_TOPIC_RIGHT)
        (sent,) = sender.send_batches("out", batch_of(b"1", b"2"))

        with pytest.raises(SettleError, match="ACL WRITE on the topic") as caught:
            await sent
        assert caught.value.unavailable, "no other record would be taken"


async def test_what_waited_for_a_producer_id_in_vain_says_so() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker, timeout_s=0.05) as made:
        sender, client = made
        client.refuse_ids = 1_000_000
        (sent,) = sender.send_batches("out", batch_of(b"1"))

        with pytest.raises(SettleError, match="there is no producer id: GroupCoordinatorNot"):
            await sent


async def test_another_partition_goes_on_while_one_is_refused() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.errors[P0] += [NOT_LEADER] * 20
        stuck = sender.send_batches("out", batch_of(b"a"))
        for n in range(10):
            await asyncio.gather(*sender.send_batches("out", batch_of(b"%d" % n, partition=1)))
        await asyncio.gather(*stuck)

        assert broker.log[P1] == [b"%d" % n for n in range(10)]
        assert broker.log[P0] == [b"a"]


async def test_a_broker_that_forgot_the_producer_gets_a_new_one() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        await asyncio.gather(*sender.send_batches("out", batch_of(b"1")))
        broker.errors[P0].append(OUT_OF_ORDER)
        await asyncio.gather(*sender.send_batches("out", batch_of(b"2")))

        assert broker.log[P0] == [b"1", b"2"]
        assert broker.batches[-1][1:] == (102, 0, 1)


async def test_a_new_leader_gets_what_is_left_once_the_old_one_has_answered() -> None:
    old, new = ProduceBroker(), ProduceBroker()
    async with old.running(), new.running(), sender_of(old, new) as (sender, client):
        old.gate.clear()
        sent = sender.send_batches("out", batch_of(b"1"))
        await old.until_received(1)
        client.leader[P0] = 1
        sent += sender.send_batches("out", batch_of(b"2"))
        old.errors[P0].append(NOT_LEADER)
        old.gate.set()
        await asyncio.gather(*sent)

        assert (old.log[P0], new.log[P0]) == ([], [b"1", b"2"])


async def test_a_broker_that_says_nothing_is_left_as_soon_as_another_one_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "SUSPECT_AFTER_S", 0.01)
    monkeypatch.setattr(sending, "TICK_S", 0.01)
    silent, new = ProduceBroker(), ProduceBroker()
    async with silent.running(), new.running(), sender_of(silent, new) as (sender, client):
        silent.gate.clear()
        sent = sender.send_batches("out", batch_of(b"1"))
        await silent.until_received(1)
        await client.updated.wait()
        client.leader[P0] = 1
        await asyncio.gather(*sent)

        assert (silent.log[P0], new.log[P0]) == ([], [b"1"])


async def test_a_broker_that_waits_for_its_replicas_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "SUSPECT_AFTER_S", 0.01)
    monkeypatch.setattr(sending, "TICK_S", 0.01)
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        broker.gate.clear()
        sent = sender.send_batches("out", batch_of(b"1"))
        await broker.until_received(1)
        while client.updates < 3:
            client.updated.clear()
            await client.updated.wait()
        broker.gate.set()
        await asyncio.gather(*sent)

        assert broker.requests == 1


async def test_without_a_leader_batches_wait_for_one() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        client.leader[P0] = -1
        sent = sender.send_batches("out", batch_of(b"1"))
        await client.updated.wait()
        client.leader[P0] = 0
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"1"]


async def test_a_client_that_looks_for_other_topics_keeps_those_that_are_sent_to() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        sent = sender.send_batches("out", batch_of(b"1"))
        client.force_metadata_update()
        await asyncio.gather(*sent)

        assert broker.log[P0] == [b"1"]


async def test_a_partition_that_nobody_leads_for_long_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "SAID_AFTER_S", 0.0)
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        client.leader[P0] = -1
        sent = sender.send_batches("out", batch_of(b"1"))
        while client.updates < 3:
            await client.updated.wait()
            client.updated.clear()
        client.leader[P0] = 0
        await asyncio.gather(*sent)

    (said,) = caplog.messages
    assert said.startswith("out[0]: 1 batches wait, because no broker leads the partition")


async def test_a_producer_id_that_is_refused_is_asked_for_again() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        client.refuse_ids = 2
        await asyncio.gather(*sender.send_batches("out", batch_of(b"1")))

        assert broker.log[P0] == [b"1"]


async def test_what_is_not_acknowledged_in_time_fails() -> None:
    broker = ProduceBroker(port=1)  # nobody listens there
    async with sender_of(broker, timeout_s=0.05) as (sender, _):
        (sent,) = sender.send_batches("out", batch_of(b"1"))

        with pytest.raises(SettleError, match="no acknowledgement within") as caught:
            await sent
        assert caught.value.unavailable


async def test_a_sender_that_went_away_does_not_stop_its_batch() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        (sent,) = sender.send_batches("out", batch_of(b"1"))
        sent.cancel()
        await asyncio.gather(*sender.send_batches("out", batch_of(b"2")))

        assert broker.log[P0] == [b"1", b"2"]
        assert sender.unacknowledged("out") == []


async def test_flushing_waits_for_what_was_sent() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        sender.send_batches("out", batch_of(b"1") + batch_of(b"2", partition=1))
        assert len(sender.unacknowledged("out")) == 2

        await sender.flush()

        assert (broker.log[P0], broker.log[P1]) == ([b"1"], [b"2"])


async def test_what_is_left_when_the_sender_closes_fails_and_so_does_what_comes_later() -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, _):
        broker.gate.clear()
        (sent,) = sender.send_batches("out", batch_of(b"1"))
        await broker.until_received(1)
        await sender.close()

        with pytest.raises(SettleError, match="stopped"):
            await sent
        (later,) = sender.send_batches("out", batch_of(b"2"))
        with pytest.raises(SettleError, match="stopped"):
            await later


async def test_a_broker_that_is_too_old_says_so(caplog: pytest.LogCaptureFixture) -> None:
    broker = ProduceBroker(produce_versions=(0, 5))
    async with broker.running(), sender_of(broker, timeout_s=0.1) as (sender, _):
        (sent,) = sender.send_batches("out", batch_of(b"1"))

        with pytest.raises(SettleError):
            await sent
        assert "needs v7" in caplog.text


async def test_a_mistake_in_the_sender_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ProduceBroker().running() as broker, sender_of(broker) as (sender, client):
        monkeypatch.setattr(client, "leader_for_partition", lambda _: 1 / 0)
        (sent,) = sender.send_batches("out", batch_of(b"1"))

        with pytest.raises(SettleError, match="ZeroDivisionError"):
            await sent
