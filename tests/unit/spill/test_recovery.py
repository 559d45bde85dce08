"""A segment gives the same answer however it was damaged: what is whole, and where it is not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flowguard.spill.layout import (
    ALIGNMENT,
    FOOTER,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    BadSegment,
)
from flowguard.spill.manifest import Frame
from flowguard.spill.recovery import SEARCH_BYTES, Damage, Found, newest_runs, read_contents, scan
from tests.spill.builders import ROOMY, A, B, fresh_disk, spill, store_on


class Bytes:
    """A file in memory; it counts how much is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.num_bytes = len(data)
        self.read_bytes = 0

    def read(self, position: int, count: int) -> bytes:
        found = self.data[position : position + count]
        self.read_bytes += len(found)
        return found


def segment(*sizes: int, sealed: bool = True, seed: int = 0) -> tuple[bytes, list[Frame]]:
    """Return the bytes of a segment whose frames have so many records."""
    disk = fresh_disk(seed)
    store = store_on(disk, **ROOMY)
    frames, start = [], 0
    for size in sizes:
        frames.append(spill(store, start, start + size))
        start += size
    if sealed:
        store.close()
    (path,) = disk.names(".fgs")
    return bytes(disk.files[path].data), frames


def ends(frames: list[Frame]) -> list[int]:
    return [frame.position for frame in frames]


def test_a_sealed_segment_is_known_by_its_footer_without_reading_it() -> None:
    data, frames = segment(10, 300, 20)
    source = Bytes(data)

    contents = read_contents(source)

    assert [header.position for header in contents.frames] == ends(frames)
    assert contents.footer is not None and contents.footer.kind == FOOTER
    assert not contents.damage
    assert source.read_bytes < SEGMENT_HEADER_BYTES + 4 * FRAME_HEADER_BYTES + 200


def test_a_segment_without_a_footer_is_scanned() -> None:
    data, frames = segment(10, 300, 20, sealed=False)

    contents = read_contents(Bytes(data))

    assert [header.position for header in contents.frames] == ends(frames)
    assert contents.footer is None and not contents.damage and contents.end == len(data)


@pytest.mark.parametrize("back", [1, TRAILER_BYTES, TRAILER_BYTES + 1, 500])
def test_a_damaged_footer_costs_a_scan_and_nothing_else(back: int) -> None:
    data, frames = segment(10, 300, 20)
    broken = bytearray(data)
    broken[-back] ^= 0xFF

    contents = read_contents(Bytes(bytes(broken)))

    assert [header.position for header in contents.frames] == ends(frames)


def test_a_tail_torn_at_any_byte_costs_the_last_frame_only() -> None:
    data, frames = segment(3, 4, 5, sealed=False)

    for size in range(frames[2].position, len(data)):
        contents = read_contents(Bytes(data[:size]))
        torn = [] if size == frames[2].position else [Damage("torn", frames[2].position, size)]
        assert [header.position for header in contents.frames] == ends(frames[:2])
        assert contents.damage == torn and contents.end == frames[2].position


def test_frames_behind_a_damaged_header_are_found_again() -> None:
    data, frames = segment(3, 400, 5, sealed=False)
    broken = bytearray(data)
    broken[frames[1].position + 30] ^= 1

    contents = read_contents(Bytes(bytes(broken)))

    assert [header.position for header in contents.frames] == [
        frames[0].position,
        frames[2].position,
    ]
    assert contents.damage == [Damage("gap", frames[1].position, frames[2].position)]


def test_a_zeroed_page_over_two_frames_costs_these_two() -> None:
    data, frames = segment(30, 30, 30, 30, sealed=False)
    broken = bytearray(data)
    start, stop = frames[1].position + 100, frames[2].position + 100
    broken[start:stop] = bytes(stop - start)

    contents = read_contents(Bytes(bytes(broken)))

    assert [header.position for header in contents.frames] == [
        frames[0].position,
        frames[3].position,
    ]
    assert contents.damage == [Damage("gap", frames[1].position, frames[3].position)]


def test_zeros_at_the_end_are_no_frames() -> None:
    data, frames = segment(3, 4, sealed=False)

    contents = read_contents(Bytes(data + bytes(5000)))

    assert [header.position for header in contents.frames] == ends(frames)
    assert contents.damage == [Damage("torn", len(data), len(data) + 5000)]


