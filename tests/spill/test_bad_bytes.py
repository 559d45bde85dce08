"""Bytes that are not what was written: old blocks, other places, lies, cut-off files.

Every single byte: see test_flips.py.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest

from flowguard._native.frame import crc32c
from flowguard.errors import FrameLost
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.inspection import verify_slot
from flowguard.spill.layout import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES
from flowguard.spill.slot import take_slot
from tests.spill.builders import (
    DIRECTORY,
    ROOMY,
    ROOT,
    WIDE,
    A,
    all_frames,
    assert_reads,
    fresh_disk,
    reads,
    records,
    slot_on,
    spill,
    store_on,
    survivors,
)

# Fault 5. Zeroed pages, old blocks, frames in another place.


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


PAGE_BYTES = 4096


@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "garbage"])
def test_a_lost_page_costs_the_frames_that_it_touches_and_they_are_named(zeros: bool) -> None:
    disk = fresh_disk(1)
    store = store_on(disk, **ROOMY)
    frames = [spill(store, 10 * n, 10 * n + 10, size=WIDE) for n in range(12)]
    (path,) = disk.names(".fgs")
    size = len(disk.files[path].data)
    for page in range(SEGMENT_HEADER_BYTES, size - PAGE_BYTES, PAGE_BYTES):
        again = disk.after_kill()
        lost = bytes(PAGE_BYTES) if zeros else again.random.randbytes(PAGE_BYTES)
        again.files[path].data[page : page + PAGE_BYTES] = lost
        touched = [
            frame for frame, end in zip(frames, [*(f.position for f in frames[1:]), size],
                                        strict=True)
            if frame.position < page + PAGE_BYTES and end > page
        ]  # fmt: skip

        report = verify_slot(again, DIRECTORY, lambda _: None)
        after = store_on(again, **ROOMY)

        found = [frame for frame in all_frames(after) if reads(after, frame, size=WIDE)]
        assert found == [frame for frame in frames if frame not in touched]
        problems = report.segments[0].problems
        assert min(problem.start for problem in problems) == touched[0].position
        assert all(problem.start < page + PAGE_BYTES for problem in problems)


def test_a_frame_that_went_to_another_file_is_no_frame_there_and_lost_here() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10, lane=lane) for lane in ("bulk", "slow")]
    frames += [spill(store, 10, 20, lane=lane) for lane in ("bulk", "slow")]
    bulk, slow = disk.names(".fgs")
    size = frames[2].position - frames[0].position
    moved = bytes(disk.files[bulk].data[frames[2].position :][:size])
    disk.files[bulk].data[frames[2].position :] = bytes(size)
    disk.files[slow].data[frames[3].position :] = moved  # whole, and its checksums agree

    with pytest.raises(FrameLost, match="offsets 10 to 19 is corrupt"):
        store.read(frames[2])
    with pytest.raises(FrameLost, match="offsets 10 to 19 is corrupt"):
        store.read(frames[3])
    after = store_on(disk.after_kill())

    assert sorted(survivors(after)) == sorted(all_frames(after)) == sorted(frames[:2])


# Fault 6. Lengths that lie.


@pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**32 - 1, 1 << 20])
def test_a_length_that_lies_costs_its_frame_and_no_memory(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    data, at = disk.files[path].data, frames[1].position
    struct.pack_into("<I", data, at + 40, length)
    sizes = []
    allocate = pa.allocate_buffer
    monkeypatch.setattr(pa, "allocate_buffer", lambda size: sizes.append(size) or allocate(size))
    for resealed in (False, True):
        if resealed:  # by someone who knows the format
            header = bytes(data[at : at + FRAME_HEADER_BYTES - 4])
            struct.pack_into("<I", data, at + FRAME_HEADER_BYTES - 4, crc32c([header]))
        with pytest.raises(FrameLost):
            store.read(frames[1])
        after = store_on(disk.after_kill())
        assert {f.scan_lo for f in survivors(after)} >= {0} | ({20} if length else set())
        verify_slot(disk.after_kill(), DIRECTORY, lambda _: None)
    assert max(sizes) <= len(data)


# Fault 9. Reads that fail, and files that are cut off while they are read.


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


def test_a_real_file_that_is_cut_off_while_it_is_read_ends_nobody(tmp_path: Path) -> None:
    """Reading by a mapping would end the process with SIGBUS."""
    store = store_on(RealFileSystem(), slot=take_slot(RealFileSystem(), str(tmp_path), "app"))
    frame = spill(store, 0, 10, size=5_000)
    (path,) = tmp_path.glob("app/0/*.fgs")
    size = path.stat().st_size
    found: list[bool] = []

    def cut_and_mend() -> None:
        whole = path.read_bytes()
        for at in range(0, size, size // 50):
            os.truncate(path, at)
            path.write_bytes(whole)

    cutter = Thread(target=cut_and_mend)
    cutter.start()
    while cutter.is_alive():
        found.append(reads(store, frame, size=5_000))
    cutter.join()

    assert found and reads(store, frame, size=5_000)


# Fault 24. Corruption that `verify` finds while a worker goes on.


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
