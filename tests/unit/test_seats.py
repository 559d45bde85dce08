"""Seats that follow the limit: what an agent may have, what is kept for lanes, what is learnt."""

from __future__ import annotations

import pytest

from flowguard.control.limit import Step
from flowguard.dispatch.concurrency import Adaptive
from flowguard.facts import Failed, Ticked
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.seats import reserves
from flowguard.situation import snapshot_of
from flowguard.units import MILLISECOND
from tests.builders import EPOCH_MS, A, EngineDriver


class Scripted:
    """An algorithm that says what it is told to say, and keeps what it saw."""

    def __init__(self, *limits: float, first: float = 2.0) -> None:
        self.limits = list(limits)
        self.first = first
        self.windows = None
        self.seen = []

    def update(self, window):
        self.seen.append(window)
        limit = self.limits.pop(0) if self.limits else window.limit
        return Step(limit, "up" if limit > window.limit else "down", "as told")


def driver(algorithm, *, limit_min: int = 1, limit_max: int = 8, **options) -> EngineDriver:
    options = {"lanes": (Lane("only"),), "order": "none", "records_max": 1} | options
    adaptive = Adaptive(min=limit_min, max=limit_max, algorithm=algorithm)
    d = EngineDriver(adaptive=adaptive, **options)
    d.assign(A=0)
    return d


def work(d: EngineDriver, *, ms: int, count: int = 12) -> None:
    """Finish the batches that run, some at a time, until a window is over."""
    for _ in range(count):
        d.wait(ms)
        for cut in list(d.running):
            d.finish(cut)


def limit_of(d: EngineDriver) -> int:
    [agent] = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).agents
    return agent.limit


def test_as_many_batches_run_as_the_limit_says():
    algorithm = Scripted(5.7)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)
    assert len(d.running) == limit_of(d) == 2

    work(d, ms=100)

    assert len(d.running) == limit_of(d) == 5


def test_a_lower_limit_lets_what_runs_finish_and_starts_less():
    d = driver(Scripted(8.0, 2.0), limit_max=8)
    d.records(A, range(400), lane=0)
    work(d, ms=100, count=6)
    assert len(d.running) == 8

    while limit_of(d) == 8:
        d.finish(d.running[0])
        d.wait(100)

    assert len(d.running) == 8  # nothing is taken away from anyone
    for cut in list(d.running):
        d.finish(cut)
    assert len(d.running) == 2


@pytest.mark.parametrize("asked", [0.0, -3.0, 1e9, float("nan"), float("inf")])
def test_the_limit_stays_within_what_was_declared_whatever_an_algorithm_says(asked):
    d = driver(Scripted(asked), limit_min=2, limit_max=6)
    d.records(A, range(100), lane=0)

    work(d, ms=100)

    assert 2 <= limit_of(d) <= 6


def test_an_algorithm_that_raises_changes_nothing_and_says_so():
    class Broken:
        def update(self, window):
            raise RuntimeError("oh")

    d = driver(Broken(), limit_max=8)
    d.records(A, range(100), lane=0)

    work(d, ms=100)

    assert limit_of(d) == 4
    assert "oh" in next(iter(d.engine.decisions)).why


def test_every_step_is_in_the_log_with_its_reason():
    d = driver(Scripted(5.0))
    d.records(A, range(100), lane=0)

    work(d, ms=100)

    first = next(iter(d.engine.decisions))
    assert (first.loop, first.subject, first.action) == ("concurrency", "agent", "up")
    assert (first.before, first.after, first.why, first.shadow) == (2, 5, "as told", False)


def test_in_shadow_mode_the_limit_is_only_said():
    d = driver(Scripted(2.0, 1.0), limit_max=8, shadow=frozenset({"concurrency"}))
    d.records(A, range(200), lane=0)

    work(d, ms=100)

    assert limit_of(d) == len(d.running) == 8
    assert [(each.before, each.after) for each in d.engine.decisions][:2] == [(8, 2), (8, 1)]
    assert all(each.shadow for each in d.engine.decisions)


