"""The fetcher against a scripted broker and a fake of aiokafka's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError

from flowguard._native.wire import LaneRule
from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import SystemClock
from flowguard.control.memory import MemoryBudget
from flowguard.facts import Fetched, Stopped
from flowguard.intake import fetcher as module
from flowguard.intake.cursors import Haste, PartitionPlan
from flowguard.intake.fetcher import Fetcher
from flowguard.units import KIB, MIB
from tests.native.batches import ZSTD, Row
from tests.scripted_broker import ScriptedBroker
from tests.unit.intake.test_connection import reading_threads

T0 = TopicPartition("t", 0)
T1 = TopicPartition("t", 1)
U0 = TopicPartition("u", 0)


class Node(NamedTuple):
    host: str
    port: int


@dataclass
class FakeCluster:
    """Metadata as aiokafka has it."""

    nodes: dict[int, Node] = field(default_factory=dict)
    leaders: dict[TopicPartition, int | None] = field(default_factory=dict)

    def leader_for_partition(self, name: TopicPartition) -> int | None:
        return self.leaders.get(name, 1)

    def broker_metadata(self, node: int) -> Node | None:
        return self.nodes.get(node)


class FakeClient:
    """What the fetcher uses of aiokafka's client."""

    _client_id = "test"
    _request_timeout_ms = 5000
    _ssl_context = None
    _security_protocol = "PLAINTEXT"
    _sasl_mechanism = None
    _sasl_plain_username = None
    _sasl_plain_password = None
    _sasl_kerberos_service_name = "kafka"
    _sasl_kerberos_domain_name = None
    _sasl_oauth_token_provider = None

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.updates = 0
        self.on_update: Callable[[], None] = lambda: None

    def force_metadata_update(self) -> None:
        self.updates += 1
        self.on_update()


class Reader:
    """A fetcher at work, and what it delivered."""

    def __init__(self, client: FakeClient, fetcher: Fetcher, memory: MemoryBudget) -> None:
        self.client = client
        self.fetcher = fetcher
        self.memory = memory
        self.facts: list[Fetched | Stopped] = []
        self.releases_at_once = True
        self.epoch = 1
        self.begun_anew: list[tuple[TopicPartition, int, int]] = []

    def assign(self, *names: TopicPartition, offset: int = 0, epoch: int | None = None) -> None:
        """Read these partitions from an offset on."""
        self.epoch = self.epoch if epoch is None else epoch
        self.memory.assign([(name, self.epoch) for name in names])
        self.fetcher.assign(dict.fromkeys(names, (offset, self.epoch)))

    def take(self, facts: Sequence[Fetched | Stopped]) -> None:
        """Keep what was delivered, and settle it at once as a fast agent would."""
        self.facts += facts
        if self.releases_at_once:
            asyncio.get_running_loop().call_soon(self.release_all, list(facts))

    def release_all(self, facts: Sequence[Fetched | Stopped]) -> None:
        for fact in facts:
            if isinstance(fact, Fetched):
                num_bytes = sum(chunk.num_bytes for chunk in fact.chunks)
                self.memory.release((fact.partition, fact.epoch), num_bytes)

    def chunks(self, name: TopicPartition) -> list[Chunk]:
        return [
            chunk
            for fact in self.facts
            if isinstance(fact, Fetched) and fact.partition == name
            for chunk in fact.chunks
        ]

    def offsets(self, name: TopicPartition) -> list[int]:
        """Return the offsets that were delivered, in order."""
        return [o for chunk in self.chunks(name) for o in chunk.columns.column(0).to_pylist()]

    def stopped(self) -> dict[TopicPartition, str]:
        return {fact.partition: fact.why for fact in self.facts if isinstance(fact, Stopped)}


async def until(ready: Callable[[], Any], what: str = "") -> None:
    """Let the event loop run until something is so."""
    async with asyncio.timeout(5):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def settled_requests(broker: ScriptedBroker, count: int = 3) -> None:
    """Wait for some more requests."""
    seen = len(broker.requests)
    await until(lambda: len(broker.requests) >= seen + count)


