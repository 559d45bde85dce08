"""The recording of a real run: the simulator's, filled from sink, state page and notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from flowguard.stress.brief import Notes, read_notes
from flowguard.stress.chance import Chance
from flowguard.stress.live import Outcome
from flowguard.stress.plan import plan_of
from flowguard.stress.recorded import Sample, recording_of
from flowguard.stress.recording import Recording
from flowguard.stress.scenario import Scenario, parse_scenario
from flowguard.units import SECOND

BEGIN_MS = 1_700_000_000_000


def scenario() -> Scenario:
    return parse_scenario(
        """
        [scenario]
        name = "s"
        duration = "4s"
        [[worker.lanes]]
        name = "realtime"
        target = "50ms"
        [[arrivals]]
        lane = "realtime"
        model = "constant"
        rate = 2
        """,
        file="s.toml",
    )


def arrivals(*rows: tuple[int, float, float]) -> pl.DataFrame:
    """Return arrivals: id, second at which it was due, latency in ms."""
    return pl.DataFrame(
        {
            "lane": ["realtime"] * len(rows),
            "id": [row[0] for row in rows],
            "latency_ms": [row[2] for row in rows],
            "timestamp_ms": [BEGIN_MS + int(row[1] * 1_000) for row in rows],
        },
        schema={"lane": pl.String, "id": pl.Int64, "latency_ms": pl.Float64,
                "timestamp_ms": pl.Int64},
    )  # fmt: skip


def recorded(
    came: pl.DataFrame | None, *samples: Sample, ids: bool = True, notes: Any = ()
) -> Recording:
    outcome = Outcome(
        begin_ms=BEGIN_MS, sent={}, committed={}, arrivals=came, ids=ids, counts={}, exit_code=0,
        others_cpu=0.0,
    )  # fmt: skip
    return recording_of(
        scenario(), plan_of(scenario(), Chance(1)), outcome, samples, notes=notes, agent="serve",
        memory_bytes=2**20, lost={}, duplicates={},
    )  # fmt: skip


def sample(at_s: float, **state: Any) -> Sample:
    counts = {"realtime": state.pop("counts", {})}
    return Sample(int(at_s * SECOND), counts, state)


def test_what_was_offered_is_what_was_planned() -> None:
    recording = recorded(arrivals())

    assert [each.lanes[0].counts["offered"] for each in recording.seconds] == [2, 2, 2, 2]


def test_a_record_is_settled_in_the_second_in_which_it_first_arrives() -> None:
    recording = recorded(arrivals((1, 0.9, 20.0), (2, 0.9, 400.0), (1, 0.9, 2_500.0)))

    assert [each.lanes[0].counts["settled"] for each in recording.seconds] == [1, 1, 0, 0]
    assert recording.latency(0, 0, 4).total == 2


def test_counts_of_the_worker_are_differences_between_looks() -> None:
    looks = [sample(0.5, counts={"shed": 3}), sample(1.5, counts={"shed": 10, "degraded": 2})]

    recording = recorded(arrivals(), *looks)

    shed = [each.lanes[0].counts["shed"] for each in recording.seconds]
    assert shed == [3, 7, 0, 0]
    assert recording.total("degraded") == 2


def test_gauges_are_those_of_the_agent() -> None:
    agents = {"serve": {"limit": 8, "in_flight": 3, "batch_size": 64, "service_time": 0.01}}
    look = sample(0.2, agents=agents, memory={"used": 99}, pressure=0.5, rung=2, rung_name="x")

    entry = recorded(arrivals(), look).timeline()[0]

    assert entry["limit"] == {"serve": 8.0} and entry["memory"] == 99
    assert (entry["rung"], entry["rung_name"], entry["pressure"]) == (2, "x", 0.5)
    assert entry["service"] == {"serve": 0.01}


def test_a_page_that_says_nothing_leaves_gaps() -> None:
    entry = recorded(arrivals(), sample(0.2)).timeline()[0]

    assert entry["rung"] is None and entry["memory"] is None


def test_a_decision_is_told_once() -> None:
    def look(at_s: float, age: float) -> Sample:
        return sample(at_s, decisions=[{"age": age, "loop": "ladder"}])

    recording = recorded(arrivals(), look(0.5, 0.1), look(1.5, 1.1), look(2.5, 0.05))

    assert [len(each.decisions) for each in recording.seconds] == [1, 0, 1, 0]


def test_where_records_are_not_known_again_the_worker_says_what_is_settled() -> None:
    look = sample(0.5, counts={"settled": 7})

    recording = recorded(arrivals((1, 0.1, 5.0)), look, ids=False)

    assert recording.total("settled") == 7
    assert recording.latency(0, 0, 4).total == 1


def test_failures_and_rebalances_are_noted_by_the_worker(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.failed("realtime", 5)
    notes.assigned()
    notes.assigned()
    with (tmp_path / "notes.jsonl").open("a") as file:
        file.write('{"at_ns": 1, "fail')  # it was killed here
    found = [{**each, "at_ns": BEGIN_MS * 1_000_000} for each in read_notes(tmp_path)]

    recording = recorded(arrivals(), notes=found)

    assert recording.total("failed") == 5
    assert recording.seconds[0].rebalances == 1


def test_without_notes_there_are_none(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == []
