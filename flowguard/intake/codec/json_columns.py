"""JSON to columns at C speed, where that is provably what `rows.py` would say.

    values ─▶ ObjectReader ─▶ few rows in doubt ─────────────▶ columns, those rows by row
                   └────────▶ many, or lists and structs ─▶ Arrow's reader ─▶ the same

`ObjectReader` (ext/json_rows.pyx) is strict: what it does not doubt needs no guard. Arrow
reads what it does not know, and stretches full of things that it leaves to others.

Arrow's JSON reader checks types strictly and works outside the interpreter lock, but it
reads a *stream* of documents and trusts its input. So values are looked at first, and a
value in doubt is blanked and read by row. What each guard is for (all seen, pyarrow 26):

    begins with "{", ends with "}"   a document cannot begin in one value and end in the
                                     next; a first document `null` ends the process
    no raw newline                   the same, and a value is one line
    as many rows as values           a value with two documents
    no bare NaN or Infinity          read as numbers
    few brackets                     200,000 levels overflow the C stack
    no "e-99" in a decimal number    a large negative exponent reads outside a table
    UTF-8                            not checked at all
    decimals within precision        1e10 passes as decimal128(12, 2)
    floats finite                    float32 overflows to infinity

An error costs nothing but time. A C-speed check of each value's types finds who is to
blame; if the rest still fails, the stretch is cut in 16, and only small pieces that fail
are read by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from flowguard._native import wire
from flowguard._native.json_rows import ObjectReader
from flowguard.intake.codec.codec import Rejection
from flowguard.intake.codec.rows import (
    BLANK,
    DATE_TEXT,
    TIMESTAMP_TEXT,
    Number,
    Part,
    WrongValue,
    counts,
    join_parts,
)
from flowguard.intake.schema import Schema
from flowguard.selection import FEW_RUNS, all_but, runs_between

__all__ = ["JsonColumns", "parse_json"]

Mask: TypeAlias = npt.NDArray[np.bool_]

#: Arrow's reader costs 1.3 ms before the first value; so many values cost less by row.
FEW_VALUES: Final = 384
#: More doubtful rows than this, and than one in four, are worth another reader.
FEW_DOUBTFUL: Final = 64
DOUBTFUL_RATIO: Final = 0.25
#: At most this many values are read by row because one of them is bad.
BY_ROW_VALUES: Final = 256
#: Pieces a stretch is cut into when it cannot be read as a whole.
PIECES: Final = 16
#: Values looked at to see whether a column holds numbers or text.
SAMPLE_VALUES: Final = 16
#: Arrow reads blocks of at least this size; larger ones go to its threads one by one.
BLOCK_BYTES: Final = 1 << 20
#: Brackets that may open in one value. Far below what overflows Arrow's stack, and below
#: what the row path refuses as nested too deeply, so that both say the same.
MAX_BRACKETS: Final = 500

#: Looked for in every value, in one pass; what is found is looked at more closely.
NEEDLES: Final = ["NaN", "Inf"]
DOUBTFUL: Final = r"[:,\[\s-](NaN|Inf(inity)?)\s*[,}\]]"
#: The same where decimals are JSON numbers; an escape could spell an exponent.
DECIMAL_NEEDLES: Final = [*NEEDLES, "e-", "E-", r"\u"]
DECIMAL_DOUBTFUL: Final = DOUBTFUL + r"|[0-9.][eE]-|\\u"

JSON: Final = msgspec.json.Decoder(float_hook=Number)
#: What a decoder may raise for bytes that are no JSON, or nested too deeply.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_json(value: bytes | None) -> Any:
    """Return a value parsed, None for a tombstone or blank, a `WrongValue` for a bad one."""
    if value is None or not value.strip(BLANK):
        return None
    try:
        parsed = JSON.decode(value)
    except RecursionError:
        return WrongValue("value is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return WrongValue(f"value is not JSON: {error}")
    return WrongValue("value is not an object, found null") if parsed is None else parsed


class JsonColumns:
    """Reads JSON objects into the columns of a schema.

    Args:
        schema: The columns.
        by_row: Reads values one at a time; has the last word on every value in doubt.
        closed: A member that is no column makes its stretch go to `by_row`. For inferred
            columns, where it is a new one.
    """

    def __init__(
        self,
        schema: Schema,
        by_row: Callable[[Sequence[bytes | None]], Part],
        *,
        closed: bool = False,
    ) -> None:
        self._schema = schema
        self._by_row = by_row
        self._sniffed = [field.name for field in schema.arrow if _is_ambiguous(field.type)]
        self._columnar = all(_is_columnar(field.type) for field in schema.arrow)
        self._members = _record_decoder(schema, set(), closed=True, check=False) if closed else None

        self._checks: dict[frozenset[str], msgspec.json.Decoder[Any]] = {}
        self._objects = None
        if len(schema.arrow) and all(ObjectReader.supports(field.type) for field in schema.arrow):
            self._objects = ObjectReader(schema.arrow, closed=closed)

    def decode(self, values: pa.BinaryArray) -> Part:
        """Return the rows of all values, in order."""
        part = self._plain(values, self._objects) if self._objects is not None else None
        return self._with_arrow(values) if part is None else part

    def _plain(self, values: pa.BinaryArray, objects: ObjectReader) -> Part | None:
        """Return the rows as our own reader has them; None if it doubts too many."""
        columns, mask = objects.read(values)
        table = pa.table(columns, schema=self._schema.arrow)
        required = [table.column(name) for name in self._schema.required]
        if mask is None and not any(column.null_count for column in required):
            return Part(table, [])
        doubtful = np.zeros(len(values), bool) if mask is None else _as_numpy(mask)
        if np.count_nonzero(doubtful) > max(FEW_DOUBTFUL, DOUBTFUL_RATIO * len(values)):
            return None
        for column in required:
            doubtful |= _as_numpy(column.is_null())
        return self._settle(table, values, doubtful)

    def _with_arrow(self, values: pa.BinaryArray) -> Part:
        """Return the rows as Arrow's reader has them, or by row if they are few."""
        if len(values) <= FEW_VALUES:
            return self._by_row(values.to_pylist())
        part = self._stretch(values) if self._columnar and len(self._schema.arrow) else None
        if part is not None:
            return part
        if len(values) <= BY_ROW_VALUES:
            return self._by_row(values.to_pylist())
        step = -(-len(values) // PIECES)
        starts = range(0, len(values), step)
        return join_parts([self._with_arrow(values.slice(start, step)) for start in starts])

    def _stretch(self, values: pa.BinaryArray) -> Part | None:
        """Return the rows read as columns, values in doubt by row; None if that fails."""
        numeric = self._numeric_columns(values)
        doubtful = _doubtful_rows(values, self._has_decimal(numeric))
        table, late = self._try(_blanked(values, doubtful), numeric)
        if table is None:
            doubtful = doubtful | self._misfits(values, numeric)
            table, late = self._try(_blanked(values, doubtful), numeric)
        if table is None:
            return None
        for mask in late:
            doubtful = doubtful | mask
        for name in self._schema.required:
            doubtful = doubtful | _series(table.column(name).is_null())
        return self._settle(table, values, doubtful.to_numpy())

    def _try(
        self, values: pa.BinaryArray, numeric: set[str]
    ) -> tuple[pa.Table | None, list[pl.Series]]:
        """Return the columns and masks of rows that need a closer look; None if it fails."""
        fields = list(self._schema.arrow)
        try:
            table = self._read(values, numeric)
            finished = [_finish(table.column(f.name), f.type, f.name in numeric) for f in fields]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, *UNREADABLE):
            return None, []
        columns = [column for column, _ in finished]
        masks = [mask for _, mask in finished if mask is not None]
        return pa.table(columns, schema=self._schema.arrow), masks

    def _misfits(self, values: pa.BinaryArray, numeric: set[str]) -> pl.Series:
        """Return a mask of the values that have a member of a wrong type, or are no JSON."""
        key = frozenset(numeric)
        if key not in self._checks:  # generating a type takes as long as reading 500 values
            closed = self._members is not None
            self._checks[key] = _record_decoder(self._schema, numeric, closed=closed)
        decode = self._checks[key].decode
        mask = [False] * len(values)
        for row, value in enumerate(values.to_pylist()):
            try:
                if value is not None:
                    decode(value)
            except UNREADABLE:
                mask[row] = True
        return pl.Series(mask, dtype=pl.Boolean)

    def _settle(self, table: pa.Table, values: pa.BinaryArray, doubtful: Mask) -> Part:
        """Return the table with every doubtful row replaced by what the row path says."""
        rows = np.flatnonzero(doubtful)
        if not len(rows):
            return Part(table, [])
        slow = self._by_row([values[row].as_py() for row in rows.tolist()])
        if slow.table.schema != table.schema:  # inferred columns widened; the caller repeats
            return self._by_row(values.to_pylist())
        rejected = [Rejection(int(rows[row]), reason) for row, reason in slow.rejected]
        if not slow.table.num_rows:
            return Part(_without(table, [row for row, _ in rejected]), rejected)
        kept = all_but([row for row, _ in rejected], len(values))
        order = np.arange(len(values))
        order[rows[kept[rows]]] = np.arange(len(values), len(values) + slow.table.num_rows)
        return Part(pa.concat_tables([table, slow.table]).take(pa.array(order[kept])), rejected)

    def _read(self, values: pa.BinaryArray, numeric: set[str]) -> pa.Table:
        """Return the columns as Arrow reads them. Shape: `len(values)` rows.

        Raises:
            pa.ArrowInvalid: Some value is no JSON or of a wrong type.
        """
        lines, _ = wire.join_lines([values])
        if self._members is not None:
            self._members.decode_lines(lines)
        wanted = [
            pa.field(field.name, _read_type(field.type, field.name in numeric))
            for field in self._schema.arrow
        ]
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        table = pyarrow.json.read_json(
            pa.BufferReader(lines),
            # A line that straddles two blocks is read again; one larger than both, never.
            read_options=pyarrow.json.ReadOptions(
                use_threads=lines.size > BLOCK_BYTES, block_size=max(BLOCK_BYTES, longest + 2)
            ),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(wanted),
                newlines_in_values=False,
                unexpected_field_behavior="ignore",
            ),
        )
        if table.num_rows != len(values):
            raise pa.ArrowInvalid("a value holds several documents")
        return table

    def _numeric_columns(self, values: pa.BinaryArray) -> set[str]:
        """Return the columns that hold JSON numbers where text would do as well."""
        unknown, numeric = set(self._sniffed), set()
        for value in values[:SAMPLE_VALUES].to_pylist() if unknown else ():
            parsed = parse_json(value)
            found = parsed if isinstance(parsed, dict) else {}
            for name in [name for name in unknown if found.get(name) is not None]:
                unknown.discard(name)
                if isinstance(found[name], (int, Number)):
                    numeric.add(name)
        return numeric

    def _has_decimal(self, names: set[str]) -> bool:
        return any(pa.types.is_decimal(self._schema.arrow.field(name).type) for name in names)


