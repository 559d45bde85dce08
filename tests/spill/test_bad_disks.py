"""Disks that fail, vanish, hang: a state, a line for people, and a try again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from flowguard.errors import FrameLost, SpillRefused
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.manifest import Frame
from flowguard.spill.options import LaneSpill
from flowguard.spill.quota import SpillState
from flowguard.spill.slot import take_slot
from tests.spill.builders import (
    KEYS,
    QUOTA,
    ROOT,
    B,
    Keys,
    StoppedClock,
    all_frames,
    assert_reads,
    encrypted,
    fresh_disk,
    reads,
    slot_on,
    spill,
    store_on,
    work,
)
from tests.spill.crash_disk import CrashDisk, CrashFile

OK, SOFT, HARD, DISABLED = SpillState

# Fault 8. No sync is relied on, so what a later one says of an earlier failure does not matter.


def test_nothing_waits_for_the_platter() -> None:
    disk = fresh_disk()
    work(store_on(disk), [])

    assert not [op for op, _ in disk.log if op == "sync"]


def test_a_sync_that_fails_once_proves_nothing_by_working_the_next_time() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    disk.fail("write_at", errno.EIO)
    with pytest.raises(SpillRefused):
        spill(store, 0, 10)
    disk.fail("sync", errno.EIO)

    clock.move(30)
    store.upkeep()
    assert store.state("bulk") is DISABLED
    clock.move(30)
    store.upkeep()

    assert store.state("bulk") is OK
    probes = [op for op, path in disk.log if path.endswith("probe.tmp")]
    assert probes.count("sync") == 2 and probes.count("create") == 2  # each of a file of its own


# Fault 10. Read-only, vanished, forbidden, out of descriptors.


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


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_opened_is_fetched_again_and_stops_nothing(number: int) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20)]
    disk.fail("open", number)

    with pytest.raises(FrameLost, match="offsets 0 to 9 is unreadable"):
        store.read(frames[0])

    store.finish(frames[0])
    assert_reads(store, frames[1])
    assert store.state("bulk") is OK


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


@pytest.mark.parametrize("op", ["list_directory", "space"])
def test_a_directory_that_is_deleted_while_it_is_looked_at_is_not_a_broken_disk(op: str) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 10)
    disk.remove_tree(ROOT)
    disk.fail(op, errno.ENOENT)

    store.upkeep()

    assert store.state("bulk") is OK
    assert_reads(store, spill(store, 10, 20))


@pytest.mark.parametrize("op", ["list_directory", "open"])
def test_a_directory_that_is_deleted_while_a_worker_starts_is_an_empty_one(
    op: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)
    disk = disk.after_kill()
    slot, call = slot_on(disk), getattr(disk, op)

    def deleted_before(*arguments: Any, **options: Any) -> Any:
        disk.remove_tree(ROOT)
        return call(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(disk, op, deleted_before)
        store = store_on(disk, slot=slot)

    assert store.state("bulk") is OK and not store.recovered
    assert_reads(store, spill(store, 10, 20))
    store.upkeep()
    assert_reads(store, spill(store, 20, 30))
    assert not caplog.records


def test_a_directory_that_is_moved_away_is_made_again_and_locked(tmp_path: Path) -> None:
    real = RealFileSystem()
    slot = take_slot(real, str(tmp_path), "app")
    store = store_on(real, slot=slot)
    gone = spill(store, 0, 10)

    (tmp_path / "app").rename(tmp_path / "elsewhere")
    store.upkeep()

    assert store.state("bulk") is OK and store.usage("bulk").frames == 0
    with pytest.raises(FrameLost, match="missing"):
        store.read(gone)
    assert_reads(store, spill(store, 10, 20))
    other = take_slot(real, str(tmp_path), "app")
    assert other.number == 1
    other.release()
    slot.release()


# Fault 11. A slow and a hung disk.


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


@pytest.mark.parametrize("op", ["create", "reserve", "write_at", "linked", "unlink", "space"])
def test_whatever_hangs_for_who_writes_does_not_hang_for_who_reads(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frame, finished = spill(store, 0, 10), spill(store, 0, 10, lane="slow")
    if op == "linked":
        linked = CrashFile.linked
        monkeypatch.setattr(
            CrashFile, "linked", lambda file: disk.step("linked", file.path) or linked(file)
        )
    with hanging(disk, op) as gate:

        def write() -> None:
            store.finish(finished)
            store.upkeep()
            spill(store, 10, 20, size=3_000)
            spill(store, 20, 30, lane="slow")

        writer = Thread(target=write)
        writer.start()
        for _ in range(3):
            assert_reads(store, frame)
            assert store.state("bulk") is OK and store.why("bulk") == ""
            assert store.usage("bulk").max_bytes > 0
        assert writer.is_alive()
        gate.set()
        writer.join()


def test_a_read_that_hangs_does_not_keep_the_writer() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frame = spill(store, 0, 10)
    found: list[bool] = []
    with hanging(disk, "read_into") as gate:
        reader = Thread(target=lambda: found.append(reads(store, frame)))
        reader.start()

        fresh = spill(store, 10, 20)
        store.upkeep()
        assert store.usage("bulk").frames == 2 and reader.is_alive()

        gate.set()
        reader.join()
    assert found == [True]
    assert_reads(store, fresh)


@pytest.mark.parametrize("seconds", [0.1, 1, 10])
def test_a_slow_disk_is_no_broken_one(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    lanes = {"bulk": LaneSpill(max_bytes=QUOTA, compression="auto")}
    store = store_on(disk, clock=clock, lanes=lanes)
    write_at = CrashFile.write_at

    def slowly(file: CrashFile, parts: Any, position: int) -> int:
        clock.move(seconds)
        return write_at(file, parts, position)

    monkeypatch.setattr(CrashFile, "write_at", slowly)
    frames = []
    for n in range(30):
        frames.append(spill(store, 10 * n, 10 * n + 10, size=500))
        store.upkeep()

    assert store.state("bulk") is OK and not store.why("bulk")
    for frame in frames:
        assert_reads(store, frame, size=500)


# Fault 23. A thread that dies leaves a store that another one can use.


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


def test_what_ends_a_write_in_the_middle_ends_its_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=encrypted(Keys(*KEYS)))
    kept = spill(store, 0, 10)
    write_at = CrashFile.write_at

    def half(file: CrashFile, parts: Any, position: int) -> int:
        write_at(file, [b"".join(map(bytes, parts))[:500]], position)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(CrashFile, "write_at", half)
        with pytest.raises(MemoryError):
            spill(store, 10, 20)
    fresh = spill(store, 10, 20)

    assert fresh.segment != kept.segment  # a number of a frame is encrypted with once
    sizes = [len(disk.files[path].data) for path in disk.names(".fgs")]
    assert store.usage("bulk").stored_bytes == sum(sizes)
    assert_reads(store, kept)
    assert_reads(store, fresh)
    assert len(all_frames(store_on(disk.after_kill(), lanes=encrypted(Keys(*KEYS))))) == 2
