"""`codec="arrow"`, and codecs of the user's own: both speak record batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from flowguard.errors import ConfigError
from flowguard.intake.codec.codec import Decoded, Rejection
from flowguard.intake.codec.frames import to_frame
from flowguard.intake.codec.rows import Part, RowReader, join_parts
from flowguard.intake.schema import Schema, canonical

__all__ = ["ArrowCodec", "ForeignCodec"]


class ArrowCodec:
    """One Arrow IPC stream of exactly one row a value.

    For interoperation: a stream repeats its schema, so a value takes some hundred bytes
    and some ten microseconds more than its content. A column of another type than declared
    is read by the rules of MessagePack, so text never becomes a number.

    Args:
        columns: The declared columns; None to take the streams' own, which then only widen.
    """

    name = "arrow"
    waits = False

    def __init__(self, columns: Schema | None = None) -> None:
        self.notices: list[str] = []
        self._declared = columns
        self._tables = _Tables(columns, self.notices)

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; see `Codec.decode`."""
        listed = [value for array in values for value in array]
        return self._tables.decoded([_one_row(value) for value in listed])

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one IPC stream per row."""
        return pa.array([_stream(row) for row in _batch(frame)], pa.binary())

    def project(self, names: Sequence[str]) -> ArrowCodec:
        """Return the same codec for these columns only; see `Codec.project`."""
        assert self._declared is not None, "columns are inferred"
        return ArrowCodec(self._declared.select(names))


class ForeignCodec:
    """An object of the user with `decode(values) -> pa.RecordBatch` and `encode(batch)`.

    When its `decode` raises for many values it is asked again for each, so that only the
    bad ones are rejected.

    Args:
        codec: The object.
        columns: The declared columns; None to take the object's own.
    """

    waits = False

    def __init__(self, codec: Any, columns: Schema | None = None) -> None:
        self.name = str(getattr(codec, "name", type(codec).__name__))
        self.notices: list[str] = []
        self._codec = codec
        self._declared = columns
        self._tables = _Tables(columns, self.notices)

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; see `Codec.decode`."""
        column = pa.concat_arrays(list(values)) if values else pa.array([], pa.binary())
        whole = self._asked(column)
        if isinstance(whole, pa.Table) or len(column) == 1:
            return self._tables.decoded([whole], length=len(column))
        return self._tables.decoded(
            [self._asked(column.slice(row, 1)) for row in range(len(column))]
        )

    def _asked(self, values: pa.BinaryArray) -> pa.Table | str:
        """Return the object's rows, or why there are none."""
        try:
            batch = self._codec.decode(values)
        except Exception as error:  # the user's code may raise anything
            return f"{self.name} cannot decode the value: {type(error).__name__}: {error}"
        if not isinstance(batch, (pa.RecordBatch, pa.Table)):
            return f"{self.name} returned {type(batch).__name__}, not a RecordBatch"
        return batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return the object's values.

        Raises:
            ValueError: It did not return one value per row.
        """
        table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
        batches = table.combine_chunks().to_batches() or [_empty_batch(table.schema)]
        values = self._codec.encode(batches[0])
        if len(values) != table.num_rows:
            raise ValueError(f"{self.name} encoded {len(values)} values for {table.num_rows} rows")
        return pa.array(values, pa.binary()) if isinstance(values, list) else values

    def project(self, names: Sequence[str]) -> ForeignCodec:
        """Return the same codec for these columns only; see `Codec.project`."""
        assert self._declared is not None, "columns are inferred"
        return ForeignCodec(self._codec, self._declared.select(names))


class _Tables:
    """Tables of unknown shape, made one table of the feed's columns."""

    def __init__(self, columns: Schema | None, notices: list[str]) -> None:
        self._reader = RowReader(columns) if columns is not None else None
        self._seen: pa.Schema | None = None
        self._notices = notices

    def decoded(self, found: Sequence[pa.Table | str | None], *, length: int = -1) -> Decoded:
        """Return all rows; an entry is a table, a reason to reject, or None (a tombstone).

        Args:
            found: One entry a value, or one for all of them.
            length: How many values a single entry stands for; its rows must be as many.
        """
        wanted = max(length, 0) if length >= 0 else 1
        parts = [self._part(entry, wanted) for entry in found]
        if self._reader is None:
            parts = self._one_schema(parts)
        part = join_parts(parts) if parts else Part(self._empty(), [])
        return Decoded(to_frame(part.table), part.rejected)

    def _part(self, entry: pa.Table | str | None, wanted: int) -> Part:
        if isinstance(entry, pa.Table) and entry.num_rows != wanted:
            entry = f"{entry.num_rows} rows came out of {wanted} values"
        if isinstance(entry, str):
            return Part(self._empty(), [Rejection(row, entry) for row in range(wanted)])
        if self._reader is not None:
            return self._reader.read([None]) if entry is None else _aligned(entry, self._reader)
        return Part(_nothing(wanted) if entry is None else entry, [])

    def _empty(self) -> pa.Table:
        return self._reader.table([]) if self._reader is not None else _nothing(0)

    def _one_schema(self, parts: list[Part]) -> list[Part]:
        """Return the parts with the widest schema seen so far."""
        good = []
        for part in parts:
            try:
                self._widen(part.table.schema)
                good.append(part)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                reason = f"types cannot be brought together: {error}"
                rejected = [Rejection(row, reason) for row in range(part.length)]
                good.append(Part(_nothing(0), rejected))
        wide = self._seen if self._seen is not None else pa.schema([])
        return [Part(_widened(part.table, wide), part.rejected) for part in good]

    def _widen(self, schema: pa.Schema) -> None:
        before = self._seen
        if before is None or not len(before):
            self._seen = schema.remove_metadata()
        elif schema != before:
            wider = pa.unify_schemas([before, schema], promote_options="permissive")
            self._announce(before, wider)
            self._seen = wider.remove_metadata()

    def _announce(self, before: pa.Schema, after: pa.Schema) -> None:
        for field in after:
            at = before.get_field_index(field.name)
            if at < 0:
                self._notices.append(f'column "{field.name}" appeared as {field.type}')
            elif before.field(at).type != field.type:
                self._notices.append(
                    f'column "{field.name}" widened from {before.field(at).type} to {field.type}'
                )


