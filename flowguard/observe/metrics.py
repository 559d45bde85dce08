"""Every metric of flowguard, in one table.

The reference page is made from it, and a test compares it with what `/metrics` says.
Names follow Prometheus' rules: base units, `_total` for counters, and a sum over all labels
that means something. A value that is unknown is left out; it is never NaN. Instants are
exported instead of ages, so that an age keeps growing when the worker hangs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from flowguard.control.decision import LOOPS
from flowguard.observe.watchdog import Stalls
from flowguard.snapshot import AgentState, LaneState, PartitionState, Snapshot

__all__ = ["LANE_STATES", "LATENCY_EDGES_S", "METRICS", "Metric", "Observed", "Value"]

#: Upper edges of the latency buckets; each lane's own target is one more.
LATENCY_EDGES_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0,
)  # fmt: skip

NO_STALLS: Final = Stalls()

LANE_STATES: Final = (
    "ok", "paused", "spilling", "brownout", "shedding", "stopped", "hol_blocked", "pinned",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What all metrics are read from.

    Args:
        snapshot: The engine at one instant.
        epoch_s: That instant on the wall clock.
        latency: Lane → upper edge in seconds → records settled within it; the last edge is
            infinite.
        app: The app's id.
        worker: Name of this process among the workers of the app.
        version: Of flowguard.
        ready: Whether the worker takes part in its group.
        stalls: When its event loop did not run.
    """

    snapshot: Snapshot
    epoch_s: float
    latency: Mapping[str, Mapping[float, int]]
    app: str
    worker: str
    version: str
    ready: bool
    stalls: Stalls = NO_STALLS


#: Label values, and the value itself: a number or, for a histogram, its cumulative buckets.
Value = tuple[tuple[str, ...], float | Mapping[float, int] | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of metrics.

    Args:
        name: As in queries.
        type: Prometheus' type.
        help: What it means, in one sentence.
        labels: Names of its labels.
        read: Returns its values; None means unknown.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Observed], Iterable[Value]]


def of_worker(read: Callable[[Observed], float]) -> Callable[[Observed], Iterable[Value]]:
    """Read one value of the whole worker."""
    return lambda observed: [((), read(observed))]


def of_lanes(read: Callable[[LaneState], float | None]) -> Callable[[Observed], Iterable[Value]]:
    """Read one value of each lane."""
    return lambda observed: [((lane.name,), read(lane)) for lane in observed.snapshot.lanes]


def of_agents(
    read: Callable[[AgentState], float | None],
) -> Callable[[Observed], Iterable[Value]]:
    """Read one value of each agent."""
    return lambda observed: [((agent.name,), read(agent)) for agent in observed.snapshot.agents]


def of_topics(read: Callable[[PartitionState], float]) -> Callable[[Observed], Iterable[Value]]:
    """Read one value of each topic, the sum of its partitions."""

    def by_topic(observed: Observed) -> Iterable[Value]:
        sums: Counter[str] = Counter()
        for partition in observed.snapshot.partitions:
            sums[partition.partition.topic] += read(partition)  # type: ignore[assignment]
        return [((topic,), value) for topic, value in sorted(sums.items())]

    return by_topic


def lane_states(observed: Observed) -> Iterable[Value]:
    """Return a 1 for the state that each lane is in, and a 0 for every other."""
    for lane in observed.snapshot.lanes:
        for state in LANE_STATES:
            yield (lane.name, state), float(lane.state == state)


def oldest_unfinished(observed: Observed) -> Iterable[Value]:
    """Return when the oldest unfinished record of each lane was made."""
    for lane in observed.snapshot.lanes:
        age = lane.oldest_age
        yield (lane.name,), None if age is None else observed.epoch_s - age


def pressure_parts(observed: Observed) -> Iterable[Value]:
    """Return each component of the pressure."""
    return [((part.component,), part.ratio) for part in observed.snapshot.pressure_parts]


def rung_steps(observed: Observed) -> Iterable[Value]:
    """Return how often the ladder went up and down."""
    steps = observed.snapshot.rung_steps
    return [((direction,), steps.get(direction, 0)) for direction in ("up", "down")]


