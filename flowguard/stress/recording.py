"""What a run has shown, second by second, whoever ran it.

The simulator and a run against a real worker fill the same recording; the assertions of a
scenario and the timeline of the scorecard are read off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flowguard._native.histogram import LatencyHistogram
from flowguard.lanes.lane import Lane
from flowguard.units import SECOND

__all__ = ["COUNTED", "GAUGES", "LaneSecond", "Recording", "Second"]

#: What is counted of each lane.
COUNTED: Final = (
    "offered", "settled", "shed", "conflated", "expired", "diverted", "dead_letters", "degraded",
    "failed",
)  # fmt: skip

#: What leaves records without an agent having settled them.
LEFT: Final = ("shed", "conflated", "expired", "diverted", "dead_letters")

#: What is looked at several times a second.
GAUGES: Final = (
    "limit", "in_flight", "batch_size", "memory", "pressure", "rung", "spilled", "hol_blocked",
)  # fmt: skip


@dataclass(slots=True)
class LaneSecond:
    """One lane in one second: what happened in it, and the latency of what it settled."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


@dataclass(slots=True)
class Second:
    """One second.

    Args:
        lanes: By rank.
        gauges: Name → what was seen of it, in order.
        batches: How many came back from the agent.
        service_ns: How long they were with it, together.
        rebalances: How many began.
        faults: What was wrong, for people.
        decisions: What control loops decided, as in the state document.
    """

    lanes: list[LaneSecond]
    gauges: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in GAUGES})
    batches: int = 0
    service_ns: int = 0
    rebalances: int = 0
    rung_name: str | None = None
    faults: list[str] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)


class Recording:
    """All seconds of a run, from the beginning of the scenario.

    Args:
        lanes: Of the worker, highest first.
        agent: What its agent is called.
        memory_bytes: The worker's budget.
    """

    def __init__(self, lanes: Sequence[Lane], *, agent: str, memory_bytes: int) -> None:
        self.lanes = tuple(lanes)
        self.agent = agent
        self.memory_bytes = memory_bytes
        self.seconds: list[Second] = []
        self.lost = [0] * len(lanes)
        self.duplicates = [0] * len(lanes)

    def second(self, at_ns: int) -> Second:
        """Return the second of an instant; what comes before the beginning is its first."""
        number = max(0, at_ns) // SECOND
        while len(self.seconds) <= number:
            self.seconds.append(Second([LaneSecond() for _ in self.lanes]))
        return self.seconds[number]

    def count(self, at_ns: int, lane: int, what: str, records: int) -> None:
        """Count records of a lane."""
        self.second(at_ns).lanes[lane].counts[what] += records

    def see(self, at_ns: int, gauges: Mapping[str, float]) -> None:
        """Note what was seen at an instant."""
        seen = self.second(at_ns).gauges
        for name, value in gauges.items():
            seen[name].append(value)

    def rank(self, lane: str) -> int:
        """Return the rank of a lane."""
        return [each.name for each in self.lanes].index(lane)

    def total(self, what: str, lane: int | None = None) -> int:
        """Return a count of the whole run, of one lane or of all."""
        return sum(
            each.counts[what]
            for second in self.seconds
            for rank, each in enumerate(second.lanes)
            if lane is None or rank == lane
        )

    def backlogs(self, lane: int | None = None) -> list[int]:
        """Return at the end of each second what was offered and has not come to an end."""
        backlog, backlogs = 0, []
        for second in self.seconds:
            for rank, each in enumerate(second.lanes):
                if lane is None or rank == lane:
                    gone = each.counts["settled"] + sum(each.counts[name] for name in LEFT)
                    backlog += each.counts["offered"] - gone
            backlogs.append(backlog)
        return backlogs

    def latency(self, lane: int | None, begin: int, end: int) -> LatencyHistogram:
        """Return the latency of what was settled in these seconds."""
        histogram = LatencyHistogram()
        for second in self.seconds[begin:end]:
            for rank, each in enumerate(second.lanes):
                if lane is None or rank == lane:
                    histogram.add(each.latency)
        return histogram

    def timeline(self) -> list[dict[str, Any]]:
        """Return the entries of the scorecard's timeline, one a second."""
        backlogs = [self.backlogs(rank) for rank in range(len(self.lanes))]
        return [
            self._entry(number, second, [each[number] for each in backlogs])
            for number, second in enumerate(self.seconds)
        ]

    def _entry(self, number: int, second: Second, backlogs: Sequence[int]) -> dict[str, Any]:
        names = [lane.name for lane in self.lanes]

        def each(what: str) -> dict[str, int]:
            return {name: lane.counts[what] for name, lane in zip(names, second.lanes, strict=True)}

        mean = {name: mean_of(values) for name, values in second.gauges.items()}
        service = second.service_ns / second.batches / SECOND if second.batches else None
        return {
            "t": float(number + 1),
            "offered": each("offered"),
            "settled": each("settled"),
            "p99": {
                name: percentile(lane.latency, 99)
                for name, lane in zip(names, second.lanes, strict=True)
            },
            "waiting": dict(zip(names, backlogs, strict=True)),
            **{what: each(what) for what in ("shed", "expired", "conflated", "diverted",
                                             "degraded")},
            "memory": None if mean["memory"] is None else round(max(second.gauges["memory"])),
            "memory_budget": self.memory_bytes,
            "limit": {self.agent: mean["limit"]},
            "in_flight": {self.agent: mean["in_flight"]},
            "batch_size": {self.agent: mean["batch_size"]},
            "service": {self.agent: service},
            "rung": int(max(second.gauges["rung"])) if second.gauges["rung"] else None,
            "rung_name": second.rung_name,
            "pressure": mean["pressure"],
            "faults": list(second.faults),
            "decisions": list(second.decisions),
        }  # fmt: skip


def mean_of(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return round(sum(values) / len(values), 3) if values else None


def percentile(histogram: LatencyHistogram, percent: float) -> float | None:
    """Return a percentile in seconds, None of nothing."""
    found_ms = histogram.percentile(percent)
    return None if found_ms is None else found_ms / 1e3
