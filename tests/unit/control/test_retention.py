"""How soon Kafka deletes what waits."""

from __future__ import annotations

from flowguard.control.retention import RetentionGuard
from flowguard.units import SECOND
from tests.builders import A, B


def test_nothing_is_known_of_a_log_that_nobody_has_looked_at_or_that_keeps_all():
    guard = RetentionGuard()
    assert guard.left_s(A, 100) is None

    guard.observe({A: 0}, 0)
    guard.observe({A: 0}, 30 * SECOND)
    assert guard.left_s(A, 100) is None


def test_what_moves_steadily_tells_when_a_record_is_deleted():
    guard = RetentionGuard()
    for step in range(11):
        guard.observe({A: 1_000 * step}, 30 * step * SECOND)

    assert guard.left_s(A, 10_000 + 2_000) == 60.0


def test_what_is_deleted_already_has_no_time_left():
    guard = RetentionGuard()
    guard.observe({A: 500}, 0)

    assert guard.left_s(A, 499) == 0.0
    assert guard.left_s(A, 500) is None


def test_only_the_last_half_hour_counts():
    guard = RetentionGuard()
    guard.observe({A: 0}, 0)
    for minute in range(31, 62):
        guard.observe({A: 1_000_000}, minute * 60 * SECOND)

    assert guard.left_s(A, 1_000_001) is None


def test_partitions_that_are_not_named_any_more_are_forgotten():
    guard = RetentionGuard()
    guard.observe({A: 5, B: 5}, 0)
    guard.observe({B: 5}, SECOND)

    assert guard.left_s(A, 0) is None
    assert guard.left_s(B, 0) == 0.0
