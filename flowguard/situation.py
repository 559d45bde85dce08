"""What the engine shows of itself at one instant."""

from __future__ import annotations

from dataclasses import replace

from flowguard._native.histogram import LatencyHistogram
from flowguard.chunk import TopicPartition
from flowguard.engine import Engine
from flowguard.holdings import Partition
from flowguard.lanes.lane import Lane
from flowguard.snapshot import AgentState, LaneState, PartitionState, Snapshot
from flowguard.view import View

__all__ = ["snapshot_of"]


def snapshot_of(engine: Engine, *, now_ns: int, epoch_ms: int) -> Snapshot:
    """Return the state of a worker."""
    oldest = oldest_timestamps(engine)
    return Snapshot(
        lanes=[
            lane_state(engine, rank, oldest.get(rank), now_ns, epoch_ms)
            for rank in range(len(engine.lanes))
        ],
        agents=[agent_state(view) for view in engine.views.values()],
        partitions=[partition_state(engine, each) for each in engine.partitions.values()],
        memory_used=engine.memory.used_bytes,
        memory_peak=engine.memory_peak,
        memory_budget=engine.memory.memory_bytes,
        pressure=engine.steering.pressure.ratio,
        pressure_parts=tuple(engine.steering.parts),
        rung=engine.steering.rung,
        rung_name=engine.steering.rung_name,
        rung_steps=dict(engine.steering.steps),
        decisions=tuple(engine.decisions.after(0)),
        decision_counts=dict(engine.decisions.counts),
        at_ns=now_ns,
    )


def oldest_timestamps(engine: Engine) -> dict[int, int]:
    """Return the oldest timestamp of each lane that has unfinished records, in ms."""
    oldest: dict[int, int] = {}
    for partition in engine.partitions.values():
        for chunk in partition.chunks:
            known = oldest.get(chunk.lane, chunk.first_timestamp_ms)
            oldest[chunk.lane] = min(known, chunk.first_timestamp_ms)
    for rank, timestamp_ms in engine.spilling.oldest_timestamps():
        oldest[rank] = min(oldest.get(rank, timestamp_ms), timestamp_ms)
    return oldest


def lane_state(
    engine: Engine, rank: int, first_ms: int | None, now_ns: int, epoch_ms: int
) -> LaneState:
    """Return what is known of one lane."""
    book = engine.books[rank]
    latency = book.latency
    state, why = lane_condition(engine, rank, now_ns)
    return LaneState(
        name=book.lane.name,
        counts=replace(book.counts),
        queued_bytes=sum(view.backlog.queued_bytes(rank) for view in engine.views.values())
        + engine.spilling.tail_bytes(rank),
        spilled_bytes=engine.spilling.spilled_bytes(rank),
        oldest_age=None if first_ms is None else max(0.0, (epoch_ms - first_ms) / 1e3),
        p50=seconds(latency.percentile(50)),
        p99=seconds(latency.percentile(99)),
        p999=seconds(latency.percentile(99.9)),
        p99_recent=seconds(book.latency_recent.percentile(99)),
        on_time=on_time(book.lane, latency),
        target=book.lane.target,
        state=state,
        why=why,
        degraded=book.degraded,
        shed_ratio=engine.steering.dimming.ratio("shed", rank)[0],
        brownout_ratio=engine.steering.dimming.ratio("brownout", rank)[0],
        admitted=engine.steering.admitted(rank),
    )


def lane_condition(engine: Engine, rank: int, now_ns: int) -> tuple[str, str | None]:
    """Return the lane's state and, unless it is ok, the reason for people."""
    for partition in engine.partitions.values():
        if partition.why is not None:
            return "stopped", partition.why
    for partition in engine.partitions.values():
        if (why := partition.stopped.get(rank)) is not None:
            return "stopped", (
                f"{written(partition.name)} goes no further in this lane: {why}; nothing of it "
                f"is lost or committed; mend what is wrong and restart the worker"
            )
    for view in engine.views.values():
        if (why := why_retrying(view, rank, now_ns)) is not None:
            return "stopped", why
    if (gives_way := why_it_gives_way(engine, rank, now_ns)) is not None:
        return gives_way
    if (why := engine.overflow.why(rank)) is not None:
        return "shedding", why
    if (spilling := engine.spilling.condition(rank)) is not None:
        return spilling
    paused = engine.memory.paused
    for name in engine.steering.held:
        if rank in engine.ranks(name.topic):
            pressure = engine.steering.pressure
            return "paused", (
                f"{written(name)} is not fetched, so that a lane above gets what it needs: "
                f"pressure {pressure.ratio:.2f}, {pressure.why}"
            )
    for partition in engine.partitions.values():
        if partition.account in paused and any(each.lane == rank for each in partition.chunks):
            return "paused", f"{written(partition.name)} is not fetched: its memory is full"
    for view in engine.views.values():
        for partition, lane in view.backlog.ahead:
            if lane == rank:
                return "paused", (
                    f"{written(partition.name)} is far ahead of offset "
                    f"{partition.ledger.watermark(rank)}, which is not finished"
                )
    return "ok", None


