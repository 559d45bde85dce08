"""Rows that an agent names, by number or by mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["FEW_RUNS", "all_but", "rows_of", "runs_between"]

#: To join so few runs costs less than to look at each row, and wakes no other threads.
FEW_RUNS: Final = 16


def rows_of(selection: Any, length: int) -> list[int]:
    """Return the rows that a selection names, ascending, each once.

    Args:
        selection: Row numbers, or a mask with a value a row; a list, a Polars series, an
            Arrow array, a NumPy array, or one number. A null in a mask selects nothing.
        length: How many rows there are.

    Raises:
        TypeError: It is neither.
        ValueError: The mask has another length, or there is no such row.
    """
    if isinstance(selection, int) and not isinstance(selection, bool):
        selection = [selection]
    if isinstance(selection, set | frozenset | range):
        selection = list(selection)
    if isinstance(selection, np.ndarray) and selection.dtype == bool and selection.ndim == 1:
        return rows_in(selection, length)
    try:
        series = pl.Series(selection)
    except TypeError as error:
        raise TypeError(f"{selection!r} is neither row numbers nor a mask") from error
    if series.dtype == pl.Boolean:
        if series.null_count():
            series = series.fill_null(False)
        return rows_in(series.to_numpy(), length)
    if not len(series):
        return []
    if not series.dtype.is_integer():
        raise TypeError(f"rows of type {series.dtype} are neither row numbers nor a mask")
    rows = sorted(set(series.drop_nulls().to_list()))
    if rows and not (rows[0] >= 0 and rows[-1] < length):
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise ValueError(f"there is no row {wrong}; the batch has {length} records")
    return rows


def rows_in(mask: npt.NDArray[np.bool_], length: int) -> list[int]:
    """Return the rows that a mask names."""
    if len(mask) != length:
        raise ValueError(f"the mask has {len(mask)} values, the batch {length} records")
    return np.flatnonzero(mask).tolist()


def all_but(rows: Sequence[int], length: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the other rows. Shape: `length`."""
    mask = np.ones(length, bool)
    mask[list(rows)] = False
    return mask


def runs_between(rows: Sequence[int], length: int) -> list[tuple[int, int]]:
    """Return the runs of other rows: where each begins, and how many rows it has.

    Args:
        rows: Ascending, each once.
    """
    starts = [0, *(row + 1 for row in rows)]
    ends = [*rows, length]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True) if start < end]
