"""Faults of disks and people, by the numbers of the list they were planned with.

The outcome is always the same: what is read is what was written, what cannot be read is named
with its offsets, who could not write keeps its records, and the next start succeeds.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from threading import Event, Thread
from typing import Any

import pytest

from flowguard._native.frame import crc32c
from flowguard.errors import FrameLost, SpillRefused
from flowguard.spill.cipher import EphemeralKey, Key
from flowguard.spill.inspection import verify_slot
from flowguard.spill.layout import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.spill.options import LaneSpill, StoreLimits
from flowguard.spill.quota import SpillState
from flowguard.spill.store import SpillStore
from tests.spill.builders import (
    DIRECTORY,
    LIMITS,
    QUOTA,
    ROOMY,
    ROOT,
    A,
    B,
    StoppedClock,
    assert_reads,
    fresh_disk,
    records,
    slot_on,
    spill,
    store_on,
)
from tests.spill.crash_disk import Crash, CrashDisk

OK, SOFT, HARD, DISABLED = SpillState

FINISHED = 3
WIDE = 300  # bytes of a value: six frames are a segment


def all_frames(store: SpillStore) -> list[Frame]:
    return [frame for run in store.recovered for frame in run.frames]


def survivors(store: SpillStore) -> list[Frame]:
    """Return the frames that can be read, each of them as it was; the others are named."""
    return [frame for frame in all_frames(store) if reads(store, frame)]


def reads(store: SpillStore, frame: Frame, *, size: int = 20) -> bool:
    """Tell whether a frame can be read; if so it is what was written, if not it is named."""
    lost = []
    try:
        assert_reads(store, frame, size=size)
    except FrameLost as error:
        lost.append((error.scan_lo, error.scan_hi))
    assert lost in ([], [(frame.scan_lo, frame.scan_hi)])
    return not lost


def work(store: SpillStore, written: list[Frame]) -> None:
    """Write, read, finish, park, adopt, and write again; what is written is noted."""
    for step in range(30):
        lane = ("bulk", "slow")[step % 2]
        partition = (A, B)[step % 3 == 0]
        start = 10 * step
        try:
            written.append(
                spill(store, start, start + 8, lane=lane, partition=partition, size=WIDE)
            )
        except SpillRefused:
            continue
        if step == 5:
            store.finish(*written[:FINISHED])
        if step == 8:
            parked = [f for f in written[FINISHED:] if (f.lane, f.partition) == ("bulk", A)]
            store.park(FrameQueue("bulk", A, parked))
            for run in store.parked(A):
                store.adopt(run)
        store.upkeep()
    store.close()


# 1. A crash at every operation.


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


# 2, 4. Every byte: see test_flips.py.  3. Writes that are lost or come in another order.


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


# 5. Zeroed pages, old blocks, frames in another place.


def test_old_blocks_of_a_deleted_file_are_never_taken_for_frames() -> None:
    disk = fresh_disk()
    old = store_on(disk, slot=slot_on(disk))
    for step in range(6):
        spill(old, 10 * step, 10 * step + 10)
    (path,) = disk.names(".fgs")
    stale = bytes(disk.files[path].data)
    disk = fresh_disk(seed=5)
    store = store_on(disk)
    frame = spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    disk.files[path].data += stale[len(disk.files[path].data) :]

    after = store_on(disk.after_kill())

    assert survivors(after) == all_frames(after) == [frame]


def test_a_frame_in_the_place_of_another_is_neither() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    data = disk.files[path].data
    size = frames[1].position - frames[0].position
    data[frames[1].position : frames[2].position] = data[frames[0].position :][:size]

    with pytest.raises(FrameLost, match=r"offsets 10 to 19 is corrupt"):
        store.read(frames[1])
    assert_reads(store, frames[0])
    assert_reads(store, frames[2])


# 6. Lengths that lie.


@pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**32 - 1, 1 << 20])
def test_a_length_that_lies_costs_its_frame_and_no_memory(length: int) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    data, at = disk.files[path].data, frames[1].position
    struct.pack_into("<I", data, at + 40, length)
    for resealed in (False, True):
        if resealed:  # by someone who knows the format
            header = bytes(data[at : at + FRAME_HEADER_BYTES - 4])
            struct.pack_into("<I", data, at + FRAME_HEADER_BYTES - 4, crc32c([header]))
        with pytest.raises(FrameLost):
            store.read(frames[1])
        after = store_on(disk.after_kill())
        assert {f.scan_lo for f in survivors(after)} >= {0} | ({20} if length else set())


# 7. No room.


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


# 8. The store relies on no sync: what a later sync says of an earlier failure does not matter.


def test_nothing_waits_for_the_platter() -> None:
    disk = fresh_disk()
    work(store_on(disk), [])

    assert not [op for op, _ in disk.log if op == "sync"]


# 9. Reads that fail, and files that are cut off while they are read.


def test_a_read_that_fails_names_its_offsets_and_the_worker_goes_on() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20)]

    disk.fail("read_into", errno.EIO)
    with pytest.raises(FrameLost, match=r"offsets 0 to 9 is unreadable .Input/output error.") as e:
        store.read(frames[0])

    assert (e.value.reason, e.value.topic, e.value.partition, e.value.lane) == (
        "unreadable", "orders", 0, "bulk",
    )  # fmt: skip
    assert_reads(store, frames[0])


def test_a_file_that_is_cut_off_costs_what_was_cut() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20)]
    (path,) = disk.names(".fgs")

    del disk.files[path].data[frames[1].position + 10 :]

    assert_reads(store, frames[0])
    with pytest.raises(FrameLost, match="bytes are missing"):
        store.read(frames[1])


# 10. Read-only, vanished, forbidden, out of descriptors.


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("op", ["write_at", "create"])
def test_a_disk_that_fails_is_left_alone_and_tried_again(op: str, number: int) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    kept = spill(store, 0, 10) if op == "write_at" else None
    disk.fail(op, number, times=1 << 30)
    with pytest.raises(SpillRefused, match="the disk fails"):
        spill(store, 10, 20)
    assert store.state("bulk") is store.state("slow") is DISABLED

    for _ in range(100):
        clock.move(1)
        store.upkeep()
    assert store.state("bulk") is DISABLED and "look at it" in store.why("bulk")
    asked = [entry for entry in disk.log if "probe" in entry[1] and entry[0] == "create"]
    assert len(asked) == 3  # each 30 s

    disk.heal()
    clock.move(30)
    store.upkeep()
    assert store.state("bulk") is OK
    assert_reads(store, spill(store, 10, 20))
    if kept is not None:
        assert_reads(store, kept)


def test_a_disk_that_returns_other_bytes_is_not_trusted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    disk.fail("write_at", errno.EIO)
    with pytest.raises(SpillRefused):
        spill(store, 0, 10)
    monkeypatch.setattr("tests.spill.crash_disk.CrashFile.read_into", lambda *_: 0)

    clock.move(30)
    store.upkeep()

    assert store.state("bulk") is DISABLED and "other bytes" in store.why("bulk")


def test_a_directory_that_is_deleted_costs_what_was_in_it_and_is_made_again() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    frames = [spill(store, n, n + 1, size=3_000) for n in range(8)]

    disk.remove_tree(ROOT)

    for frame in frames:
        with pytest.raises(FrameLost, match="missing"):
            store.read(frame)
    fresh = spill(store, 50, 60)
    assert_reads(store, fresh)
    store.upkeep()
    assert store.state("bulk") is OK
    assert store.usage("bulk").frames == 1
    (path,) = disk.names(".fgs")
    assert store.usage("bulk").stored_bytes == len(disk.files[path].data)
    store.finish(*frames)
    assert_reads(store, fresh)


def test_a_slot_that_another_worker_took_meanwhile_is_left_to_it() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    spill(store, 0, 10)
    disk.remove_tree(ROOT)
    other = store_on(disk)
    theirs = spill(other, 0, 10)

    store.upkeep()

    assert store.state("bulk") is DISABLED
    assert "another worker has it now; restart this one" in store.why("bulk")
    for _ in range(3):
        clock.move(31)
        store.upkeep()
    assert store.state("bulk") is DISABLED
    assert_reads(other, theirs)


def test_a_directory_that_cannot_be_read_at_the_start_is_read_when_it_can() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    frame = spill(store_on(disk), 0, 10)
    disk = disk.after_kill()
    slot = slot_on(disk)
    disk.fail("list_directory", errno.EACCES, times=1 << 30)

    store = store_on(disk, slot=slot, clock=clock)
    assert store.state("bulk") is DISABLED and not store.recovered

    disk.heal()
    clock.move(30)
    store.upkeep()
    assert store.state("bulk") is OK and all_frames(store) == [frame]
    assert_reads(store, frame)
    assert_reads(store, spill(store, 10, 20, partition=B))


def test_a_file_that_cannot_be_deleted_still_counts_and_is_tried_again() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    frames = [spill(store, n, n + 1, size=3_000) for n in range(8)]
    before = store.usage("bulk").stored_bytes
    disk.fail("unlink", errno.EROFS, times=2)

    store.finish(*frames)
    assert store.state("bulk") is DISABLED
    assert store.usage("bulk").stored_bytes > before / 3
    disk.heal()
    clock.move(30)
    store.upkeep()
    store.upkeep()

    assert store.usage("bulk").stored_bytes == 0 and not disk.names(".fgs")


# 11. A slow and a hung disk.


@contextmanager
def hanging(disk: CrashDisk, op: str) -> Iterator[Event]:
    gate = disk.gates[op] = Event()
    try:
        yield gate
    finally:
        del disk.gates[op]
        gate.set()


def test_a_write_that_hangs_keeps_neither_reading_nor_asking() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frame = spill(store, 0, 10)
    done: list[Frame] = []
    with hanging(disk, "write_at") as gate:
        writer = Thread(target=lambda: done.append(spill(store, 10, 20)))
        writer.start()

        assert_reads(store, frame)
        assert store.state("bulk") is OK and store.usage("bulk").frames == 1

        gate.set()
        writer.join()
    assert_reads(store, done[0])


# 12. kill -9: see test_kill.py.  17. Two workers: see unit/spill/test_slot.py.


# 18. Clocks.


def test_a_clock_that_jumps_expires_nothing_that_was_just_parked() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    store.park(FrameQueue("bulk", A, [spill(store, 0, 10)]))

    clock.move(-100_000)
    store.upkeep()
    assert len(store.recovered) == 1

    later = StoppedClock()
    later.move(10**8)  # another boot, years later
    after = store_on(disk.after_kill(), clock=later)
    after.upkeep()
    assert len(after.recovered) == 1


# 19. Other versions.


def test_a_segment_of_a_later_format_is_left_alone() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)
    (path,) = disk.names(".fgs")
    data = disk.files[path].data
    struct.pack_into("<H", data, 8, 2)
    struct.pack_into("<I", data, 4092, crc32c([bytes(data[:4092])]))

    disk = disk.after_kill()
    store = store_on(disk)
    fresh = spill(store, 0, 10)

    assert not store.recovered and path in disk.files and fresh.segment == 1


# 20. Keys.


class Keys:
    """A provider; the last key is the current one."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)

    def current(self) -> Key:
        return self.keys[-1]

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


