"""`codec="json"`: one JSON object a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa

from flowguard.intake.codec.codec import Decoded
from flowguard.intake.codec.frames import to_frame
from flowguard.intake.codec.inferred import InferredColumns
from flowguard.intake.codec.json_columns import JsonColumns, parse_json
from flowguard.intake.codec.plain import plain_columns
from flowguard.intake.codec.rows import Part, RowReader
from flowguard.intake.schema import Schema

__all__ = ["JsonCodec"]

FEW_ROWS: Final = 64

#: Types that need no form of their own in JSON.
PLAIN: Final = (pl.Float64, pl.String, pl.Boolean, pl.Null)

WRITER: Final = msgspec.json.Encoder()  # writes NaN and infinities as null, as Polars does


class JsonCodec:
    """JSON objects ⇄ rows.

    Reading: decimals take numbers and text, timestamps ISO 8601 (without an offset: UTC)
    or a number in their unit, dates ISO 8601 or days, durations a number in their unit,
    binary columns the UTF-8 of a string. `NaN` and `Infinity` are no JSON.

    Writing: nulls are written, decimals as text, timestamps and dates as ISO 8601,
    durations as numbers, binary as the string it is; NaN and infinities, which JSON does
    not have, become null.

    Args:
        columns: The declared columns; None to infer them.
    """

    name = "json"
    waits = False

    def __init__(self, columns: Schema | None = None) -> None:
        self.notices: list[str] = []
        self._declared = columns
        self._inferred = _InferredRows(self.notices) if columns is None else None
        self._rows = _declared_rows(columns) if columns is not None else self._inferred

    @property
    def schema(self) -> Schema | None:
        """The columns inferred so far; None if they were declared."""
        return self._inferred.columns.schema if self._inferred is not None else None

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; see `Codec.decode`."""
        assert self._rows is not None
        part = self._rows.decode(_one_array(values))
        return Decoded(to_frame(part.table), part.rejected)

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one JSON object per row, with all columns as members.

        Raises:
            ValueError: A column has a type that JSON cannot say, or bytes that are no UTF-8.
        """
        if isinstance(frame, pl.DataFrame) and _is_small_and_plain(frame):
            return pa.array([WRITER.encode(row) for row in frame.to_dicts()], pa.binary())
        plain = plain_columns(frame, binary_as_text=True)
        if not plain.width:
            return pa.array([b"{}"] * plain.height, pa.binary())
        objects = plain.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        return objects.to_arrow().cast(pa.binary())

    def project(self, names: Sequence[str]) -> JsonCodec:
        """Return the same codec for these columns only; see `Codec.project`."""
        assert self._declared is not None, "columns are inferred"
        return JsonCodec(self._declared.select(names))


def _is_small_and_plain(frame: pl.DataFrame) -> bool:
    """Tell whether rows are written faster one by one: an expression wakes other threads."""
    return len(frame) <= FEW_ROWS and all(
        kind.is_integer() or kind in PLAIN for kind in frame.dtypes
    )


def _one_array(values: Sequence[pa.BinaryArray]) -> pa.BinaryArray:
    if len(values) == 1:
        return values[0]
    return pa.concat_arrays(list(values)) if values else pa.array([], pa.binary())


def _declared_rows(schema: Schema) -> JsonColumns:
    reader = RowReader(schema)

    def by_row(values: Sequence[bytes | None]) -> Part:
        return reader.read(map(parse_json, values))

    return JsonColumns(schema, by_row)


class _InferredRows:
    """Rows of inferred columns: by row until the types are fixed, then as columns."""

    def __init__(self, notices: list[str]) -> None:
        self.columns = InferredColumns(notices)
        self._fast: tuple[Schema, JsonColumns] | None = None

    def decode(self, values: pa.BinaryArray) -> Part:
        """Return the rows, all of one schema, which is `columns.schema` afterwards."""
        schema = self.columns.schema
        if self.columns.fixed:
            try:
                part = self._reader(schema).decode(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                pass  # a later piece widened a type, so pieces could not be joined
            else:
                if self.columns.schema is schema:
                    return part
        return self._by_row(values.to_pylist())

    def _reader(self, schema: Schema) -> JsonColumns:
        if self._fast is None or self._fast[0] is not schema:
            self._fast = (schema, JsonColumns(schema, self._by_row, closed=True))
        return self._fast[1]

    def _by_row(self, values: Sequence[bytes | None]) -> Part:
        parsed = [parse_json(value) for value in values]
        return RowReader(self.columns.take_in(parsed), anything_as_text=True).read(parsed)
