"""Looking at spill directories from outside: what is told, and what is told of rubbish."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from flowguard._native.frame import crc32c
from flowguard.spill.cipher import Key
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.findings import SegmentReport, Unread
from flowguard.spill.inspection import find_slots, inspect_slot, survey, verify_slot
from flowguard.spill.layout import (
    AT_CRC,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    decode_frame,
    decode_segment,
    encode_frame,
    encode_segment,
    pack_hidden,
    segment_name,
)
from flowguard.spill.manifest import Frame
from flowguard.spill.options import LaneSpill
from tests.builders import EPOCH_MS
from tests.spill.builders import (
    APP,
    DIRECTORY,
    QUOTA,
    ROOMY,
    ROOT,
    B,
    fresh_disk,
    slot_on,
    spill,
    store_on,
)
from tests.spill.crash_disk import CrashDisk, Inode


class OneKey:
    """A provider of one key."""

    key = Key("k", bytes(range(32)))

    def current(self) -> Key:
        return self.key

    def find(self, key_id: str) -> Key | None:
        return self.key if key_id == self.key.id else None


ENCRYPTED = {"bulk": LaneSpill(max_bytes=QUOTA, keys=OneKey())}


def no_pause(_: float) -> None:
    return None


def only_segment(disk: CrashDisk, *, deep: bool = False, verify: bool = True) -> SegmentReport:
    """Return what is found in the only segment."""
    if verify:
        (segment,) = verify_slot(disk, DIRECTORY, no_pause, deep=deep).segments
    else:
        (segment,) = inspect_slot(disk, DIRECTORY).segments
    return segment


def sealed(*spans: tuple[int, int]) -> tuple[CrashDisk, bytearray, list[Frame]]:
    """Return a disk with a sealed segment of these frames that nobody holds."""
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    frames = [spill(store, *span) for span in spans]
    store.close()
    disk = disk.after_kill()
    (path,) = disk.names(".fgs")
    return disk, disk.files[path].data, frames


def rewritten(data: bytearray, frame: Frame, **changes: object) -> None:
    """Change a frame's header so that its checksum agrees again."""
    segment = decode_segment(bytes(data[:SEGMENT_HEADER_BYTES])).id
    encoded = bytes(data[frame.position : frame.position + 448])
    header = decode_frame(encoded, position=frame.position, segment=segment)
    assert header is not None
    new = encode_frame(header._replace(**changes))  # type: ignore[arg-type]
    data[frame.position : frame.position + 448] = new


# What is told.


def test_a_segment_is_told_by_its_headers() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    frames = [spill(store, 0, 10), spill(store, 5, 9, partition=B), spill(store, 20, 30)]

    report = inspect_slot(disk, DIRECTORY)

    (segment,) = report.segments
    assert (report.name, report.app, report.worker) == (f"{APP}/0", APP, disk.pid)
    assert (segment.status, segment.lane, segment.created_ms) == ("open", "bulk", EPOCH_MS)
    assert (segment.app, segment.group, segment.cluster) == (APP, APP, "kafka-1")
    assert (segment.frames, segment.records) == (3, 24)
    assert segment.payload_bytes == segment.live_bytes == sum(f.stored_bytes for f in frames)
    assert [tuple(held) for held in segment.held] == [
        ("orders", 0, 2, 20, 0, 30),
        ("orders", 1, 1, 4, 5, 9),
    ]


def test_what_a_later_run_has_replaced_is_not_live() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    spill(store, 0, 10)
    other = spill(store, 0, 10, partition=B)
    disk = disk.after_kill()
    store = store_on(disk, entropy=Random(7).randbytes, **ROOMY)
    newer = spill(store, 50, 60)

    old, new = inspect_slot(disk, DIRECTORY).segments

    assert old.live_bytes == other.stored_bytes
    assert new.live_bytes == newer.stored_bytes


def test_of_an_encrypted_segment_topics_and_live_are_unknown() -> None:
    disk = fresh_disk()
    spill(store_on(disk, lanes=ENCRYPTED), 0, 10)

    segment = only_segment(disk, deep=True)

    assert segment.encrypted and segment.live_bytes is None and not segment.problems
    assert [(held.topic, held.scan_lo, held.scan_hi) for held in segment.held] == [("", 0, 10)]


@pytest.mark.parametrize("directory", [ROOT, f"{ROOT}/{APP}", DIRECTORY])
def test_slots_are_found_from_above_and_from_within(directory: str) -> None:
    disk = fresh_disk()
    store_on(disk)
    disk.make_directory(f"{DIRECTORY}/quarantine")

    assert find_slots(disk, directory) == ([DIRECTORY], [])


def test_a_slot_of_which_only_the_quarantine_is_left_is_one() -> None:
    disk = fresh_disk()
    disk.make_directory(f"{DIRECTORY}/quarantine")
    disk.files[f"{DIRECTORY}/quarantine/{segment_name('bulk', 1)}"] = Inode(bytearray(9))

    for directory in (ROOT, f"{ROOT}/{APP}", DIRECTORY):
        assert find_slots(disk, directory) == ([DIRECTORY], [])
    report = inspect_slot(disk, DIRECTORY)
    assert (len(report.quarantined), report.quarantined_bytes) == (1, 9)


