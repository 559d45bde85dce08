"""Which rows stay, against the slow and obvious way."""

from __future__ import annotations

import subprocess
import sys
from array import array
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native.sieve import left_out, merged, newest, outside_cohort, range_lines, span
from tests.model.conflation import newest_offsets, ranges_of

KEYS = st.one_of(
    st.none(), st.sampled_from([b"", b"a", b"b", b"key-00001", b"key-00002"]), st.binary(max_size=9)
)
RECORDS = st.lists(
    st.tuples(st.integers(0, 200), KEYS), max_size=60, unique_by=lambda record: record[0]
)


def int64(numbers: list[int]) -> pa.Int64Array:
    return pa.array(numbers, pa.int64())


def pairs(flat: array[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def flat(ranges: list[tuple[int, int]]) -> array[int]:
    return array("q", [each for pair in ranges for each in pair])


def binary(values: list[bytes | None]) -> pa.BinaryArray:
    return pa.array(values, pa.binary())


def stays(keep: pa.BooleanArray | None, rows: int) -> list[bool]:
    return [True] * rows if keep is None else keep.to_pylist()


@settings(max_examples=400, deadline=None)
@given(records=RECORDS, cuts=st.lists(st.integers(0, 60), max_size=4), start=st.integers(0, 3))
def test_the_newest_of_each_key_stay_as_the_model_says(
    records: list[tuple[int, bytes | None]], cuts: list[int], start: int
) -> None:
    # Columns are slices that begin anywhere, and keys lie in any of them.
    edges = sorted({0, len(records), *(min(cut, len(records)) for cut in cuts)})
    pieces = [records[low:high] for low, high in pairwise(edges)]
    padding = [(0, b"a")] * start
    offsets = [int64([r[0] for r in padding + piece])[start:] for piece in pieces]
    keys = [binary([r[1] for r in padding + piece])[start:] for piece in pieces]

    masks = newest(offsets, keys)

    kept = {
        record[0]
        for piece, keep in zip(pieces, masks, strict=True)
        for record, stay in zip(piece, stays(keep, len(piece)), strict=True)
        if stay
    }
    assert kept == newest_offsets(records)


def test_nothing_to_look_at_gives_no_masks() -> None:
    assert newest([], []) == []
    assert newest([int64([])], [binary([])]) == [None]


def test_a_tombstone_is_a_record_like_any_other_and_no_key_is_none() -> None:
    [keep] = newest([int64([1, 2, 3, 4])], [binary([None, b"a", None, b"a"])])

    assert keep is not None and keep.to_pylist() == [True, False, True, True]


def test_an_empty_key_is_a_key() -> None:
    [keep] = newest([int64([1, 2])], [binary([b"", b""])])

    assert keep is not None and keep.to_pylist() == [False, True]


def test_the_order_of_the_rows_does_not_matter_only_their_offsets() -> None:
    masks = newest([int64([9, 3]), int64([5])], [binary([b"a", b"a"]), binary([b"a"])])

    assert [stays(keep, 1) for keep in masks] == [[True, False], [False]]


@settings(max_examples=200, deadline=None)
@given(records=RECORDS, low=st.floats(0, 1), high=st.floats(0, 1), hour=st.integers(0, 10**6))
def test_a_larger_share_has_all_keys_of_a_smaller_one_and_a_key_fares_as_a_whole(
    records: list[tuple[int, bytes | None]], low: float, high: float, hour: int
) -> None:
    low, high = sorted((low, high))
    offsets, keys = int64([r[0] for r in records]), binary([r[1] for r in records])
    hours = int64([hour] * len(records))

    few, many = (
        stays(outside_cohort(keys, offsets, hours, ratio), len(records)) for ratio in (low, high)
    )

    assert all(stay_few or not stay_many for stay_few, stay_many in zip(few, many, strict=True))
    fate: dict[bytes, set[bool]] = {}
    for (_, key), stay in zip(records, many, strict=True):
        if key is not None:
            fate.setdefault(key, set()).add(stay)
    assert all(len(each) == 1 for each in fate.values())


def test_a_share_of_the_keys_leaves_and_another_one_in_the_next_hour() -> None:
    keys = binary([b"entity-%d" % number for number in range(20_000)])
    offsets = int64(list(range(20_000)))

    first, second = (outside_cohort(keys, offsets, int64([hour] * 20_000), 0.3) for hour in (1, 2))

    assert first is not None and second is not None
    assert 0.68 < first.true_count / 20_000 < 0.72
    both = sum(a and b for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True))
    assert 0.46 < both / 20_000 < 0.52  # as independent draws do: 0.49


def test_records_without_a_key_leave_by_their_offset() -> None:
    keys = binary([None] * 10_000)
    keep = outside_cohort(keys, int64(list(range(10_000))), int64([0] * 10_000), 0.5)

    assert keep is not None and 0.47 < keep.true_count / 10_000 < 0.53


def test_no_share_leaves_all_and_the_whole_leaves_none() -> None:
    keys, numbers = binary([b"a", None]), int64([1, 2])

    assert outside_cohort(keys, numbers, numbers, 0.0) is None
    keep = outside_cohort(keys, numbers, numbers, 1.0)
    assert keep is not None and keep.true_count == 0


def test_a_key_is_drawn_alike_in_every_process() -> None:
    program = (
        "import pyarrow as pa; from flowguard._native.sieve import outside_cohort;"
        "n = pa.array(range(64), pa.int64());"
        "k = pa.array([b'%d' % i for i in range(64)], pa.binary());"
        "print(outside_cohort(k, n, n, 0.5).to_pylist())"
    )

    said = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }

    assert len(said) == 1


