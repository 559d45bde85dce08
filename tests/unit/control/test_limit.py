"""Windows over finished batches, and what becomes of the limit."""

from __future__ import annotations

import pytest

from flowguard.control.limit import Limiter, Step, Window, WindowRule
from flowguard.units import MILLISECOND, SECOND


class Watcher:
    """An algorithm that keeps its windows, and answers what it is told to."""

    def __init__(self, *limits: float, first: float = 4.0, windows: WindowRule | None = None):
        self.limits = list(limits)
        self.first = first
        self.windows = windows
        self.seen: list[Window] = []

    def update(self, window):
        self.seen.append(window)
        return Step(self.limits.pop(0) if self.limits else window.limit, "move", "as told")


class Clock:
    """A limiter with a clock: batches end one after the other."""

    def __init__(self, *limits: float, limit_max: int = 64, **options) -> None:
        self.algorithm = Watcher(*limits, **options)
        self.limiter = Limiter(self.algorithm, limit_min=1, limit_max=limit_max)
        self.now_ns = 1_000 * SECOND

    @property
    def seen(self) -> list[Window]:
        return self.algorithm.seen

    def finish(self, count: int, *, every_ms: float, service_ms: float = 100, records: int = 64,
               outcome: str = "ok", in_flight: int | None = None):  # fmt: skip
        """End batches, and tick each time; return what was decided."""
        changes = []
        for _ in range(count):
            self.now_ns += round(every_ms * MILLISECOND)
            self.limiter.sample(
                records=records,
                service_ns=round(service_ms * MILLISECOND),
                outcome=outcome,
                in_flight=self.limiter.seats if in_flight is None else in_flight,
                at_ns=self.now_ns,
            )
            changes.append(self.limiter.tick(self.now_ns, in_flight=1))
        return [each for each in changes if each is not None]

    def wait(self, ms: float, *, in_flight: int = 0):
        self.now_ns += round(ms * MILLISECOND)
        return self.limiter.tick(self.now_ns, in_flight=in_flight)


def test_a_window_lasts_for_two_service_times_and_a_quarter_of_a_second_at_least():
    fast, slow = Clock(), Clock()

    fast.finish(100, every_ms=5, service_ms=10)
    slow.finish(100, every_ms=20, service_ms=400)

    assert fast.seen[1].length_ns == pytest.approx(250 * MILLISECOND, rel=0.1)
    assert slow.seen[1].length_ns == pytest.approx(800 * MILLISECOND, rel=0.1)


def test_a_window_has_ten_batches_and_three_where_they_take_longer_than_a_second():
    quick, slow = Clock(), Clock()

    quick.finish(15, every_ms=200, service_ms=100)
    slow.finish(10, every_ms=2000, service_ms=1500)

    assert [window.completions for window in quick.seen] == [10]
    assert {window.completions for window in slow.seen} == {3}


def test_a_window_says_what_was_measured():
    clock = Clock()

    clock.finish(40, every_ms=25, service_ms=100, in_flight=4)

    window = clock.seen[-1]
    assert window.service_ns == 100 * MILLISECOND
    assert window.goodput_per_s == pytest.approx(40, rel=0.05)
    assert window.in_flight_max == window.in_flight_mean == 4
    assert window.saturated
    assert window.service_error == pytest.approx(0.0, abs=1e-9)


def test_a_limit_that_is_not_used_is_not_saturated():
    clock = Clock(first=10.0)

    clock.finish(20, every_ms=25, in_flight=3)

    assert not clock.seen[0].saturated


def test_refused_batches_are_counted_with_the_time_they_took():
    clock = Clock()

    for _ in range(6):
        clock.finish(2, every_ms=20, service_ms=100)
        clock.finish(1, every_ms=20, service_ms=50, outcome="throttled")
        clock.finish(1, every_ms=20, service_ms=400, outcome="failed")

    window = clock.seen[0]
    assert window.drops > 0
    assert window.drop_ratio == window.drops / window.completions
    assert 0.0 < window.dropped_share < window.drop_ratio
    assert window.successes + window.drops < window.completions  # what failed is neither
    assert window.service_ns == 100 * MILLISECOND


def test_an_invalid_window_is_thrown_away_and_said():
    clock = Clock()
    clock.finish(5, every_ms=20)

    clock.limiter.invalidate("the batch size changed")
    clock.limiter.invalidate("something else")
    [change] = clock.finish(1, every_ms=20)
    assert (change.action, change.before, change.after) == ("invalid", 4.0, 4.0)
    assert "the batch size changed" in change.why
    assert not clock.seen

    clock.finish(30, every_ms=20)
    assert clock.seen[0].completions < 20  # of those after it only