def test_what_cannot_be_listed_is_named_and_the_rest_is_told() -> None:
    disk = fresh_disk()
    store_on(disk)
    for name in ("closed", "lost+found"):
        disk.make_directory(f"{ROOT}/{name}")
    disk.fail("list_directory", errno.EACCES, path="closed", times=9)
    disk.fail("list_directory", errno.EACCES, path="lost+found", times=9)

    found = survey(disk, ROOT, inspect_slot)

    assert [slot.directory for slot in found.slots] == [DIRECTORY]
    assert found.unread == [Unread(f"{ROOT}/closed", "Permission denied")]


def test_slots_that_vanish_or_cannot_be_read_do_not_hide_the_others() -> None:
    disk = fresh_disk()
    slots = [slot_on(disk) for _ in range(3)]

    def look(filesystem: object, path: str) -> object:
        if path == slots[0].directory:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if path == slots[1].directory:
            raise OSError(errno.EIO, "Input/output error", path)
        return inspect_slot(disk, path)

    found = survey(disk, ROOT, look)  # type: ignore[arg-type]

    assert [slot.directory for slot in found.slots] == [slots[2].directory]
    assert found.unread == [Unread(slots[1].directory, "Input/output error")]


# Rubbish.


def later_format() -> bytes:
    page = bytearray(a_header(1))
    page[8:10] = (99).to_bytes(2, "little")
    page[AT_CRC:] = crc32c([bytes(page[:AT_CRC])]).to_bytes(4, "little")
    return bytes(page)


def a_header(number: int) -> bytes:
    header = SegmentHeader(
        uuid=bytes(16), number=number, created_ms=0, app=APP, group=APP, cluster="", lane="bulk"
    )
    return encode_segment(header)


def nested_too_deep() -> bytes:
    text = b"[" * 4000
    page = bytearray(a_header(1))
    page[48:52] = len(text).to_bytes(4, "little")
    page[52 : 52 + len(text)] = text
    page[AT_CRC:] = crc32c([bytes(page[:AT_CRC])]).to_bytes(4, "little")
    return bytes(page)


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", "damaged", "has 0 bytes"),
        (b"x" * 100, "damaged", "has 100 bytes"),
        (bytes(9000), "damaged", "checksum does not agree"),
        (Random(1).randbytes(9000), "damaged", "checksum does not agree"),
        (a_header(2), "damaged", "has the name of segment 1, and is 2"),
        (nested_too_deep(), "damaged", "names cannot be read"),
        (later_format(), "newer", ""),
        (a_header(1), "open", ""),
    ],
)
def test_rubbish_under_the_name_of_a_segment_is_told_from_one(
    data: bytes, status: str, says: str
) -> None:
    disk = fresh_disk()
    disk.make_directory(DIRECTORY)
    disk.files[f"{DIRECTORY}/{segment_name('bulk', 1)}"] = Inode(bytearray(data))

    for segment in (only_segment(disk, verify=False), only_segment(disk, deep=True)):
        assert segment.status == status and segment.num_bytes == len(data)
        assert [problem.kind for problem in segment.problems] == (["header"] if says else [])
        assert not says or says in segment.problems[0].what


def test_only_files_with_our_names_are_ours(tmp_path: Path) -> None:
    disk = RealFileSystem()
    slot = slot_on(disk, root=str(tmp_path))
    inside = Path(slot.directory)
    outside = tmp_path / "outside.txt"
    outside.write_text("not ours")
    (inside / "notes.txt").touch()
    (inside / "probe.tmp").touch()
    (inside / segment_name("bulk", 1)).mkdir()
    (inside / segment_name("bulk", 2)).symlink_to(outside)
    os.mkfifo(inside / segment_name("bulk", 3))
    (inside / "quarantine").symlink_to(tmp_path)

    report = inspect_slot(disk, slot.directory)

    assert report.worker == os.getpid()
    assert report.segments == [] and report.quarantined == []
    assert report.foreign == [
        segment_name("bulk", 1), segment_name("bulk", 2), segment_name("bulk", 3),
        "notes.txt", "quarantine",
    ]  # fmt: skip
    slot.release()


def test_a_lock_that_is_none_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / segment_name("bulk", 1)).touch()
    os.mkfifo(tmp_path / "LOCK")

    report = inspect_slot(RealFileSystem(), str(tmp_path))

    assert report.worker is None and report.foreign == ["LOCK"]


# Verification.