def _without(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Return a table without some rows, ascending."""
    runs = runs_between(rows, table.num_rows)
    if not runs or len(runs) > FEW_RUNS:
        return table.filter(pa.array(all_but(rows, table.num_rows)))
    return pa.concat_tables([table.slice(*run) for run in runs]).combine_chunks()


# ------------------------------------------------------------------ guards


def _doubtful_rows(values: pa.BinaryArray, decimals: bool) -> pl.Series:
    """Return a mask of the values that Arrow's reader must not see. Shape: `len(values)`."""
    text = _as_text(values)
    is_object = pc.and_(pc.starts_with(values, b"{"), pc.ends_with(values, b"}"))
    doubtful = ~_series(is_object.fill_null(True))
    if text.null_count() > values.null_count:
        doubtful = doubtful | (text.is_null() & ~_series(values.is_null()))
    if not wire.join_lines([values])[1]:
        doubtful = doubtful | text.str.contains(r"[\n\r]").fill_null(False)
    suspects = text.str.contains_any(DECIMAL_NEEDLES if decimals else NEEDLES).fill_null(False)
    if suspects.any():
        pattern = DECIMAL_DOUBTFUL if decimals else DOUBTFUL
        rows = suspects.arg_true()
        doubtful[rows.filter(text.gather(rows).str.contains(pattern))] = True
    if (text.str.len_bytes() > MAX_BRACKETS).any():
        doubtful = doubtful | (text.str.count_matches(r"[\[{]") > MAX_BRACKETS).fill_null(False)
    return doubtful


def _as_text(values: pa.BinaryArray) -> pl.Series:
    """Return the values as text; those that are not UTF-8 are null."""
    try:
        return pl.Series(values.cast(pa.string()), dtype=pl.String)
    except pa.ArrowInvalid:
        return pl.Series([_text_or_none(value) for value in values.to_pylist()], dtype=pl.String)


def _text_or_none(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _blanked(values: pa.BinaryArray, doubtful: pl.Series) -> pa.BinaryArray:
    if not doubtful.any():
        return values
    return pc.if_else(doubtful.to_arrow(), pa.scalar(None, values.type), values)


def _as_numpy(mask: pa.Array | pa.ChunkedArray) -> Mask:
    return np.array(mask)


def _series(mask: pa.Array | pa.ChunkedArray) -> pl.Series:
    return pl.Series(mask, dtype=pl.Boolean)


def _record_decoder(
    schema: Schema, numeric: set[str], *, closed: bool, check: bool = True
) -> msgspec.json.Decoder[Any]:
    """Return a decoder that fails for values which Arrow would not take.

    Args:
        schema: The columns.
        numeric: Columns that hold numbers where text would do as well.
        closed: Fail for a member that is no column.
        check: Check the types of members.
    """
    members = [
        (f"m{at}", _checked_type(field.type, field.name in numeric) if check else msgspec.Raw, None)
        for at, field in enumerate(schema.arrow)
    ]
    record = msgspec.defstruct(
        "Record",
        members,
        rename={f"m{at}": name for at, name in enumerate(schema.arrow.names)},
        forbid_unknown_fields=closed,
        gc=False,
    )
    return msgspec.json.Decoder(record)


def _checked_type(kind: pa.DataType, numeric: bool) -> Any:
    """Return the Python type that stands for what Arrow takes for `kind`."""
    if kind == pa.int64() or kind == pa.uint64():
        return Annotated[int, msgspec.Meta(le=2**63 - 1)] | None
    if pa.types.is_integer(kind):
        low = -(1 << kind.bit_width - 1) if pa.types.is_signed_integer(kind) else 0
        whole = msgspec.Meta(ge=low, le=low + (1 << kind.bit_width) - 1)
        return Annotated[int, whole] | None
    if pa.types.is_list(kind):
        return list[_checked_type(kind.value_type, numeric)] | None  # type: ignore[misc]
    if pa.types.is_struct(kind):
        return dict[str, Any] | None
    if pa.types.is_boolean(kind):
        return bool | None
    if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and numeric):
        return float | None
    if _is_ambiguous(kind) and not numeric:
        if pa.types.is_decimal(kind):
            return str | None
        text = TIMESTAMP_TEXT if pa.types.is_timestamp(kind) else DATE_TEXT
        return Annotated[str, msgspec.Meta(pattern=f"^(?:{text.pattern})$")] | None
    return str | None if _is_text(kind) else int | None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


# ------------------------------------------------------------------ how a type is read


def _is_ambiguous(kind: pa.DataType) -> bool:
    """Whether a column may hold text or numbers."""
    kinds = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_decimal)
    return any(is_one(kind) for is_one in kinds)


