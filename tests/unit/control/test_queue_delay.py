"""Whether a lane waits because it is busy, or because there is too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowguard.control.queue_delay import INTERVAL_NS_MIN, QueueDelay
from flowguard.units import MILLISECOND, SECOND

TARGET_NS = 40 * MILLISECOND  # of which a quarter may be spent in line: 10 ms


def delay(**options: int) -> QueueDelay:
    made = QueueDelay(options.get("target_ns", TARGET_NS))
    made.look(0, oldest_wait_ns=None)
    return made


def test_a_quarter_of_the_target_may_be_spent_in_line_and_twice_that_is_too_long():
    made = QueueDelay(TARGET_NS)

    assert (made.target_ns, made.slough_ns) == (10 * MILLISECOND, 20 * MILLISECOND)


def test_an_interval_in_which_no_record_was_lucky_is_overload():
    made = delay()
    for wait_ms in (11, 30, 12):
        made.sample(wait_ms * MILLISECOND)

    assert made.look(INTERVAL_NS_MIN, oldest_wait_ns=None)
    assert made.overloaded
    assert made.least_ns == 11 * MILLISECOND


def test_one_lucky_record_is_enough():
    made = delay()
    for wait_ms in (500, 10, 500):
        made.sample(wait_ms * MILLISECOND)

    assert not made.look(INTERVAL_NS_MIN, oldest_wait_ns=SECOND)
    assert not made.overloaded


def test_an_interval_that_is_not_over_says_nothing():
    made = delay()
    made.sample(SECOND)

    assert not made.look(INTERVAL_NS_MIN - 1, oldest_wait_ns=None)
    assert not made.overloaded


def test_each_interval_is_judged_by_itself():
    made = delay()
    made.sample(SECOND)
    made.look(INTERVAL_NS_MIN, oldest_wait_ns=None)
    made.sample(0)

    assert made.look(2 * INTERVAL_NS_MIN, oldest_wait_ns=None)
    assert not made.overloaded


def test_an_interval_in_which_nothing_was_started_is_judged_by_what_waits():
    made = delay()

    assert made.look(INTERVAL_NS_MIN, oldest_wait_ns=11 * MILLISECOND)
    assert made.overloaded
    assert made.look(2 * INTERVAL_NS_MIN, oldest_wait_ns=None)
    assert not made.overloaded


def test_batches_that_take_long_make_the_interval_long():
    made = delay()

    assert not made.look(INTERVAL_NS_MIN, oldest_wait_ns=SECOND, service_ns=0.2 * SECOND)
    assert made.look(2 * INTERVAL_NS_MIN * 2, oldest_wait_ns=SECOND, service_ns=0.2 * SECOND)


def test_a_long_target_makes_the_interval_long():
    made = delay(target_ns=4 * SECOND)

    assert not made.look(4 * SECOND, oldest_wait_ns=60 * SECOND)
    assert made.look(5 * SECOND, oldest_wait_ns=60 * SECOND)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=200),
    st.integers(1, 200),
)
def test_it_is_overloaded_only_after_an_interval_whose_least_wait_was_too_long(
    samples: list[tuple[int, int]], target_ms: int
):
    made = delay(target_ns=target_ms * MILLISECOND)
    length_ns = max(INTERVAL_NS_MIN, 5 * made.target_ns)
    now_ns, begun_ns, overloaded = 0, 0, False
    waits_ns: list[int] = []
    for wait_ms, step_ms in samples:
        now_ns += step_ms * MILLISECOND
        made.sample(wait_ms * MILLISECOND)
        waits_ns.append(wait_ms * MILLISECOND)
        changed = made.look(now_ns, oldest_wait_ns=None)
        if now_ns - begun_ns >= length_ns:
            before, overloaded = overloaded, min(waits_ns) > made.target_ns
            assert changed == (before != overloaded)
            begun_ns, waits_ns = now_ns, []
        assert made.overloaded == overloaded
