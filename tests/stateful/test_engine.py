"""The engine under any order of events, against a model that only counts.

A failure prints the steps that lead to it. Replay: `pytest tests/stateful/test_engine.py`
with the `@reproduce_failure` or `--hypothesis-seed` that hypothesis prints.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowguard.chunk import NO_FLOW, Chunk, TopicPartition
from flowguard.commands import Cut, Unprocessed
from flowguard.control.limit import Step, Window, WindowRule
from flowguard.dispatch.concurrency import Adaptive
from flowguard.facts import Assigned, Found, Nack
from flowguard.holdings import Flight, Part
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Conflate, Divert, Shed
from flowguard.serving import OCCASIONS
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry
from flowguard.units import KIB, MIB, MILLISECOND
from flowguard.view import AgentPlan
from tests.builders import EngineDriver, chunk_of

NAMES = [TopicPartition("orders", number) for number in range(3)]
LANES = (Lane("realtime", target="50ms", reserve=0.25), Lane("middle", weight=3), Lane("bulk"))

which = st.integers(0, 1_000_000)


class Restless:
    """An algorithm that asks for something else each time a batch has ended."""

    first = 2.0
    windows = WindowRule(min_ns=0, completions=1, completions_slow=1)

    def update(self, window: Window) -> Step:
        return Step(window.limit % 4 + 1, "move", "for a change")


class EngineMachine(RuleBasedStateMachine):
    """Kafka is a list of offsets a partition; what was settled is a set of them."""

    order: ClassVar[Literal["partition", "key", "none"]] = "partition"
    lanes: ClassVar[tuple[Lane, ...]] = LANES
    record_bytes: ClassVar[int] = 100
    by_partition: ClassVar[bool] = False
    flows: ClassVar[int] = 0  # how many keys, each with a flow of its own
    agents: ClassVar[tuple[str, ...]] = ("agent",)
    fallback_on: ClassVar[frozenset[str]] = frozenset()
    restless: ClassVar[bool] = False  # the limit of seats changes all the time
    failed_in_row_max: ClassVar[int] = 64  # more is an outage

    def __init__(self) -> None:
        super().__init__()
        self.d = self.new_worker()
        self.log: dict[TopicPartition, list[tuple[int, int]]] = defaultdict(list)  # offset, lane
        self.end = dict.fromkeys(NAMES, 0)
        self.done_by: dict[tuple[str, TopicPartition], set[int]] = defaultdict(set)
        self.committed = dict.fromkeys(NAMES, 0)
        self.watermarks: dict[TopicPartition, tuple[int, ...]] = {}
        self.returned: set[int] = set()
        self.left: dict[TopicPartition, set[int]] = defaultdict(set)  # without an agent
        self.newest_started: dict[tuple[object, ...], int] = {}
        self.seen_batch = 0
        self.poison: set[tuple[TopicPartition, int]] = set()  # agents fail on these
        self.nacks: dict[int, frozenset[int]] = {}  # of batches that came back with them
        self.ended: dict[tuple[object, ...], set[int]] = defaultdict(set)  # in this assignment
        self.letters = [0] * len(self.lanes)
        self.failed_last: dict[tuple[str, TopicPartition, int], int] = {}  # by itself, in turn

    def new_worker(self) -> EngineDriver:
        plans = [
            AgentPlan(
                name=name,
                topics=frozenset({"orders"}),
                seats=4,
                adaptive=Adaptive(max=4, algorithm=Restless()) if self.restless else None,
                order=self.order,
                by_partition=self.by_partition,
                records_max=5,
                linger_ns=5 * MILLISECOND,
                fallback_on=self.fallback_on,
                retries=Retry(max=2),
                dead_letters=DeadLetters(max_ratio=1.0),
            )
            for name in self.agents
        ]
        worker = EngineDriver(lanes=self.lanes, agents=plans, memory_bytes=4 * MIB)
        worker.engine.failing.failed_in_row_max = self.failed_in_row_max
        return worker

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
        chunks = [self.chunk(name, lane, flow, offsets) for (lane, flow), offsets in split.items()]
        self.d.fetch(name, *chunks, next_offset=fresh[-1][0] + 1, epoch=partition.epoch)

    @precondition(lambda self: self.unreturned())
    @rule(pick=which)
    def give_back(self, pick: int) -> None:
        cut = self.unreturned()[pick % len(self.unreturned())]
        self.returned.add(cut.batch_id)
        self.d.give_back(cut)

    @precondition(lambda self: self.unreturned())
    @rule(pick=which, rows=st.sets(st.integers(0, 4), min_size=1))
    def nack(self, pick: int, rows: set[int]) -> None:
        """Let an agent come back that wants some records again; it is settled later."""
        cut = self.unreturned()[pick % len(self.unreturned())]
        nacked = frozenset(row for row in rows if row < cut.num_records)
        if nacked:
            self.returned.add(cut.batch_id)
            self.nacks[cut.batch_id] = nacked
            self.d.give_back(cut, nacked=True)

    @precondition(lambda self: self.d.running)
    @rule(pick=which, rejected=st.integers(0, 2))
    def finish(self, pick: int, rejected: int) -> None:
        cut = self.pick_running(pick)
        if cut.batch_id not in self.returned:
            self.returned.add(cut.batch_id)
            self.d.give_back(cut)
            # Looked at before it is settled, which may decide about what has just been passed.
            self.nothing_of_an_ordered_sub_queue_starts_before_what_failed()
        self.settle(cut, min(rejected, cut.num_records))

    @precondition(lambda self: self.d.running)
    @rule(
        pick=which,
        transient=st.booleans(),
        rejected=st.booleans(),
        after_ms=st.sampled_from([None, 50, 5_000]),
    )
    def fail(self, pick: int, transient: bool, rejected: bool, after_ms: int | None) -> None:
        cut = self.pick_running(pick)
        after_ns = None if after_ms is None else after_ms * MILLISECOND
        self.forget(cut)
        self.note_failed(cut)
        self.d.fail(cut, transient=transient, rejected=rejected, retry_after_ns=after_ns)

    @precondition(lambda self: self.unreturned())
    @rule(pick=which, done=st.integers(0, 4), failing=st.integers(1, 4), missing=st.booleans())
    def find(self, pick: int, done: int, failing: int, missing: bool) -> None:
        """Let an agent do the first records of a batch, and fail on those behind them.

        If something is missing then, that holds for all of them.
        """
        cut = self.unreturned()[pick % len(self.unreturned())]
        flight, count = self.flight(cut), cut.num_records
        done = min(done, count - 1)
        failing = count - done if missing else min(failing, count - done)
        if len(flight.live) == len(flight.parts):  # otherwise nothing is told apart
            records = [(part, n) for part in flight.parts for n in part.piece.offsets.to_pylist()]
            self.note_done(cut, records[:done])
            led = self.d.engine.views[cut.agent].rest_of(flight) is not None
            if (count - done if led else failing) == 1:
                self.failed_last[self.places_of(flight)[done]] = self.next_turn()
        else:
            self.note_failed(cut)
        self.forget(cut)
        self.d.fail(cut, found=Found(done, failing), unavailable=missing)

    @precondition(lambda self: any(self.log.values()))
    @rule(pick=which)
    def go_bad(self, pick: int) -> None:
        """Let a record be one that agents fail on, from now on."""
        everything = [(name, offset) for name in NAMES for offset, _ in self.log[name]]
        self.poison.add(everything[pick % len(everything)])

    @rule()
    def heal(self) -> None:
        self.poison.clear()

    @precondition(lambda self: self.d.burying)
    @rule(pick=which)
    def bury(self, pick: int) -> None:
        """Let a dead letter be acknowledged."""
        cut = self.d.burying[pick % len(self.d.burying)]
        parts = self.flight(cut).parts
        places = [(part, offset) for part in parts for offset in part.piece.offsets.to_pylist()]
        self.note_done(cut, places)
        self.letters[cut.lane] += sum(part.piece.count for part in parts if part.live)
        self.d.bury(cut)

    @precondition(lambda self: self.d.burying)
    @rule(pick=which)
    def refuse_burial(self, pick: int) -> None:
        self.d.refuse_burial(self.d.burying[pick % len(self.d.burying)])

    @precondition(lambda self: self.d.running)
    @rule(pick=which, common=st.booleans(), after_ms=st.sampled_from([None, 50, 5_000]))
    def refuse(self, pick: int, common: bool, after_ms: int | None) -> None:
        """Let a batch find that something is unavailable."""
        cut = self.pick_running(pick)
        attempt = cut.attempt
        self.forget(cut)
        self.note_failed(cut)
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
        self.begin_anew()
        self.assign(set(NAMES))
        for name in NAMES:
            before = self.watermarks.get(name, (0,) * len(self.lanes))
            after = self.d.engine.partitions[name].ledger.point.watermarks
            assert all(new >= old for new, old in zip(after, before, strict=True))

    def begin_anew(self) -> None:
        """Forget what the worker before did."""
        self.returned, self.nacks = set(), {}
        self.newest_started, self.seen_batch = {}, 0
        self.letters = [0] * len(self.lanes)
        self.ended.clear()
        self.failed_last.clear()

    # What must be so.

    @invariant()
    def no_watermark_passes_an_unfinished_record_of_its_lane(self) -> None:
        self.absorb()
        for name, point in self.d.engine.commit_points().items():
            missed = [
                offset
                for offset, lane in self.log[name]
                if offset < point.watermarks[lane] and not self.is_done(name, offset)
            ]
            assert not missed, f"{name}: {missed} unfinished below {point}"

    @invariant()
    def committable_never_passes_an_unfinished_record(self) -> None:
        self.absorb()
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
            flight = self.flight(cut)
            for other in waiting if cut.again else ():
                shared = self.live_parts(cut) & self.live_parts(other)
                older = self.flight(other).place < flight.place and other.lane == cut.lane
                # No agent gets a dead letter again: what began while it was written may go on.
                older = older and other.agent == cut.agent and not self.flight(other).doomed
                assert not (shared and older) or self.was_tried_just_before(other, flight)

    def was_tried_just_before(self, cut: Cut, flight: Flight) -> bool:
        """Tell whether a batch failed as often as it may, and after the records of another one.

        That those failed among others says nothing: the halves of what passes go on passing.
        """
        passed = self.flight(cut)
        places = [
            max(self.failed_last.get(place, 0) for place in self.places_of(each))
            for each in (passed, flight)
        ]
        return passed.exhausted and not passed.doomed and places[0] > places[1]

    @invariant()
    def nothing_of_an_ordered_sub_queue_starts_before_what_failed(self) -> None:
        started, self.d.started = self.d.started, []
        for cut in started if self.order != "none" else ():
            view = self.d.engine.views[cut.agent]
            flight = view.flights.get(cut.batch_id)
            for other in view.flights.values() if flight is not None and flight.seated else ():
                before = other.place < flight.place and other.cut.lane == cut.lane
                before = before and not other.aside
                if not (before and self.live_parts(cut) & self.live_parts(other.cut)):
                    continue
                assert other.cut in view.retries or not (flight.failed or other.doomed)
                if other.cut in view.retries:
                    assert self.was_tried_just_before(other.cut, flight)

    @invariant()
    def dead_letters_are_counted_once(self) -> None:
        for lane, book in enumerate(self.d.engine.books) if len(self.agents) == 1 else ():
            assert book.counts.dead_letters == self.letters[lane]

    @invariant()
    def records_of_an_ordered_sub_queue_start_in_order(self) -> None:
        fresh = [cut for cut in self.d.running if cut.batch_id > self.seen_batch]
        self.seen_batch = max([self.seen_batch, *(cut.batch_id for cut in fresh)])
        fresh = [cut for cut in fresh if not cut.again]
        for cut in fresh if self.order != "none" else ():
            for part in self.d.engine.views[cut.agent].flights[cut.batch_id].parts:
                name, epoch = part.partition.account
                place = (cut.agent, cut.lane, name, epoch, part.piece.chunk.flow)
                offsets = part.piece.offsets.to_pylist()
                assert offsets == sorted(offsets)
                assert offsets[0] > self.newest_started.get(place, -1)
                self.newest_started[place] = offsets[-1]

    def teardown(self) -> None:
        """Work until nothing is left: every record must come out, none is lost."""
        self.assign(set(NAMES))
        for name in NAMES:
            for _ in range(100):
                if name in self.d.reading:
                    self.fetch(sorted(self.d.reading).index(name), 20)
        for step in range(2_000):
            if step == 200:
                self.heal()  # if nothing else is left that could show that the agent works
            if self.d.running:
                self.settle(self.d.running[0], 0)
            elif self.d.diverting:
                self.d.acknowledge(self.d.diverting[0])
            elif self.d.burying:
                self.bury(0)
            else:
                self.d.wait(20_000)
                self.d.wait(20_000)  # a batch may begin to fill only when a probe is due
                if not (self.d.running or self.d.diverting or self.d.burying):
                    break
        self.absorb()
        for name in NAMES:
            everything = {each[0] for each in self.log[name]}
            done = [self.done_by[agent, name] for agent in self.agents]
            if any(lane.policies or lane.max_age for lane in self.lanes):
                done = [set().union(*done)]  # what one processed, another may have given up
            assert all(everything == each | self.left[name] for each in done), "lost"
        assert self.d.memory.used_bytes == 0
        for book in self.d.engine.books:
            assert book.counts.in_flight == book.counts.held == 0

    # How.

    def unreturned(self) -> list[Cut]:
        return [cut for cut in self.d.running if cut.batch_id not in self.returned]

    def flight(self, cut: Cut) -> Flight:
        return self.d.engine.views[cut.agent].flights[cut.batch_id]

    def forget(self, cut: Cut) -> None:
        """Forget how an agent came back."""
        self.returned.discard(cut.batch_id)
        self.nacks.pop(cut.batch_id, None)

    def note_done(self, cut: Cut, records: Sequence[tuple[Part, int]]) -> None:
        """Note that an agent is done with these records, once in an assignment."""
        for part, offset in records:
            ended = self.ended[cut.agent, cut.lane, part.partition.account]
            assert not (part.live and offset in ended)
            if part.live:
                ended.add(offset)
            # Even if its partition is gone: it was processed.
            self.done_by[cut.agent, part.partition.name].add(offset)

    def note_failed(self, cut: Cut, rows: frozenset[int] = frozenset({0})) -> None:
        """Note which records failed by themselves, or were named by the agent."""
        turn = self.next_turn()
        if cut.num_records == len(rows) == 1 or cut.batch_id in self.nacks:
            places = self.places_of(self.flight(cut))
            self.failed_last |= {places[row]: turn for row in rows}

    def next_turn(self) -> int:
        return 1 + max(self.failed_last.values(), default=0)

    def places_of(self, flight: Flight) -> list[tuple[str, TopicPartition, int]]:
        return [
            (flight.cut.agent, part.partition.name, offset)
            for part in flight.parts
            for offset in part.piece.offsets.to_pylist()
        ]

    def pick_running(self, pick: int) -> Cut:
        return self.d.running[pick % len(self.d.running)]

    def live_parts(self, cut: Cut) -> set[tuple[TopicPartition, int, int]]:
        """Return what may be in one batch at a time: flows of partitions."""
        flight = self.flight(cut)
        return {
            (part.partition.name, part.partition.epoch, part.piece.chunk.flow)
            for part in flight.live
        }

    def flow_of(self, offset: int) -> int:
        return offset % self.flows if self.flows else NO_FLOW

    def chunk(self, name: TopicPartition, lane: int, flow: int, offsets: list[int]) -> Chunk:
        """Return records as they are read now; every seventh has no key."""
        keys = [None if each % 7 == 0 else b"k%d" % (each % 5) for each in offsets]
        num_bytes = self.record_bytes * len(offsets)
        chunk = chunk_of(offsets, partition=name, lane=lane, keys=keys, num_bytes=num_bytes)
        return replace(chunk, flow=flow, fetched_ns=self.d.now_ns, born_ns=self.d.now_ns)

    def is_done(self, name: TopicPartition, offset: int) -> bool:
        return offset in self.left[name] or all(
            offset in self.done_by[agent, name] for agent in self.agents
        )

    def absorb(self) -> list[Unprocessed]:
        """Take in what has left without an agent, as far as it was not yet, and return it."""
        self.d._carry_out(self.d.engine.overflow.flush())
        told, self.d.unprocessed = self.d.unprocessed, []
        for each in told:
            self.left[each.partition] |= self.offsets_of(each)
        return told

    def offsets_of(self, told: Unprocessed) -> set[int]:
        """Return the offsets of its lane in what has left."""
        return {
            offset
            for offset, lane in self.log[told.partition]
            if lane == told.lane and any(start <= offset < end for start, end in told.ranges)
        }

    def settle(self, cut: Cut, rejected: int) -> None:
        """Settle a batch, or let it fail if an agent fails on a record of it."""
        rows = [
            (part, offset)
            for part in self.flight(cut).parts
            for offset in part.piece.offsets.to_pylist()
        ]
        nacked = self.nacks.get(cut.batch_id, frozenset())
        kept_rows = [row for row in range(len(rows)) if row not in nacked]
        kept = [rows[row] for row in kept_rows]
        if any((part.partition.name, offset) in self.poison for part, offset in kept):
            self.forget(cut)
            self.note_failed(cut)
            self.d.fail(cut)
            return
        if cut.batch_id not in self.returned:
            self.d.give_back(cut)
        if nacked:
            self.note_failed(cut, nacked)
        self.forget(cut)
        self.note_done(cut, kept)
        letters = kept_rows[:rejected]
        self.letters[cut.lane] += sum(rows[row][0].live for row in letters)
        self.d.settle(cut, dead_letters=letters, nacked={row: Nack("") for row in nacked})


class UnorderedMachine(EngineMachine):
    """The same with order="none"."""

    order: ClassVar[Literal["partition", "key", "none"]] = "none"


class ByPartitionMachine(EngineMachine):
    """The same with batches of one partition."""

    by_partition: ClassVar[bool] = True


MAX_AGE_MS = 15_000


class OverflowMachine(EngineMachine):
    """The same with records that are too many and too old, and policies for them.

    A lane's share is 6 records; each policy acts often, while batches fail and partitions
    come and go.
    """

    lanes = (
        Lane("conflated", target="400ms", reserve=0.25, overflow=[Conflate(), Shed()]),
        Lane("diverted", weight=3, overflow=Divert("later")),
        Lane("shed", max_age=f"{MAX_AGE_MS}ms", overflow=Shed()),
    )
    record_bytes = 100 * KIB
    outcomes = ({"conflated", "shed"}, {"diverted"}, {"shed", "expired"})

    def __init__(self) -> None:
        super().__init__()
        self.told: Counter[tuple[int, str]] = Counter()
        self.diverted: dict[tuple[object, ...], int] = {}

    def new_worker(self) -> EngineDriver:
        self.told = Counter()
        self.diverted = {}
        return super().new_worker()

    @precondition(lambda self: self.d.reading)
    @rule(pick=which, lane=st.integers(0, 2), count=st.integers(5, 15))
    def flood(self, pick: int, lane: int, count: int) -> None:
        name = sorted(self.d.reading)[pick % len(self.d.reading)]
        self.produce(name, [lane] * count, 0)
        self.fetch(sorted(self.d.reading).index(name), 20)

    @precondition(lambda self: self.d.diverting)
    @rule(pick=which)
    def acknowledge(self, pick: int) -> None:
        cut = self.d.diverting[pick % len(self.d.diverting)]
        for piece in cut.slices if self.order == "partition" else ():
            name, offsets = piece.chunk.partition, piece.offsets.to_pylist()
            if piece.chunk in {c for p in self.d.engine.partitions.values() for c in p.chunks}:
                place = (cut.agent, cut.lane, self.d.engine.partitions[name].account)
                assert offsets[0] > self.diverted.get(place, -1)
                self.diverted[place] = offsets[-1]
        self.d.acknowledge(cut)

    @precondition(lambda self: self.d.diverting)
    @rule(pick=which)
    def bounce(self, pick: int) -> None:
        self.d.bounce(self.d.diverting[pick % len(self.d.diverting)])

    @rule(lane=st.integers(0, 2), ratio=st.sampled_from([0.0, 0.3, 1.0]))
    def shed_ratio(self, lane: int, ratio: float) -> None:
        self.d.engine.overflow.set_shed_ratio(lane, ratio, "a test says so")

    def is_done(self, name: TopicPartition, offset: int) -> bool:
        """Tell whether it has left, or one agent has processed it and the others may not have."""
        return offset in self.left[name] or any(
            offset in self.done_by[agent, name] for agent in self.agents
        )

    def absorb(self) -> list[Unprocessed]:
        told = super().absorb()
        for each in told:
            offsets = self.offsets_of(each)
            assert len(offsets) == each.count, each
            assert each.outcome in self.outcomes[each.lane]
            self.told[each.lane, each.outcome] += each.count
            if each.outcome == "conflated":
                assert all(self.is_replaced(each.partition, each.lane, n) for n in offsets)
        return told

    def is_replaced(self, name: TopicPartition, lane: int, offset: int) -> bool:
        """Tell whether a newer record of the same key follows in its lane."""
        return offset % 7 != 0 and any(
            other > offset and other % 5 == offset % 5 and other % 7 and rank == lane
            for other, rank in self.log[name]
        )

    @invariant()
    def what_left_without_an_agent_is_what_the_counts_say(self) -> None:
        self.absorb()
        for lane, book in enumerate(self.d.engine.books):
            for outcome in ("shed", "conflated", "expired", "diverted"):
                assert getattr(book.counts, outcome) == self.told[lane, outcome]

    @invariant()
    def nothing_too_old_is_started(self) -> None:
        for cut in self.d.running:
            for piece in cut.slices if cut.lane == 2 else ():
                age_ns = cut.started_ns - piece.chunk.fetched_ns
                assert age_ns <= MAX_AGE_MS * MILLISECOND

    @rule()
    def look(self) -> None:
        """Let the loops look: what may be shed is no more than the lane's share then."""
        self.d.wait(100)
        for view in self.d.engine.views.values():
            if not view._revoking:
                assert view.backlog.queued_bytes(2) <= 7 * self.record_bytes

    @invariant()
    def the_backlog_and_the_scheduler_know_the_same_records(self) -> None:
        for view in self.d.engine.views.values():
            for lane, waiting in enumerate(view.backlog.waiting):
                assert view.scheduler.queued_records(lane) == sum(
                    each.piece.count for each in waiting.values()
                )
            ahead = [0] * len(self.lanes)
            for (_, lane), blocks in view.backlog.ahead.items():
                assert blocks
                ahead[lane] += sum(
                    each.piece.num_bytes for block in blocks for each in block.waiting
                )
            assert ahead == view.backlog.ahead_bytes