def _is_columnar(kind: pa.DataType, nested: bool = False) -> bool:
    """Whether columns of this type can be read as columns; inside others, few need care."""
    if pa.types.is_list(kind):
        return _is_columnar(kind.value_type, nested=True)
    if pa.types.is_struct(kind):
        return all(_is_columnar(field.type, nested=True) for field in kind.fields)
    needs_care = _is_ambiguous(kind) or pa.types.is_duration(kind) or kind == pa.float32()
    return not (nested and needs_care)  # a nested number that is text: no way to sniff it


def _read_type(kind: pa.DataType, numeric: bool) -> pa.DataType:
    """Return the type to ask Arrow's reader for; `_finish` makes `kind` of it."""
    if kind == pa.float32():
        return pa.float64()  # the row path rounds the same way
    if pa.types.is_duration(kind) or (pa.types.is_timestamp(kind) and numeric):
        return pa.int64()
    if pa.types.is_date(kind):
        return pa.int32() if numeric else pa.string()
    if pa.types.is_decimal(kind) and not numeric:
        return pa.string()
    return kind


def _finish(
    column: pa.ChunkedArray, kind: pa.DataType, numeric: bool
) -> tuple[pa.ChunkedArray, pl.Series | None]:
    """Return the column as `kind`, and a mask of the rows that need a closer look.

    Raises:
        pa.ArrowInvalid: Some row cannot be read this way.
    """
    if pa.types.is_decimal(kind) and not numeric:
        return _decimals_from_text(column, kind)
    if pa.types.is_decimal(kind):
        column.validate(full=True)
    if (pa.types.is_timestamp(kind) or pa.types.is_duration(kind)) and kind.unit == "s":
        _check_range(column.cast(pa.int64()), counts(kind))
    if column.type != kind:
        column = column.cast(kind)
    _check_finite(column)
    return column, None