def plan(
    *, urgent: bool = False, rule: LaneRule | None = None, on_offset_loss: str = "stop"
) -> PartitionPlan:
    return PartitionPlan(
        rule=rule or LaneRule.constant(0),
        haste=Haste.MOST if urgent else Haste.NONE,
        may_be_urgent=urgent,
        on_offset_loss=on_offset_loss,
    )


@asynccontextmanager
async def reading(
    *brokers: ScriptedBroker,
    plans: dict[str, PartitionPlan] | None = None,
    memory_bytes: int = 16 * MIB,
    find_offset: Callable[[TopicPartition, str], Any] | None = None,
) -> AsyncIterator[Reader]:
    """A fetcher for brokers 1, 2, …; stopped at the end."""
    client = FakeClient()
    client.cluster.nodes = {
        number: Node("127.0.0.1", broker.port) for number, broker in enumerate(brokers, 1)
    }
    memory = MemoryBudget(memory_bytes)
    reader: Reader
    fetcher = Fetcher(
        client=client,  # type: ignore[arg-type]
        plans=plans or {"t": plan(), "u": plan(urgent=True)},
        lane_count=2,
        memory=memory,
        clock=SystemClock(),
        deliver=lambda facts: reader.take(facts),
        touch=lambda: None,
        find_offset=find_offset or (lambda name, which: None),
        begin_anew=lambda *what: reader.begun_anew.append(what),
    )
    reader = Reader(client, fetcher, memory)
    try:
        yield reader
    finally:
        await fetcher.stop()
        await asyncio.sleep(0)


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker().running() as running:
        yield running


# Reading.


async def test_records_arrive_as_chunks_with_the_position_after_them(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: reader.facts)

    (fact, *_) = reader.facts
    assert isinstance(fact, Fetched)
    assert (fact.partition, fact.epoch, fact.next_offset) == (T0, 1, 3)
    assert reader.offsets(T0) == [0, 1, 2]


async def test_everything_in_the_log_is_read_once_and_in_order(broker: ScriptedBroker) -> None:
    for _ in range(50):
        broker.append(T0, 20)
        broker.append(T1, 20)
    async with reading(broker, memory_bytes=MIB) as reader:
        reader.assign(T0, T1)
        await until(lambda: len(reader.offsets(T0)) + len(reader.offsets(T1)) >= 2000)

    assert reader.offsets(T0) == list(range(1000))
    assert reader.offsets(T1) == list(range(1000))


async def test_reading_begins_at_the_given_offset_inside_a_batch(broker: ScriptedBroker) -> None:
    broker.append(T0, 10)
    async with reading(broker) as reader:
        reader.assign(T0, offset=7)
        await until(lambda: reader.facts)

    assert reader.offsets(T0) == [7, 8, 9]


async def test_records_go_to_the_lane_that_the_rule_says(broker: ScriptedBroker) -> None:
    broker.append(T0, [Row(headers=[("lane", b"fast")]), Row(), Row(headers=[("lane", b"fast")])])
    rule = LaneRule.by_header(b"lane", {b"fast": 0}, 1)
    async with reading(broker, plans={"t": plan(rule=rule)}) as reader:
        reader.assign(T0)
        await until(lambda: reader.facts)

    assert [(c.lane, c.columns.column(0).to_pylist()) for c in reader.chunks(T0)] == [
        (0, [0, 2]),
        (1, [1]),
    ]


async def test_only_committed_records_are_asked_for(broker: ScriptedBroker) -> None:
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: broker.requests)

    assert broker.requests[0].isolation_level == 1


async def test_urgent_partitions_have_a_connection_of_their_own(broker: ScriptedBroker) -> None:
    async with reading(broker) as reader:
        reader.assign(T0, U0)
        await until(lambda: broker.connections == 2 and len(broker.requests) >= 2)

    assert not [asked for asked in broker.requests if {T0, U0} <= asked.offsets.keys()]


async def test_partitions_whose_targets_have_time_do_not_share_a_connection_with_tight_ones(
    broker: ScriptedBroker,
) -> None:
    hastes = {"t": replace(plan(urgent=True), haste=Haste.SOME), "u": plan(urgent=True)}
    async with reading(broker, plans=hastes) as reader:
        reader.assign(T0, U0)
        await until(lambda: broker.connections == 2 and len(broker.requests) >= 2)

    assert not [asked for asked in broker.requests if {T0, U0} <= asked.offsets.keys()]


