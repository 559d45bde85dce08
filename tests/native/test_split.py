"""Splitting a chunk into groups, against the obvious way."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native.murmur2 import partitions_of
from flowguard._native.split import hash_groups, split_rows

BYTES = st.none() | st.binary(max_size=20)
ROWS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), BYTES, BYTES), max_size=40)


def batch_of(rows: list[tuple[int, bytes | None, bytes | None]]) -> pa.RecordBatch:
    offsets, keys, values = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.record_batch(
        {
            "offset": pa.array(offsets, pa.int64()),
            "key": pa.array(keys, pa.binary()),
            "value": pa.array(values, pa.binary()),
        }
    )


def int32(numbers: list[int]) -> pa.Int32Array:
    return pa.array(numbers, pa.int32())


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, data=st.data(), stride=st.integers(1, 5))
def test_each_group_has_its_rows_in_their_order(
    rows: Any, data: st.DataObject, stride: int
) -> None:
    groups = data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    start = data.draw(st.integers(0, len(rows)))

    parts = split_rows(batch_of(rows)[start:], int32(groups)[start:], 10, stride)

    expected: dict[int, list[Any]] = {}
    for row, group in zip(rows[start:], groups[start:], strict=True):
        expected.setdefault(group, []).append(row)
    assert [group for group, _ in parts] == sorted(expected)
    for group, part in parts:
        part.validate(full=True)
        assert [tuple(row.values()) for row in part.to_pylist()] == expected[group]


def test_a_batch_of_one_group_is_returned_as_it_is() -> None:
    batch = batch_of([(1, b"k", None), (2, None, b"v")])

    [(group, part)] = split_rows(batch, int32([3, 3]), 4)

    assert group == 3 and part is batch


def test_groups_of_another_stride_share_no_buffers() -> None:
    batch = batch_of([(row, b"k" * 10, b"v" * 10) for row in range(8)])

    parts = dict(split_rows(batch, int32([0, 1, 2, 3] * 2), 4, 2))

    def address(group: int) -> int:
        return int(parts[group].column("value").buffers()[2].address)

    assert address(0) == address(1) != address(2) == address(3)


@pytest.mark.parametrize("groups", [[0, 4], [-1, 0], [0, 2**31 - 1]])
def test_a_group_out_of_range_is_refused(groups: list[int]) -> None:
    with pytest.raises(ValueError, match=r"not in 0 \.\. 3"):
        split_rows(batch_of([(1, None, None), (2, None, None)]), int32(groups), 4)


def test_what_is_no_chunk_is_refused() -> None:
    batch = batch_of([(1, None, None)])
    with pytest.raises(ValueError, match="1 int32"):
        split_rows(batch, int32([0, 0]), 4)
    with pytest.raises(ValueError, match="1 int32"):
        split_rows(batch, int32([None]), 4)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="columns are"):
        split_rows(pa.record_batch({"a": pa.array([None], pa.int64())}), int32([0]), 4)
    with pytest.raises(ValueError, match="columns are"):
        split_rows(pa.record_batch({"a": pa.array(["x"])}), int32([0]), 4)
    with pytest.raises(ValueError, match="cannot be"):
        split_rows(batch, int32([0]), 0)


def test_a_group_depends_on_the_value_alone() -> None:
    values = pa.array([b"x", b"a", None, b"", b"a", b"a longer key of more than 8"], pa.binary())

    groups = hash_groups(values, 128).to_pylist()

    assert groups[2] == 0
    assert groups[1] == groups[4]
    assert hash_groups(values[1:], 128).to_pylist() == groups[1:]
    assert all(0 <= group < 128 for group in groups)


def test_a_group_is_the_same_in_every_process() -> None:
    program = (
        "import pyarrow as pa; from flowguard._native.split import hash_groups; "
        "print(hash_groups(pa.array([b'tenant-7', b'', b'abc']), 128).to_pylist())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    here = hash_groups(pa.array([b"tenant-7", b"", b"abc"]), 128).to_pylist()
    assert found.stdout.decode().strip() == str(here)


def test_values_spread_evenly_even_those_of_one_partition() -> None:
    keys = pa.array([b"customer-%d" % number for number in range(200_000)])
    of_one = keys.filter(pa.compute.equal(partitions_of(keys, 128), 5))

    groups = hash_groups(of_one, 128).to_pylist()

    counts = [groups.count(group) for group in range(128)]
    mean = len(groups) / 128
    assert max(counts) < 3.5 * mean and min(counts) > 0


@pytest.mark.parametrize("groups", [0, -1])
def test_no_groups_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match="1 group or more"):
        hash_groups(pa.array([b"a"]), groups)


def test_text_is_refused() -> None:
    with pytest.raises(TypeError, match="BinaryArray"):
        hash_groups(pa.array(["a"]), 4)
