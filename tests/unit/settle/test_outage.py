"""Hold while something is missing, and look again now and then."""

from __future__ import annotations

from itertools import pairwise

from flowguard.settle.outage import Outage
from flowguard.units import MILLISECOND, SECOND

FIRST, OTHER = object(), object()


def outage(chance: float = 1.0) -> Outage:
    return Outage(lambda: chance)


def test_nothing_is_missing_at_first() -> None:
    assert outage().over and outage().is_open(0)


def test_it_opens_again_after_a_backoff_for_one_batch() -> None:
    missing = outage()
    missing.refused(FIRST, 0, why="503")
    assert not missing.is_open(99 * MILLISECOND)
    assert missing.is_open(100 * MILLISECOND)
    missing.started(FIRST)
    assert missing.gate_ns is None


def test_waits_double_up_to_ten_seconds() -> None:
    missing, now_ns, waits = outage(), 0, []
    missing.refused(FIRST, now_ns, why="503")
    for _ in range(12):
        assert missing.gate_ns is not None
        waits.append(missing.gate_ns - now_ns)
        now_ns = missing.gate_ns
        missing.started(FIRST)
        missing.refused(FIRST, now_ns, why="503")
    assert waits[:4] == [100 * MILLISECOND << k for k in range(4)]
    assert all(before <= after for before, after in pairwise(waits))
    assert waits[-1] == 10 * SECOND


def test_jitter_takes_half_of_a_wait_at_most() -> None:
    missing = outage(chance=0.0)
    missing.refused(FIRST, 0, why="503")
    assert missing.gate_ns == 50 * MILLISECOND


def test_what_else_fails_meanwhile_makes_the_wait_no_longer() -> None:
    missing = outage()
    missing.refused(FIRST, 0, why="503")
    for _ in range(10):
        missing.refused(OTHER, 50 * MILLISECOND, why="503")
    assert missing.gate_ns == 100 * MILLISECOND


def test_retry_after_is_a_minimum() -> None:
    missing = outage(chance=0.0)
    missing.refused(FIRST, 0, why="503", retry_after_ns=30 * SECOND)
    assert missing.gate_ns == 30 * SECOND
    missing.refused(OTHER, 0, why="503", retry_after_ns=1)
    assert missing.gate_ns == 30 * SECOND


def test_only_the_probe_ends_it() -> None:
    missing = outage()
    missing.refused(FIRST, 0, why="503")
    missing.answered(OTHER, 0)
    assert not missing.over
    missing.started(FIRST)
    missing.answered(OTHER, 0)
    assert not missing.over
    missing.answered(FIRST, 0)
    assert missing.over and missing.why == ""


def test_the_next_outage_begins_with_the_shortest_wait() -> None:
    missing = outage()
    for _ in range(5):
        missing.refused(FIRST, 0, why="503")
        missing.started(FIRST)
    missing.answered(FIRST, 0)
    missing.refused(OTHER, 2 * SECOND, why="503")
    assert missing.gate_ns == 2 * SECOND + 100 * MILLISECOND


def test_one_that_answers_others_is_there() -> None:
    missing = outage()
    missing.answered(OTHER, 0)
    for _ in range(4):
        missing.refused(FIRST, 500 * MILLISECOND, why="503")
    assert missing.over
    missing.answered(OTHER, 600 * MILLISECOND)
    missing.refused(FIRST, 700 * MILLISECOND, why="503")
    assert missing.over


def test_one_that_refuses_many_in_a_row_is_not_there() -> None:
    missing = outage()
    missing.answered(OTHER, 0)
    for _ in range(5):
        missing.refused(FIRST, 10 * MILLISECOND, why="503")
    assert not missing.over


def test_one_that_has_not_answered_for_a_while_is_not_there() -> None:
    missing = outage()
    missing.answered(OTHER, 0)
    missing.refused(FIRST, 2 * SECOND, why="503")
    assert not missing.over


def test_one_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    missing = outage()
    missing.answered(OTHER, 0)
    missing.refused(FIRST, MILLISECOND, why="429", retry_after_ns=SECOND)
    assert not missing.is_open(900 * MILLISECOND)