def encrypted(keys: Any) -> dict[str, LaneSpill]:
    return {"bulk": LaneSpill(max_bytes=QUOTA, keys=keys)}


KEYS = [Key(name, Random(name).randbytes(32)) for name in ("2025", "2026")]


def test_nothing_of_a_record_is_on_disk_in_the_clear() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=encrypted(Keys(*KEYS)))
    frame = spill(store, 0, 50)
    store.close()

    (path,) = disk.names(".fgs")
    data = bytes(disk.files[path].data)
    assert b"orders/0/" not in data  # values
    assert b"k11" not in data and b"orders" not in data.replace(b"orders-app", b"")
    assert all(key.secret not in data for key in KEYS)
    assert_reads(store, frame)


def test_a_rotated_key_reads_what_the_old_one_wrote() -> None:
    disk = fresh_disk()
    old = spill(store_on(disk, lanes=encrypted(Keys(KEYS[0]))), 0, 10)

    store = store_on(disk.after_kill(), lanes=encrypted(Keys(*KEYS)))
    store.adopt(store.parked(A)[0])
    new = spill(store, 10, 20)

    assert store._segments.get(old.segment).header.key == "2025"  # type: ignore[union-attr]
    assert store._segments.get(new.segment).header.key == "2026"  # type: ignore[union-attr]
    assert_reads(store, old)
    assert_reads(store, new)
    assert store.recovered == []


