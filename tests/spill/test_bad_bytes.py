"""Bytes that are not what was written: old blocks, other places, lies, cut-off files.

Every single byte: see test_flips.py.
"""

from __future__ import annotations

import errno
import struct

import pytest

from flowguard._native.frame import crc32c
from flowguard.errors import FrameLost
from flowguard.spill.inspection import verify_slot
from flowguard.spill.layout import FRAME_HEADER_BYTES
from tests.spill.builders import (
    DIRECTORY,
    ROOMY,
    ROOT,
    A,
    all_frames,
    assert_reads,
    fresh_disk,
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


# Fault 6. Lengths that lie.


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
