"""One life of a worker: the real Engine, told what happens, and what carries out its answers.

    FetchLoop ─Fetched─▶ Engine ─StartBatch─▶ Agent ─Returned─▶ Engine … Finished, Failed
                           │ ▲                  └──▶ Provider
                 commits ◀─┘ └── ticks

It stands for `runtime.py`. A worker that is crashed is thrown away with all it knew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from flowguard.chunk import TopicPartition
from flowguard.commands import (
    BuryBatch,
    Command,
    Cut,
    DivertBatch,
    Fetch,
    FinishFrames,
    Hold,
    Park,
    ReadFrame,
    Resume,
    Seek,
    StartBatch,
    Unprocessed,
    WriteFrame,
)
from flowguard.control.memory import MemoryBudget
from flowguard.dispatch.concurrency import Adaptive
from flowguard.engine import Engine
from flowguard.facts import (
    Assigned,
    CommitPoint,
    Committed,
    Fact,
    Failed,
    Finished,
    Returned,
    Revoked,
    Revoking,
    Ticked,
)
from flowguard.holdings import Partition
from flowguard.lanes.lane_set import LaneSet
from flowguard.stress.chance import poisson
from flowguard.stress.scenario import Scenario
from flowguard.stress.simulator.agenda import Agenda
from flowguard.stress.simulator.broker import Broker
from flowguard.stress.simulator.disk import Disk
from flowguard.stress.simulator.fetching import FetchLoop, FetchPlan, epoch_ms_at, pace_of
from flowguard.stress.simulator.history import Handed
from flowguard.stress.simulator.provider import REFUSAL_NS, Answer, Call, Provider
from flowguard.stress.simulator.watch import Watch
from flowguard.units import MILLISECOND
from flowguard.view import AgentPlan

if TYPE_CHECKING:
    import random

__all__ = ["AGENT", "Worker"]

#: The name of its only agent.
AGENT: Final = "agent"

#: How often control loops look at the worker, as in `runtime.py`.
TICK_NS: Final = 100 * MILLISECOND

#: How often a rebalance looks whether what is in flight has landed.
LANDED_NS: Final = 5 * MILLISECOND


class Worker:
    """A worker, from its start until it is lost.

    Args:
        scenario: What it is made of.
        agenda: Time.
        broker: What it reads, and commits to.
        provider: What its agent calls.
        watch: Told everything that happens.
        rng: Where chance comes from.

    Attributes:
        alive: It has not been lost.
        awake_ns: It does nothing before this instant.
        skew_ns: How far its wall clock is ahead.
        fails: Makes further batches fail: cut → whether.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        agenda: Agenda,
        broker: Broker,
        provider: Provider,
        watch: Watch,
        rng: random.Random,
        wake_provider: Callable[[], None],
        fails: Callable[[Cut], bool] | None = None,
    ) -> None:
        self.plan = scenario.worker
        self.lanes = LaneSet(self.plan.lanes)
        self.memory = MemoryBudget(self.plan.memory_bytes)
        self.engine = Engine(
            self.lanes,
            [agent_plan(scenario)],
            self.memory,
            shadow=self.plan.shadow,
            ranks_of={topic: ranks_of(scenario, topic) for topic in scenario.topics},
            chance=rng.random,
        )
        self.alive = True
        self.awake_ns = 0
        self.skew_ns = 0
        self.fails = fails
        self._agenda = agenda
        self._broker = broker
        self._provider = provider
        self._watch = watch
        self._rng = rng
        self._wake_provider = wake_provider
        self._plan = scenario.provider
        self.disk = Disk(
            self.lanes, later=self.later, observe=self.observe, now_ns=lambda: agenda.now_ns
        )
        self._calls: dict[int, Call] = {}
        #: By when they were sent, the commits that are under way.
        self._committing: dict[
            int, tuple[Mapping[TopicPartition, CommitPoint], Mapping[TopicPartition, Partition]]
        ] = {}
        self._tick_at_ns: int | None = None
        self._loops = {
            topic: loop for topics, loop in self._fetch_loops(scenario) for topic in topics
        }

    def _fetch_loops(self, scenario: Scenario) -> list[tuple[list[str], FetchLoop]]:
        """Return the loops, with the topics of each."""
        by_kind: dict[bool, list[str]] = {True: [], False: []}
        tight: dict[bool, list[int]] = {True: [], False: []}
        for topic in scenario.topics:
            lanes = {each.lane for each in scenario.arrivals if scenario.topic_of(each) == topic}
            targets = [each.target_ns for each in self.plan.lanes if each.name in lanes]
            urgent = None not in targets
            by_kind[urgent].append(topic)
            tight[urgent] += [each for each in targets if each is not None]
        return [
            (topics, FetchLoop(
                FetchPlan(
                    urgent=urgent,
                    may_be_urgent=bool(tight[urgent]),
                    pace_ns=pace_of(tight[urgent]),
                    in_blocks=self.plan.order != "partition",
                ),
                broker=self._broker, memory=self.memory, later=self.later, deliver=self._fetched,
                clocks=lambda: (self._agenda.now_ns, self.epoch_ms),
            ))
            for urgent, topics in by_kind.items() if topics
        ]  # fmt: skip

    @property
    def epoch_ms(self) -> int:
        """Return what its wall clock says."""
        return epoch_ms_at(self._agenda.now_ns, self.skew_ns)

    @property
    def idle(self) -> bool:
        """Tell whether no batch is with the agent, waits for acknowledgement or its retry."""
        return not any(view.flights for view in self.engine.views.values())

    # Life.

    def start(self, names: Iterable[TopicPartition]) -> None:
        """Begin with partitions, where the group is."""
        self.assigned(names)
        self.later(self.plan.commit_ns, self._commit_now_and_then)
        self._tick_now_and_then(self._agenda.now_ns + TICK_NS)

    def crash(self) -> None:
        """Lose it, with all it knew."""
        self.alive = False
        for call in self._calls.values():
            self._provider.cancel(call, self._agenda.now_ns)

    def later(self, wait_ns: int, event: Callable[[], None]) -> None:
        """Do something after a while: not if it is lost by then, and not before it is awake."""
        self._agenda.after(wait_ns, lambda: self._do(event))

    def _do(self, event: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self._agenda.now_ns < self.awake_ns:
            self._agenda.at(self.awake_ns, lambda: self._do(event))
            return
        event()

    # Facts.

    def observe(self, *facts: Fact) -> None:
        """Tell the engine, and do what it answers."""
        started: list[Handed] = []
        commands = self.engine.observe(*facts)
        # A worker logs what has left with its next tick; whether it was logged is judged now,
        # and before the batches that it makes way for.
        commands = [*commands, *self.engine.overflow.flush()]
        for command in sorted(commands, key=lambda each: not isinstance(each, Unprocessed)):
            self._carry_out(command, started)
        self._watch.observed(
            self.engine, started, self._agenda.now_ns, spilled_bytes=self.disk.used_bytes
        )
        due_ns = self.engine.due_ns
        if due_ns is not None and (self._tick_at_ns is None or due_ns < self._tick_at_ns):
            self._tick_at_ns = due_ns
            self.later(max(0, due_ns - self._agenda.now_ns), lambda: self._tick(due_ns))

    def _tick(self, due_ns: int) -> None:
        if self._tick_at_ns == due_ns:
            self._tick_at_ns = None
            self.observe(Ticked(at_ns=self._agenda.now_ns))

    def _tick_now_and_then(self, wanted_ns: int) -> None:
        def tick() -> None:
            now_ns = self._agenda.now_ns
            self.observe(Ticked(at_ns=now_ns, loop_lag_ns=now_ns - wanted_ns))
            self._tick_now_and_then(max(wanted_ns + TICK_NS, now_ns))

        self.later(max(0, wanted_ns - self._agenda.now_ns), tick)

    def _fetched(self, facts: Sequence[Fact]) -> None:
        self.observe(*facts)

    # Commands.

    def _carry_out(self, command: Command, started: list[Handed]) -> None:
        match command:
            case StartBatch(cut):
                started.append(self._watch.started(cut, self._agenda.now_ns))
                self._serve(cut)
            case Fetch(offsets):
                self._read(offsets)
            case Resume():
                for loop in dict.fromkeys(self._loops.values()):
                    self.later(0, loop.wake)
            case Hold(partitions):
                for loop in dict.fromkeys(self._loops.values()):
                    self.later(0, partial(loop.hold, partitions))
            case Unprocessed():
                self._watch.left(command, self._agenda.now_ns)
            case DivertBatch(cut):
                self._watch.started(cut, self._agenda.now_ns)
                self.later(self._broker.ack_ns, lambda: self._diverted(cut))
            case BuryBatch(cut):
                self._watch.started(cut, self._agenda.now_ns, buried=True)
                self.later(self._broker.ack_ns, lambda: self._buried(cut))
            case WriteFrame():
                self.disk.write(command)
            case ReadFrame():
                self.disk.read(command)
            case FinishFrames():
                self.disk.finish(command)
            case Park() | Seek():
                pass  # its disk is lost with it, so nothing is ever found there
            case _:
                assert_never(command)

    def _read(self, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        for loop in dict.fromkeys(self._loops.values()):
            ours = {name: at for name, at in offsets.items() if self._loops[name.topic] is loop}
            # Not at once: the loop would tell the engine while the engine still answers.
            self.later(0, partial(loop.assign, ours, self._broker.log))

    # Batches.

    def _serve(self, cut: Cut) -> None:
        """Let the agent work on a batch."""
        fallback = self.plan.fallback
        if cut.degraded and fallback is not None:
            service_ns = fallback.call_ns + cut.num_records * fallback.record_ns
            self.later(service_ns, lambda: self._come_back(cut, Answer()))
            return
        now_ns = self._agenda.now_ns
        # The provider answers whatever the worker does; what is done with it, is done awake.
        given = self._provider.call(
            now_ns, cut.num_records, lambda answer: self._do(lambda: self._answered(cut, answer))
        )
        if isinstance(given, Answer):
            self.later(REFUSAL_NS, lambda: self._come_back(cut, given))
            return
        self._calls[cut.batch_id] = given
        if self._plan.timeout_ns:
            self.later(self._plan.timeout_ns, lambda: self._give_up(cut, given))
        self._wake_provider()

    def _give_up(self, cut: Cut, call: Call) -> None:
        if self._calls.get(cut.batch_id) is call:
            self._provider.cancel(call, self._agenda.now_ns)
            self._wake_provider()
            self._answered(cut, Answer("no answer in time", unavailable=self._plan.unavailable))

    def _answered(self, cut: Cut, answer: Answer) -> None:
        if self._calls.pop(cut.batch_id, None) is not None:
            self._come_back(cut, answer)

    def _come_back(self, cut: Cut, answer: Answer) -> None:
        """The agent is done with a batch, or raises."""
        if not answer.why and self.fails is not None and self.fails(cut):
            answer = Answer("it is told to fail")
        if answer.why:
            self._fail(cut, answer)
            return
        self._watch.returned(cut, self._agenda.now_ns)
        refused = self._rng.random() < self._broker.plan.refused
        self.observe(Returned(batch_id=cut.batch_id, at_ns=self._agenda.now_ns, held_ns=0))
        ended = Answer("what it sent was not acknowledged") if refused else None
        self.later(self._broker.ack_ns, lambda: self._settle(cut, ended))

    def _settle(self, cut: Cut, failure: Answer | None) -> None:
        if failure is not None:
            self._fail(cut, failure)
            return
        rejected = 0
        if self._plan.rejects and not cut.degraded:
            rejected = min(
                cut.num_records, poisson(self._rng, self._plan.rejects * cut.num_records)
            )
        self._watch.settled(cut, self._agenda.now_ns, dead_letters=rejected)
        self._finish(cut, range(rejected))

    def _buried(self, cut: Cut) -> None:
        self._watch.settled(cut, self._agenda.now_ns, dead_letters=cut.num_records)
        self._finish(cut, range(cut.num_records))

    def _diverted(self, cut: Cut) -> None:
        self._watch.diverted(cut, self._agenda.now_ns)
        self._finish(cut, ())

    def _finish(self, cut: Cut, dead_letters: Collection[int]) -> None:
        self.observe(
            Finished(
                batch_id=cut.batch_id, dead_letters=dead_letters, at_ns=self._agenda.now_ns,
                epoch_ms=self.epoch_ms,
            )
        )  # fmt: skip

    def _fail(self, cut: Cut, answer: Answer) -> None:
        self._watch.failed(cut, self._agenda.now_ns)
        self.observe(
            Failed(
                batch_id=cut.batch_id, why=answer.why, at_ns=self._agenda.now_ns,
                unavailable=answer.unavailable, retry_after_ns=answer.retry_after_ns,
            )
        )  # fmt: skip

    # The group.

    def assigned(self, names: Iterable[TopicPartition]) -> None:
        """Take in that these partitions are ours, all of them."""
        points, names = self._broker.points, sorted(names)  # or runs would differ
        held = dict(self.engine.partitions)
        self.observe(
            Assigned(
                offsets={name: points[name].offset for name in names},
                watermarks={name: points[name].watermarks for name in names},
                at_ns=self._agenda.now_ns,
            )
        )
        for name, partition in self.engine.partitions.items():
            if held.get(name) is not partition:
                self._watch.assigned(name, partition.ledger.restored)

    def rebalance(self, names: frozenset[TopicPartition]) -> None:
        """Give up all but these partitions, when what is in flight of them has landed."""
        held = frozenset(self.engine.partitions)
        self.observe(Revoking(partitions=held, at_ns=self._agenda.now_ns))
        self._when_landed(held, self._agenda.now_ns + self.plan.drain_ns, names)

    def _when_landed(
        self, held: frozenset[TopicPartition], most_ns: int, names: frozenset[TopicPartition]
    ) -> None:
        now_ns = self._agenda.now_ns
        if self.engine.records_in_flight(held) and now_ns < most_ns:
            self.later(LANDED_NS, lambda: self._when_landed(held, most_ns, names))
            return
        self.commit()
        self.evict(held - names)
        self.assigned(names)

    def evict(self, names: frozenset[TopicPartition]) -> None:
        """Take in that these partitions are no longer ours."""
        if names:
            self.observe(Revoked(partitions=names, at_ns=self._agenda.now_ns))

    def _commit_now_and_then(self) -> None:
        if self._broker.reachable(self._agenda.now_ns):
            sent_ns = self._agenda.now_ns
            self._committing[sent_ns] = self.engine.commit_points(), dict(self.engine.partitions)
            self.later(self._broker.plan.commit_ns, lambda: self._commit_arrives(sent_ns))
        self.later(self.plan.commit_ns, self._commit_now_and_then)

    def _commit_arrives(self, sent_ns: int) -> None:
        if (commit := self._committing.pop(sent_ns, None)) is not None:
            self._store(*commit)

    def commit(self) -> None:
        """Commit now; what is under way goes first, as with a worker."""
        if self._broker.reachable(self._agenda.now_ns):
            for sent_ns in list(self._committing):
                self._commit_arrives(sent_ns)
            self._store(self.engine.commit_points(), self.engine.partitions)

    def _store(
        self,
        points: Mapping[TopicPartition, CommitPoint],
        held: Mapping[TopicPartition, Partition],
    ) -> None:
        """Let the broker store a commit, but for what went to somebody else meanwhile."""
        now = self.engine.partitions
        ours = {name: point for name, point in points.items() if now.get(name) is held[name]}
        self._broker.store(ours)
        self._watch.committed(ours)
        self.observe(Committed(points=ours, at_ns=self._agenda.now_ns))


def ranks_of(scenario: Scenario, topic: str) -> frozenset[int]:
    """Return the lanes that records of a topic may have by rule."""
    names = scenario.worker.lane_names
    if scenario.worker.rule == "by_header":
        return frozenset(range(len(names)))
    return frozenset(
        names.index(each.lane) for each in scenario.arrivals if scenario.topic_of(each) == topic
    )


def agent_plan(scenario: Scenario) -> AgentPlan:
    """Return the agent as the engine knows it."""
    plan = scenario.worker
    adaptive = plan.concurrency if isinstance(plan.concurrency, Adaptive) else None
    return AgentPlan(
        name=AGENT,
        topics=frozenset(scenario.topics),
        seats=plan.concurrency if isinstance(plan.concurrency, int) else plan.concurrency.max,
        adaptive=adaptive,
        records_max=plan.batch.max,
        linger_ns=plan.batch.linger_ns,
        by_partition=plan.batch.by_partition,
        order=plan.order,
        fallback_on=frozenset(plan.fallback.on if plan.fallback else ()),
    )
