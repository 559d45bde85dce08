"""A scenario against a real worker and a real broker.

    scenario ─▶ plan of all records ─▶ senders, worker, reader (`live`) ─▶ scorecard

The same file runs in the simulator; what only the simulator can do is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flowguard.errors import ConfigError
from flowguard.stress.assertions import end_of_faults, objectives_of, recovery_seconds
from flowguard.stress.brief import read_notes
from flowguard.stress.faults import Crash, Rebalance, Stalls
from flowguard.stress.live import LiveRun, Outcome, total
from flowguard.stress.moments import Show
from flowguard.stress.outcome import (
    broken_promises,
    crowded_out,
    delivery_of,
    lagging,
    lane_card,
)
from flowguard.stress.real_plan import OwnPipeline, RealPlan, UsersPipeline
from flowguard.stress.recorded import Sample, recording_of
from flowguard.stress.report import Objective, Scorecard, judge
from flowguard.stress.scenario import Scenario
from flowguard.stress.trouble import Mishaps
from flowguard.stress.users_app import UsersApp
from flowguard.units import SECOND, format_duration

__all__ = ["RealRun", "check_real"]

#: The parts of the state document that a recording is made of.
SAMPLED: Final = frozenset(
    {"agents", "lanes", "memory", "pressure", "rung", "rung_name", "decisions"}
)

#: The first records of a worker meet cold code; they say little about "unloaded".
COLD_S: Final = 2.0

MEMORY_SLACK: Final = 1.1


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


def check_users(scenario: Scenario) -> None:
    """Raise for faults of the provider: an app of the user's calls its own.

    Raises:
        ConfigError: It says which.
    """
    for fault in scenario.faults:
        if fault.target == "provider" or isinstance(fault.kind, Stalls):
            raise ConfigError(
                f"scenario {scenario.name} has the fault {fault}, which is made inside of the "
                f"pipeline that comes with it; run it without -A"
            )


class RealRun(LiveRun):
    """A whole run of a scenario, as long as its `async with` block.

    Args:
        scenario: What is run.
        show: Where it shows itself.
        bootstrap: Of a broker that is there; None starts the embedded one.
        app: An app of the user's to run it against; None for the pipeline that it states.

    Raises:
        ConfigError: It cannot be run against a real worker, or this app.
    """

    def __init__(
        self,
        scenario: Scenario,
        show: Show,
        *,
        bootstrap: str | None = None,
        app: UsersApp | None = None,
    ) -> None:
        embedded = bootstrap is None
        check_real(scenario, embedded=embedded)
        self.scenario = scenario
        self.plan: RealPlan
        if app is None:
            self.plan = OwnPipeline(scenario)
        else:
            check_users(scenario)
            self.plan = UsersPipeline(scenario, app, embedded=embedded)
        self.samples: list[Sample] = []
        trouble = Mishaps(scenario.faults) if scenario.faults else None
        super().__init__(self.plan.setup, show, bootstrap=bootstrap, trouble=trouble)

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
        notes=read_notes(run.directory),
        agent=run.plan.agent,
        memory_bytes=budget_of(run),
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
    lost = sum(each.lost for each in known.values()) if known else None
    memory = Objective(name="memory", limit=budget_of(run) * MEMORY_SLACK, value=worker.peak_memory)
    asserted = objectives_of(scenario, recording)
    objectives = [memory, *asserted]
    # Whether an app of the user's delivered everything, only its own counts can tell.
    if known and not any(each.metric == "lost" for each in scenario.expect):
        objectives.insert(0, Objective(name="lost", limit=0, value=lost))
    result, why = judge(
        objectives,
        broken=broken_promises(outcome, deliveries, worker),
        invalid=crowded_out(outcome),
        lagging=lagging(outcome.sent),
    )
    ended_ns = end_of_faults(scenario)
    return Scorecard(
        scenario=scenario.name,
        result=result,
        why=why,
        offered=sum(total(each, "sent") for each in outcome.sent.values()),
        lost=lost,
        duplicates=sum(each.duplicates for each in known.values()) if known else None,
        peak_memory=worker.peak_memory,
        peak_rss=worker.peak_rss,
        peak_spill=worker.peak_spill,
        recovery_seconds=(
            None if ended_ns is None else recovery_seconds(scenario, recording, ended_ns)
        ),
        objectives=objectives,
        lanes=lanes,
        timeline=recording.timeline(),
        notes=notes_of(run),
    )


def budget_of(run: RealRun) -> int:
    """Return the worker's budget, as it says; an app of the user's has its own."""
    memory = run.worker.state.get("memory", {})
    return int(memory.get("budget", run.scenario.worker.memory_bytes))


def unloaded(scenario: Scenario) -> tuple[float, float] | None:
    """Return when the worker is at ease: the part of the warm-up in which its code is warm."""
    end_s = scenario.warmup_ns / SECOND
    return (COLD_S, end_s) if end_s > COLD_S else None


def notes_of(run: RealRun) -> list[str]:
    """Return what a reader of the table should know."""
    provider = run.scenario.provider
    seats = f", {provider.capacity} at once" if provider.capacity else ""
    call = format_duration(provider.call_ns / SECOND)
    record = format_duration(provider.record_ns / SECOND)
    notes = [
        "Latency is from the intended instant to the arrival at a reader of the sink, after the "
        "warm-up.",
        "What waits in Kafka is neither lost nor finished: it lies above the committed offset.",
    ]
    if isinstance(run.plan, OwnPipeline):
        return [f"The provider takes {call} a call + {record} a record{seats}.", *notes]
    if run.reader is None:
        return ["No agent of the app has a feed as its sink, so latency is unknown.", notes[1]]
    return ["Output is timed as of the oldest record of its batch, unless it says.", *notes]