@pytest.mark.parametrize(
    "keys", [Keys(KEYS[1]), Keys(Key("2025", bytes(32))), EphemeralKey(Random(1).randbytes), None]
)
def test_what_no_key_opens_is_deleted_and_read_from_kafka(keys: Any) -> None:
    disk = fresh_disk()
    spill(store_on(disk, lanes=encrypted(Keys(KEYS[0]))), 0, 10)

    disk = disk.after_kill()
    store = store_on(disk, lanes=encrypted(keys))

    assert not store.recovered and not disk.names(".fgs")
    assert_reads(store, spill(store, 0, 10))


def test_what_was_not_encrypted_does_not_stay_where_it_should_be() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)

    disk = disk.after_kill()
    store = store_on(disk, lanes=encrypted(Keys(KEYS[0])))

    assert not store.recovered and not disk.names(".fgs")


def test_a_header_that_was_changed_with_its_checksum_is_noticed() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=encrypted(Keys(*KEYS)))
    frame = spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    data, at = disk.files[path].data, frame.position
    struct.pack_into("<q", data, at + 56, 11)  # scan_hi, so that an offset would be skipped
    header = bytes(data[at : at + FRAME_HEADER_BYTES - 4])
    struct.pack_into("<I", data, at + FRAME_HEADER_BYTES - 4, crc32c([header]))

    with pytest.raises(FrameLost, match="seal does not agree"):
        store.read(frame)
    assert not store_on(disk.after_kill(), lanes=encrypted(Keys(*KEYS))).recovered


