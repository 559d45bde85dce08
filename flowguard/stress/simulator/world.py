"""The world around the real Engine, on a virtual clock.

    plan ─▶ log ─▶ Worker(Engine) ⇄ Provider
                      ▲     │
       faults ────────┘     └─▶ Watch: recording, invariants

Nothing waits: time jumps from event to event, and the same scenario with the same seed gives
the same run, byte for byte. What is done costs time by batch and by fetch, never by record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.commands import Cut
from flowguard.engine import Engine
from flowguard.facts import CommitPoint
from flowguard.situation import agent_state
from flowguard.snapshot import Counts
from flowguard.stress.chance import Chance
from flowguard.stress.plan import Plan, plan_of
from flowguard.stress.recording import Recording
from flowguard.stress.scenario import ProviderPlan, Scenario
from flowguard.stress.simulator.agenda import Agenda
from flowguard.stress.simulator.broker import Broker
from flowguard.stress.simulator.history import History
from flowguard.stress.simulator.invariants import Checker, checkers_of
from flowguard.stress.simulator.log import log_of
from flowguard.stress.simulator.provider import Provider
from flowguard.stress.simulator.trouble import plan_faults
from flowguard.stress.simulator.watch import Watch
from flowguard.stress.simulator.worker import AGENT, Worker
from flowguard.units import MILLISECOND, SECOND

__all__ = ["World"]

#: A worker that has started nothing for so long does not only wait for a fetch.
IDLE_NS: Final = 2 * SECOND

#: How often limits, memory and the ladder are looked at for the timeline.
SAMPLE_NS: Final = 100 * MILLISECOND

#: The latest decisions of a second that stay in the timeline: more than people read.
DECISIONS_MAX: Final = 50


class World:
    """A run of a scenario.

    Args:
        scenario: What is run.
        plan: What is offered; by default that of the scenario.
        fails: Makes further batches fail: cut → whether.
        also: Further checkers, beside those of the invariants.

    Raises:
        ConfigError: The plan cannot be made.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        plan: Plan | None = None,
        fails: Callable[[Cut], bool] | None = None,
        also: Callable[[History], Sequence[Checker]] = lambda history: (),
    ) -> None:
        self.scenario = scenario
        self.chance = Chance(scenario.seed)
        self.plan = plan or plan_of(scenario, self.chance)
        self.log = log_of(self.plan, scenario)
        self.agenda = Agenda()
        self.broker = Broker(scenario.broker, self.log)
        self.provider = Provider(scenario.provider, self.chance.of("provider"))
        lanes = scenario.worker.lanes
        self.history = History(self.log)
        self.recording = Recording(lanes, agent=AGENT, memory_bytes=scenario.worker.memory_bytes)
        checkers = checkers_of(self.history, lanes, scenario.worker.order)
        self.watch = Watch(self.history, self.recording, [*checkers, *also(self.history)])
        self.worker: Worker | None = None
        self._fails = fails
        self._lives = 0
        self._skew_ns = 0
        self._provider_due_ns: int | None = None
        self._decisions_seen = 0
        self._counts = [Counts() for _ in lanes]  # of lives that are over
        self.names = frozenset(self.log)
        nothing = CommitPoint(0, (0,) * len(lanes))
        self.broker.store(dict.fromkeys(self.log, nothing))
        plan_faults(self, self.chance.of("faults"))

    def run(self) -> None:
        """Run it: the scenario, and what is left when nothing is offered any more."""
        seconds = self.scenario.duration_ns // SECOND + 1
        for rank in range(len(self.scenario.worker.lanes)):
            for second, count in enumerate(self.plan.by_second(rank, seconds)):
                self.recording.count(second * SECOND, rank, "offered", count)
        self._live()
        self.agenda.after(SAMPLE_NS, self._sample)
        self.agenda.run(self.scenario.duration_ns)
        self.agenda.run(self.scenario.duration_ns + self.scenario.drain_ns, enough=self._done)
        if self.worker is not None:
            self.worker.commit()
        self.watch.ended(idle=self._idle)
        self.recording.lost = [self._lost(rank) for rank in range(len(self.recording.lanes))]

    def _done(self) -> bool:
        """Tell whether nothing is left: all is settled and committed, and nothing is to happen."""
        return (
            self.watch.ended_records == self.plan.total
            and self._undisturbed
            and all(
                point.offset == len(self.log[name]) for name, point in self.broker.points.items()
            )
        )

    @property
    def _idle(self) -> bool:
        """Tell whether the worker has had nothing to do for a while, and nothing keeps it."""
        worker, since_ns = self.worker, self.watch.started_ns
        undisturbed_ns = max((fault.until_ns for fault in self.scenario.faults), default=0)
        calm_ns = self.agenda.now_ns - max(since_ns, undisturbed_ns)
        return worker is not None and worker.idle and calm_ns > IDLE_NS

    @property
    def _undisturbed(self) -> bool:
        return all(fault.until_ns < self.agenda.now_ns for fault in self.scenario.faults)

    def _lost(self, rank: int) -> int:
        """Return how many records of a lane are committed and have come to no end."""
        return sum(
            self.history.ended.missing(
                segment, 0, segment.row_of(self.broker.points[segment.partition].offset)
            )
            for segment in self.history.segments
            if segment.lane == rank
        )

    def counts(self, rank: int) -> dict[str, int]:
        """Return the counts of a lane, of all lives of the worker together."""
        total = self._counts[rank].as_dict()
        if self.worker is not None:
            now = self.worker.engine.books[rank].counts.as_dict()
            total = {name: count + now[name] for name, count in total.items()}
        return total

    # The worker.

    def _live(self) -> None:
        """Start a worker."""
        self._lives += 1
        self._decisions_seen = 0
        self.worker = Worker(
            self.scenario,
            agenda=self.agenda,
            broker=self.broker,
            provider=self.provider,
            watch=self.watch,
            rng=self.chance.of(f"worker {self._lives}"),
            wake_provider=self.wake_provider,
            fails=self._fails,
        )
        self.worker.skew_ns = self._skew_ns
        self.worker.start(self.names)

    def crash(self, restart_ns: int) -> None:
        """Kill the worker; another one begins a while later where the group is."""
        if self.worker is None:
            return
        self.worker.crash()
        for total, book in zip(self._counts, self.worker.engine.books, strict=True):
            add_counts(total, book.counts)
        self.worker = None
        self.wake_provider()
        self.watch.restarted()
        self.agenda.after(restart_ns, self._live)

    def sleep(self, length_ns: int) -> None:
        """Let the worker stand still for a while."""
        if self.worker is not None:
            self.worker.awake_ns = max(self.worker.awake_ns, self.agenda.now_ns + length_ns)

    def rejoin(self) -> None:
        """Let the worker find, as it wakes up, that the group has gone on without it."""
        if self.worker is not None:
            self.worker.evict(self.names)
            self.worker.assigned(self.names)
            self.recording.second(self.agenda.now_ns).rebalances += 1

    def rebalance(self, names: frozenset[TopicPartition]) -> None:
        """Let the group give the worker these partitions and no others."""
        self.recording.second(self.agenda.now_ns).rebalances += 1
        if self.worker is not None:
            worker = self.worker
            worker.later(0, lambda: worker.rebalance(names))

    def skew(self, by_ns: int) -> None:
        """Let the worker's wall clock be wrong."""
        self._skew_ns = by_ns
        if self.worker is not None:
            self.worker.skew_ns = by_ns

    def unreachable(self, until_ns: int) -> None:
        """Let the broker answer nothing until an instant."""
        self.broker.unreachable_until_ns = until_ns

    def slow_broker(self, delay_ns: int) -> None:
        """Let the broker answer later."""
        self.broker.delay_ns = delay_ns

    # The provider.

    @property
    def usual(self) -> ProviderPlan:
        """Return what the provider is like when nothing is wrong with it."""
        return self.scenario.provider

    def wake_provider(self) -> None:
        """Come back to the provider when its next call is done."""
        due_ns = self.provider.due_ns
        if due_ns is None or due_ns == self._provider_due_ns:
            return
        self._provider_due_ns = due_ns
        self.agenda.at(due_ns, lambda: self._advance(due_ns))

    def _advance(self, due_ns: int) -> None:
        if self._provider_due_ns == due_ns:
            self._provider_due_ns = None
            self.provider.advance(self.agenda.now_ns)
            self.wake_provider()

    # The timeline.

    def _sample(self) -> None:
        """Look at what there is to see."""
        now_ns = self.agenda.now_ns
        second = self.recording.second(now_ns - 1)
        for fault in self.scenario.faults:
            now = fault.at_ns < now_ns <= fault.until_ns + SAMPLE_NS
            if now and str(fault) not in second.faults:
                second.faults.append(str(fault))
        if self.worker is not None:
            self._look_at(self.worker, now_ns)
        self.agenda.after(SAMPLE_NS, self._sample)

    def _look_at(self, worker: Worker, now_ns: int) -> None:
        engine = worker.engine
        state = agent_state(engine.views[AGENT])
        self.recording.see(
            now_ns - 1,
            {
                "limit": float(state.limit),
                "in_flight": float(state.in_flight),
                "batch_size": float(state.batch_size),
                "memory": float(worker.memory.used_bytes),
                "rung": float(engine.steering.rung),
                "pressure": engine.steering.pressure.ratio,
                "spilled": float(worker.disk.used_bytes),
                "hol_blocked": float(hol_blocked(engine)),
            },
        )
        second = self.recording.second(now_ns - 1)
        second.rung_name = engine.steering.rung_name
        fresh = engine.decisions.total - self._decisions_seen
        if fresh:
            self._decisions_seen = engine.decisions.total
            latest = list(engine.decisions)[-min(fresh, DECISIONS_MAX) :]
            second.decisions += [each.as_dict(now_ns=now_ns) for each in latest]
            del second.decisions[:-DECISIONS_MAX]


def hol_blocked(engine: Engine) -> int:
    """Return how many lanes keep their partitions from being read."""
    states = [engine.spilling.condition(rank) for rank in range(len(engine.lanes))]
    return sum(state is not None and state[0] == "hol_blocked" for state in states)


def add_counts(total: Counts, life: Counts) -> None:
    """Add the counts of a life that is over: what it held is given back to the group."""
    for name, count in life.as_dict().items():
        kept = "released" if name in ("held", "in_flight", "spilled", "refetching") else name
        setattr(total, kept, getattr(total, kept) + count)
