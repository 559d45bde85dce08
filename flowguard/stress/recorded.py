"""The recording of a real run, from what its processes have seen.

    plan ─▶ offered      sink ─▶ settled, latency      /api/state ─▶ counts, gauges, decisions

The simulator fills the same recording, so the assertions of a scenario and the timeline of
the scorecard mean the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import polars as pl

from flowguard.stress.live import Outcome
from flowguard.stress.plan import Plan
from flowguard.stress.recording import Recording
from flowguard.stress.scenario import Scenario
from flowguard.stress.trouble import Mishaps
from flowguard.units import MILLISECOND, SECOND

__all__ = ["AGENT", "Sample", "recording_of"]

#: What the agent of the pipeline is called.
AGENT: Final = "serve"

#: Counts that only the worker knows; what is settled is what arrived in the sink.
TOLD: Final = ("shed", "conflated", "expired", "diverted", "dead_letters", "degraded")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the state page said at one instant.

    Args:
        at_ns: Since the run began.
        counts: Lane → its counts over all workers and their lives.
        state: The state document.
    """

    at_ns: int
    counts: Mapping[str, Mapping[str, int]]
    state: Mapping[str, Any]

    def gauges(self, name: str) -> dict[str, float]:
        """Return what was seen of the worker and one of its agents, as far as it says."""
        agent = self.state.get("agents", {}).get(name, {})
        lanes = self.state.get("lanes", {}).values()
        seen = {
            "limit": agent.get("limit"),
            "in_flight": agent.get("in_flight"),
            "batch_size": agent.get("batch_size"),
            "memory": self.state.get("memory", {}).get("used"),
            "pressure": self.state.get("pressure"),
            "rung": self.state.get("rung"),
            "spilled": sum(each.get("spilled_bytes", 0) for each in lanes),
            "hol_blocked": sum(each.get("state") == "hol_blocked" for each in lanes),
        }
        return {name: float(value) for name, value in seen.items() if value is not None}


def recording_of(
    scenario: Scenario,
    plan: Plan,
    outcome: Outcome,
    samples: Sequence[Sample],
    *,
    notes: Sequence[Mapping[str, Any]],
    agent: str,
    memory_bytes: int,
    lost: Mapping[str, int],
    duplicates: Mapping[str, int],
) -> Recording:
    """Return the recording of a run that has ended.

    Args:
        plan: What was offered.
        samples: In the order of their instants.
        notes: What the worker noted of itself.
        agent: Whose seats are shown.
        memory_bytes: The worker's budget.
        lost: Lane → records.
        duplicates: Lane → records.
    """
    lanes = scenario.worker.lanes
    recording = Recording(lanes, agent=agent, memory_bytes=memory_bytes)
    recording.second(scenario.duration_ns - 1)
    for rank, lane in enumerate(lanes):
        offered = plan.by_second(rank, ceil(scenario.duration_ns / SECOND))
        for second, count in enumerate(offered):
            recording.count(second * SECOND, rank, "offered", count)
        recording.lost[rank] = lost.get(lane.name, 0)
        recording.duplicates[rank] = duplicates.get(lane.name, 0)
        if outcome.arrivals is not None:
            arrivals = outcome.arrivals.filter(pl.col("lane") == lane.name)
            add_arrivals(recording, rank, arrivals, outcome)
    add_samples(recording, samples, TOLD if outcome.ids else ("settled", *TOLD))
    add_notes(recording, notes, outcome.begin_ms)
    mishaps = Mishaps(scenario.faults)
    for number, each in enumerate(recording.seconds):
        each.faults = list(mishaps.current(number + 0.5))
    return recording


def add_arrivals(recording: Recording, rank: int, arrivals: pl.DataFrame, outcome: Outcome) -> None:
    """Count each record as settled when it first arrived in the sink, if it is known again."""
    late_ms = pl.col("latency_ms").clip(0, None).ceil().cast(pl.Int64)
    arrived_ms = pl.col("timestamp_ms") + pl.col("latency_ms") - outcome.begin_ms
    second = (arrived_ms / 1e3).floor().cast(pl.Int64).clip(0, None)
    first = arrivals.sort(arrived_ms).unique("id", keep="first")
    groups = first.group_by(second.alias("second"), late_ms.alias("late_ms")).len()
    for number, late, count in groups.sort("second").iter_rows():
        lane = recording.second(number * SECOND).lanes[rank]
        lane.counts["settled"] += count if outcome.ids else 0
        lane.latency.record(late, count)


def add_samples(recording: Recording, samples: Sequence[Sample], counted: Sequence[str]) -> None:
    """Take in what the state page said, from one time it was asked to the next."""
    before: dict[tuple[int, str], int] = {}
    heard = 0.0  # until when decisions are known, in seconds of the run
    for sample in samples:
        recording.see(sample.at_ns, sample.gauges(recording.agent))
        second = recording.second(sample.at_ns)
        second.rung_name = sample.state.get("rung_name")
        service = sample.state.get("agents", {}).get(recording.agent, {}).get("service_time")
        if service is not None:
            second.batches += 1
            second.service_ns += round(service * SECOND)
        for rank, lane in enumerate(recording.lanes):
            counts = sample.counts.get(lane.name, {})
            for what in counted:
                now = counts.get(what, 0)
                recording.count(sample.at_ns, rank, what, now - before.get((rank, what), 0))
                before[rank, what] = now
        now_s = sample.at_ns / SECOND
        for decision in sample.state.get("decisions", ()):
            if now_s - decision["age"] > heard:
                second.decisions.append(decision)
        heard = now_s


def add_notes(recording: Recording, notes: Sequence[Mapping[str, Any]], begin_ms: int) -> None:
    """Take in what the worker noted of itself."""
    for note in notes:
        at_ns = int(note["at_ns"]) - begin_ms * MILLISECOND
        if at_ns < 0:
            continue  # before the run, workers find each other
        if "failed" in note:
            recording.count(at_ns, recording.rank(note["lane"]), "failed", int(note["failed"]))
        recording.second(at_ns).rebalances += int(note.get("rebalances", 0))
