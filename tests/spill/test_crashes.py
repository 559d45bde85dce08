"""Crashes at every operation, and power cuts: what was written is there, or is named."""

from __future__ import annotations

from random import Random

import pytest

from flowguard.spill.layout import SEGMENT_HEADER_BYTES
from flowguard.spill.manifest import Frame
from tests.spill.builders import (
    FINISHED,
    WIDE,
    A,
    B,
    all_frames,
    assert_reads,
    fresh_disk,
    reads,
    spill,
    store_on,
    survivors,
    work,
)
from tests.spill.crash_disk import Crash, CrashDisk

# Fault 1. A crash at every operation.


def operations() -> int:
    disk = fresh_disk()
    work(store_on(disk), [])
    return disk.ops


@pytest.mark.parametrize("cut", ["kill", "power"])
def test_a_crash_at_every_operation_leaves_what_was_written_or_says_what_is_gone(cut: str) -> None:
    total = operations()
    assert total > 100

    for at in range(1, total + 1):
        disk = fresh_disk(at)
        disk.crash_at = at
        written: list[Frame] = []
        with pytest.raises(Crash):
            work(store_on(disk), written)
        disk = disk.after_kill() if cut == "kill" else disk.after_power_cut()
        store = store_on(disk)
        found = all_frames(store)
        readable = [frame for frame in found if reads(store, frame, size=WIDE)]
        if cut == "kill":
            assert readable == found
            assert set(written[FINISHED:]) <= set(found)
        fresh = spill(store, 5_000, 5_010)
        assert_reads(store, fresh)


def test_recovery_that_crashes_at_every_operation_is_recovery_again() -> None:
    disk = fresh_disk()
    for seed in range(3):
        disk = fresh_disk(seed)
        disk.crash_at = 70 + 13 * seed
        written: list[Frame] = []
        with pytest.raises(Crash):
            work(store_on(disk), written)
        before = disk.after_power_cut()
        damage(before, Random(seed))
        total = opening_operations(before.copy())
        for at in range(1, total + 1):
            again = before.copy()
            again.crash_at = again.ops + at
            with pytest.raises(Crash):
                store_on(again)
            once, twice = store_on(before.copy()), store_on(again.after_kill())
            assert sorted(all_frames(once)) == sorted(all_frames(twice))


def damage(disk: CrashDisk, random: Random) -> None:
    """Cut off a tail, so that recovery has something to write."""
    for path in disk.names(".fgs")[:1]:
        data = disk.files[path].data
        if len(data) > SEGMENT_HEADER_BYTES + 100:
            del data[-random.randrange(1, 90) :]


def opening_operations(disk: CrashDisk) -> int:
    before = disk.ops
    store_on(disk)
    return disk.ops - before


# Fault 3. Writes that are lost or come in another order. Faults 2 and 4: see test_flips.py.


def test_a_power_cut_costs_only_what_it_names() -> None:
    for seed in range(100):
        disk = fresh_disk(seed)
        store = store_on(disk)
        for step in range(6):
            spill(store, 10 * step, 10 * step + 9, partition=(A, B)[step % 2])
        after = store_on(disk.after_power_cut())
        survivors(after)
        assert_reads(after, spill(after, 900, 905))


def test_what_was_on_the_platter_survives_a_power_cut() -> None:
    disk = fresh_disk(3)
    store = store_on(disk)
    frames = [spill(store, 0, 9), spill(store, 9, 20)]
    for inode in disk.files.values():
        inode.durable = bytes(inode.data)
        inode.pending.clear()
    disk.durable_names = dict(disk.files)

    assert survivors(store_on(disk.after_power_cut())) == frames