def decisions(observed: Observed) -> Iterable[Value]:
    """Return how often each control loop did what; zeroes for loops that did nothing yet."""
    counts = {(loop, "up", False): 0 for loop in LOOPS} | dict(observed.snapshot.decision_counts)
    for (loop, action, shadow), count in sorted(counts.items()):
        yield (loop, action, "true" if shadow else "false"), count


def latency(observed: Observed) -> Iterable[Value]:
    """Return the buckets of each lane."""
    return [((name,), buckets) for name, buckets in observed.latency.items()]


COUNTS: Final = (
    ("read", "counter", "Records read from the broker."),
    ("settled", "counter", "Records done: the agent came back and what it sent is acknowledged."),
    ("in_flight", "gauge", "Records that agents have now."),
    ("held", "gauge", "Records in memory that wait for an agent, or for their next attempt."),
    ("spilled", "gauge", "Records that wait on disk."),
    ("refetching", "gauge", "Records that were let go of and are read again."),
    ("dead_letters", "counter", "Records that were written to the dead-letter topic."),
    ("diverted", "counter", "Records that were sent to another topic instead of an agent."),
    ("shed", "counter", "Records that were dropped because the lane was overloaded."),
    ("conflated", "counter", "Records that a newer one of the same key replaced."),
    (
        "expired",
        "counter",
        "Records that were older than the lane permits, or that Kafka has deleted.",
    ),
    ("skipped", "counter", "Records that were finished before a restart."),
    ("released", "counter", "Records whose partition was revoked before they were finished."),
)


