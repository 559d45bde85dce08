"""Run a scenario on the virtual clock, and say what came of it."""

from __future__ import annotations

from flowguard.stress.assertions import end_of_faults, objectives_of, recovery_seconds
from flowguard.stress.recording import Recording, percentile
from flowguard.stress.report import LaneCard, Objective, Scorecard, judge
from flowguard.stress.scenario import Scenario
from flowguard.stress.simulator.world import World
from flowguard.units import SECOND

__all__ = ["scorecard_of", "simulate"]


def simulate(scenario: Scenario) -> Scorecard:
    """Run a scenario; the same scenario and seed give the same scorecard.

    Raises:
        ConfigError: What it offers cannot be planned.
    """
    world = World(scenario)
    world.run()
    return scorecard_of(world)


def scorecard_of(world: World) -> Scorecard:
    """Return the scorecard of a run that is over."""
    scenario, recording = world.scenario, world.recording
    objectives = objectives_of(scenario, recording)
    if not objectives:
        objectives = [Objective(name="lost", limit=0, value=float(sum(recording.lost)))]
    # On a virtual clock nobody is too slow to offer what was planned.
    result, why = judge(objectives, broken=world.watch.violations, invalid=[])
    since_ns = end_of_faults(scenario)
    return Scorecard(
        scenario=scenario.name,
        result=result,
        why=why,
        offered=world.plan.total,
        lost=sum(recording.lost),
        duplicates=sum(recording.duplicates),
        peak_memory=world.watch.peak_bytes,
        peak_rss=None,
        peak_spill=peak_spill(recording),
        recovery_seconds=None
        if since_ns is None
        else recovery_seconds(scenario, recording, since_ns),
        objectives=objectives,
        lanes={
            lane.name: lane_card(world, rank) for rank, lane in enumerate(scenario.worker.lanes)
        },
        timeline=recording.timeline(),
        notes=notes_of(world),
    )


def peak_spill(recording: Recording) -> int | None:
    """Return the most bytes that were on disk, None if nothing ever was."""
    most = max((max(each.gauges["spilled"], default=0) for each in recording.seconds), default=0)
    return round(most) or None


def lane_card(world: World, rank: int) -> LaneCard:
    """Return what became of one lane."""
    scenario, recording = world.scenario, world.recording
    lane = scenario.worker.lanes[rank]
    begin, end = scenario.warmup_ns // SECOND, len(recording.seconds)
    latency = recording.latency(rank, begin, end)
    first_ns = min((fault.at_ns for fault in scenario.faults), default=0)
    before = recording.latency(rank, begin, first_ns // SECOND)
    late_ms = None if lane.target_ns is None else lane.target_ns // 1_000_000
    return LaneCard(
        counts=world.counts(rank),
        waiting=recording.backlogs(rank)[-1],
        degraded=recording.total("degraded", rank),
        p50=percentile(latency, 50),
        p99=percentile(latency, 99),
        p999=percentile(latency, 99.9),
        unloaded_p99=percentile(before, 99),
        target=lane.target,
        on_time=None
        if late_ms is None or not latency.total
        else latency.count_at_most(late_ms) / latency.total,
    )


def notes_of(world: World) -> list[str]:
    """Return what people should know beside the numbers."""
    notes = [f"simulated on a virtual clock, seed {world.scenario.seed}"]
    if world.watch.crashes:
        notes.append(f"the worker was killed {world.watch.crashes} times")
    return notes