async def test_an_urgent_partition_is_read_while_the_broker_holds_back_the_other_request() -> None:
    slow, fast = ScriptedBroker(), ScriptedBroker()
    slow.hold()
    async with slow.running(), fast.running(), reading(slow, fast) as reader:
        reader.client.cluster.leaders = {T0: 1, U0: 2}
        fast.append(U0, 1)
        reader.assign(T0, U0)
        await until(lambda: reader.offsets(U0))
        slow.go_on()

    assert reader.offsets(T0) == []


async def test_a_broker_that_leads_nothing_of_ours_any_more_is_let_go(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    async with reading(broker) as reader:
        reader.assign(T0, U0)
        await until(lambda: reader.offsets(T0) and broker.connections == 2)

        reader.assign(U0)
        await until(lambda: list(reader.fetcher._tasks) == [(1, Haste.MOST)])
        await until(lambda: len(reading_threads()) == 1)
        reader.assign(T0, U0, epoch=2)
        await until(lambda: len(reader.offsets(T0)) == 6)

    await until(lambda: reading_threads() == [])


async def test_what_connections_receive_into_counts_as_held_until_they_are_closed(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: reader.offsets(T0))

        assert 0 < reader.memory.receive_bytes < reader.memory.memory_bytes
        assert reader.memory.used_bytes >= reader.memory.receive_bytes

    assert reader.memory.receive_bytes == 0


# Pausing.


async def test_a_partition_without_room_is_left_out_of_the_next_request(
    broker: ScriptedBroker,
) -> None:
    async with reading(broker, memory_bytes=MIB) as reader:
        reader.releases_at_once = False
        for _ in range(40):
            broker.append(T0, [Row(value=b"x" * 30_000)])
        reader.assign(T0, T1)
        await until(lambda: [set(asked.offsets) for asked in broker.requests[-5:]] == [{T1}] * 5)

        assert 0 < len(reader.offsets(T0)) < 40
        assert reader.memory.held_bytes <= reader.memory.columns_bytes_max


async def test_a_paused_partition_goes_on_where_it_was_when_there_is_room(
    broker: ScriptedBroker,
) -> None:
    async with reading(broker, memory_bytes=MIB) as reader:
        reader.releases_at_once = False
        for _ in range(60):
            broker.append(T0, [Row(value=b"x" * 30_000)])
        reader.assign(T0)
        await until(lambda: (T0, 1) in reader.memory.paused)

        reader.releases_at_once = True
        reader.release_all(list(reader.facts))
        reader.fetcher.wake()
        await until(lambda: len(reader.offsets(T0)) == 60)

    assert reader.offsets(T0) == list(range(60))


async def test_a_partition_that_joins_is_read_while_another_has_an_endless_backlog(
    broker: ScriptedBroker,
) -> None:
    async with reading(broker) as reader:
        broker.append(T0, 100)
        reader.assign(T0)
        await until(lambda: len(broker.requests) > 2)

        def refill() -> None:
            broker.append(T0, 100)
            task = asyncio.get_running_loop().call_soon(refill)
            reader.refill = task  # type: ignore[attr-defined]

        refill()
        await until(lambda: len(reader.offsets(T0)) > 500)
        broker.append(T1, 5)
        reader.assign(T0, T1)
        await until(lambda: reader.offsets(T1))
        reader.refill.cancel()  # type: ignore[attr-defined]

    assert reader.offsets(T1) == [0, 1, 2, 3, 4]


# Memory.


async def test_little_that_unpacks_to_much_never_exceeds_the_memory(
    broker: ScriptedBroker,
) -> None:
    names = [TopicPartition("t", number) for number in range(40)]
    for name in names:
        broker.append(name, [Row(value=bytes(500_000))], codec=ZSTD)
    async with reading(broker, memory_bytes=4 * MIB) as reader:
        reader.releases_at_once = False
        reader.assign(*names)
        await settled_requests(broker, 5)

        assert reader.facts
        assert reader.memory.held_bytes <= reader.memory.columns_bytes_max


async def test_a_partition_whose_next_wire_batch_does_not_fit_is_shown_as_paused(
    broker: ScriptedBroker,
) -> None:
    for _ in range(4):
        broker.append(T0, [Row(value=bytes(900_000))], codec=ZSTD)
    async with reading(broker, memory_bytes=4 * MIB) as reader:
        reader.releases_at_once = False
        reader.assign(T0)
        await until(lambda: (T0, 1) in reader.memory.paused and not reader.memory.requested_bytes)
        assert reader.memory.room((T0, 1)) > 64 * KIB

        reader.releases_at_once = True
        reader.release_all(list(reader.facts))
        reader.fetcher.wake()
        await until(lambda: len(reader.offsets(T0)) == 4)

    assert reader.offsets(T0) == [0, 1, 2, 3]


async def test_a_wire_batch_that_unpacks_beyond_a_quarter_of_memory_stops_its_partition(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, [Row(value=bytes(2_000_000))], codec=ZSTD)
    broker.append(T1, 2)
    async with reading(broker, memory_bytes=4 * MIB) as reader:
        reader.assign(T0, T1)
        await until(lambda: reader.stopped() and reader.offsets(T1))

    assert list(reader.stopped()) == [T0]


async def test_every_reservation_is_given_back_when_the_fetcher_stops(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 100)
    async with reading(broker) as reader:
        reader.assign(T0, T1, U0)
        await until(lambda: reader.facts)

    await asyncio.sleep(0)
    assert reader.memory.requested_bytes == 0
    assert reader.memory.held_bytes == 0


async def test_what_is_fetched_for_an_older_assignment_is_not_counted_for_the_next(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 100)
    broker.hold()
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: broker.requests)
        # The engine has dropped the partition and has it anew; the fetcher does not know yet.
        reader.memory.revoke([(T0, 1)])
        reader.memory.assign([(T0, 2)])
        reader.releases_at_once = False
        broker.go_on()
        await until(lambda: reader.facts)
        await settled_requests(broker, 1)

        assert reader.memory.held_by((T0, 2)) == 0
        assert reader.memory.held_bytes == 0