def count_metrics() -> Iterable[Metric]:
    """Return the counts of each lane: `read` is the sum of all the others."""
    for count, type_, help_ in COUNTS:
        yield Metric(
            f"flowguard_records_{count}" + ("_total" if type_ == "counter" else ""),
            "counter" if type_ == "counter" else "gauge",
            help_,
            ("lane",),
            of_lanes(lambda lane, count=count: getattr(lane.counts, count)),  # type: ignore[misc]
        )


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "flowguard_build_info", "gauge", "Always 1; the version is its label.",
        ("version",), lambda observed: [((observed.version,), 1)],
    ),
    Metric(
        "flowguard_worker_info", "gauge", "Always 1; app and worker are its labels.",
        ("app", "worker"), lambda observed: [((observed.app, observed.worker), 1)],
    ),
    Metric(
        "flowguard_ready", "gauge", "1 while the worker takes part in its group and does not stop.",
        (), of_worker(lambda observed: float(observed.ready)),
    ),
    Metric(
        "flowguard_event_loop_stalls_total", "counter",
        "How often the event loop did not run for longer than a second; the log says where.",
        (), of_worker(lambda observed: observed.stalls.count),
    ),
    Metric(
        "flowguard_event_loop_blocked_seconds_total", "counter",
        "For how long it did not run then.",
        (), of_worker(lambda observed: observed.stalls.blocked_s),
    ),
    *count_metrics(),
    Metric(
        "flowguard_latency_seconds", "histogram",
        "Time from a record's timestamp to settled; counted in whole milliseconds, without a sum.",
        ("lane",), latency,
    ),
    Metric(
        "flowguard_lane_target_seconds", "gauge", "The wanted p99, of lanes that have a target.",
        ("lane",), of_lanes(lambda lane: lane.target),
    ),
    Metric(
        "flowguard_lane_on_time_ratio", "gauge",
        "Share of the records settled within the target, in this worker's life.",
        ("lane",), of_lanes(lambda lane: lane.on_time),
    ),
    Metric(
        "flowguard_lane_state", "gauge", "1 for the state that the lane is in, 0 for the others.",
        ("lane", "state"), lane_states,
    ),
    Metric(
        "flowguard_queue_bytes", "gauge", "Bytes of records in memory that wait for an agent.",
        ("lane",), of_lanes(lambda lane: lane.queued_bytes),
    ),
    Metric(
        "flowguard_spilled_bytes", "gauge", "Bytes on disk of records that wait there.",
        ("lane",), of_lanes(lambda lane: lane.spilled_bytes),
    ),
    Metric(
        "flowguard_oldest_unfinished_timestamp_seconds", "gauge",
        "When the oldest unfinished record was made; absent if nothing waits.",
        ("lane",), oldest_unfinished,
    ),
    Metric(
        "flowguard_agent_concurrency_limit", "gauge", "Most batches of the agent at once.",
        ("agent",), of_agents(lambda agent: agent.limit),
    ),
    Metric(
        "flowguard_agent_concurrency_in_use", "gauge", "Batches that the agent has now.",
        ("agent",), of_agents(lambda agent: agent.in_flight),
    ),
    Metric(
        "flowguard_agent_batch_limit_records", "gauge", "Most records of a batch, as it is now.",
        ("agent",), of_agents(lambda agent: agent.batch_size),
    ),
    Metric(
        "flowguard_agent_service_seconds", "gauge", "How long a batch takes, a moving mean.",
        ("agent",), of_agents(lambda agent: agent.service_time),
    ),
    Metric(
        "flowguard_memory_used_bytes", "gauge", "What feeds hold now.",
        (), of_worker(lambda observed: observed.snapshot.memory_used),
    ),
    Metric(
        "flowguard_memory_peak_bytes", "gauge", "Most that feeds have held.",
        (), of_worker(lambda observed: observed.snapshot.memory_peak),
    ),
    Metric(
        "flowguard_memory_budget_bytes", "gauge", "What feeds may hold: the setting memory.",
        (), of_worker(lambda observed: observed.snapshot.memory_budget),
    ),
    Metric(
        "flowguard_pressure_ratio", "gauge",
        "How near the worker is to what it cannot do; the largest component is the pressure.",
        ("component",), pressure_parts,
    ),
    Metric(
        "flowguard_overload_rung", "gauge",
        "How far the worker has gone against overload; 0 is normal.",
        (), of_worker(lambda observed: observed.snapshot.rung),
    ),
    Metric(
        "flowguard_overload_transitions_total", "counter",
        "Steps of the overload ladder.", ("direction",), rung_steps,
    ),
    Metric(
        "flowguard_control_decisions_total", "counter",
        "Steps of control loops; those in shadow were not carried out.",
        ("loop", "action", "shadow"), decisions,
    ),
    Metric(
        "flowguard_shed_ratio", "gauge",
        "Share of the lane's records that is left out because of overload.",
        ("lane",), of_lanes(lambda lane: lane.shed_ratio),
    ),
    Metric(
        "flowguard_brownout_ratio", "gauge",
        "Share of the lane's batches that a fallback serves because of overload.",
        ("lane",), of_lanes(lambda lane: lane.brownout_ratio),
    ),
    Metric(
        "flowguard_admitted_ratio", "gauge",
        "Share of the lane's records that is read and not left out.",
        ("lane",), of_lanes(lambda lane: lane.admitted),
    ),
    Metric(
        "flowguard_records_degraded_total", "counter",
        "Settled records that a fallback served, for each agent whose fallback it was.",
        ("lane",), of_lanes(lambda lane: lane.degraded),
    ),
    Metric(
        "flowguard_partitions_assigned", "gauge", "Partitions of feeds that this worker has.",
        ("topic",), of_topics(lambda partition: 1),
    ),
    Metric(
        "flowguard_partitions_paused", "gauge", "Partitions that are not fetched: memory is full.",
        ("topic",), of_topics(lambda partition: partition.paused),
    ),
    Metric(
        "flowguard_partitions_stopped", "gauge", "Partitions that cannot be read any further.",
        ("topic",), of_topics(lambda partition: partition.why is not None),
    ),
    Metric(
        "flowguard_uncommitted_offsets", "gauge",
        "Offsets read but not committed; what a crash would repeat is among them.",
        ("topic",), of_topics(lambda partition: max(0, partition.position - partition.committed)),
    ),
)  # fmt: skip
