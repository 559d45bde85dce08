"""A scenario against a real worker and a real broker.

    scenario ─▶ plan of all records ─▶ senders, worker, reader (`live`) ─▶ scorecard

The same file runs in the simulator; what only the simulator can do is refused here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from flowguard.errors import ConfigError
from flowguard.stress.assertions import end_of_faults, objectives_of, recovery_seconds
from flowguard.stress.brief import Brief
from flowguard.stress.chance import Chance
from flowguard.stress.faults import Crash, Rebalance
from flowguard.stress.live import (
    ARRIVALS_FILE,
    LaneSetup,
    LiveRun,
    Outcome,
    Phase,
    SenderSetup,
    Setup,
)
from flowguard.stress.load import PlanTask, ReadTask
from flowguard.stress.moments import Show
from flowguard.stress.outcome import (
    broken_promises,
    crowded_out,
    delivery_of,
    lagging,
    lane_card,
)
from flowguard.stress.plan import Plan, plan_of
from flowguard.stress.reader import LANE_HEADER
from flowguard.stress.recorded import Sample, recording_of
from flowguard.stress.report import Objective, Scorecard, judge
from flowguard.stress.scenario import Scenario
from flowguard.stress.trouble import Mishaps
from flowguard.units import SECOND, format_duration

__all__ = ["RealRun", "check_real"]

RUN_WORKER: Final = (
    *("-c", "import sys; from flowguard.cli import main; sys.exit(main())"),
    *("worker", "-A"),
)
PIPELINE: Final = "flowguard.stress.pipeline:app"

#: The parts of the state document that a recording is made of.
SAMPLED: Final = frozenset({"agents", "memory", "pressure", "rung", "rung_name", "decisions"})

#: The first records of a worker meet cold code; they say little about "unloaded".
COLD_S: Final = 2.0

MEMORY_SLACK: Final = 1.1

#: What one process sends in a second without being late, on a core that it shares.
SENDER_PER_S_MAX: Final = 20_000


def check_real(scenario: Scenario, *, embedded: bool) -> None:
    """Raise for what a real run cannot do.

    Raises:
        ConfigError: It says which fault, and what to do.
    """
    scenario.check_real()
    for fault in scenario.faults:
        if embedded and isinstance(fault.kind, (Crash, Rebalance)):
            raise ConfigError(
                f"scenario {scenario.name} has the fault {fault}, for which the embedded broker "
                f"is not enough (it never notices that a member has gone), and nothing was "
                f"started; name Apache Kafka with --broker, or use --simulate"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealPlan:
    """A scenario as a live run.

    Args:
        records: All that will be sent.
    """

    scenario: Scenario
    brief: Brief
    records: Plan

    @classmethod
    def of(cls, scenario: Scenario) -> RealPlan:
        """Return a plan whose group and topics are nobody else's."""
        name = f"flowguard-stress-{uuid.uuid4().hex[:8]}"
        brief = Brief(scenario=scenario, group=name, prefix=f"{name}-")
        return cls(scenario=scenario, brief=brief, records=plan_of(scenario, Chance(scenario.seed)))

    def lanes(self) -> list[LaneSetup]:
        """Return the lanes with the topics that their records are sent to."""
        topics = {each.lane: self.scenario.topic_of(each) for each in self.scenario.arrivals}
        return [
            LaneSetup(
                name=lane.name,
                topic=self.brief.prefix + topics[lane.name],
                target=lane.target,
            )
            for lane in self.scenario.worker.lanes
            if lane.name in topics
        ]

    def setup(self, bootstrap: str, directory: Path) -> Setup:
        """Return the processes that it takes; all records are planned before one is sent."""
        scenario, brief = self.scenario, self.brief
        brief.write(directory)
        partitions = scenario.worker.partitions
        lanes = self.lanes()
        names = [*(brief.prefix + topic for topic in scenario.topics), brief.sink]
        return Setup(
            name=scenario.name,
            group=brief.group,
            command=(*RUN_WORKER, PIPELINE),
            environment={},
            topics=dict.fromkeys(names, partitions),
            lanes=lanes,
            senders=self._senders(bootstrap, directory, lanes),
            reader=ReadTask(
                bootstrap=bootstrap,
                topic=brief.sink,
                partitions=partitions,
                result=str(directory / ARRIVALS_FILE),
            ),
            seconds=scenario.duration_ns / SECOND,
            settle_s=scenario.drain_ns / SECOND,
            phases=self._phases(),
        )

    def _senders(
        self, bootstrap: str, directory: Path, lanes: list[LaneSetup]
    ) -> list[SenderSetup]:
        ranks = {name: rank for rank, name in enumerate(self.scenario.worker.lane_names)}
        senders = []
        for lane in lanes:
            frame = self.records.topics[lane.topic.removeprefix(self.brief.prefix)]
            frame = frame.filter(pl.col("lane") == ranks[lane.name])
            for source, part in enumerate(shared_out(frame)):
                file = directory / f"plan-{lane.name}-{source}.arrow"
                part.write_ipc(file)
                task = PlanTask(
                    bootstrap=bootstrap,
                    topic=lane.topic,
                    partitions=self.scenario.worker.partitions,
                    plan=str(file),
                    headers={LANE_HEADER: lane.name},
                    urgent=lane.target is not None,
                    source=source,
                )
                senders.append(SenderSetup(lane=lane.name, task=task))
        return senders

    def _phases(self) -> tuple[Phase, ...]:
        scenario = self.scenario
        doing = Phase(
            begin_s=scenario.warmup_ns / SECOND,
            text=scenario.about or scenario.name,
            disturbed=True,
        )
        return (Phase(begin_s=0, text="warming up"), doing) if scenario.warmup_ns else (doing,)