# Leaders.


async def test_a_partition_follows_its_leader_and_nothing_is_read_twice() -> None:
    one, two = ScriptedBroker(), ScriptedBroker()
    two.log = one.log
    for _ in range(20):
        one.append(T0, 10)
    async with one.running(), two.running(), reading(one, two) as reader:
        reader.client.cluster.leaders = {T0: 1}
        reader.assign(T0)
        await until(lambda: len(reader.offsets(T0)) == 200)

        reader.client.cluster.leaders = {T0: 2}
        one.leads = lambda name: False
        one.append(T0, 10)
        two._more.set()
        await until(lambda: len(reader.offsets(T0)) == 210)

    assert reader.offsets(T0) == list(range(210))
    assert two.requests


async def test_an_answer_of_the_old_leader_that_comes_late_changes_nothing() -> None:
    old, new = ScriptedBroker(), ScriptedBroker()
    new.log = old.log
    old.append(T0, 10)
    old.hold()
    async with old.running(), new.running(), reading(old, new) as reader:
        reader.client.cluster.leaders = {T0: 1}
        reader.assign(T0)
        await until(lambda: old.requests)
        reader.client.cluster.leaders = {T0: 2}
        reader.fetcher._pulse()
        await until(lambda: len(reader.offsets(T0)) == 10)

        old.go_on()
        old.append(T0, 10)
        new._more.set()
        await until(lambda: len(reader.offsets(T0)) == 20)

    assert reader.offsets(T0) == list(range(20))


@pytest.mark.parametrize("code", [3, 5, 6, 9, 56, 74, 75])
async def test_stale_metadata_is_renewed_and_reading_goes_on(
    broker: ScriptedBroker, code: int
) -> None:
    broker.append(T0, 3)
    broker.errors[T0] = code
    async with reading(broker) as reader:
        reader.client.on_update = broker.errors.clear
        reader.assign(T0)
        await until(lambda: reader.offsets(T0))

    assert reader.client.updates >= 1
    assert reader.stopped() == {}


