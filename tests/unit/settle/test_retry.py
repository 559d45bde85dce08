"""When a failed batch is tried again."""

from __future__ import annotations

from flowguard.commands import Cut
from flowguard.settle.retry import RetryQueue, backoff_ns
from flowguard.units import MILLISECOND, SECOND


def cut(batch_id: int) -> Cut:
    return Cut(batch_id, "agent", 0, ())


def test_the_backoff_doubles_from_a_tenth_of_a_second_to_ten_seconds():
    waits = [backoff_ns(attempt) for attempt in (1, 2, 3, 7, 8, 50, 10_000)]

    assert waits == [
        100 * MILLISECOND, 200 * MILLISECOND, 400 * MILLISECOND, 6400 * MILLISECOND,
        10 * SECOND, 10 * SECOND, 10 * SECOND,
    ]  # fmt: skip


def test_the_next_one_that_is_due_comes_first():
    queue, early, late = RetryQueue(), cut(2), cut(1)
    queue.add(late, due_ns=20)
    queue.add(early, due_ns=10)

    assert list(queue.items()) == [(10, early), (20, late)]


def test_of_two_that_are_due_together_the_older_batch_comes_first():
    queue, older, newer = RetryQueue(), cut(1), cut(2)
    queue.add(newer, due_ns=10)
    queue.add(older, due_ns=10)

    assert [each for _, each in list(queue.items())] == [older, newer]


def test_a_batch_that_was_removed_is_forgotten():
    queue, gone, kept = RetryQueue(), cut(1), cut(2)
    queue.add(gone, due_ns=10)
    queue.add(kept, due_ns=20)

    queue.remove(gone)
    queue.remove(gone)

    assert gone not in queue and kept in queue
    assert len(queue) == 1
