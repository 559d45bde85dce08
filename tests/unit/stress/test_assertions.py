"""Assertions: what is read off a recording, and what is asserted of it."""

from __future__ import annotations

import pytest

from flowguard.lanes.lane import Lane
from flowguard.stress.assertions import objectives_of
from flowguard.stress.recording import Recording
from flowguard.stress.report import Objective
from flowguard.stress.scenario import Scenario, parse_scenario
from flowguard.units import MIB, SECOND

LANES = (Lane("realtime", target="50ms"), Lane("bulk"))

HEAD = """
[scenario]
name = "x"
duration = "10s"
warmup = "2s"
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[worker.lanes]]
name = "bulk"
[[arrivals]]
lane = "bulk"
model = "constant"
rate = 100
"""

FAULT = "[[faults]]\nat='4s'\nfor='2s'\ntarget='provider'\ntype='slow'\nfactor=2\n"


def scenario(expect: str, fault: str = "") -> Scenario:
    return parse_scenario(f"{HEAD}{fault}[[expect]]\n{expect}", file="x.toml")


def recorded(seconds: int = 12) -> Recording:
    """Each second 100 offered and settled in bulk, 10 in real time within 20 ms."""
    recording = Recording(LANES, agent="agent", memory_bytes=64 * MIB)
    for number in range(seconds):
        at_ns = number * SECOND
        for lane, count, latency_ms in ((0, 10, 20), (1, 100, 300)):
            recording.count(at_ns, lane, "offered", count)
            recording.count(at_ns, lane, "settled", count)
            recording.second(at_ns).lanes[lane].latency.record(latency_ms, count)
        gauges = {"limit": 4.0 + number % 2, "in_flight": 3.0, "batch_size": 64.0, "rung": 0.0}
        recording.see(at_ns, {**gauges, "memory": 1000.0 + number, "pressure": 0.1})
    return recording


def value(expect: str, recording: Recording | None = None, fault: str = "") -> float | None:
    (objective,) = objectives_of(scenario(expect, fault), recording or recorded())
    return objective.value


@pytest.mark.parametrize(
    ("expect", "wanted"),
    [
        ("metric='goodput'\nmin=1", 110.0),
        ("metric='goodput'\nlane='realtime'\nmin=1", 10.0),
        ("metric='offered'\nlane='bulk'\nmin=1", 100.0),
        ("metric='settled'\nlane='bulk'\nmin=1", 1200.0),
        ("metric='p99'\nlane='realtime'\nmax='50ms'", 0.02),
        ("metric='p99'\nmax='50ms'", 0.303),
        ("metric='on_time'\nmin=0.9", 1.0),
        ("metric='limit'\nmax=9", 4.5),
        ("metric='limit'\naggregate='max'\nmax=9", 5.0),
        ("metric='limit'\naggregate='last'\nmax=9", 5.0),
        ("metric='in_flight'\nmax=9", 3.0),
        ("metric='memory'\nmax='1MiB'", 1011.0),
        ("metric='memory'\nduring=['1s', '3s']\nmax='1MiB'", 1002.0),
        ("metric='backlog'\nmax=0", 0.0),
        ("metric='rung'\nmax=0", 0.0),
        ("metric='reversals'\nmax=0", 6 * 60 / 8),
        ("metric='shed'\nmax=0", 0.0),
        ("metric='lost'\nmax=0", 0.0),
        ("metric='rebalances'\nmax=0", 0.0),
        ("metric='service'\nmax='1s'", None),
        ("metric='recovery'\nmax='1s'", None),
    ],
)
def test_a_metric_is_read_off_the_recording(expect: str, wanted: float | None) -> None:
    assert value(expect) == (None if wanted is None else pytest.approx(wanted))


def test_the_warm_up_and_the_end_are_not_judged_but_every_loss_is_counted() -> None:
    recording = recorded()
    for at_ns in (0, 11 * SECOND):
        recording.second(at_ns).lanes[0].latency.record(5_000, 100)
        recording.count(at_ns, 0, "shed", 7)

    assert value("metric='p99'\nlane='realtime'\nmax='1s'", recording) == 0.02
    assert value("metric='shed'\nmax=0", recording) == 14


def test_each_bound_is_an_objective() -> None:
    low, high = objectives_of(scenario("metric='limit'\nmin=5\nmax=6"), recorded())

    assert low == Objective(name="limit", limit=5.0, value=4.5, at_least=True)
    assert high == Objective(name="limit", limit=6.0, value=4.5)
    assert (low.passed, high.passed) == (False, True)


def test_what_is_asserted_can_be_read_by_people() -> None:
    (objective,) = objectives_of(
        scenario("metric='limit'\naggregate='max'\nduring=['2s', '4s']\nmax=6"), recorded()
    )

    assert objective.name == "2–4 s max limit"


def test_the_most_rungs_taken_at_once_are_found() -> None:
    recording = recorded()
    recording.see(3 * SECOND, {"rung": 2.0})

    assert value("metric='rung_step'\nmax=1", recording) == 2.0


def test_a_backlog_is_what_was_offered_and_has_not_come_to_an_end() -> None:
    recording = recorded()
    recording.count(5 * SECOND, 1, "offered", 50)
    recording.count(7 * SECOND, 1, "shed", 20)

    assert value("metric='backlog'\nlane='bulk'\nmax=0", recording) == 50
    assert value("metric='backlog'\nlane='bulk'\naggregate='last'\nmax=0", recording) == 30
    assert value("metric='backlog'\nlane='realtime'\nmax=0", recording) == 0


def test_recovery_is_the_time_from_the_fault_until_all_is_as_before() -> None:
    recording = recorded()
    for second in (5, 6, 7):
        recording.second(second * SECOND).lanes[0].latency.record(900, 50)

    assert value("metric='recovery'\nmax='9s'", recording, FAULT) == 2.0


def test_recovery_waits_for_the_backlog_too_and_may_never_come() -> None:
    recording = recorded()
    recording.count(5 * SECOND, 1, "offered", 5_000)

    assert value("metric='recovery'\nmax='9s'", recording, FAULT) is None
    recording.count(8 * SECOND, 1, "settled", 5_000)
    assert value("metric='recovery'\nmax='9s'", recording, FAULT) == 2.0


def test_a_run_that_ends_because_nothing_is_left_has_recovered() -> None:
    recording = recorded(seconds=10)
    recording.count(5 * SECOND, 1, "offered", 5_000)
    recording.count(9 * SECOND, 1, "settled", 5_000)

    assert value("metric='recovery'\nmax='9s'", recording, FAULT) == 3.0


def test_the_timeline_has_an_entry_a_second() -> None:
    entries = recorded().timeline()

    assert [entry["t"] for entry in entries] == [float(t) for t in range(1, 13)]
    assert entries[3]["settled"] == {"realtime": 10, "bulk": 100}
    assert entries[3]["p99"]["realtime"] == 0.02
    assert entries[3]["limit"] == {"agent": 5.0}
    assert entries[3]["waiting"] == {"realtime": 0, "bulk": 0}
