"""The state document has exactly the keys of the contract."""

from __future__ import annotations

import json

from flowguard.observe.state import state_document
from flowguard.snapshot import COUNTS
from tests.unit.observe.observed import observed

DOCUMENT = ["schema", "app", "worker", "pressure", "pressure_parts", "rung", "rung_name", "memory",
            "event_loop", "lanes", "agents", "partitions", "decisions"]  # fmt: skip
LANE = [*COUNTS, "degraded", "queued_bytes", "spilled_bytes", "oldest_age", "p99", "state", "why"]


def test_keys_are_those_of_the_contract() -> None:
    state = state_document(observed().snapshot, app="shop", worker="host:1")
    assert list(state) == DOCUMENT
    assert list(state["lanes"]) == ["realtime", "backfill"]
    assert [list(lane) for lane in state["lanes"].values()] == [LANE, LANE]
    assert list(state["memory"]) == ["used", "budget"]
    assert list(state["agents"]["score"]) == ["limit", "in_flight", "batch_size", "service_time"]
    assert state["schema"] == "flowguard.state/v1"
    json.dumps(state, allow_nan=False)


def test_every_record_that_was_read_is_accounted_for() -> None:
    state = state_document(observed().snapshot, app="shop", worker="host:1")
    for lane in state["lanes"].values():
        assert lane["read"] == sum(lane[count] for count in COUNTS if count != "read")
    assert state["lanes"]["realtime"]["settled"] == 57
    assert state["lanes"]["realtime"]["dead_letters"] == 3
    assert state["lanes"]["backfill"]["in_flight"] > 0


def test_unknown_is_null() -> None:
    state = state_document(observed().snapshot, app="shop", worker="host:1")
    assert state["lanes"]["realtime"]["oldest_age"] is None
    assert state["lanes"]["backfill"]["p99"] is None
    assert state["lanes"]["realtime"]["p99"] >= 0.02