def test_what_an_ephemeral_key_wrote_ends_with_the_process() -> None:
    disk = fresh_disk()
    keys = EphemeralKey(Random(1).randbytes)
    store = store_on(disk, lanes=encrypted(keys))
    frame = spill(store, 0, 10)
    assert_reads(store, frame)

    store.close()

    assert not disk.names(".fgs")


# 21. Quota.


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


# 22. Unusual records: see unit/spill/test_payload.py and test_store.py.


# 23. A thread that dies leaves a store that another one can use.


def test_another_thread_can_go_on_after_one_that_died() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    kept = spill(store, 0, 10)
    disk.fail("write_at", errno.EIO)

    class Dies(Thread):
        def run(self) -> None:
            with pytest.raises(SpillRefused):
                spill(store, 10, 20)

    thread = Dies()
    thread.start()
    thread.join()

    assert_reads(store, kept)
    assert store.state("bulk") is DISABLED  # which health shows


# 24. Corruption that `verify` finds while a worker goes on.


def test_verify_beside_a_worker_changes_nothing_and_names_what_is_lost() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    disk.files[path].data[frames[1].position + FRAME_HEADER_BYTES + 5] ^= 4
    before = bytes(disk.files[path].data)

    report = verify_slot(disk, DIRECTORY, lambda _: None)

    (segment,) = report.segments
    assert report.worker is not None and segment.status == "open"
    assert [(p.kind, p.start, p.end) for p in segment.problems] == [
        ("payload", frames[1].position, frames[2].position)
    ]
    assert "orders[0], offsets 10 to 19" in segment.problems[0].what
    assert bytes(disk.files[path].data) == before
    assert_reads(store, spill(store, 30, 40))


def test_what_a_worker_is_just_writing_is_not_called_torn() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    whole = records(A, range(10, 20))
    half = bytes(disk.files[path].data)
    store.append("bulk", A, [whole], scan_lo=10, scan_hi=20)
    rest = bytes(disk.files[path].data)[len(half) :]
    disk.files[path].data = bytearray(half + rest[:500])

    def finish_writing(_: float) -> None:
        disk.files[path].data = bytearray(half + rest)

    live = verify_slot(disk, DIRECTORY, finish_writing)
    disk.files[path].data = bytearray(half + rest[:500])
    stuck = verify_slot(disk, DIRECTORY, lambda _: None)

    assert not live.segments[0].problems
    assert [problem.kind for problem in stuck.segments[0].problems] == ["torn"]


def test_a_directory_that_is_deleted_while_it_is_verified_is_empty() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    disk.files[path].data[0] ^= 1

    report = verify_slot(disk, DIRECTORY, lambda _: disk.remove_tree(ROOT))

    assert report.segments == []
