"""What there is to see of a run, once a second: for the live view and the timeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = ["LEFT_OUT", "LaneMoment", "Moment", "Show"]

#: What a policy leaves unprocessed, or serves in another way, by the names of the state.
LEFT_OUT: Final = ("shed", "expired", "conflated", "diverted", "degraded")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneMoment:
    """One lane during one second: rates per second, latencies in seconds.

    Args:
        waiting: Records that were offered and have not come to an end.
        left_out: Rate of each of `LEFT_OUT`.
    """

    offered_per_s: float
    settled_per_s: float
    waiting: int
    p50: float | None
    p99: float | None
    target: float | None
    left_out: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One second of a run; sizes in bytes.

    Args:
        t: Seconds since the run began.
        seconds: How long there is load.
        phase: What is going on, for people.
        disturbed: This is a phase in which the worker is put to the test.
        agents: Name → its part of the state document.
        rung: Of the worker's ladder, None while nobody knows.
        faults: What is wrong at this moment, for people.
    """

    t: float
    seconds: float
    phase: str
    disturbed: bool
    lanes: Mapping[str, LaneMoment]
    memory_used: int | None
    memory_budget: int | None
    rss: int
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rung: int | None = None
    rung_name: str | None = None
    pressure: float | None = None
    faults: tuple[str, ...] = ()

    def as_entry(self) -> dict[str, Any]:
        """Return it as an entry of the scorecard's timeline."""
        lanes = self.lanes.items()
        return {
            "t": round(self.t, 1),
            "offered": {name: round(lane.offered_per_s, 1) for name, lane in lanes},
            "settled": {name: round(lane.settled_per_s, 1) for name, lane in lanes},
            "p99": {name: lane.p99 for name, lane in lanes},
            "waiting": {name: lane.waiting for name, lane in lanes},
            **{
                key: {name: round(lane.left_out.get(key, 0.0), 1) for name, lane in lanes}
                for key in LEFT_OUT
            },
            "memory": self.memory_used,
            "memory_budget": self.memory_budget,
            "limit": {name: agent.get("limit") for name, agent in self.agents.items()},
            "in_flight": {name: agent.get("in_flight") for name, agent in self.agents.items()},
            "batch_size": {name: agent.get("batch_size") for name, agent in self.agents.items()},
            "service": {name: agent.get("service_time") for name, agent in self.agents.items()},
            "rung": self.rung,
            "rung_name": self.rung_name,
            "pressure": self.pressure,
            "faults": list(self.faults),
        }


class Show(Protocol):
    """Where a run shows itself."""

    def say(self, text: str) -> None:
        """Show what happens now."""
        ...

    def moment(self, moment: Moment) -> None:
        """Show one second."""
        ...
