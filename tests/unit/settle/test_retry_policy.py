"""How often a record is tried, how long it waits, how many dead letters there may be."""

from __future__ import annotations

from typing import Any

import pytest

import flowguard as fg
from flowguard.chunk import TopicPartition
from flowguard.errors import ConfigError
from flowguard.settle.letter_limit import LetterLimit
from flowguard.units import MILLISECOND, SECOND

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)


def test_each_wait_is_twice_the_one_before_up_to_the_longest_less_a_half_by_chance():
    retry = fg.Retry(5, backoff="100ms..1s")

    most = [retry.wait_ns(failures, 1.0) // MILLISECOND for failures in (1, 2, 3, 4, 5, 100)]
    least = [retry.wait_ns(failures, 0.0) // MILLISECOND for failures in (1, 2, 3, 4, 5, 100)]

    assert most == [100, 200, 400, 800, 1000, 1000]
    assert least == [50, 100, 200, 400, 500, 500]


@pytest.mark.parametrize("backoff", ["2s", 2, 2.0])
def test_one_duration_is_every_wait(backoff: Any):
    assert fg.Retry(backoff=backoff).wait_ns(9, 1.0) == 2 * SECOND


def test_none_is_no_limit_and_five_is_usual():
    assert fg.Retry(None).max is None and fg.Retry().max == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max": 0}, "use 1 or more"),
        ({"max": True}, "no number"),
        ({"backoff": "10s..1s"}, "write 1s..10s"),
        ({"backoff": "soon"}, "backoff"),
        ({"maximum": 3}, "did you mean max"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        fg.Retry(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_ratio": 0}, "more than 0"),
        ({"max_ratio": 1.5}, "up to 1"),
        ({"max_ratio": "5%"}, "no number"),
        ({"topic": ""}, "no name"),
        ({"ratio": 0.1}, "did you mean max_ratio"),
    ],
)
def test_dead_letters_that_make_no_sense_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        fg.DeadLetters(**options)


def test_a_hundred_dead_letters_say_nothing_and_one_more_of_few_records_is_too_many():
    limit = LetterLimit(0.05)

    assert limit.why_not(A, 0, 100, 200) == ""
    assert "101 of its latest 2000 records" in limit.why_not(A, 0, 1, 1)
    assert limit.why_not(B, 0, 100, 100) == limit.why_not(A, 1, 100, 100) == ""


def test_a_batch_with_too_many_is_refused_as_a_whole():
    limit = LetterLimit(0.05)

    assert limit.why_not(A, 0, 4096, 4096)
    assert limit.why_not(A, 0, 100, 4096) == "", "nothing was counted"


def test_what_is_long_ago_is_forgotten():
    limit = LetterLimit(0.05)
    for _ in range(100):
        assert limit.why_not(A, 0, 50, 2000) == ""
        limit.settled(A, 0, 2000)

    assert limit.why_not(A, 0, 150, 1)


def test_with_a_ratio_of_one_there_may_be_any_number():
    limit = LetterLimit(1.0)

    assert limit.why_not(A, 0, 100_000, 100_000) == ""