def why_it_gives_way(engine: Engine, rank: int, now_ns: int) -> tuple[str, str] | None:
    """Return how the lane gives way and why: some of its records are left out or degraded."""
    share, why = engine.steering.dimming.ratio("shed", rank)
    if share > 0.0:
        return "shedding", f"{share:.0%} of its records are left out: {why}"
    for view in engine.views.values():
        primary, has_it = view.serving.primary, has_lane(engine, view, rank)
        if has_it and not primary.over and view.serving.stands_in:
            probe = next_probe(view, now_ns)
            return "brownout", f"{view.plan.name}'s fallback serves: {primary.why}; {probe}"
    share, why = engine.steering.dimming.ratio("brownout", rank)
    if share > 0.0:
        return "brownout", f"{share:.0%} of its batches go to a fallback: {why}"
    return None


def has_lane(engine: Engine, view: View, rank: int) -> bool:
    """Tell whether an agent gets records of a lane."""
    return any(rank in engine.ranks(topic) for topic in view.plan.topics)


def next_probe(view: View, now_ns: int) -> str:
    """Return when an agent looks again whether what it needs is there."""
    gate_ns = view.serving.primary.gate_ns
    if gate_ns is None:
        return "a batch looks whether it is back"
    return f"next probe in {max(0, gate_ns - now_ns) / 1e9:.1f} s"


def why_retrying(view: View, rank: int, now_ns: int) -> str | None:
    """Return why a batch of the lane waits for its retry, or why none is started."""
    for due_ns, cut in view.retries.items():
        if cut.lane == rank:
            flight = view.flights[cut.batch_id]
            if flight.held and view.serving.stands_in:
                continue  # it goes to the fallback as soon as there is a seat
            places = sorted({written(part.partition.name) for part in flight.parts})
            attempt = flight.failures + 1
            wait = f"attempt {attempt} in {max(0, due_ns - now_ns) / 1e9:.1f} s"
            if flight.held and not view.serving.primary.over:
                wait = next_probe(view, now_ns)
            return f"{', '.join(places)} waits: {flight.why}; {wait}"
    if view.serving.is_shut and view.scheduler.queued_records(rank):
        why = view.serving.primary.why
        return f"{view.plan.name} starts nothing: {why}; {next_probe(view, now_ns)}"
    return None


def agent_state(view: View) -> AgentState:
    """Return what is known of one agent."""
    return AgentState(
        name=view.plan.name,
        limit=view.seats.limit,
        in_flight=sum(view.seats_by_lane),
        batch_size=max(view.sizes.of_lanes),
        service_time=view.service_ns / 1e9 if view.service_ns else None,
    )


def partition_state(engine: Engine, partition: Partition) -> PartitionState:
    """Return what is known of one partition."""
    return PartitionState(
        partition=partition.name,
        position=partition.ledger.position,
        committable=partition.ledger.point.offset,
        committed=partition.committed.offset,
        held_bytes=engine.memory.held_by(partition.account),
        paused=partition.account in engine.memory.paused,
        why=partition.why,
    )


def seconds(value_ms: int | None) -> float | None:
    """Return milliseconds as seconds; unknown stays unknown."""
    return None if value_ms is None else value_ms / 1e3


def on_time(lane: Lane, latency: LatencyHistogram) -> float | None:
    """Return the share of records settled within the target, None without one."""
    if lane.target_ns is None or latency.total == 0:
        return None
    return latency.count_at_most(lane.target_ns // 1_000_000) / latency.total


def written(name: TopicPartition) -> str:
    """Return a partition as people write it: `topic[3]`."""
    return f"{name.topic}[{name.partition}]"
