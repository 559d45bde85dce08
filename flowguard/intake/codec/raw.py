"""`codec="raw"`: the bytes as they are, in one column `value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl
import pyarrow as pa

from flowguard.intake.codec.codec import Decoded
from flowguard.intake.codec.frames import to_frame

__all__ = ["RawCodec"]

#: So few values are converted as Python objects in less time than Arrow's and Polars's general
#: ways take.
FEW_VALUES: Final = 32


class RawCodec:
    """One binary column `value`; a tombstone is null. Never rejects."""

    name = "raw"
    waits = False

    def __init__(self) -> None:
        self.notices: list[str] = []

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the values as the column `value`. Shape: as many rows as values."""
        if sum(map(len, values)) <= FEW_VALUES:
            few = [value for array in values for value in array.to_pylist()]
            return Decoded(pl.Series("value", few, dtype=pl.Binary).to_frame())
        column = pa.chunked_array(list(values), pa.binary())
        return Decoded(to_frame(pa.table({"value": column})))

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return the column `value`; a null is a tombstone.

        Raises:
            ValueError: The frame has other columns, or `value` is neither binary nor string.
        """
        names = frame.column_names if isinstance(frame, pa.Table) else frame.columns
        if names != ["value"]:
            raise ValueError(f'codec "raw" writes one column, "value"; the frame has {names}')
        if isinstance(frame, pl.DataFrame):
            series = frame.to_series()
            if series.dtype == pl.Binary and len(series) <= FEW_VALUES:
                return pa.array(series.to_list(), pa.binary())
            column = series.to_arrow()
        else:
            column = frame.column(0)
        text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        if not any(is_one(column.type) for is_one in (*text, *binary)):
            raise ValueError(f'codec "raw" writes binary or string, but "value" is {column.type}')
        column = column.cast(pa.binary())
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def project(self, names: Sequence[str]) -> RawCodec:
        """Return the codec itself; it has one column."""
        return self