@settings(max_examples=200, deadline=None)
@given(mask=st.lists(st.booleans(), max_size=40), start=st.integers(0, 5))
def test_the_span_of_a_mask_is_where_its_rows_are(mask: list[bool], start: int) -> None:
    rows = [row for row, stay in enumerate(mask[start:]) if stay]

    assert span(pa.array(mask, pa.bool_())[start:]) == (
        (rows[0], rows[-1] + 1, len(rows)) if rows else (0, 0, 0)
    )


@settings(max_examples=200, deadline=None)
@given(
    offsets=st.lists(st.integers(0, 60), unique=True).map(sorted),
    data=st.data(),
)
def test_ranges_hold_what_leaves_and_nothing_else_of_the_lane(
    offsets: list[int], data: st.DataObject
) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(offsets), max_size=len(offsets)))
    left = [offset for offset, stay in zip(offsets, mask, strict=True) if not stay]
    keep = pa.array(mask, pa.bool_())

    assert pairs(left_out(int64(offsets), keep)) == ranges_of(left, offsets)
    assert pairs(left_out(int64(offsets), keep, False)) == ranges_of(left, list(range(61)))
    whole = [(offsets[0], offsets[-1] + 1)] if offsets else []
    assert pairs(left_out(int64(offsets), None)) == whole


RANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 9)).map(lambda each: (each[0], sum(each))),
    max_size=30,
)


@given(RANGES)
def test_merging_keeps_the_offsets_in_as_few_ranges_as_can_be(ranges: list[tuple[int, int]]):
    def offsets(of: list[tuple[int, int]]) -> set[int]:
        return {offset for start, end in of for offset in range(start, end)}

    found = pairs(merged(flat(ranges)))

    assert offsets(found) == offsets(ranges)
    assert all(end < start for (_, end), (start, _) in pairwise(found))


@given(RANGES, st.integers(1, 40))
def test_lines_hold_all_ranges_and_are_no_longer_than_asked_for(
    ranges: list[tuple[int, int]], room: int
):
    lines = range_lines(flat(ranges), room)

    words = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in ranges]
    assert ",".join(lines) == ",".join(words)
    assert all(len(line) <= room or "," not in line for line in lines)


def test_the_largest_offsets_can_be_written():
    assert range_lines(flat([(2**62, 2**63 - 1)]), 9) == [f"{2**62}-{2**63 - 2}"]


def test_what_is_no_column_of_the_right_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="keys must be a BinaryArray, not string"):
        newest([int64([1])], [pa.array(["a"])])
    with pytest.raises(TypeError, match="2 int64 without nulls, not 1 int64"):
        newest([int64([1])], [binary([b"a", b"b"])])
    with pytest.raises(ValueError, match="1 columns of offsets for 0 of keys"):
        newest([int64([1])], [])
    with pytest.raises(ValueError, match="ratio is 2"):
        outside_cohort(binary([]), int64([]), int64([]), 2.0)
    with pytest.raises(TypeError, match="a mask must be a BooleanArray"):
        span(int64([1]))
    with pytest.raises(TypeError, match="pairs in an array of typecode q"):
        merged(array("q", [1]))
    with pytest.raises(ValueError, match="a mask of 1 rows for 2 offsets"):
        left_out(int64([1, 2]), pa.array([True]))