def test_a_frame_whose_header_is_damaged_is_named_by_the_footer() -> None:
    disk, data, frames = sealed((0, 10), (10, 25), (25, 30))
    data[frames[1].position + 20] ^= 1

    segment = only_segment(disk)

    (problem,) = segment.problems
    assert (problem.kind, problem.start, problem.end) == (
        "gap", frames[1].position, frames[2].position,
    )  # fmt: skip
    assert (problem.topic, problem.partition) == ("orders", 0)
    assert (problem.scan_lo, problem.scan_hi) == (10, 25)
    assert problem.what == "orders[0], offsets 10 to 24: its header is damaged"
    assert not segment.whole and segment.frames == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"first_offset": 1}, "it has offsets 0 to 9"),
        ({"last_offset": 8}, "it has offsets 0 to 9"),
        ({"max_timestamp_ms": 1 << 60}, "its timestamps are not those of its header"),
        ({"hidden": pack_hidden(1, "orders")}, "its newest record is not the one"),
        ({"hidden": b"\1\2\3\4\xff\xfe"}, "its topic cannot be read"),
        ({"records": 9}, "it does not have 9 records"),
        ({"batches": 2}, "no Arrow batch"),
        ({"batches": 0, "records": 0}, "bytes are left over"),
    ],
)
def test_deep_finds_records_that_are_not_those_of_the_header(
    changes: dict[str, object], says: str
) -> None:
    disk = fresh_disk()
    frame = spill(store_on(disk, **ROOMY), 0, 10)
    disk = disk.after_kill()
    (path,) = disk.names(".fgs")
    rewritten(disk.files[path].data, frame, **changes)

    assert not only_segment(disk).problems, "checksums alone do not tell"
    (problem,) = only_segment(disk, deep=True).problems
    assert problem.kind == "payload" and says in problem.what


def test_deep_finds_nothing_wrong_in_what_a_store_writes() -> None:
    disk, _, _ = sealed((0, 10), (10, 500), (501, 502))

    assert not only_segment(disk, deep=True).problems


def test_a_frame_that_the_disk_does_not_give_costs_no_other() -> None:
    disk, _, frames = sealed((0, 10), (10, 20), (20, 30))
    reads = []
    file_of = disk.open(disk.names(".fgs")[0])
    read_into = type(file_of).read_into

    def failing(self: object, buffer: memoryview, position: int) -> int:
        if position == frames[1].position and len(buffer) > 448:
            raise OSError(errno.EIO, "Input/output error")
        reads.append(position)
        return read_into(self, buffer, position)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(file_of), "read_into", failing)
        (problem,) = only_segment(disk).problems

    assert problem.kind == "unreadable"
    assert problem.what == "orders[0], offsets 10 to 19: it cannot be read: Input/output error"
    assert frames[2].position in reads


def test_a_file_that_cannot_be_opened_is_unreadable_and_not_corrupt() -> None:
    disk, _, _ = sealed((0, 10))
    disk.fail("open", errno.EACCES)

    segment = only_segment(disk)

    assert segment.status == "unreadable"
    assert [(p.kind, p.what) for p in segment.problems] == [
        ("unreadable", "it cannot be read: Permission denied")
    ]


# Under a worker.


def growing(disk: CrashDisk, *, by: Callable[[bytearray], None]) -> Callable[[float], None]:
    (path,) = disk.names(".fgs")
    return lambda _: by(disk.files[path].data)


def test_a_torn_end_that_moves_on_is_a_worker_that_writes() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    first = len(disk.files[path].data)
    spill(store, 10, 20)
    whole = bytes(disk.files[path].data)
    disk.files[path].data = bytearray(whole[: first + 500])

    def go_on(data: bytearray) -> None:
        data[:] = whole + b"FGFR the next one"

    report = verify_slot(disk, DIRECTORY, growing(disk, by=go_on))

    (segment,) = report.segments
    assert not segment.problems and segment.records == 20


def test_what_is_torn_is_called_damaged_once_no_worker_writes() -> None:
    disk = fresh_disk()
    spill(store_on(disk, **ROOMY), 0, 10)
    (path,) = disk.names(".fgs")
    disk.files[path].data += b"FGFR the next one"

    found = [inspect_slot(each, DIRECTORY) for each in (disk, disk.after_kill())]

    assert [slot.damaged(slot.segments[0]) for slot in found] == [False, True]


def test_a_file_that_stays_empty_under_a_worker_is_damaged() -> None:
    disk = fresh_disk()
    store_on(disk)
    disk.files[f"{DIRECTORY}/{segment_name('bulk', 1)}"] = Inode()

    (segment,) = verify_slot(disk, DIRECTORY, no_pause).segments

    assert [problem.kind for problem in segment.problems] == ["header"]


def test_a_file_that_was_just_made_is_not_damaged() -> None:
    disk = fresh_disk()
    store_on(disk)
    disk.files[f"{DIRECTORY}/{segment_name('bulk', 1)}"] = Inode()

    def header(data: bytearray) -> None:
        data += a_header(1)

    (segment,) = verify_slot(disk, DIRECTORY, growing(disk, by=header)).segments

    assert segment.status == "open" and not segment.problems
