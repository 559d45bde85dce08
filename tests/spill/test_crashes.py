"""Crashes at every operation, and power cuts: what was written is there, or is named."""

from __future__ import annotations

import errno
from random import Random

import pytest

from flowguard.errors import SpillRefused
from flowguard.spill.layout import SEGMENT_HEADER_BYTES
from flowguard.spill.manifest import Frame
from flowguard.spill.quota import SpillState
from flowguard.spill.store import SpillStore
from tests.spill.builders import (
    FINISHED,
    ROOMY,
    ROOT,
    WIDE,
    A,
    B,
    StoppedClock,
    all_frames,
    assert_reads,
    fresh_disk,
    reads,
    slot_on,
    spill,
    store_on,
    survivors,
    work,
)
from tests.spill.crash_disk import NEVER, Crash, CrashDisk
from tests.spill.ledger import LANES, PLACES
from tests.spill.worker import World

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


def trouble(store: SpillStore, disk: CrashDisk, clock: StoppedClock) -> None:
    """Let the disk fail, be deleted, and come back: what `work` does not meet."""
    frames = [spill(store, 0, 8), spill(store, 8, 16)]
    disk.fail("write_at", errno.EIO, effect=True)
    with pytest.raises(SpillRefused):
        spill(store, 16, 24)
    clock.move(31)
    store.upkeep()
    store.finish(*frames)
    disk.fail("write_at", errno.ENOSPC, effect=True)
    with pytest.raises(SpillRefused):
        spill(store, 16, 24)
    disk.remove_tree(ROOT)
    clock.move(11)
    store.upkeep()
    spill(store, 16, 24)
    store.close()


def before_trouble(seed: int) -> CrashDisk:
    """Return a disk on which a start has a tail to cut off and a segment to quarantine."""
    disk = fresh_disk(seed)
    store = store_on(disk)
    spill(store, 0, 8, lane="bulk")
    spill(store, 0, 8, lane="slow")
    disk = disk.after_kill()
    bulk, slow = disk.names(".fgs")
    disk.files[bulk].data[0] ^= 1
    del disk.files[slow].data[-70:]
    return disk


def troubled(disk: CrashDisk) -> None:
    clock = StoppedClock()
    trouble(store_on(disk, clock=clock), disk, clock)


@pytest.mark.parametrize("cut", ["kill", "power"])
def test_a_crash_at_every_operation_of_a_disk_in_trouble_is_recovered_from(cut: str) -> None:
    disk = before_trouble(0)
    troubled(disk)
    tried = {op for op, _ in disk.log}
    assert tried >= {
        "make_directory", "list_directory", "create", "open", "rename", "unlink", "space", "lock",
        "size", "reserve", "write_at", "read_into", "truncate", "sync", "close",
    }  # fmt: skip

    for at in range(1, disk.ops + 1):
        again = before_trouble(at)
        again.crash_at = at
        with pytest.raises(Crash):
            troubled(again)
        again = again.after_kill() if cut == "kill" else again.after_power_cut()
        store = store_on(again)
        assert cut == "power" or survivors(store) == all_frames(store)
        assert_reads(store, spill(store, 5_000, 5_010))


@pytest.mark.parametrize("times", [1, 1 << 30], ids=["once", "from-then-on"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_an_error_at_every_operation_is_a_state_and_no_surprise(number: int, times: int) -> None:
    slot_ops = fresh_disk()
    slot_on(slot_ops)
    for after in range(0, operations() - slot_ops.ops, 3):
        disk, clock = fresh_disk(after), StoppedClock()
        slot = slot_on(disk)
        disk.fail("*", number, after=after, times=times, effect=bool(after % 2))
        written: list[Frame] = []
        store = store_on(disk, slot=slot, clock=clock)
        work(store, written)

        disk.heal()
        for _ in range(3):
            clock.move(31)
            store.upkeep()

        assert store.state("bulk") is store.state("slow") is SpillState.OK
        for frame in written[FINISHED:]:
            assert times == 1 << 30 or reads(store, frame, size=WIDE)
        fresh = spill(store, 5_000, 5_010)
        assert_reads(store, fresh)
        after_kill = store_on(disk.after_kill())
        assert fresh in all_frames(after_kill)
        assert_all_named(after_kill)


def assert_all_named(store: SpillStore) -> None:
    """Read everything: each frame is as it was written, or its offsets are named."""
    for frame in all_frames(store):
        reads(store, frame, size=20 if frame.scan_lo == 5_000 else WIDE)


def worker_that_crashes(seed: int, at: int) -> World:
    """Let a worker do 40 things, crash in the middle, and the next one do what is left."""
    world = World(seed)
    world.disk.crash_at = at
    for number in range(40):
        try:
            act(world, number)
        except Crash:
            world.restart("kill" if at % 2 else "power")
            world.worker = world.start()
    world.end()
    return world


def act(world: World, number: int) -> None:
    worker, place, lane = world.worker, PLACES[number % 2], LANES[1 + number // 2 % 2]
    match number % 10:
        case 0 | 1:
            world.produce(place, 80)
            worker.fetch(place, 60)
        case 2 | 3 | 6 | 7:
            worker.spill(place, lane)
            worker.fetch(place, 30)
        case 4 | 5:
            worker.load(place, lane)
            worker.deliver(place, lane, 10)
        case 8:
            worker.commit(place)
        case 9:
            worker.revoke(place, commit=number % 20 == 9)
            worker.assign(place)
    worker.check()


def test_a_worker_that_crashes_anywhere_loses_nothing_and_repeats_little() -> None:
    crash_everywhere(range(1, 3), step=5)


@pytest.mark.slow
def test_a_worker_that_crashes_at_every_operation_loses_nothing_and_repeats_little() -> None:
    crash_everywhere(range(1, 3), step=1)


def crash_everywhere(seeds: range, *, step: int) -> None:
    for seed in seeds:
        total = worker_that_crashes(seed, NEVER).disk.ops
        assert total > 100
        tried = range(1 + seed, total, step)
        crashes = [worker_that_crashes(seed, at).crashes for at in tried]  # `end` settles accounts
        assert sum(crashes) > 0.5 * len(tried)  # the rest would have come after the end


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


def test_a_file_whose_name_never_reached_the_platter_is_no_damage() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)
    disk.random.choice = lambda options: options[-1]  # type: ignore[assignment]

    after = disk.after_power_cut()

    assert not after.names(".fgs") and not store_on(after).recovered


def test_a_later_write_that_comes_before_an_earlier_one_costs_the_earlier_one() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    size = frames[2].position - frames[1].position
    disk.files[path].data[frames[1].position : frames[2].position] = bytes(size)

    after = store_on(disk.after_kill(), **ROOMY)

    assert survivors(after) == all_frames(after) == [frames[0], frames[2]]
