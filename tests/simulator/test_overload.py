"""Overload of a whole worker on a virtual clock: it degrades step by step, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from flowguard.commands import Cut
from flowguard.lanes.lane import Lane
from flowguard.units import MIB, MILLISECOND, SECOND
from tests.simulator.overloaded import Overloaded

REALTIME, BULK = Lane("realtime", target="100ms"), Lane("bulk")
BOTH = (REALTIME, BULK)
BROWNOUT = frozenset({"brownout"})

SPIKE_S = (10, 50)


def per_record(primary_ms: float, fallback_ms: float) -> Callable[[Cut], int]:
    """Let a record take so long in the agent, and so long in its fallback."""
    return lambda cut: round(
        cut.num_records * (fallback_ms if cut.degraded else primary_ms) * MILLISECOND
    )


def spiked(spike: int, *, on: frozenset[str] = BROWNOUT, bulk: int = 0, seed: int = 1,
           seconds: int = 120) -> Overloaded:  # fmt: skip
    """100 real-time records a second, in a spike so many times as many.

    The agent can do 200 a second, its fallback 2000.
    """
    w = Overloaded(BOTH, serve=per_record(5, 0.5), fallback_on=on, memory_bytes=4 * MIB, seed=seed)
    low, high = SPIKE_S
    w.produce_every(20, 0, lambda t: 2 * spike if low <= t < high else 2, seconds=seconds)
    w.at(0, lambda: w.produce(1, bulk))
    return w


def turns(values: list[float]) -> int:
    moves = [after - before for before, after in pairwise(values) if after != before]
    return sum((one > 0) != (other > 0) for one, other in pairwise(moves))


def rungs_change_by_one(w: Overloaded) -> bool:
    return all(abs(after - before) <= 1 for before, after in pairwise([0, *w.rungs]))


@pytest.mark.parametrize("spike", [3, 5])
def test_a_brownout_carries_a_spike_and_all_rungs_clear_within_a_minute(spike: int) -> None:
    w = spiked(spike)
    w.run(120)
    assert w.lost == 0 and w.duplicates == 0
    assert max(w.rungs) == 4 and rungs_change_by_one(w)
    drained_s = SPIKE_S[1] + max(w.latencies_ns[0]) / SECOND
    clear_s = max(tick for tick, rung in enumerate(w.rungs) if rung) / 10
    assert clear_s <= drained_s + 60
    assert w.engine.books[0].degraded > 0


def test_once_the_share_is_found_the_lane_is_on_time_again() -> None:
    w = spiked(4)
    w.run(50)
    found = round(25 / 0.02) * 8  # records until 25 s
    late = [each for each in w.latencies_ns[0][found:] if each > 100 * MILLISECOND]
    assert len(late) <= 0.1 * len(w.latencies_ns[0][found:])


def test_while_the_overload_lasts_its_share_turns_twice_a_minute_at_most() -> None:
    w = spiked(4)
    w.run(50)
    assert turns(w.shares) <= 2 and max(w.shares) > 0


def test_without_a_fallback_a_worker_pauses_bulk_and_does_no_more() -> None:
    w = spiked(3, on=frozenset(), bulk=50_000)
    w.run(60)
    assert max(w.rungs) == 2 and w.engine.books[0].degraded == 0


def test_bulk_waits_in_kafka_while_a_lane_above_needs_the_worker_and_nothing_is_lost() -> None:
    w = spiked(3, bulk=10_000, seconds=60)
    read: list[int] = []
    for second in range(60):
        w.at(second * SECOND, lambda: read.append(w.engine.books[1].counts.read))
    w.run(180)
    assert w.lost == 0 and w.duplicates == 0
    assert w.engine.books[1].counts.settled == 10_000
    assert rungs_change_by_one(w) and w.rungs[-1] == 0


def test_a_backlog_of_bulk_alone_is_no_emergency() -> None:
    w = Overloaded(BOTH, serve=per_record(1, 0.1), fallback_on=BROWNOUT, memory_bytes=2 * MIB)
    w.at(0, lambda: w.produce(1, 60_000))
    w.produce_every(50, 0, lambda t: 1, seconds=30)
    w.run(30)
    assert max(w.rungs) == 1 and w.engine.books[0].degraded == 0


@pytest.mark.parametrize("stands_in", [True, False])
def test_an_outage_loses_nothing_and_ends_by_itself(stands_in: bool) -> None:
    w = Overloaded(
        BOTH, seats=4, serve=per_record(2, 0.2),
        refuses=lambda now_ns: 5 * SECOND <= now_ns < 25 * SECOND,
        fallback_on=frozenset({"failure"} if stands_in else ()),
    )  # fmt: skip
    w.produce_every(20, 0, lambda t: 1, seconds=30)
    w.produce_every(20, 1, lambda t: 2, seconds=30)
    w.run(60)
    assert w.lost == 0 and w.duplicates == 0
    assert (w.engine.books[0].degraded > 0) == stands_in
    longest_s = max(w.latencies_ns[0]) / SECOND
    assert longest_s < 1 if stands_in else 10 < longest_s < 32
    assert w.rungs[-1] == 0 and rungs_change_by_one(w)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = spiked(4, seed=3), spiked(4, seed=3)
    first.run(20)
    second.run(20)
    assert (first.rungs, first.shares) == (second.rungs, second.shares)