def _decimals_from_text(
    column: pa.ChunkedArray, kind: pa.DataType
) -> tuple[pa.ChunkedArray, pl.Series | None]:
    """Cast plain decimal text that fits; anything else needs a closer look."""
    whole, fraction = kind.precision - kind.scale, kind.scale
    pattern = rf"^[+-]?[0-9]{{1,{max(whole, 1)}}}"
    pattern += rf"(?:\.[0-9]{{1,{fraction}}})?$" if fraction else "$"
    plain = pc.match_substring_regex(column, pattern).fill_null(True)
    mask = None
    if not pc.all(plain, min_count=0).as_py():
        mask = ~_series(plain)
        column = pc.if_else(plain, column, pa.scalar(None, pa.string()))
    decimals = column.cast(kind)
    decimals.validate(full=True)
    return decimals, mask


def _check_range(column: pa.ChunkedArray, allowed: range) -> None:
    bounds = pc.min_max(column).as_py()
    if bounds["min"] is not None and not (bounds["min"] in allowed and bounds["max"] in allowed):
        raise pa.ArrowInvalid("a count is out of range")


def _check_finite(column: pa.ChunkedArray | pa.Array) -> None:
    if pa.types.is_floating(column.type):
        if not pc.all(pc.is_finite(column), min_count=0).as_py():
            raise pa.ArrowInvalid("a number is out of range")
    elif pa.types.is_list(column.type):
        _check_finite(pc.list_flatten(column))
    elif pa.types.is_struct(column.type):
        for field in column.type.fields:
            _check_finite(pc.struct_field(column, field.name))