def test_a_fixed_concurrency_says_nothing():
    d = EngineDriver(lanes=(Lane("only"),), order="none", records_max=1, seats=3)
    d.assign(A=0)
    d.records(A, range(100), lane=0)

    work(d, ms=100)

    assert limit_of(d) == 3
    assert not list(d.engine.decisions)


def test_reserves_follow_the_limit():
    lanes = (Lane("urgent", reserve=0.5), Lane("bulk"))
    d = driver(Scripted(8.0, first=4.0), lanes=lanes)
    d.records(A, range(300), lane=1)
    assert len(d.running) == 2  # of 4

    work(d, ms=100)

    assert len(d.running) == 4  # of 8


def test_a_lane_with_a_reserve_has_a_seat_of_its_own_from_two_seats_on():
    lanes = LaneSet((Lane("urgent", reserve=0.1), Lane("next", reserve=0.1), Lane("bulk")))

    assert reserves(lanes, 1) == [0, 0, 0]
    assert reserves(lanes, 2) == [1, 0, 0]
    assert reserves(lanes, 3) == [1, 1, 0]
    assert reserves(lanes, 40) == [4, 4, 0]


def test_order_limits_what_a_limit_is_good_for_so_it_does_not_climb():
    """One partition in order is one batch at a time: the window says it is not saturated."""
    algorithm = Scripted(first=4.0)
    d = driver(algorithm, order="partition")
    d.records(A, range(200), lane=0)
    assert len(d.running) == 1

    work(d, ms=100)

    assert algorithm.seen
    assert not any(window.saturated for window in algorithm.seen)


def test_windows_say_what_was_measured():
    algorithm = Scripted(first=4.0)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)

    work(d, ms=100)

    window = algorithm.seen[0]
    assert window.saturated
    assert (window.seats, window.in_flight_max, window.drops) == (4, 4, 0)
    assert window.service_ns == 100 * MILLISECOND
    assert window.goodput_per_s == pytest.approx(40, rel=0.01)
    assert window.restarted
    assert not algorithm.seen[1].restarted


def test_what_is_unavailable_counts_as_refused_and_what_fails_does_not():
    algorithm = Scripted(first=4.0)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)

    d.wait(100)
    d.wait(400)
    for _ in range(2):
        d.fail(d.running[0])
    for _ in range(8):
        d.finish(d.running[0])
    for cut in d.running[:2]:  # from now on only a probe is started
        d.tell(Failed(batch_id=cut.batch_id, why="no", at_ns=d.now_ns, unavailable=True))
    d.wait(100)

    [window] = algorithm.seen
    assert (window.completions, window.successes, window.drops) == (12, 8, 2)


def test_a_loop_that_stood_still_makes_its_window_teach_nothing():
    algorithm = Scripted(first=4.0)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)
    work(d, ms=100, count=2)

    d.now_ns += 100 * MILLISECOND
    d.tell(Ticked(at_ns=d.now_ns, loop_lag_ns=60 * MILLISECOND))

    assert not algorithm.seen
    assert "stood still for 60 ms" in next(iter(d.engine.decisions)).why


def test_a_rebalance_makes_its_window_teach_nothing():
    algorithm = Scripted(first=4.0)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)
    work(d, ms=100, count=2)

    d.revoking(A)
    d.wait(100)

    assert not algorithm.seen
    assert "rebalanced" in next(iter(d.engine.decisions)).why


def test_batches_that_a_fallback_serves_teach_nothing_of_the_agent():
    algorithm = Scripted(first=4.0)
    d = driver(algorithm)
    d.records(A, range(200), lane=0)
    for cut in d.running:
        cut.degraded = "brownout"

    d.wait(300)
    for cut in list(d.running):
        d.finish(cut)

    limiter = d.engine.views["agent"].seats.limiter
    assert not limiter._samples


# Batch size.


