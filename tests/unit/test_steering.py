"""Signals of a real engine become pressure, rungs, and what each of them changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from flowguard.chunk import TopicPartition
from flowguard.facts import Ticked
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Block, Shed
from flowguard.overflow import Overflow
from flowguard.situation import snapshot_of
from flowguard.steering import Steering
from flowguard.units import MIB, MILLISECOND
from flowguard.view import AgentPlan
from tests.builders import BULK, EPOCH_MS, REALTIME, EngineDriver, chunk_of

#: Topics by rule: nothing but real-time, nothing but bulk, either.
FAST, SLOW, MIXED = (TopicPartition(name, 0) for name in ("fast", "slow", "mixed"))
RULES = {"fast": frozenset({0}), "slow": frozenset({1}), "mixed": frozenset({0, 1})}
NAMES = [TopicPartition(topic, number) for topic in RULES for number in range(2)]


def sheddable(lane: Lane) -> Lane:
    """Return a lane whose records may be left out."""
    object.__setattr__(lane, "overflow", (Shed(), Block()))
    return lane


def worker(
    *on: str,
    lanes: tuple[Lane, ...] = (REALTIME, BULK),
    shadow: frozenset[str] = frozenset(),
    memory_mib: int = 64,
    seats: int = 1,
) -> EngineDriver:
    """Return a worker of one agent on three topics; `on` are the occasions of its fallback."""
    plan = AgentPlan(
        name="agent", topics=frozenset(RULES), seats=seats, fallback_on=frozenset(on), records_max=1
    )
    d = EngineDriver(
        lanes=lanes, agents=[plan], shadow=shadow, ranks_of=dict(RULES),
        memory_bytes=memory_mib * MIB,
    )  # fmt: skip
    d.own({FAST: 0, SLOW: 0, MIXED: 0})
    return d


def steering(d: EngineDriver) -> Steering:
    return d.engine.steering


def overload(d: EngineDriver, seconds: float, *, lane: int = 0) -> list[int]:
    """Let records of a lane wait for good; return the rung after each tick."""
    if not d.engine.views["agent"].scheduler.queued_records(lane):
        name = (FAST, SLOW)[lane]
        first = d.engine.partitions[name].ledger.position
        fresh = chunk_of(list(range(first, first + 3)), partition=name, lane=lane)
        fresh.fetched_ns = d.now_ns
        d.fetch(name, fresh)
    return ticks(d, seconds)


def ticks(d: EngineDriver, seconds: float, *, lag_ms: float = 0) -> list[int]:
    rungs = []
    for _ in range(round(seconds * 10)):
        d.now_ns += 100 * MILLISECOND
        d.tell(Ticked(at_ns=d.now_ns, loop_lag_ns=round(lag_ms * MILLISECOND)))
        rungs.append(steering(d).rung)
    return rungs


def relieve(d: EngineDriver) -> None:
    """Let the agent finish all that it has and gets."""
    while d.running:
        d.finish(d.running[0])


def parts(d: EngineDriver) -> dict[str, float]:
    return {each.component: each.ratio for each in steering(d).parts}


def lane_of(d: EngineDriver, rank: int) -> tuple[str, str | None]:
    lane = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes[rank]
    return lane.state, lane.why


# Pressure.


def test_an_idle_worker_has_no_pressure() -> None:
    d = worker()
    assert set(ticks(d, 5)) == {0}
    assert set(parts(d).values()) == {0.0}
    assert list(parts(d)) == ["delay", "memory", "bulk_memory", "loop_lag", "errors", "spill"]


def test_a_queue_that_does_not_empty_is_pressure() -> None:
    d = worker()
    overload(d, 1)
    assert parts(d)["delay"] == 1.0
    assert steering(d).pressure.why.startswith("queue delay of lane realtime")
    relieve(d)
    ticks(d, 1)
    assert parts(d)["delay"] == 0.0


def test_bulk_that_waits_is_none() -> None:
    d = worker()
    overload(d, 5, lane=1)
    assert parts(d)["delay"] == 0.0


def test_a_full_memory_of_bulk_goes_to_the_first_rung_and_of_others_to_the_last() -> None:
    d = worker("brownout", memory_mib=16)
    d.fetch(SLOW, chunk_of([0], partition=SLOW, lane=1, num_bytes=9 * MIB))
    d.fetch(SLOW, chunk_of([1], partition=SLOW, lane=1, num_bytes=9 * MIB))
    assert max(ticks(d, 30)) == 1
    d.fetch(MIXED, chunk_of([0], partition=MIXED, lane=1, num_bytes=3 * MIB))
    assert max(ticks(d, 30)) == 4


def test_a_loop_that_is_always_late_is_pressure() -> None:
    d = worker()
    ticks(d, 2, lag_ms=80)
    assert parts(d)["loop_lag"] == pytest.approx(0.8)


def test_the_lag_of_a_tick_between_two_looks_is_not_forgotten() -> None:
    d = worker()
    for _ in range(20):
        d.now_ns += 50 * MILLISECOND
        d.tell(Ticked(at_ns=d.now_ns, loop_lag_ns=60 * MILLISECOND))
        d.now_ns += 50 * MILLISECOND
        d.tell(Ticked(at_ns=d.now_ns))
    assert parts(d)["loop_lag"] == pytest.approx(0.6)


def test_what_is_unavailable_is_pressure_of_errors_and_not_of_delay() -> None:
    d = worker()
    overload(d, 0.1)
    d.refuse(d.running[0])
    for _ in range(30):  # nothing new comes, and each probe is refused
        for cut in list(d.running):
            d.refuse(cut)
        ticks(d, 1)
    assert parts(d)["errors"] == 1.0
    assert parts(d)["delay"] == 0.0
    assert not steering(d).held, "to pause bulk would help nobody"


def test_a_fallback_that_stands_in_takes_most_of_the_pressure_of_errors() -> None:
    d = worker("failure")
    overload(d, 0.1)
    d.refuse(d.running[0])
    for number in range(20):
        relieve(d)
        d.fetch(FAST, chunk_of([100 + number], partition=FAST, lane=0))
    assert parts(d)["errors"] < 0.6


# The ladder.


def test_rungs_change_by_one_and_each_step_has_its_reason() -> None:
    d = worker("brownout")
    up = overload(d, 20)
    assert all(after - before in (0, 1) for before, after in pairwise([0, *up]))
    assert up[-1] == 4, "nothing here can be shed"
    steps = [each for each in d.engine.decisions if each.loop == "ladder"]
    assert [(each.before, each.after) for each in steps] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all("queue delay of lane realtime" in each.why for each in steps)
    assert "pause-bulk" in steps[1].why
    assert steering(d).steps == {"up": 4}


def test_all_rungs_clear_within_a_minute() -> None:
    d = worker("brownout")
    overload(d, 30)
    relieve(d)
    down = ticks(d, 60)
    assert all(after - before in (0, -1) for before, after in pairwise([4, *down]))
    assert down[-1] == 0
    assert d.engine.views["agent"].serving.shares == [0.0, 0.0]
    assert lane_of(d, 0) == ("ok", None)


def test_every_step_tells_the_limits_that_something_moved(monkeypatch: Any) -> None:
    d = worker()
    heard: list[str] = []
    monkeypatch.setattr(d.engine.views["agent"], "invalidate", heard.append)
    overload(d, 5)
    assert heard == ["rung 1", "rung 2"]


def test_bulk_may_grow_from_the_first_rung_on(monkeypatch: Any) -> None:
    d = worker()
    factors: list[float] = []
    monkeypatch.setattr(d.engine.views["agent"], "let_bulk_grow", factors.append)
    overload(d, 5)
    relieve(d)
    ticks(d, 40)
    assert factors == [4.0, 4.0, 4.0, 1.0]


# Pausing bulk.


def test_partitions_of_bulk_are_left_out_of_fetch_requests_and_others_never() -> None:
    d = worker()
    overload(d, 5)
    assert d.held == {SLOW}
    assert lane_of(d, 1)[0] == "paused"
    assert "so that a lane above gets what it needs" in str(lane_of(d, 1)[1])
    relieve(d)
    ticks(d, 30)
    assert d.held == frozenset()


def test_a_lane_that_would_miss_or_lose_something_by_waiting_is_not_paused() -> None:
    d = worker(lanes=(REALTIME, Lane("hints", max_age="30s")))
    overload(d, 20)
    assert d.held == frozenset() and not steering(d).pausable
    d = worker(lanes=(REALTIME, sheddable(Lane("hints"))))
    overload(d, 20)
    assert not steering(d).pausable


def test_without_a_lane_above_nothing_is_paused() -> None:
    d = worker(lanes=(Lane("one"), Lane("two")), memory_mib=1)
    ticks(d, 20, lag_ms=500)
    assert d.held == frozenset()
    assert steering(d).rung == 1


def test_a_bulk_lane_above_the_one_with_a_target_is_not_paused() -> None:
    d = worker(lanes=(Lane("important"), Lane("quick", target="50ms")))
    d.fetch(SLOW, chunk_of([0, 1], partition=SLOW, lane=1))
    ticks(d, 20)
    assert d.held == frozenset()


@pytest.mark.parametrize("seed", range(8))
def test_what_is_paused_is_what_should_be_after_any_rebalance(seed: int) -> None:
    """A model: at each moment the fetcher leaves out all bulk that is ours, or nothing."""
    rng = random.Random(seed)
    d = worker(seats=1)
    pressed = False
    for _ in range(150):
        move = rng.choice(["assign", "revoke", "press", "relieve", "wait"])
        held_by_us = sorted(d.engine.partitions)
        if move == "assign":
            ours = rng.sample(NAMES, rng.randint(0, len(NAMES)))
            d.revoke(*(set(held_by_us) - set(ours)))
            d.own(dict.fromkeys(ours, 0))
        elif move == "revoke" and held_by_us:
            d.revoke(rng.choice(held_by_us))
        elif move == "press":
            pressed = True
        elif move == "relieve":
            pressed = False
        for _ in range(rng.randint(1, 40)):
            lag_ms = 500 if pressed else 0
            ticks(d, 0.1, lag_ms=lag_ms)
        bulk = {name for name in d.engine.partitions if name.topic == "slow"}
        assert d.held == (bulk if steering(d).rung >= 2 else frozenset())
        assert d.held <= d.reading.keys()
    # Nothing that was left out has moved.
    for name, partition in d.engine.partitions.items():
        assert d.reading[name] == (partition.ledger.position, partition.epoch)


def test_an_assignment_says_again_what_is_left_out() -> None:
    d = worker()
    overload(d, 5)
    d.held = frozenset()  # a fetcher that was made anew knows nothing
    other = TopicPartition("slow", 1)
    d.own({FAST: 0, SLOW: 0, other: 0})
    assert d.held == {SLOW, other}


# Brownout and shedding.


def test_brownout_grows_until_the_lane_keeps_up_lowest_lane_first() -> None:
    d = worker("brownout")
    d.records(SLOW, range(3), lane=1)
    overload(d, 7)
    shares = d.engine.views["agent"].serving.shares
    assert shares[1] > 0 and shares[0] == 0
    ticks(d, 8)
    assert shares == [1.0, 1.0]
    assert lane_of(d, 0)[0] == "brownout"
    assert "100% of its batches go to a fallback" in str(lane_of(d, 0)[1])
    steps = [each for each in d.engine.decisions if each.loop == "brownout"]
    assert next(each.subject for each in steps) == "bulk"
    assert {each.action for each in steps} == {"up"}


def test_a_lane_may_opt_out_of_brownouts() -> None:
    d = worker("brownout", lanes=(Lane("realtime", target="50ms", degrade=False), BULK))
    d.records(SLOW, range(3), lane=1)
    overload(d, 30)
    assert d.engine.views["agent"].serving.shares == [0.0, 1.0]


def test_a_fallback_for_other_occasions_is_left_out_of_brownouts() -> None:
    d = worker("failure", "deadline")
    overload(d, 30)
    assert steering(d).rung == 2
    assert d.engine.views["agent"].serving.shares == [0.0, 0.0]


def test_a_lane_never_gives_way_for_a_lower_one() -> None:
    lanes = (Lane("first", target="50ms"), Lane("second", target="50ms"))
    d = worker("brownout", lanes=lanes)
    overload(d, 30, lane=1)
    assert d.engine.views["agent"].serving.shares == [0.0, 1.0]


@pytest.fixture
def shed_ratios(monkeypatch: Any) -> dict[int, float]:
    """Keep what the ladder asks to be shed; nothing is, and policies do not act on their own."""
    ratios: dict[int, float] = {}
    monkeypatch.setattr(Overflow, "tick", lambda self, now_ns: [])
    monkeypatch.setattr(
        Overflow, "set_shed_ratio", lambda self, rank, ratio, why: ratios.update({rank: ratio})
    )
    return ratios


def test_lanes_that_may_be_shed_are_shed_last_and_those_with_a_target_after_all(
    shed_ratios: dict[int, float],
) -> None:
    lanes = (sheddable(Lane("realtime", target="50ms")), sheddable(Lane("hints")))
    d = worker("brownout", lanes=lanes)
    d.records(SLOW, range(3), lane=1)
    first: dict[str, int] = {}
    for tick in range(600):
        overload(d, 0.1)
        for rank, ratio in shed_ratios.items():
            if ratio > 0:
                first.setdefault(f"shed {rank}", tick)
        if steering(d).dimming.ratio("brownout", 0)[0] > 0:
            first.setdefault("brownout 0", tick)
    assert sorted(first, key=lambda name: first[name]) == ["brownout 0", "shed 1", "shed 0"]
    assert shed_ratios == {0: 0.95, 1: 0.95}
    assert steering(d).rung == 6
    assert lane_of(d, 1)[0] == "shedding"
    relieve(d)
    down = ticks(d, 60)
    assert down[-1] == 0 and shed_ratios == {0: 0.0, 1: 0.0}


def test_a_lane_without_such_a_policy_is_never_shed(shed_ratios: dict[int, float]) -> None:
    d = worker("brownout")
    overload(d, 60)
    assert shed_ratios == {}


def test_a_lane_that_has_nothing_to_do_is_passed_over() -> None:
    d = worker("brownout")
    overload(d, 30)
    assert d.engine.views["agent"].serving.shares == [1.0, 0.0]


# Shadow.


def each_loop(do: Callable[[EngineDriver], object], *shadow: str) -> EngineDriver:
    d = worker("brownout", shadow=frozenset(shadow))
    do(d)
    return d


def test_a_ladder_in_shadow_only_says_what_it_would_do() -> None:
    d = each_loop(lambda d: overload(d, 20), "ladder")
    assert steering(d).rung == 0 and steering(d).rung_name == "normal"
    assert d.held == frozenset()
    assert d.engine.views["agent"].serving.shares == [0.0, 0.0]
    said = [each for each in d.engine.decisions if each.loop == "ladder"]
    assert len(said) == 4 and all(each.shadow for each in said)
    assert steering(d).steps == {}


def test_a_brownout_in_shadow_leaves_the_ladder_as_it_is() -> None:
    d = each_loop(lambda d: overload(d, 20), "brownout")
    assert steering(d).rung == 4
    assert d.engine.views["agent"].serving.shares == [0.0, 0.0]
    said = [each for each in d.engine.decisions if each.loop == "brownout"]
    assert said and all(each.shadow for each in said)
    assert lane_of(d, 0)[0] == "ok"
    relieve(d)
    assert ticks(d, 60)[-1] == 0


def test_what_is_admitted_is_less_while_a_lane_is_shed_or_not_read(
    shed_ratios: dict[int, float],
) -> None:
    d = worker()
    ticks(d, 2)
    assert [steering(d).admitted(rank) for rank in (0, 1)] == [1.0, 1.0]
    overload(d, 30)
    assert steering(d).admitted(1) == pytest.approx(0.5, abs=0.01), "one of its two topics"
    assert steering(d).admitted(0) == 1.0
    d = worker(lanes=(REALTIME, sheddable(Lane("hints"))))
    d.records(SLOW, range(3), lane=1)
    overload(d, 60)
    assert steering(d).admitted(1) == pytest.approx(0.05)
