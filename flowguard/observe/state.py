"""The state document: what `GET /api/state` answers.

Times in seconds, sizes in bytes, ratios 0..1; keys are stable and unknown is null.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from flowguard.snapshot import AgentState, LaneState, PartitionState, Snapshot

__all__ = ["SCHEMA", "pressure", "state_document", "worker_name"]

SCHEMA: Final = "flowguard.state/v1"

#: This version has one rung of its overload ladder: nothing is done to user code.
RUNG: Final = 0
RUNG_NAME: Final = "normal"


def worker_name() -> str:
    """Return the worker's name: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def pressure(snapshot: Snapshot) -> float:
    """Return how much of the memory budget is used, 0..1."""
    return snapshot.memory_used / snapshot.memory_budget


def state_document(snapshot: Snapshot, *, app: str, worker: str) -> dict[str, Any]:
    """Return a snapshot as a JSON document.

    Args:
        snapshot: The engine at one instant.
        app: The app's id.
        worker: Name of this process among the workers of the app.
    """
    return {
        "schema": SCHEMA,
        "app": app,
        "worker": worker,
        "pressure": pressure(snapshot),
        "rung": RUNG,
        "rung_name": RUNG_NAME,
        "memory": {"used": snapshot.memory_used, "budget": snapshot.memory_budget},
        "lanes": {lane.name: lane_document(lane) for lane in snapshot.lanes},
        "agents": {agent.name: agent_document(agent) for agent in snapshot.agents},
        "partitions": [partition_document(each) for each in sorted_partitions(snapshot)],
    }


def lane_document(lane: LaneState) -> dict[str, Any]:
    """Return one lane; its p99 is that of the last half minute."""
    return {
        **lane.counts.as_dict(),
        "queued_bytes": lane.queued_bytes,
        "spilled_bytes": 0,  # this version never spills
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
