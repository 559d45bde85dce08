"""The state document: what `GET /api/state` answers.

Times in seconds, sizes in bytes, ratios 0..1; keys are stable and unknown is null.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any, Final

from flowguard.control.decision import Decision
from flowguard.observe.watchdog import Stalls
from flowguard.snapshot import AgentState, LaneState, PartitionState, Snapshot

__all__ = ["EVENTS_SCHEMA", "SCHEMA", "events_document", "state_document", "worker_name"]

SCHEMA: Final = "flowguard.state/v1"
EVENTS_SCHEMA: Final = "flowguard.events/v1"
NO_STALLS: Final = Stalls()


def worker_name() -> str:
    """Return the worker's name: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def state_document(
    snapshot: Snapshot, *, app: str, worker: str, stalls: Stalls = NO_STALLS
) -> dict[str, Any]:
    """Return a snapshot as a JSON document.

    Args:
        snapshot: The engine at one instant.
        app: The app's id.
        worker: Name of this process among the workers of the app.
        stalls: When its event loop did not run.
    """
    return {
        "schema": SCHEMA,
        "app": app,
        "worker": worker,
        "pressure": snapshot.pressure,
        "pressure_parts": {
            part.component: {"ratio": part.ratio, "why": part.why}
            for part in snapshot.pressure_parts
        },
        "rung": snapshot.rung,
        "rung_name": snapshot.rung_name,
        "memory": {"used": snapshot.memory_used, "budget": snapshot.memory_budget},
        "event_loop": {
            "stalls": stalls.count,
            "blocked_seconds": stalls.blocked_s,
            "place": stalls.place,
        },
        "lanes": {lane.name: lane_document(lane) for lane in snapshot.lanes},
        "agents": {agent.name: agent_document(agent) for agent in snapshot.agents},
        "partitions": [partition_document(each) for each in sorted_partitions(snapshot)],
        "decisions": decision_documents(snapshot.decisions, snapshot.at_ns),
    }


def events_document(
    decisions: Iterable[tuple[int, Decision]], *, last: int, now_ns: int, app: str, worker: str
) -> dict[str, Any]:
    """Return decisions with their numbers as a JSON document, oldest first.

    Args:
        last: The number of the latest decision, 0 if there was none.
    """
    return {
        "schema": EVENTS_SCHEMA,
        "app": app,
        "worker": worker,
        "last": last,
        "events": decision_documents(decisions, now_ns),
    }


def decision_documents(
    decisions: Iterable[tuple[int, Decision]], now_ns: int
) -> list[dict[str, Any]]:
    """Return decisions as JSON has them, each with its number."""
    return [{"number": number, **each.as_dict(now_ns=now_ns)} for number, each in decisions]


def lane_document(lane: LaneState) -> dict[str, Any]:
    """Return one lane; its p99 is that of the last half minute."""
    return {
        **lane.counts.as_dict(),
        "degraded": lane.degraded,
        "queued_bytes": lane.queued_bytes,
        "spilled_bytes": lane.spilled_bytes,
        "oldest_age": lane.oldest_age,
        "p99": lane.p99_recent,
        "state": lane.state,
        "why": lane.why,
    }


def agent_document(agent: AgentState) -> dict[str, Any]:
    """Return one agent."""
    return {
        "limit": agent.limit,
        "in_flight": agent.in_flight,
        "batch_size": agent.batch_size,
        "service_time": agent.service_time,
    }


def partition_document(partition: PartitionState) -> dict[str, Any]:
    """Return one partition; its offsets are the next ones to read, settle and commit."""
    topic, number = partition.partition
    return {
        "topic": topic,
        "partition": number,
        "position": partition.position,
        "committable": partition.committable,
        "committed": partition.committed,
        "held_bytes": partition.held_bytes,
        "paused": partition.paused,
        "why": partition.why,
    }


def sorted_partitions(snapshot: Snapshot) -> list[PartitionState]:
    """Return the partitions by topic and number."""
    return sorted(snapshot.partitions, key=lambda each: each.partition)
