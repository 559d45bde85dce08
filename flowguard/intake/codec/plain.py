"""Columns in the forms that text formats have: what is written is what is read back."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

__all__ = ["plain_columns"]

#: Types that are written as they are.
AS_IT_IS: Final = (pl.Float32, pl.Float64, pl.String, pl.Boolean, pl.Null)

#: Digits after the seconds, all of them: shorter forms would save bytes, not time.
FRACTION: Final = {"ms": "%.3f", "us": "%.6f", "ns": "%.9f"}


def plain_columns(frame: pl.DataFrame | pa.Table, *, binary_as_text: bool) -> pl.DataFrame:
    """Return the frame with decimals and times as text, durations as numbers.

    Args:
        frame: Any frame.
        binary_as_text: Binary columns become strings.

    Raises:
        ValueError: A type has no such form, or bytes that should be text are no UTF-8.
    """
    if isinstance(frame, pa.Table):
        frame = pl.DataFrame(frame)
    if all(kind.is_integer() or kind in AS_IT_IS for kind in frame.dtypes):
        return frame
    try:
        return frame.with_columns(
            _plain(pl.col(name), kind, binary_as_text).alias(name)
            for name, kind in frame.schema.items()
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the frame cannot be written as text: {error}") from error


def _plain(cell: pl.Expr, kind: pl.DataType, binary_as_text: bool) -> pl.Expr:
    """Return the expression that writes `cell`; the cell itself if nothing is to do."""
    if isinstance(kind, (pl.Decimal, pl.Categorical, pl.Enum)):
        return cell.cast(pl.String)
    if isinstance(kind, pl.Binary):
        return cell.cast(pl.String) if binary_as_text else cell
    if isinstance(kind, pl.Datetime):
        return _instant(cell, kind)
    if isinstance(kind, pl.Date):
        return cell.dt.strftime("%Y-%m-%d")
    if isinstance(kind, pl.Duration):
        return cell.to_physical()
    if isinstance(kind, pl.Time):
        return cell.dt.strftime("%H:%M:%S%.9f")
    if isinstance(kind, pl.List):
        return cell.list.eval(_plain(pl.element(), kind.inner, binary_as_text))  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return _struct(cell, kind, binary_as_text)
    if isinstance(kind, pl.Object):
        raise ValueError("a column of Python objects cannot be written")
    return cell


def _instant(cell: pl.Expr, kind: pl.Datetime) -> pl.Expr:
    text = f"%Y-%m-%dT%H:%M:%S{FRACTION[kind.time_unit]}"
    if kind.time_zone is None:
        return cell.dt.strftime(text)
    return cell.dt.convert_time_zone("UTC").dt.strftime(f"{text}Z")


def _struct(cell: pl.Expr, kind: pl.Struct, binary_as_text: bool) -> pl.Expr:
    if not kind.fields:
        return cell
    fields = [
        _plain(cell.struct.field(field.name), field.dtype, binary_as_text).alias(field.name)  # type: ignore[arg-type]
        for field in kind.fields
    ]
    # A null object stays null; without this it would be an object of nulls.
    return pl.when(cell.is_not_null()).then(pl.struct(fields))
