"""Queues of frames are queues; coverage says what need not be read from Kafka."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.spill.layout import NO_DEADLINE
from flowguard.spill.manifest import COMPACT_BYTES, PACKED, Frame, FrameQueue, coverage, usable
from tests.spill.builders import A


def frame(scan_lo: int = 0, scan_hi: int = 10, *, number: int = 0) -> Frame:
    return Frame(
        lane="bulk", partition=A, segment=2**32 - 1, number=number, position=2**32,
        stored_bytes=100 + number, raw_bytes=200 + number, records=scan_hi - scan_lo,
        scan_lo=scan_lo, scan_hi=scan_hi, min_timestamp_ms=-1, max_timestamp_ms=2**62,
        deadline_ms=NO_DEADLINE,
    )  # fmt: skip


def test_a_frame_costs_64_bytes() -> None:
    assert PACKED.size == 64


def test_frames_come_out_as_they_went_in() -> None:
    frames = [frame(0, 10), frame(10, 15, number=1), frame(20, 30, number=2)]
    queue = FrameQueue("bulk", A, frames)

    assert list(queue) == frames and queue[-1] == frames[-1] and queue[0] == frames[0]
    assert (queue.records, queue.stored_bytes, queue.raw_bytes) == (25, 303, 603)
    assert [queue.popleft() for _ in frames] == frames
    assert (len(queue), queue.records, queue.stored_bytes, queue.raw_bytes) == (0, 0, 0, 0)
    with pytest.raises(IndexError):
        queue.popleft()


steps = st.lists(st.sampled_from(["append", "appendleft", "popleft"]), max_size=60)


@given(steps=steps)
def test_a_queue_is_a_queue(steps: list[str]) -> None:
    queue, model = FrameQueue("bulk", A), deque[Frame]()
    for number, step in enumerate(steps):
        if step == "popleft":
            if model:
                assert queue.popleft() == model.popleft()
            continue
        each = frame(number, number + 1 + number % 7, number=number)
        getattr(queue, step)(each)
        getattr(model, step)(each)
    assert list(queue) == list(model)
    assert queue.records == sum(each.records for each in model)


def test_a_long_queue_gives_the_memory_of_what_was_taken_back() -> None:
    queue = FrameQueue("bulk", A)
    count = 4 * COMPACT_BYTES // PACKED.size
    for number in range(count):
        queue.append(frame(number, number + 1, number=number))

    for number in range(count):
        assert queue.popleft().number == number

    assert len(queue._packed) <= 2 * COMPACT_BYTES


def test_coverage_joins_what_adjoins_and_shows_holes() -> None:
    frames = [frame(0, 10), frame(10, 20), frame(25, 30), frame(28, 40), frame(50, 51)]

    assert coverage(frames) == [(0, 20), (25, 40), (50, 51)]
    assert coverage([]) == []


def test_frames_below_the_watermark_are_outdated_and_those_behind_a_hole_are_left() -> None:
    frames = [frame(0, 10), frame(10, 20), frame(20, 30), frame(35, 40), frame(40, 45)]

    found = usable(frames, 10)

    assert found.outdated == frames[:1]
    assert found.kept == frames[1:3]
    assert found.beyond == frames[3:]


def test_a_frame_that_is_finished_in_part_is_kept() -> None:
    assert usable([frame(0, 10), frame(10, 20)], 5).kept == [frame(0, 10), frame(10, 20)]


def test_what_waited_in_memory_before_the_first_frame_is_no_hole_in_what_is_kept() -> None:
    found = usable([frame(30, 40), frame(40, 50)], 12)

    assert (found.outdated, found.kept, found.beyond) == ([], [frame(30, 40), frame(40, 50)], [])


def test_nothing_is_kept_of_what_is_finished() -> None:
    assert usable([frame(0, 10)], 10).outdated == [frame(0, 10)]
    assert usable([], 10).kept == []