class OverflowUnorderedMachine(OverflowMachine):
    order = "none"


class OverflowByKeyMachine(OverflowMachine):
    order = "key"
    flows = 3


class OverflowSeveralAgentsMachine(OverflowMachine):
    agents = ("one", "two")


MANY = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

#: Each step is long, so fewer of them find as much.
SOME = settings(MANY, stateful_step_count=20)

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


class FailingMachine(EngineMachine):
    """The same with much to do, of which much fails."""

    @initialize(lane=st.integers(0, 2), bad=st.integers(2, 12))
    def begin(self, lane: int, bad: int) -> None:
        """Begin with records in one lane, of which each so manieth is bad."""
        self.assign(set(NAMES))
        self.flood(lane, 12)
        self.poison = {(n, offset) for n in NAMES for offset, _ in self.log[n] if not offset % bad}

    @rule(lane=st.integers(0, 2), count=st.integers(1, 8))
    def flood(self, lane: int, count: int) -> None:
        for name in NAMES:
            self.produce(name, [lane] * count, 0)
            if name in self.d.reading:
                self.fetch(sorted(self.d.reading).index(name), 20)

    @rule(steps=st.lists(st.tuples(st.integers(0, 9), which), min_size=3, max_size=15))
    def work(self, steps: list[tuple[int, int]]) -> None:
        """Let agents and brokers do much of what they can."""
        for kind, pick in steps:
            if kind == 0 and self.d.running:
                self.fail(pick, transient=pick % 3 == 0, rejected=pick % 5 == 0, after_ms=None)
            elif kind == 1 and self.unreturned():
                self.nack(pick, {pick % 2, pick % 3, pick % 5})
            elif kind == 2 and self.d.burying:
                self.refuse_burial(pick)
            elif kind == 3 and self.d.burying:
                self.bury(pick)
            elif kind == 4 and self.d.running:
                self.refuse(pick, common=pick % 2 == 0, after_ms=None)
            elif kind < 7 and self.unreturned():
                self.give_back(pick)
            elif kind < 9 and self.d.running:
                self.finish(pick, 0)
            else:
                self.wait(200)
            self.look_again()

    def look_again(self) -> None:
        self.nothing_of_an_ordered_sub_queue_starts_before_what_failed()
        self.retries_of_an_ordered_lane_begin_with_the_oldest()
        self.records_of_an_ordered_sub_queue_start_in_order()
        self.agents_have_one_batch_of_an_ordered_lane_of_a_partition_at_most()
        self.committable_never_passes_an_unfinished_record()