def shop(*, shadow: frozenset[str] = frozenset(), **options) -> EngineDriver:
    """Return an agent to which a record takes a millisecond, whatever the batch."""
    usual = {"lanes": (Lane("only"),), "seats": 1}
    d = EngineDriver(order="none", shadow=shadow, **(usual | options))
    d.assign(A=0)
    return d


def serve(d: EngineDriver, *, seconds: float, lane: int = 0) -> list[int]:
    """Work through a flood; return how large the batches were."""
    sizes = []
    until_ns = d.now_ns + round(seconds * 1000 * MILLISECOND)
    next_offset = d.engine.partitions[A].ledger.position
    while d.now_ns < until_ns:
        if sum(d.engine.views["agent"].scheduler.ready_records(i) for i in range(1)) < 5000:
            d.records(A, range(next_offset, next_offset + 3000), lane=lane)
            next_offset += 3000
        [cut] = d.running
        sizes.append(cut.num_records)
        for start in range(0, cut.num_records, 100):
            d.wait(min(100, cut.num_records - start))
        d.finish(cut)
    return sizes


def test_batches_without_a_target_become_as_short_as_is_worth_it():
    d = shop(records_max=1000)

    sizes = serve(d, seconds=90)

    assert sizes[0] == 1000
    assert sizes[-1] <= 130
    steps = [each for each in d.engine.decisions if each.loop == "batch-size"]
    assert steps[0].action == "down"
    assert all(each.after >= each.before // 2 for each in steps)
    assert "a record takes" in steps[-1].why


def test_what_a_target_keeps_small_anyway_is_no_decision_about_the_batch_size():
    d = shop(lanes=(Lane("urgent", target="40ms"),), records_max=4096)

    sizes = serve(d, seconds=40)

    assert sizes[-1] <= 10
    assert [each for each in d.engine.decisions if each.loop == "batch-size"] == []


def test_in_shadow_mode_the_batch_size_is_only_said():
    d = shop(records_max=1000, shadow=frozenset({"batch-size"}))

    sizes = serve(d, seconds=40)

    assert sizes[-1] == 1000
    steps = [each for each in d.engine.decisions if each.loop == "batch-size"]
    assert steps
    assert all(each.shadow for each in steps)


def test_bulk_batches_may_grow_where_no_lane_with_a_target_shares_the_agent():
    lanes = (Lane("urgent", target="40ms"), Lane("bulk"))
    d = shop(lanes=lanes, records_max=1000)
    view = d.engine.views["agent"]
    d.records(A, range(500), lane=1)
    view.let_bulk_grow(4.0)
    assert view.sizes.common.records == 256

    d.records(A, range(500, 510), lane=0)
    assert view.sizes.common.records == 64  # they share the agent now

    view.let_bulk_grow(4.0)
    assert view.sizes.common.records == 64


def test_a_lane_that_reserves_seats_always_has_one_of_its_own():
    lanes = (Lane("urgent", target="40ms", reserve=0.5), Lane("bulk"))
    reserving = shop(lanes=lanes, seats=4, adaptive=Adaptive(max=4)).engine.views["agent"]
    alone = shop(lanes=lanes, seats=1, adaptive=Adaptive(max=1)).engine.views["agent"]

    assert reserving.seats.limiter.limit_min == 2
    assert reserving.seats.always_reserved == [1, 0]
    assert alone.seats.limiter.limit_min == 1
    assert alone.seats.always_reserved == [0, 0]


def test_batches_beside_a_seat_of_a_tight_lane_s_own_are_longer_if_they_only_wait():
    lanes = (Lane("urgent", target="40ms", reserve=0.5), Lane("bulk"))
    d = shop(lanes=lanes, seats=2, records_max=1000)
    d.records(A, range(5000), lane=1)
    sizes = []
    for _ in range(10):
        cut = d.running[0]
        sizes.append(cut.num_records)
        d.now_ns += cut.num_records * MILLISECOND
        d.give_back(cut, held_ns=0)
        d.settle(cut)

    assert sizes[-1] == 50, "as long as is worth it, where a quarter of the target is 10 ms"