def shared_out(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the records of a lane, dealt out to as many senders as the rush needs."""
    by_second = frame.group_by(pl.col("at_ns") // SECOND).len()
    peak = int(by_second["len"].max() or 0)  # type: ignore[arg-type]
    count = max(1, -(-peak // SENDER_PER_S_MAX))
    return [frame.gather_every(count, offset) for offset in range(count)]


class RealRun(LiveRun):
    """A whole run of a scenario, as long as its `async with` block.

    Args:
        scenario: What is run.
        show: Where it shows itself.
        bootstrap: Of a broker that is there; None starts the embedded one.
    """

    def __init__(self, scenario: Scenario, show: Show, *, bootstrap: str | None = None) -> None:
        check_real(scenario, embedded=bootstrap is None)
        plan = RealPlan.of(scenario)
        trouble = Mishaps(scenario.faults) if scenario.faults else None
        super().__init__(plan.setup, show, bootstrap=bootstrap, trouble=trouble)
        self.scenario = scenario
        self.plan = plan
        self.samples: list[Sample] = []

    def saw(self, state: Mapping[str, Any]) -> None:
        """Keep what the worker says of itself while the run goes on."""
        if self.began_s is not None and self.elapsed_s >= 0:
            counts = {lane.name: self.counts(lane.name) for lane in self.setup.lanes}
            kept = {key: value for key, value in state.items() if key in SAMPLED}
            self.samples.append(Sample(int(self.elapsed_s * SECOND), counts, kept))

    async def card(self) -> Scorecard:
        """Do it all, and return the scorecard."""
        outcome = await self.run()
        return scorecard_of(self, outcome)


def scorecard_of(run: RealRun, outcome: Outcome) -> Scorecard:
    """Return what the run showed."""
    scenario, worker = run.scenario, run.worker
    begin_s, end_s = scenario.warmup_ns / SECOND, scenario.duration_ns / SECOND
    deliveries = {lane.name: delivery_of(lane, outcome) for lane in run.setup.lanes}
    known = {name: each for name, each in deliveries.items() if each is not None}
    recording = recording_of(
        scenario,
        run.plan.records,
        outcome,
        run.samples,
        lost={name: each.lost for name, each in known.items()},
        duplicates={name: each.duplicates for name, each in known.items()},
    )
    lanes = {
        lane.name: lane_card(
            lane,
            outcome,
            deliveries[lane.name],
            unloaded_s=unloaded(scenario),
            judged_s=(begin_s, end_s),
        )
        for lane in run.setup.lanes
    }
    lost = sum(each.lost for each in known.values())
    objectives = [
        Objective(name="lost", limit=0, value=lost),
        Objective(
            name="memory",
            limit=scenario.worker.memory_bytes * MEMORY_SLACK,
            value=worker.peak_memory,
        ),
        *objectives_of(scenario, recording),
    ]
    result, why = judge(
        objectives,
        broken=broken_promises(outcome, deliveries, worker),
        invalid=[*lagging(outcome.sent), *crowded_out(outcome)],
    )
    ended_ns = end_of_faults(scenario)
    return Scorecard(
        scenario=scenario.name,
        result=result,
        why=why,
        offered=sum(each.sent for each in known.values()),
        lost=lost,
        duplicates=sum(each.duplicates for each in known.values()),
        peak_memory=worker.peak_memory,
        peak_rss=worker.peak_rss,
        recovery_seconds=(
            None if ended_ns is None else recovery_seconds(scenario, recording, ended_ns)
        ),
        objectives=objectives,
        lanes=lanes,
        timeline=recording.timeline(),
        notes=notes_of(scenario),
    )


def unloaded(scenario: Scenario) -> tuple[float, float] | None:
    """Return when the worker is at ease: the part of the warm-up in which its code is warm."""
    end_s = scenario.warmup_ns / SECOND
    return (COLD_S, end_s) if end_s > COLD_S else None


def notes_of(scenario: Scenario) -> list[str]:
    """Return what a reader of the table should know."""
    provider = scenario.provider
    seats = f", {provider.capacity} at once" if provider.capacity else ""
    call = format_duration(provider.call_ns / SECOND)
    record = format_duration(provider.record_ns / SECOND)
    return [
        f"The provider takes {call} a call + {record} a record{seats}.",
        "Latency is from the intended instant to the arrival at a reader of the sink, after the "
        "warm-up.",
        "What waits in Kafka is neither lost nor finished: it lies above the committed offset.",
    ]