class FailingByKeyMachine(FailingMachine):
    order = "key"
    flows = 3


class FailingSeveralAgentsMachine(FailingMachine):
    agents = ("one", "two")
    fallback_on = frozenset({"failure"})


class OutageMachine(FailingMachine):
    """The same where few failures in a row are an outage."""

    failed_in_row_max = 3


class OutageUnorderedMachine(OutageMachine):
    order = "none"


class RestlessMachine(EngineMachine):
    restless = True


class RestlessUnorderedMachine(UnorderedMachine):
    restless = True


TestFailing = FailingMachine.TestCase
TestFailingByKey = FailingByKeyMachine.TestCase
TestFailingSeveralAgents = FailingSeveralAgentsMachine.TestCase
TestFailing.settings = TestFailingByKey.settings = TestFailingSeveralAgents.settings = SOME
TestOutage = OutageMachine.TestCase
TestOutageUnordered = OutageUnorderedMachine.TestCase
TestOutage.settings = TestOutageUnordered.settings = SOME
TestRestless = RestlessMachine.TestCase
TestRestlessUnordered = RestlessUnorderedMachine.TestCase
TestRestless.settings = TestRestlessUnordered.settings = MANY
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

TestOverflow = OverflowMachine.TestCase
TestOverflowUnordered = OverflowUnorderedMachine.TestCase
TestOverflowByKey = OverflowByKeyMachine.TestCase
TestOverflowSeveralAgents = OverflowSeveralAgentsMachine.TestCase
TestOverflow.settings = TestOverflowUnordered.settings = MANY
TestOverflowByKey.settings = TestOverflowSeveralAgents.settings = MANY
