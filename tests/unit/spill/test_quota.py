"""States of lanes and of the disk, with hysteresis."""

from __future__ import annotations

from flowguard.spill.quota import DiskState, LaneQuota, SpillState, free_bytes_min
from flowguard.units import MIB, SECOND

OK, SOFT, HARD, DISABLED = SpillState


def test_a_lane_goes_through_its_states_and_comes_back_later_than_it_went() -> None:
    quota = LaneQuota(1000)
    seen = []

    for used in (0, 799, 800, 999, 1000, 950, 900, 899, 750, 700, 699, 799, 800):
        quota.charge(used - quota.used_bytes)
        seen.append((used, quota.state))

    assert seen == [
        (0, OK), (799, OK), (800, SOFT), (999, SOFT), (1000, HARD), (950, HARD), (900, HARD),
        (899, SOFT), (750, SOFT), (700, SOFT), (699, OK), (799, OK), (800, SOFT),
    ]  # fmt: skip


def test_what_does_not_fit_reaches_the_quota() -> None:
    quota = LaneQuota(1000)
    quota.charge(950)

    assert quota.admits(50) and not quota.admits(51)
    assert quota.state is HARD and not quota.admits(1)
    quota.charge(-100)
    assert quota.admits(1)


def test_a_smaller_limit_counts_at_once() -> None:
    quota = LaneQuota(1000)
    quota.charge(850)

    quota.limit(800)
    assert quota.state is HARD
    quota.limit(1000)
    assert quota.state is SOFT


def test_a_lane_without_a_quota_admits_nothing() -> None:
    assert not LaneQuota(0).admits(1)


def test_what_was_given_back_twice_is_not_counted_below_nothing() -> None:
    quota = LaneQuota(100)
    quota.charge(-5)
    assert quota.used_bytes == 0


def test_a_disk_with_little_room_is_left_alone_until_there_is_more_than_that() -> None:
    disk = DiskState(min_free_bytes=100)

    disk.observe(99, 1000)
    assert disk.state is HARD and "99 B are free" in disk.why
    disk.observe(105, 1000)
    assert disk.state is HARD
    disk.observe(111, 1000)
    assert disk.state is OK and not disk.why


def test_a_disk_that_said_it_is_full_is_asked_again_after_ten_seconds() -> None:
    disk = DiskState(min_free_bytes=0)

    disk.full("quota exceeded", 0)
    disk.observe(10**9, 10**9)  # an exceeded quota shows in no figure
    assert disk.state is HARD and not disk.retry_due(10 * SECOND - 1)
    assert disk.retry_due(10 * SECOND)
    disk.recover()
    assert disk.state is OK and not disk.retry_due(10**18)


def test_a_disk_that_failed_is_asked_again_after_thirty_seconds() -> None:
    disk = DiskState()

    disk.fail("Input/output error", 0)
    assert disk.state is DISABLED and not disk.retry_due(30 * SECOND - 1)
    assert disk.retry_due(30 * SECOND)
    disk.fail("Input/output error", 30 * SECOND)
    assert not disk.retry_due(59 * SECOND) and disk.retry_due(60 * SECOND)


def test_what_fails_while_a_disk_is_left_alone_does_not_put_the_retry_off() -> None:
    disk = DiskState()
    disk.fail("Input/output error", 0)

    for second in range(1, 30):
        disk.fail("Input/output error", second * SECOND)
        disk.full("No space left", second * SECOND)

    assert disk.state is DISABLED and disk.retry_due(30 * SECOND)


def test_what_stays_free_depends_on_the_disk() -> None:
    assert free_bytes_min(1 << 40) == (1 << 40) // 20
    assert free_bytes_min(20 << 30) == 2048 * MIB
    assert free_bytes_min(1 << 30) == (1 << 30) // 5
