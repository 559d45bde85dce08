"""Every byte of a small store: whatever is changed is found, and costs its own records only."""

from __future__ import annotations

import pytest

from flowguard.errors import FrameLost
from flowguard.spill.findings import Problem
from flowguard.spill.inspection import verify_slot
from flowguard.spill.layout import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, aligned
from flowguard.spill.manifest import Frame
from flowguard.spill.options import LaneSpill
from flowguard.spill.store import SpillStore
from tests.spill.builders import (
    DIRECTORY,
    KEYS,
    QUOTA,
    A,
    B,
    Keys,
    assert_reads,
    fresh_disk,
    spill,
    store_on,
)
from tests.spill.crash_disk import CrashDisk

LANES = {
    "plain": {"bulk": LaneSpill(max_bytes=QUOTA)},
    "packed": {"bulk": LaneSpill(max_bytes=QUOTA, compression="lz4")},
    "encrypted": {"bulk": LaneSpill(max_bytes=QUOTA, keys=Keys(*KEYS))},
}
RUNS = [(0, 4, A), (4, 7, B), (4, 9, A)]


class Small:
    """A store of three frames, one flipped bit at a time."""

    def __init__(self, kind: str, *, sealed: bool) -> None:
        self.lanes = LANES[kind]
        disk = fresh_disk()
        store = store_on(disk, lanes=self.lanes)
        self.frames = [spill(store, *span, partition=place) for *span, place in RUNS]
        if sealed:
            store.close()
        self.disk = disk.after_kill()
        (self.path,) = self.disk.names(".fgs")
        self.size = len(self.disk.files[self.path].data)

    def flipped(self, bit: int) -> CrashDisk:
        disk = self.disk.copy()
        disk.files[self.path].data[bit // 8] ^= 1 << bit % 8
        return disk

    def problems(self, disk: CrashDisk) -> list[Problem]:
        report = verify_slot(disk, DIRECTORY, lambda _: None)
        return [problem for segment in report.segments for problem in segment.problems]

    def of_bit(self, bit: int) -> Frame | None:
        """Return the frame that has a bit, None if it is in none."""
        within = [f for f in self.frames if f.position <= bit // 8 < end_of(f)]
        return within[0] if within else None


def end_of(frame: Frame) -> int:
    return frame.position + FRAME_HEADER_BYTES + aligned(frame.stored_bytes)


def read_all(store: SpillStore) -> list[Frame]:
    """Return the frames that a store has and can read; each is as it was written."""
    found = []
    for run in store.recovered:
        for frame in run.frames:
            try:
                assert_reads(store, frame)
            except FrameLost:
                continue
            found.append(frame)
    return sorted(found)


def check(small: Small, bit: int) -> None:
    disk = small.flipped(bit)
    assert small.problems(disk), f"verify does not find bit {bit}"
    readable = read_all(store_on(disk, lanes=small.lanes))
    hurt = small.of_bit(bit)
    if bit // 8 < SEGMENT_HEADER_BYTES:
        assert readable == [] and disk.names("quarantine")
    else:
        assert readable == sorted(frame for frame in small.frames if frame != hurt), f"bit {bit}"


@pytest.mark.parametrize(
    ("kind", "sealed", "step"),
    [("plain", True, 1), ("plain", False, 11), ("packed", True, 11), ("encrypted", True, 11)],
)
def test_a_flip_in_every_byte_is_found_and_costs_one_frame(
    kind: str, sealed: bool, step: int
) -> None:
    small = Small(kind, sealed=sealed)
    assert not small.problems(small.disk)

    for byte in range(0, SEGMENT_HEADER_BYTES, step):
        check(small, 8 * byte + byte % 8)
    for byte in range(SEGMENT_HEADER_BYTES, small.size, step):
        check(small, 8 * byte + byte % 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(LANES))
def test_a_flip_of_every_bit_is_found_and_costs_one_frame(kind: str) -> None:
    small = Small(kind, sealed=True)

    for bit in range(8 * small.size):
        check(small, bit)


@pytest.mark.parametrize(("kind", "sealed", "step"), [("plain", True, 1), ("encrypted", False, 17)])
def test_a_file_cut_off_at_every_byte_is_found_and_costs_what_was_cut(
    kind: str, sealed: bool, step: int
) -> None:
    small = Small(kind, sealed=sealed)
    ends = [end_of(frame) for frame in small.frames]
    between = {SEGMENT_HEADER_BYTES, *ends}  # there a file ends as one that is not finished

    for size in range(SEGMENT_HEADER_BYTES, small.size, step):
        disk = small.disk.copy()
        del disk.files[small.path].data[size:]
        whole = [frame for frame, end in zip(small.frames, ends, strict=True) if end <= size]
        assert size in between or small.problems(disk), f"verify does not find {size}"
        store = store_on(disk, lanes=small.lanes)
        assert read_all(store) == sorted(whole), f"cut at {size}"
        assert not small.problems(disk), "what a start repaired is not to be repaired again"


def test_a_segment_of_nothing_but_its_header_cut_off_is_quarantined() -> None:
    small = Small("plain", sealed=False)

    for size in (0, 1, SEGMENT_HEADER_BYTES - 1):
        disk = small.disk.copy()
        del disk.files[small.path].data[size:]
        assert [problem.kind for problem in small.problems(disk)] == ["header"]
        store = store_on(disk, lanes=small.lanes)
        assert read_all(store) == [] and disk.names("quarantine")