def test_blocks_of_another_segment_are_no_frames() -> None:
    data, frames = segment(3, 4, sealed=False)
    stale, _ = segment(3, 4, 5, 6, sealed=False, seed=99)

    contents = read_contents(Bytes(data + stale[len(data) :]))

    assert [header.position for header in contents.frames] == ends(frames)
    assert contents.damage == [Damage("torn", len(data), len(stale))]


def test_a_frame_that_was_written_elsewhere_is_no_frame_there() -> None:
    data, frames = segment(3, 3, 3, sealed=False)
    size = frames[1].position - frames[0].position
    moved = bytearray(data)
    moved[frames[1].position : frames[2].position] = data[
        frames[0].position : frames[0].position + size
    ]

    contents = read_contents(Bytes(bytes(moved)))

    assert [header.position for header in contents.frames] == [
        frames[0].position,
        frames[2].position,
    ]


def test_the_way_back_is_found_over_more_than_one_look() -> None:
    for hole in (SEARCH_BYTES - 448, SEARCH_BYTES - 64, SEARCH_BYTES, 3 * SEARCH_BYTES + 64):
        disk = fresh_disk()
        store = store_on(disk, **ROOMY)
        first = spill(store, 0, 3)
        (path,) = disk.names(".fgs")
        inode = disk.files[path]
        inode.data.extend(bytes(hole - len(inode.data) % ALIGNMENT))
        stream = store._streams["bulk"]
        assert stream.active is not None
        stream.active.num_bytes = len(inode.data)
        second = spill(store, 3, 6)

        contents = read_contents(Bytes(bytes(inode.data)))

        assert [each.position for each in contents.frames] == [first.position, second.position]


def test_a_file_that_is_no_segment_says_why() -> None:
    for data in (b"", b"FGSPILL1", bytes(10_000), b"x" * 10_000):
        with pytest.raises(BadSegment):
            read_contents(Bytes(data))


def test_a_segment_without_frames_has_none() -> None:
    data, _ = segment(3, sealed=False)

    contents = read_contents(Bytes(data[:SEGMENT_HEADER_BYTES]))

    assert contents.frames == [] and contents.damage == []


def test_a_scan_and_a_footer_agree() -> None:
    data, _ = segment(*range(1, 40))
    source = Bytes(data)

    by_footer = read_contents(source)
    by_scan = scan(source, by_footer.header)

    assert by_scan.frames == by_footer.frames and by_scan.footer == by_footer.footer


# Runs.


def found(
    scan_lo: int, scan_hi: int, *, written: tuple[int, int], run: int = 1, partition: object = A
) -> Found:
    frame = Frame(
        lane="bulk", partition=partition, segment=written[0], number=written[1], position=4096,
        stored_bytes=1, raw_bytes=1, records=1, scan_lo=scan_lo, scan_hi=scan_hi,
        min_timestamp_ms=0, max_timestamp_ms=0, deadline_ms=0,
    )  # type: ignore[arg-type]  # fmt: skip
    return Found(frame, run, b"")


def test_of_each_partition_the_newest_run_counts() -> None:
    old, older_b = found(0, 50, written=(1, 0), run=7), found(0, 5, written=(1, 1), partition=B)
    new = [found(0, 10, written=(2, 0), run=8), found(10, 20, written=(3, 0), run=8)]

    runs, left = newest_runs([*reversed(new), old, older_b])

    assert runs == [new, [older_b]] or runs == [[older_b], new]
    assert left == [old.frame]


def test_what_was_written_again_replaces_what_was_lost() -> None:
    frames = [found(0, 10, written=(1, 0)), found(10, 20, written=(1, 1)),
              found(20, 30, written=(1, 2)), found(10, 20, written=(1, 3))]  # fmt: skip

    (run,), left = newest_runs(frames)

    assert [each.written for each in run] == [(1, 0), (1, 3), (1, 2)]
    assert left == [frames[1].frame]


def test_a_later_frame_over_several_earlier_ones_replaces_them_all() -> None:
    frames = [found(0, 10, written=(1, 0)), found(10, 20, written=(1, 1)),
              found(5, 25, written=(1, 2)), found(20, 22, written=(1, 3))]  # fmt: skip

    (run,), left = newest_runs(frames)

    spans = [(each.frame.scan_lo, each.frame.scan_hi) for each in run]
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))
    assert len(run) + len(left) == len(frames)
    assert frames[3] in run
