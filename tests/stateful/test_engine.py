"""The engine under any order of events, against a model that only counts.

A failure prints the steps that lead to it. Replay: `pytest tests/stateful/test_engine.py`
with the `@reproduce_failure` or `--hypothesis-seed` that hypothesis prints.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import ClassVar, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowguard.chunk import NO_FLOW, TopicPartition
from flowguard.commands import Cut
from flowguard.facts import Assigned
from flowguard.lanes.lane import Lane
from flowguard.serving import OCCASIONS
from flowguard.units import MIB, MILLISECOND
from flowguard.view import AgentPlan
from tests.builders import EngineDriver, chunk_of

NAMES = [TopicPartition("orders", number) for number in range(3)]
LANES = (Lane("realtime", target="50ms", reserve=0.25), Lane("middle", weight=3), Lane("bulk"))

which = st.integers(0, 1_000_000)


class EngineMachine(RuleBasedStateMachine):
    """Kafka is a list of offsets a partition; what was settled is a set of them."""

    order: ClassVar[Literal["partition", "key", "none"]] = "partition"
    by_partition: ClassVar[bool] = False
    flows: ClassVar[int] = 0  # how many keys, each with a flow of its own
    agents: ClassVar[tuple[str, ...]] = ("agent",)
    fallback_on: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.d = self.new_worker()
        self.log: dict[TopicPartition, list[tuple[int, int]]] = defaultdict(list)  # offset, lane
        self.end = dict.fromkeys(NAMES, 0)
        self.done_by: dict[tuple[str, TopicPartition], set[int]] = defaultdict(set)
        self.committed = dict.fromkeys(NAMES, 0)
        self.watermarks: dict[TopicPartition, tuple[int, ...]] = {}
        self.returned: set[int] = set()

    def new_worker(self) -> EngineDriver:
        plans = [
            AgentPlan(
                name=name,
                topics=frozenset({"orders"}),
                seats=4,
                order=self.order,
                by_partition=self.by_partition,
                records_max=5,
                linger_ns=5 * MILLISECOND,
                fallback_on=self.fallback_on,
            )
            for name in self.agents
        ]
        return EngineDriver(lanes=LANES, agents=plans, memory_bytes=4 * MIB)

    # What happens.

    @rule(name=st.sampled_from(NAMES), lanes=st.lists(st.integers(0, 2), min_size=1, max_size=12),
          gap=st.integers(0, 3))  # fmt: skip
    def produce(self, name: TopicPartition, lanes: list[int], gap: int) -> None:
        for lane in lanes:
            self.log[name].append((self.end[name] + gap, lane))
            self.end[name] += gap + 1

    @precondition(lambda self: self.d.reading)
    @rule(pick=which, most=st.integers(1, 20))
    def fetch(self, pick: int, most: int) -> None:
        name = sorted(self.d.reading)[pick % len(self.d.reading)]
        partition = self.d.engine.partitions[name]
        position = partition.ledger.position
        fresh = [each for each in self.log[name] if each[0] >= position][:most]
        if not fresh:
            return
        split: dict[tuple[int, int], list[int]] = defaultdict(list)
        for offset, lane in fresh:
            split[lane, self.flow_of(offset)].append(offset)
        chunks = [
            replace(chunk_of(offsets, partition=name, lane=lane), flow=flow)
            for (lane, flow), offsets in split.items()
        ]
        self.d.fetch(name, *chunks, next_offset=fresh[-1][0] + 1, epoch=partition.epoch)

    @precondition(lambda self: self.unreturned())
    @rule(pick=which)
    def give_back(self, pick: int) -> None:
        cut = self.unreturned()[pick % len(self.unreturned())]
        self.returned.add(cut.batch_id)
        self.d.give_back(cut)

    @precondition(lambda self: self.d.running)
    @rule(pick=which, rejected=st.integers(0, 2))
    def finish(self, pick: int, rejected: int) -> None:
        cut = self.pick_running(pick)
        self.settle(cut, min(rejected, cut.num_records))

    @precondition(lambda self: self.d.running)
    @rule(pick=which)
    def fail(self, pick: int) -> None:
        cut = self.pick_running(pick)
        self.returned.discard(cut.batch_id)
        self.d.fail(cut)

    @precondition(lambda self: self.d.running)
    @rule(pick=which, common=st.booleans(), after_ms=st.sampled_from([None, 50, 5_000]))
    def refuse(self, pick: int, common: bool, after_ms: int | None) -> None:
        """Let a batch find that something is unavailable."""
        cut = self.pick_running(pick)
        attempt = cut.attempt
        self.returned.discard(cut.batch_id)
        retry_after_ns = None if after_ms is None else after_ms * MILLISECOND
        self.d.refuse(cut, common=common, retry_after_ns=retry_after_ns)
        assert cut.attempt == attempt

    @precondition(lambda self: self.fallback_on)
    @rule(lane=st.integers(0, 2), share=st.floats(0.0, 1.0))
    def brown_out(self, lane: int, share: float) -> None:
        for view in self.d.engine.views.values():
            view.serving.shares[lane] = share

    @rule(ms=st.sampled_from([1, 5, 100, 1_000, 20_000]))
    def wait(self, ms: int) -> None:
        self.d.wait(ms)

    @rule()
    def commit(self) -> None:
        self.committed |= self.d.commit()
        for name, partition in self.d.engine.partitions.items():
            self.watermarks[name] = partition.committed.watermarks

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def revoking(self, names: set[TopicPartition]) -> None:
        self.d.revoking(*names)

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def revoke(self, names: set[TopicPartition]) -> None:
        self.d.revoke(*names)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def assign(self, names: set[TopicPartition]) -> None:
        """A rebalance: what is not among them is gone, the rest begins where it was committed."""
        held = self.d.engine.partitions
        self.d.revoke(*(held.keys() - names))
        offsets = {name: self.committed[name] for name in names}
        self.d.tell(Assigned(offsets=offsets, watermarks=self.watermarks, at_ns=self.d.now_ns))

    @rule()
    def crash(self) -> None:
        """Lose the worker; the next one resumes each lane where it was committed."""
        self.d = self.new_worker()
        self.returned = set()
        self.assign(set(NAMES))
        for name in NAMES:
            before = self.watermarks.get(name, (0,) * len(LANES))
            after = self.d.engine.partitions[name].ledger.point.watermarks
            assert all(new >= old for new, old in zip(after, before, strict=True))

    # What must be so.

    @invariant()
    def no_watermark_passes_an_unfinished_record_of_its_lane(self) -> None:
        for name, point in self.d.engine.commit_points().items():
            missed = [
                offset
                for offset, lane in self.log[name]
                if offset < point.watermarks[lane] and not self.is_done(name, offset)
            ]
            assert not missed, f"{name}: {missed} unfinished below {point}"

    @invariant()
    def committable_never_passes_an_unfinished_record(self) -> None:
        for name, committable in self.d.engine.committable().items():
            missed = [
                offset
                for offset, _ in self.log[name]
                if offset < committable and not self.is_done(name, offset)
            ]
            assert not missed, f"{name}: {missed} unfinished below {committable}"

    @invariant()
    def what_a_partition_holds_is_what_memory_counts(self) -> None:
        if not self.d.engine.partitions:
            assert self.d.memory.held_bytes == 0

    @invariant()
    def agents_have_one_batch_of_an_ordered_lane_of_a_partition_at_most(self) -> None:
        if self.order == "none":
            return
        busy: list[tuple[object, ...]] = []
        for cut in self.unreturned():
            busy += {(cut.agent, cut.lane, *each) for each in self.live_parts(cut)}
        assert len(busy) == len(set(busy))

    @invariant()
    def while_something_is_missing_one_batch_of_each_function_looks(self) -> None:
        for name, view in self.d.engine.views.items():
            for outage in (view.serving.primary, view.serving.fallback):
                flight = outage.probe
                if flight is None:
                    continue
                assert not outage.over
                assert flight.cut in self.d.running and flight.cut.agent == name

    @invariant()
    def retries_of_an_ordered_lane_begin_with_the_oldest(self) -> None:
        waiting = [cut for view in self.d.engine.views.values() for _, cut in view.retries.items()]
        for cut in self.unreturned() if self.order != "none" else ():
            if cut.attempt > 1:
                for other in waiting:
                    shared = self.live_parts(cut) & self.live_parts(other)
                    older = other.batch_id < cut.batch_id and other.lane == cut.lane
                    older = older and other.agent == cut.agent
                    assert not (shared and older)

    def teardown(self) -> None:
        """Work until nothing is left: every record must come out, none is lost."""
        self.assign(set(NAMES))
        for name in NAMES:
            for _ in range(100):
                if name in self.d.reading:
                    self.fetch(sorted(self.d.reading).index(name), 20)
        for _ in range(2_000):
            if self.d.running:
                self.settle(self.d.running[0], 0)
            else:
                self.d.wait(20_000)
                if not self.d.running:
                    break
        for name in NAMES:
            for agent in self.agents:
                assert {each[0] for each in self.log[name]} == self.done_by[agent, name], "lost"
        assert self.d.memory.used_bytes == 0
        for book in self.d.engine.books:
            assert book.counts.in_flight == book.counts.held == 0

    # How.

    def unreturned(self) -> list[Cut]:
        return [cut for cut in self.d.running if cut.batch_id not in self.returned]

    def pick_running(self, pick: int) -> Cut:
        return self.d.running[pick % len(self.d.running)]

    def live_parts(self, cut: Cut) -> set[tuple[TopicPartition, int, int]]:
        """Return what may be in one batch at a time: flows of partitions."""
        flight = self.d.engine.views[cut.agent].flights[cut.batch_id]
        return {
            (part.partition.name, part.partition.epoch, part.piece.chunk.flow)
            for part in flight.live
        }

    def flow_of(self, offset: int) -> int:
        return offset % self.flows if self.flows else NO_FLOW

    def is_done(self, name: TopicPartition, offset: int) -> bool:
        return all(offset in self.done_by[agent, name] for agent in self.agents)

    def settle(self, cut: Cut, rejected: int) -> None:
        if cut.batch_id not in self.returned:
            self.d.give_back(cut)
        self.returned.discard(cut.batch_id)
        for piece in cut.slices:
            # Even if its partition is gone: it was processed.
            done = self.done_by[cut.agent, piece.chunk.partition]
            offsets = piece.columns.column(0).to_pylist()
            done |= set(offsets)
        self.d.settle(cut, dead_letters=rejected)


class UnorderedMachine(EngineMachine):
    """The same with order="none"."""

    order: ClassVar[Literal["partition", "key", "none"]] = "none"


class ByPartitionMachine(EngineMachine):
    """The same with batches of one partition."""

    by_partition: ClassVar[bool] = True


MANY = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestOrdered = EngineMachine.TestCase


class ByKeyMachine(EngineMachine):
    order = "key"
    flows = 3


class SeveralAgentsMachine(EngineMachine):
    agents = ("one", "two", "three")


class SeveralAgentsByKeyMachine(ByKeyMachine):
    agents = ("one", "two")


class FallbackMachine(EngineMachine):
    fallback_on = frozenset(OCCASIONS)


class FallbackUnorderedMachine(SeveralAgentsMachine):
    order = "none"
    fallback_on = frozenset({"brownout", "failure"})


TestUnordered = UnorderedMachine.TestCase
TestByPartition = ByPartitionMachine.TestCase
TestByKey = ByKeyMachine.TestCase
TestSeveralAgents = SeveralAgentsMachine.TestCase
TestSeveralAgentsByKey = SeveralAgentsByKeyMachine.TestCase
TestFallback = FallbackMachine.TestCase
TestFallbackUnordered = FallbackUnorderedMachine.TestCase
TestFallback.settings = TestFallbackUnordered.settings = MANY
TestByKey.settings = TestSeveralAgents.settings = TestSeveralAgentsByKey.settings = MANY
TestOrdered.settings = TestUnordered.settings = TestByPartition.settings = MANY
