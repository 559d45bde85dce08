"""Rows that are left out, and what is between them."""

from __future__ import annotations

import numpy as np
import pytest

from flowguard.selection import all_but, runs_between


@pytest.mark.parametrize(
    ("rows", "runs"),
    [
        ([], [(0, 5)]),
        ([0], [(1, 4)]),
        ([4], [(0, 4)]),
        ([2], [(0, 2), (3, 2)]),
        ([1, 2], [(0, 1), (3, 2)]),
        ([0, 1, 2, 3, 4], []),
    ],
)
def test_runs_are_what_is_between_the_rows(rows: list[int], runs: list[tuple[int, int]]):
    assert runs_between(rows, 5) == runs


def test_runs_have_the_same_rows_as_the_mask():
    rows = [3, 4, 9, 17, 18, 39]

    found = [row for start, count in runs_between(rows, 40) for row in range(start, start + count)]

    assert found == np.flatnonzero(all_but(rows, 40)).tolist()