def test_after_a_large_change_the_next_window_waits_for_batches_of_the_new_limit():
    clock = Clock(8.0)
    clock.finish(15, every_ms=20, service_ms=100)
    [window] = clock.seen
    changed_ns = window.at_ns

    clock.finish(30, every_ms=20, service_ms=100)

    window = clock.seen[1]
    assert window.at_ns - window.length_ns == changed_ns + 100 * MILLISECOND


def test_stragglers_count_for_little():
    clock = Clock()

    clock.finish(9, every_ms=20, service_ms=100)
    clock.finish(4, every_ms=20, service_ms=100)
    clock.finish(1, every_ms=20, service_ms=100_000)
    clock.finish(20, every_ms=20, service_ms=100)

    assert max(window.service_ns for window in clock.seen) < 150 * MILLISECOND


def test_larger_batches_do_not_look_like_congestion():
    clock = Clock()
    clock.finish(60, every_ms=25, service_ms=100, records=64)
    before = clock.seen[-1]

    clock.finish(120, every_ms=200, service_ms=800, records=512)

    after = clock.seen[-1]
    assert after.service_ns == pytest.approx(before.service_ns, rel=0.05)
    assert after.goodput_per_s == pytest.approx(before.goodput_per_s, rel=0.1)


def test_windows_of_a_size_never_seen_teach_what_it_costs_and_nothing_else():
    clock = Clock()
    clock.finish(60, every_ms=25, service_ms=100, records=64)
    seen = len(clock.seen)

    changes = clock.finish(40, every_ms=200, service_ms=800, records=512)

    invalid = [change for change in changes if change.action == "invalid"]
    assert len(invalid) == 3
    assert "512 records" in invalid[-1].why or "records cost" in invalid[-1].why
    assert len(clock.seen) > seen


def test_the_limit_is_halved_when_nothing_can_be_learnt_though_there_is_work():
    clock = Clock(first=8.0)
    clock.wait(100, in_flight=8)

    changes = [clock.wait(1000, in_flight=8) for _ in range(62)]

    said = [change for change in changes if change is not None]
    assert [(change.action, change.after) for change in said] == [
        ("restart", 4.0), ("restart", 2.0),
    ]  # fmt: skip
    assert "nothing learnt in 30 s" in said[0].why


def test_what_is_known_is_void_after_that():
    clock = Clock()
    clock.finish(15, every_ms=20)
    assert clock.seen[-1].restarted
    clock.finish(15, every_ms=20)
    assert not clock.seen[-1].restarted

    for _ in range(70):
        clock.limiter.invalidate("a stall")
        clock.finish(1, every_ms=500)
    clock.finish(30, every_ms=20)

    assert clock.seen[-1].limit < 4.0
    assert any(window.restarted for window in clock.seen[2:])


def test_an_agent_without_work_is_not_blind():
    clock = Clock()
    clock.finish(15, every_ms=20)

    for _ in range(100):
        assert clock.wait(1000, in_flight=0) is None

    assert clock.limiter.limit == 4.0


def test_batches_that_take_minutes_are_not_taken_for_a_failure():
    clock = Clock()
    clock.finish(6, every_ms=60_000, service_ms=60_000)
    limit = clock.limiter.limit

    for _ in range(20):
        clock.wait(5_000, in_flight=4)

    assert clock.limiter.limit == limit


def test_while_batches_take_much_longer_than_before_windows_do_not_become_as_long():
    clock = Clock()
    clock.finish(60, every_ms=25, service_ms=200)
    seen = len(clock.seen)

    clock.finish(200, every_ms=25, service_ms=4_000)

    assert clock.seen[seen + 1].length_ns <= 1 * SECOND


@pytest.mark.parametrize("asked", [float("nan"), float("inf"), -5.0, 0.0, 1e9])
def test_the_limit_stays_within_its_bounds_whatever_is_asked(asked):
    clock = Clock(asked, limit_max=16)

    clock.finish(30, every_ms=20)

    assert 1 <= clock.limiter.seats <= 16


def test_a_limit_that_is_not_enforced_stays_at_the_most_and_says_what_it_would_do():
    algorithm = Watcher(2.0, 1.0)
    limiter = Limiter(algorithm, limit_min=1, limit_max=8, enforced=False)
    said = []
    for number in range(1, 40):
        at_ns = number * 30 * MILLISECOND
        limiter.sample(records=1, service_ns=MILLISECOND, outcome="ok", in_flight=8, at_ns=at_ns)
        if (change := limiter.tick(at_ns, in_flight=8)) is not None:
            said.append((change.before, change.after))

    assert said[:2] == [(8.0, 2.0), (8.0, 1.0)]
    assert limiter.seats == 8