async def test_a_partition_without_a_leader_is_looked_for_again(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    async with reading(broker) as reader:
        reader.client.cluster.leaders = {T0: None}
        reader.client.on_update = lambda: reader.client.cluster.leaders.update({T0: 1})
        reader.assign(T0)
        await until(lambda: reader.offsets(T0))

    assert reader.client.updates == 1


async def test_another_partition_goes_on_while_one_has_an_error(broker: ScriptedBroker) -> None:
    broker.errors[T0] = 6
    broker.append(T1, 3)
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await until(lambda: reader.offsets(T1))


async def test_an_unknown_error_is_counted_and_tried_again(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    broker.errors[T0] = -1
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: reader.fetcher.errors_total)
        broker.errors.clear()
        await until(lambda: reader.offsets(T0))


async def test_a_partition_that_may_not_be_read_stops_and_says_what_to_do(
    broker: ScriptedBroker,
) -> None:
    broker.errors[T0] = 29
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(reader.stopped)

    assert "grant READ" in reader.stopped()[T0]


# Lost offsets.


async def test_a_lost_offset_stops_the_partition_by_default(broker: ScriptedBroker) -> None:
    broker.errors[T0] = 1
    broker.append(T1, 2)
    async with reading(broker) as reader:
        reader.assign(T0, T1, offset=0)
        await until(lambda: reader.stopped() and reader.offsets(T1))
        await settled_requests(broker)

    assert "orders" not in reader.stopped()[T0]
    assert "t[0]: offset 0 is not in the log any more" in reader.stopped()[T0]
    assert T0 not in broker.requests[-1].offsets


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_a_lost_offset_goes_on_where_the_policy_says(
    broker: ScriptedBroker, policy: str
) -> None:
    questions: list[tuple[TopicPartition, str]] = []
    broker.append(T0, 10)

    async def find(name: TopicPartition, which: str) -> int:
        questions.append((name, which))
        broker.errors.clear()
        return 4

    broker.errors[T0] = 1
    plans = {"t": plan(on_offset_loss=policy)}
    async with reading(broker, plans=plans, find_offset=find) as reader:
        reader.assign(T0, offset=2)
        await until(lambda: reader.offsets(T0))

    assert questions == [(T0, policy)]
    first = reader.facts[0]
    assert isinstance(first, Fetched)
    assert (first.next_offset, list(first.chunks)) == (4, [])
    assert reader.offsets(T0) == [4, 5, 6, 7, 8, 9]


async def test_a_log_that_ends_before_our_position_is_another_one_and_begun_anew(
    broker: ScriptedBroker,
) -> None:
    async def find(name: TopicPartition, which: str) -> int:
        return 4

    broker.append(T0, 10)
    broker.errors[T0] = 1
    plans = {"t": plan(on_offset_loss="earliest")}
    async with reading(broker, plans=plans, find_offset=find) as reader:
        reader.assign(T0, offset=99)
        await until(lambda: reader.begun_anew)
        assert reader.begun_anew == [(T0, 1, 4)]
        assert not reader.facts, "what was counted of the former log says nothing of this one"

        broker.errors.clear()
        reader.assign(T0, offset=4, epoch=2)
        await until(lambda: reader.offsets(T0))

    assert reader.offsets(T0) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("error", [KafkaConnectionError("no"), OSError("no"), TimeoutError()])
async def test_a_position_that_cannot_be_found_is_looked_for_again(
    broker: ScriptedBroker, error: Exception
) -> None:
    answers: list[Any] = [error, 4]
    broker.append(T0, 10)
    broker.errors[T0] = 1

    async def find(name: TopicPartition, which: str) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        broker.errors.clear()
        return int(answer)

    plans = {"t": plan(on_offset_loss="earliest")}
    async with reading(broker, plans=plans, find_offset=find) as reader:
        reader.assign(T0, offset=2)
        await until(lambda: reader.offsets(T0))

    assert answers == []


# What is wrong with bytes.


async def test_a_bad_checksum_stops_only_its_partition_and_keeps_what_came_before(
    broker: ScriptedBroker,
) -> None:
    for _ in range(3):
        broker.append(T0, 5)
        broker.append(T1, 5)
    broker.damage(T0, 1)
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await until(lambda: reader.stopped() and len(reader.offsets(T1)) == 15)

    assert reader.offsets(T0) == [0, 1, 2, 3, 4]
    assert list(reader.stopped()) == [T0]
    assert "t[0] at offset 5" in reader.stopped()[T0]


async def test_what_was_parsed_is_delivered_though_the_next_partition_raises(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (T0, T1):
        broker.append(name, 5, codec=ZSTD)
    seen: list[int] = []

    def decompress(codec: int, data: memoryview, limit: int) -> bytes:
        seen.append(codec)
        if len(seen) == 2:
            raise RuntimeError("a bug in a library")
        return bytes(whole(codec, data, limit))

    whole = module.decompress
    monkeypatch.setattr(module, "decompress", decompress)
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await until(lambda: len(reader.offsets(T0)) + len(reader.offsets(T1)) == 10)

    assert reader.offsets(T0) == reader.offsets(T1) == [0, 1, 2, 3, 4]


# Connections.


async def test_a_lost_connection_is_made_again_and_nothing_is_read_twice(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 10)
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: len(reader.offsets(T0)) == 10)
        broker.drop_connections()
        await until(lambda: broker.connections == 2)
        broker.append(T0, 10)
        await until(lambda: len(reader.offsets(T0)) == 20)

    assert reader.offsets(T0) == list(range(20))
    assert reader.client.updates >= 1


async def test_a_broker_that_is_away_is_tried_again_and_again_with_longer_waits(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module, "RETRY_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "RETRY_BACKOFF_S_MAX", 0.004)
    async with reading(broker) as reader:
        lost = reader.fetcher._lost

        def note(node: int, error: BaseException, backoff_s: float) -> None:
            waits.append(backoff_s)
            lost(node, error, backoff_s)

        monkeypatch.setattr(reader.fetcher, "_lost", note)
        reader.client.cluster.nodes = {}
        reader.assign(T0)
        await until(lambda: len(waits) >= 5)
        reader.client.cluster.nodes = {1: Node("127.0.0.1", broker.port)}
        broker.append(T0, 1)
        await until(lambda: reader.offsets(T0))

    assert waits[:5] == [0.001, 0.002, 0.004, 0.004, 0.004]


async def test_a_broker_that_never_answers_loses_its_connection(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.02)
    broker.append(T0, 3)
    broker.hold()
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: reader.fetcher.errors_total)
        assert reader.memory.requested_bytes == 0 or broker.connections > 1
        broker.go_on()
        await until(lambda: reader.offsets(T0))

    assert reader.offsets(T0) == [0, 1, 2]


async def test_while_a_broker_is_silent_another_one_that_leads_by_now_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SUSPECT_AFTER_S", 0.01)
    monkeypatch.setattr(module, "POLL_TOUCH_S", 0.01)
    silent, other = ScriptedBroker(), ScriptedBroker()
    other.log = silent.log
    silent.append(T0, 3)
    silent.hold()
    async with silent.running(), other.running(), reading(silent, other) as reader:
        reader.client.cluster.leaders = {T0: 1}
        reader.client.on_update = lambda: reader.client.cluster.leaders.update({T0: 2})
        reader.assign(T0)
        await until(lambda: reader.offsets(T0))
        silent.go_on()

    assert reader.offsets(T0) == [0, 1, 2]
    assert reader.fetcher.errors_total == 0, "the silent one may still answer"


async def test_an_error_nobody_thought_of_does_not_end_reading_for_good(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.append(T0, 3)
    raised: list[int] = []
    read = module.wire.read_fetch_response

    def fail_once(frame: memoryview) -> Any:
        if not raised:
            raised.append(1)
            raise ZeroDivisionError("nobody thought of this")
        return read(frame)

    async with reading(broker) as reader:
        monkeypatch.setattr(module, "wire", _Patched(module.wire, read_fetch_response=fail_once))
        reader.assign(T0)
        await until(lambda: reader.offsets(T0))

    assert reader.fetcher.errors_total >= 1


async def test_throttling_makes_the_next_request_wait(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, *rest: Any) -> None:
        slept.append(delay)
        await sleep(0.001 if delay > 0.1 else delay)

    broker.throttle_ms = 700
    broker.append(T0, 3)
    async with reading(broker) as reader:
        monkeypatch.setattr(module.asyncio, "sleep", note)
        reader.assign(T0)
        await until(lambda: 0.7 in slept)
        monkeypatch.undo()


@asynccontextmanager
async def noting_sleeps() -> AsyncIterator[list[float]]:
    """Note how long each sleep was to be; none takes long."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, *rest: Any) -> None:
        slept.append(delay)
        await sleep(min(delay, 0.001))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.asyncio, "sleep", note)
        yield slept


PACED = {"t": replace(plan(), may_be_urgent=True, pace_s=900.0)}


async def test_after_few_records_the_next_request_waits_for_more(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=PACED) as reader, noting_sleeps() as slept:
        reader.assign(T0)
        await until(lambda: reader.offsets(T0) and max(slept) > 0.002)

    assert 890 < max(slept) <= 900


async def test_behind_a_backlog_no_request_waits(broker: ScriptedBroker) -> None:
    for _ in range(4):
        broker.append(T0, [Row(key=None, value=bytes(module.LITTLE_BYTES))])
    async with reading(broker, plans=PACED) as reader, noting_sleeps() as slept:
        reader.assign(T0)
        await until(lambda: len(reader.offsets(T0)) == 4 and len(broker.requests) >= 2)

    assert max(slept, default=0.0) < 800


# Revoking.


async def test_what_was_revoked_while_a_request_was_under_way_is_not_delivered(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    broker.append(T1, 3)
    broker.hold()
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await until(lambda: broker.requests)
        reader.assign(T1)
        broker.go_on()
        await until(lambda: reader.offsets(T1))
        await settled_requests(broker)

    assert reader.offsets(T0) == []
    assert broker.requests[-1].offsets.keys() == {T1}


async def test_a_partition_in_a_new_epoch_begins_at_its_new_offset(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 10)
    async with reading(broker) as reader:
        reader.assign(T0, epoch=1)
        await until(lambda: len(reader.offsets(T0)) == 10)
        reader.assign(T0, offset=6, epoch=2)
        await until(lambda: len(reader.offsets(T0)) == 14)

    assert reader.offsets(T0)[10:] == [6, 7, 8, 9]


async def test_a_partition_in_the_same_epoch_goes_on_where_it_is(broker: ScriptedBroker) -> None:
    broker.append(T0, 10)
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: len(reader.offsets(T0)) == 10)
        reader.assign(T0, T1, offset=0)
        broker.append(T0, 5)
        await until(lambda: len(reader.offsets(T0)) == 15)

    assert reader.offsets(T0) == list(range(15))


async def test_requests_do_not_spin_where_a_broker_answers_at_once_with_nothing(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import scripted_broker

    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, *rest: Any) -> None:
        slept.append(delay)
        await sleep(delay)

    monkeypatch.setattr(scripted_broker, "LONG_POLL_S", 0)
    async with reading(broker) as reader:
        monkeypatch.setattr(module.asyncio, "sleep", note)
        reader.assign(T0)
        await until(lambda: len(broker.requests) >= 3)
        monkeypatch.undo()

    pauses = [each for each in slept if 0.002 < each <= module.EMPTY_PAUSE_S]
    assert len(pauses) >= 2


async def test_the_group_is_told_now_and_then_that_we_poll(broker: ScriptedBroker) -> None:
    touched: list[int] = []
    async with reading(broker) as reader:
        reader.fetcher._touch = lambda: touched.append(1)
        reader.assign(T0)
        await until(lambda: touched)


async def test_a_request_is_no_larger_than_what_memory_has_left(broker: ScriptedBroker) -> None:
    async with reading(broker, memory_bytes=MIB) as reader:
        reader.assign(T0, T1)
        await until(lambda: broker.requests)

    (asked, *_) = broker.requests
    assert asked.max_bytes <= reader.memory.fetch_bytes_max == 64 * KIB
    assert all(share <= reader.memory.fetch_bytes_max for share in asked.shares.values())


class _Patched:
    """A module of which some names are replaced."""

    def __init__(self, original: Any, **replaced: Any) -> None:
        self._original = original
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