def _one_row(value: pa.BinaryScalar) -> pa.Table | str | None:
    """Return the row of one IPC stream, why there is none, or None for a tombstone."""
    content = value.as_buffer()
    if content is None or not content.size:
        return None
    try:
        with pa.ipc.open_stream(content) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"value is not an Arrow stream: {error}"
    return table if table.num_rows == 1 else f"value holds {table.num_rows} rows, not one"


def _aligned(table: pa.Table, reader: RowReader) -> Part:
    """Return the declared columns of a table; by row if a type or a null needs care."""
    columns = []
    for field in reader.schema.arrow:
        column = _column(table, field)
        if column is None or (column.null_count and field.name in reader.schema.required):
            return _by_row(table, reader)
        columns.append(column)
    return Part(pa.table(columns, schema=reader.schema.arrow), [])


def _by_row(table: pa.Table, reader: RowReader) -> Part:
    try:
        return reader.read(table.to_pylist())
    except (ValueError, pa.ArrowException) as error:  # nanoseconds Python cannot hold
        rejected = [Rejection(row, f"value: {error}") for row in range(table.num_rows)]
        return Part(reader.table([]), rejected)


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | None:
    """Return the column as declared, nulls if it is missing, None if the type is another."""
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    found = table.column(field.name)
    try:
        return found.cast(field.type) if canonical(found.type) == field.type else None
    except ConfigError:  # a type that cannot be declared
        return None


def _nothing(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema) if columns else table


def _empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _batch(frame: pl.DataFrame | pa.Table) -> list[pa.RecordBatch]:
    """Return each row as a batch of its own."""
    table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    return [row for batch in table.to_batches() for row in _rows(batch)]


def _rows(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    return [batch.slice(row, 1) for row in range(batch.num_rows)]


def _stream(row: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as stream:
        stream.write_batch(row)
    content: bytes = sink.getvalue().to_pybytes()
    return content
