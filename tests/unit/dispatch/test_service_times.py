"""What an agent usually takes."""

from __future__ import annotations

from flowguard.dispatch.service_times import ServiceTimes
from flowguard.units import MILLISECOND, SECOND


def times(*samples_ms: int, at_ns: int = 0) -> ServiceTimes:
    known = ServiceTimes()
    for each in samples_ms:
        known.add(each * MILLISECOND, at_ns)
    return known


def test_a_few_batches_tell_nothing() -> None:
    assert times(1, 1, 1, 1).percentile_ns(95, 0) is None


def test_the_percentile_is_one_of_the_samples() -> None:
    assert times(*range(1, 21)).percentile_ns(95, 0) == 19 * MILLISECOND
    assert times(*range(1, 21)).percentile_ns(50, 0) == 10 * MILLISECOND
    assert times(5, 1, 3, 2, 4).percentile_ns(95, 0) == 5 * MILLISECOND


def test_the_latest_batches_count() -> None:
    assert times(*[900] * 64, *[2] * 64).percentile_ns(95, 0) == 2 * MILLISECOND


def test_an_unlucky_moment_is_forgotten_when_no_batch_comes_to_outvote_it() -> None:
    known = times(*[900] * 64)
    assert known.percentile_ns(95, 29 * SECOND) == 900 * MILLISECOND
    assert known.percentile_ns(95, 30 * SECOND) is None


def test_what_takes_long_is_remembered_for_longer() -> None:
    known = times(*[10_000] * 5)
    assert known.percentile_ns(95, 99 * SECOND) == 10 * SECOND
    assert known.percentile_ns(95, 100 * SECOND) is None
