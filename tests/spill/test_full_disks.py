"""No room: full disks and quotas. Nobody loses a record, nothing is tried all the time."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowguard.chunk import TopicPartition
from flowguard.errors import SpillRefused
from flowguard.spill.filesystem import RealFile, RealFileSystem
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.spill.options import LaneSpill, StoreLimits
from flowguard.spill.quota import SpillState
from flowguard.spill.slot import Slot, take_slot
from flowguard.spill.store import SpillStore
from tests.spill.builders import (
    LIMITS,
    ROOMY,
    ROOT,
    A,
    B,
    StoppedClock,
    assert_reads,
    fresh_disk,
    slot_on,
    spill,
    store_on,
    survivors,
)

OK, SOFT, HARD, DISABLED = SpillState

# Fault 7. No room.


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("op", ["write_at", "create", "reserve", "make_directory"])
def test_no_room_is_a_state_and_nothing_is_lost(number: int, op: str) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    kept = spill(store, 0, 10) if op == "write_at" else None
    if op == "make_directory":
        disk.remove_tree(ROOT)
    disk.fail(op, number, effect=True)

    with pytest.raises(SpillRefused, match=r"keeps its records: the disk is full"):
        spill(store, 10, 20)

    assert store.state("bulk") is HARD and "free some room" in store.why("bulk")
    with pytest.raises(SpillRefused):
        spill(store, 10, 20)
    clock.move(10)
    store.upkeep()
    assert store.state("bulk") is OK and not store.why("bulk")
    assert_reads(store, spill(store, 10, 20))
    if kept is not None:
        assert_reads(store, kept)


def test_a_disk_that_fills_up_in_the_middle_of_a_frame_keeps_the_frames_before() -> None:
    for room in range(1, 2_000, 97):
        disk, clock = fresh_disk(), StoppedClock()
        store = store_on(disk, clock=clock)
        frames = [spill(store, 0, 10), spill(store, 10, 20)]
        disk.capacity_bytes = disk.used_bytes + room
        try:
            frames.append(spill(store, 20, 30))
        except SpillRefused:
            assert store.state("bulk") is HARD
        assert survivors(store_on(disk.after_kill())) == frames
        (path,) = disk.names(".fgs")
        assert store.usage("bulk").stored_bytes == len(disk.files[path].data)


def test_a_full_disk_is_not_asked_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    disk.capacity_bytes = disk.used_bytes
    for _ in range(100):
        with pytest.raises(SpillRefused):
            spill(store, 0, 10)
        clock.move(1)
        store.upkeep()

    assert sum(op == "write_at" for op, _ in disk.log) <= 11
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    assert "keep their records in memory" in caplog.text


def test_little_room_is_noticed_before_there_is_none() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    limits = StoreLimits(segment_bytes=LIMITS.segment_bytes, min_free_bytes=5_000)
    store = store_on(disk, clock=clock, limits=limits)
    frame = spill(store, 0, 10)
    disk.capacity_bytes = disk.used_bytes + 4_000

    store.upkeep()
    assert store.state("bulk") is HARD and "free some room" in store.why("bulk")
    with pytest.raises(SpillRefused):
        spill(store, 10, 20)
    assert_reads(store, frame)
    disk.capacity_bytes += 10_000
    store.upkeep()

    assert store.state("bulk") is OK
    assert_reads(store, spill(store, 10, 20))


def test_no_room_for_a_footer_costs_a_scan_and_nothing_else() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20)]
    disk.capacity_bytes = disk.used_bytes + 100

    store.close()

    assert survivors(store_on(disk.after_kill())) == frames


def test_a_full_disk_at_the_start_costs_nothing_that_is_on_it() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    frame = spill(store_on(disk), 0, 10)
    spill_more = store_on(disk, slot=slot_on(disk))
    spill(spill_more, 0, 10)
    disk = disk.after_kill()
    disk.capacity_bytes = disk.used_bytes

    store = store_on(disk, clock=clock)
    with pytest.raises(SpillRefused):
        spill(store, 10, 20)

    assert survivors(store) == [frame] and store.state("bulk") is HARD
    disk.heal()
    clock.move(10)
    store.upkeep()
    assert_reads(store, spill(store, 10, 20))


def test_little_room_costs_no_more_of_what_is_parked_than_it_takes() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    limits = StoreLimits(segment_bytes=LIMITS.segment_bytes, min_free_bytes=20_000)
    store = store_on(disk, clock=clock, limits=limits)
    for number in range(6):
        place = TopicPartition("orders", number)
        frames = [spill(store, n, n + 1, size=6_000, partition=place) for n in range(4)]
        store.park(FrameQueue("bulk", place, frames))
        clock.move(1)
    disk = disk.after_kill()  # a worker that starts again finds all of it
    disk.capacity_bytes = disk.used_bytes + 15_000

    store = store_on(disk, clock=clock, limits=limits)
    for _ in range(5):
        clock.move(1)
        store.upkeep()

    assert store.state("bulk") is OK
    assert 4 <= len(store.recovered) < 6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_torn_end_that_cannot_be_cut_off_stays_and_is_no_frame(number: int) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20)]
    (path,) = disk.names(".fgs")
    del disk.files[path].data[-100:]
    disk = disk.after_kill()
    disk.fail("truncate", number)

    store = store_on(disk)

    assert survivors(store) == frames[:1] and store.state("bulk") is OK
    assert store.usage("bulk").stored_bytes == len(disk.files[path].data)


# Fault 21. Quota.


def fill_up(store: SpillStore, start: int, **options: Any) -> list[Frame]:
    """Write until nothing more is taken."""
    frames: list[Frame] = []

    def write() -> None:
        while len(frames) < 1000:
            n = start + len(frames)
            frames.append(spill(store, n, n + 1, size=2_000, **options))

    with pytest.raises(SpillRefused, match="on disk are used"):
        write()
    return frames


SMALL = {"bulk": LaneSpill(max_bytes=200_000), "slow": LaneSpill(max_bytes=200_000)}


def test_a_quota_is_kept_and_left_again_when_there_is_room() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=SMALL)

    frames = fill_up(store, 0)

    assert store.state("bulk") is HARD and store.state("slow") is OK
    files = sum(len(disk.files[path].data) for path in disk.names("bulk-"))
    assert 180_000 < files <= 200_000 + LIMITS.segment_bytes
    store.finish(*frames[:15])
    assert store.state("bulk") is SOFT
    assert_reads(store, spill(store, 2_000, 2_001))
    assert_reads(store, spill(store, 0, 10, lane="slow"))


def test_what_nobody_owns_makes_room_the_oldest_first() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, lanes=SMALL, clock=clock)
    for place in (A, B):
        queue = FrameQueue("bulk", place)
        for n in range(20):
            queue.append(spill(store, n, n + 1, size=2_000, partition=place))
        store.park(queue)
        clock.move(1)
    slow = FrameQueue("slow", A, [spill(store, 0, 10, lane="slow")])
    store.park(slow)

    fill_up(store, 100)

    assert [run.lane for run in store.recovered] == ["slow"]


def test_what_may_be_the_only_copy_is_kept_and_quarantine_goes_first() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=SMALL)
    queue = FrameQueue("bulk", A)
    for n in range(20):
        queue.append(spill(store, n, n + 1, size=2_000))
    store.park(queue)
    disk = disk.after_kill()
    path = disk.names("bulk-")[-1]
    disk.files[path].data[0] ^= 1
    store = store_on(disk, lanes=SMALL, limits=StoreLimits(
        segment_bytes=LIMITS.segment_bytes, min_free_bytes=0, quarantine_ratio=0.5))  # fmt: skip
    assert disk.names("quarantine") and store.usage("bulk").max_bytes < 200_000
    store.recovered[0].pinned = True

    fill_up(store, 100, partition=B)

    assert not disk.names("quarantine") and store.usage("bulk").max_bytes == 200_000
    (run,) = store.recovered
    for frame in run.frames:
        assert_reads(store, frame, size=2_000)


def test_near_the_quota_parked_runs_go_by_themselves() -> None:
    store = store_on(fresh_disk(), lanes=SMALL)
    queue = FrameQueue("bulk", A)
    while store.state("bulk") < SOFT:
        n = len(queue)
        queue.append(spill(store, n, n + 1, size=2_000))
    store.park(queue)

    store.upkeep()

    assert not store.recovered and store.state("bulk") is OK


def test_quarantine_has_a_limit_and_the_oldest_goes() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=SMALL)
    for n in range(40):
        spill(store, n, n + 1, size=2_000)
    disk = disk.after_kill()
    for path in disk.names("bulk-"):
        disk.files[path].data[7] ^= 0x80
    assert len(disk.names("bulk-")) > 3

    store = store_on(disk, lanes=SMALL)

    kept = disk.names("quarantine")
    assert 0 < sum(len(disk.files[path].data) for path in kept) <= 20_000
    assert not [path for path in disk.names("bulk-") if "quarantine" not in path]
    assert not store.recovered and store.state("bulk") is OK


def taken_bytes(path: Path) -> int:
    """Return what files take of a real disk, with room that is reserved behind their ends."""
    return sum(each.stat().st_blocks * 512 for each in path.rglob("*.fgs"))


@pytest.mark.parametrize("end", ["kill", "error"])
def test_room_that_was_reserved_for_what_never_came_is_given_back(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> SpillStore:
        slot = take_slot(RealFileSystem(), str(tmp_path), "app")
        slots.append(slot)
        return store_on(slot.filesystem, slot=slot, **ROOMY)

    slots: list[Slot] = []
    store = started()
    frame = spill(store, 0, 10)
    if taken_bytes(tmp_path) < 1 << 20:
        pytest.skip("this file system reserves nothing")
    if end == "kill":
        slots[0].release()
        store = started()
    else:
        with monkeypatch.context() as patch:
            patch.setattr(RealFile, "write_at", lambda *_: 0)
            with pytest.raises(SpillRefused):
                spill(store, 10, 20)

    assert taken_bytes(tmp_path) < 1 << 20
    assert_reads(store, frame)
    store.close()
    slots[-1].release()


def test_deleting_more_slowly_than_writing_does_not_break_the_quota() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, lanes=SMALL, clock=clock)
    disk.fail("unlink", errno.EBUSY, times=40)
    refused = 0

    for n in range(400):
        try:
            store.finish(spill(store, n, n + 1, size=2_000))
        except SpillRefused:
            refused += 1
            clock.move(1)
            store.upkeep()
        files = sum(len(disk.files[path].data) for path in disk.names("bulk-"))
        assert files <= SMALL["bulk"].max_bytes + LIMITS.segment_bytes
        assert store.usage("bulk").stored_bytes == files

    assert refused > 30
    disk.heal()
    for _ in range(3):
        clock.move(31)
        store.upkeep()
    assert store.usage("bulk").stored_bytes == 0 and not disk.names("bulk-")


@pytest.mark.parametrize("seed", range(20))
def test_a_quota_is_kept_whatever_is_parked_owned_and_finished(seed: int) -> None:
    disk, clock, random = fresh_disk(seed), StoppedClock(), Random(seed)
    store = store_on(disk, lanes=SMALL, clock=clock)
    owned: dict[Any, FrameQueue] = {}
    for n in range(300):
        place, lane = random.choice((A, B)), random.choice(("bulk", "slow"))
        queue = owned.setdefault((lane, place), FrameQueue(lane, place))
        match random.randrange(8):
            case 0:
                store.park(owned.pop((lane, place)))
            case 1 | 2 if len(queue):
                store.finish(queue.popleft())
            case 3:
                clock.move(1)
                store.upkeep()
            case _:
                size = random.choice([50, 2_000, 12_000])
                try:
                    queue.append(spill(store, n, n + 1, lane=lane, partition=place, size=size))
                except SpillRefused:
                    pass
        for name in ("bulk", "slow"):
            files = sum(len(disk.files[path].data) for path in disk.names(f"{name}-"))
            assert files == store.usage(name).stored_bytes
            assert files <= SMALL[name].max_bytes + LIMITS.segment_bytes
