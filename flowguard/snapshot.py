"""What the engine shows of itself: plain values, copied at one instant.

The names of the counts are those of the contract, in metrics, state and scorecard:

    read = settled + in_flight + held + spilled + refetching + dead_letters + diverted
           + shed + conflated + expired + skipped + released
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.control.decision import Decision
from flowguard.control.pressure import Part

__all__ = ["COUNTS", "AgentState", "Counts", "LaneState", "PartitionState", "Snapshot"]

COUNTS: Final = (
    "read", "settled", "in_flight", "held", "spilled", "refetching", "dead_letters",
    "diverted", "shed", "conflated", "expired", "skipped", "released",
)  # fmt: skip


@dataclass(slots=True)
class Counts:
    """Records of one lane in this worker's life, by what became of them."""

    read: int = 0
    settled: int = 0
    in_flight: int = 0
    held: int = 0
    spilled: int = 0
    refetching: int = 0
    dead_letters: int = 0
    diverted: int = 0
    shed: int = 0
    conflated: int = 0
    expired: int = 0
    skipped: int = 0
    released: int = 0

    @property
    def balanced(self) -> bool:
        """Tell whether every record that was read is accounted for."""
        return self.read == sum(int(getattr(self, name)) for name in COUNTS[1:])

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in COUNTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """One lane, now. Latencies and ages in seconds, None where nothing is known.

    Args:
        degraded: Of its settled records, those that a fallback served.
        shed_ratio: Share of its records that is left out because of overload, 0..1.
        brownout_ratio: Share of its batches that a fallback serves because of overload.
        admitted: Share of its records that is read and not left out.
    """

    name: str
    counts: Counts
    queued_bytes: int
    spilled_bytes: int
    oldest_age: float | None
    p50: float | None
    p99: float | None
    p999: float | None
    p99_recent: float | None
    on_time: float | None
    target: float | None
    state: str
    why: str | None
    degraded: int = 0
    shed_ratio: float = 0.0
    brownout_ratio: float = 0.0
    admitted: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """One agent, now. `service_time` is the mean of a batch, in seconds."""

    name: str
    limit: int
    in_flight: int
    batch_size: int
    service_time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """One partition, now."""

    partition: TopicPartition
    position: int
    committable: int
    committed: int
    held_bytes: int
    paused: bool
    why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The engine at one instant.

    Args:
        pressure: The largest of its parts, 0..1.
        rung_steps: How often the ladder went `up` and `down`.
        decisions: The latest, each with its number.
        decision_counts: Loop, action, whether in shadow → how many.
        at_ns: The instant on the monotonic clock.
    """

    lanes: list[LaneState]
    agents: list[AgentState]
    partitions: list[PartitionState]
    memory_used: int
    memory_peak: int
    memory_budget: int
    pressure: float = 0.0
    pressure_parts: tuple[Part, ...] = ()
    rung: int = 0
    rung_name: str = "normal"
    rung_steps: Mapping[str, int] = field(default_factory=dict)
    decisions: tuple[tuple[int, Decision], ...] = ()
    decision_counts: Mapping[tuple[str, str, bool], int] = field(default_factory=dict)
    at_ns: int = 0
