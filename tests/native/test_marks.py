"""Marks of rows that several agents read. Deeper: unit/test_tally.py, against sets of rows."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flowguard._native.marks import Marks


def mask(*stays: int) -> pa.BooleanArray:
    return pa.array([bool(each) for each in stays])


def test_a_row_flies_while_an_agent_has_it():
    marks = Marks(4, 2)

    assert marks.start(0, 3) == 3
    assert marks.start(1, 3) == 1
    assert marks.land(0, 3) == 1
    assert marks.land(1, 3) == 3


def test_a_row_is_done_when_nobody_is_left_and_processed_if_one_settled_it():
    marks = Marks(3, 2)

    assert marks.finish(0, 2, processed=True) == (0, 0, None)
    done, settled, unprocessed = marks.finish(0, 3, processed=False)
    assert (done, settled, unprocessed) == (2, 2, None)
    done, settled, unprocessed = marks.finish(2, 1, processed=False)

    assert (done, settled, unprocessed.to_pylist()) == (1, 0, [True])
    assert marks.done(0, 3).to_pylist() == [True] * 3


def test_rows_that_an_agent_keeps_are_not_done():
    marks = Marks(4, 1)

    done, settled, unprocessed = marks.finish(0, 4, processed=False, keep=mask(1, 0, 0, 1))

    assert (done, settled, unprocessed.to_pylist()) == (2, 0, [False, True, True, False])


def test_rows_that_moved_have_the_marks_they_had():
    marks = Marks(6, 2)
    moved = marks.moved(1, 5, mask(1, 0, 1, 0, 1))
    again = moved.moved(1, 2, mask(0, 1))

    again.finish(0, 1, processed=True)
    marks.finish(0, 6, processed=False)

    assert (moved.rows, again.rows) == (3, 1)
    assert marks.done(0, 6).to_pylist() == [False] * 5 + [True]
    assert moved.done(0, 3).to_pylist() == [False, False, True]


def test_what_is_let_go_is_told_once():
    marks = Marks(3, 2)
    moved = marks.moved(0, 3, mask(0, 1, 1))
    moved.start(0, 1)

    assert moved.let_go() == (2, 1)
    assert marks.let_go() == (1, 0)
    assert moved.let_go() == (0, 0)


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 4), (3, 1), (0, -1), (2**62, 2**62)])
def test_rows_that_there_are_not_are_refused(start: int, count: int):
    marks = Marks(3, 1)

    for method in (marks.start, marks.land, marks.done):
        with pytest.raises(ValueError, match="are not among 3"):
            method(start, count)
    with pytest.raises(ValueError, match="are not among 3"):
        marks.moved(start, count, mask())


def test_impossible_marks_and_masks_are_refused():
    with pytest.raises(ValueError, match="cannot be marked for 256 agents"):
        Marks(1, 256)
    with pytest.raises(ValueError, match="a mask of 2 rows for 1"):
        Marks(1, 1).finish(0, 1, processed=True, keep=mask(1, 1))
    with pytest.raises(ValueError, match="a mask of 2 rows for 1"):
        Marks(1, 1).moved(0, 1, mask(1, 1))
