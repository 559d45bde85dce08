"""`codec="msgpack"`: one MessagePack map a value."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
import polars as pl
import pyarrow as pa

from flowguard.intake.codec.codec import Decoded, Rejection
from flowguard.intake.codec.frames import to_frame
from flowguard.intake.codec.inferred import InferredColumns
from flowguard.intake.codec.plain import plain_columns
from flowguard.intake.codec.rows import Part, RowReader, WrongValue, reader
from flowguard.intake.schema import Schema

__all__ = ["MsgpackCodec"]

Row = tuple[Any, ...]


def _extension_bytes(code: int, content: memoryview) -> bytes:
    return bytes(content)


MSGPACK: Final = msgspec.msgpack.Decoder(ext_hook=_extension_bytes)
#: What a decoder may raise for bytes that are no MessagePack, or nested too deeply.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_msgpack(value: bytes | None) -> Any:
    """Return a value parsed, None for a tombstone or blank, a `WrongValue` for a bad one."""
    if not value:
        return None
    try:
        parsed = MSGPACK.decode(value)
    except RecursionError:
        return WrongValue("value is nested too deeply")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return WrongValue(f"value is not MessagePack: {error}")
    return WrongValue("value is not an object, found null") if parsed is None else parsed


class MsgpackCodec:
    """MessagePack maps ⇄ rows.

    Reading obeys the rules of JSON, with three more kinds: bytes (binary columns), the
    timestamp extension, and NaN and infinities (float columns). A binary float is never
    taken for a decimal: send text.

    Writing: binary as bytes; decimals, timestamps and dates as text, durations as numbers.

    Args:
        columns: The declared columns; None to infer them.
    """

    name = "msgpack"
    waits = False

    def __init__(self, columns: Schema | None = None) -> None:
        self.notices: list[str] = []
        self._declared = columns
        self._inferred = InferredColumns(self.notices) if columns is None else None
        self._typed = _TypedRows(columns) if columns is not None else None

    @property
    def schema(self) -> Schema | None:
        """The columns inferred so far; None if they were declared."""
        return self._inferred.schema if self._inferred is not None else None

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; see `Codec.decode`."""
        listed = [value for array in values for value in array.to_pylist()]
        if self._typed is not None:
            part = self._typed.read(listed)
        else:
            assert self._inferred is not None
            parsed = [parse_msgpack(value) for value in listed]
            schema = self._inferred.take_in(parsed)
            part = RowReader(schema, anything_as_text=True).read(parsed)
        return Decoded(to_frame(part.table), part.rejected)

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one map per row, with all columns as keys.

        Raises:
            ValueError: A column has a type that cannot be said.
        """
        rows = plain_columns(frame, binary_as_text=False).to_dicts()
        return pa.array(map(msgspec.msgpack.Encoder().encode, rows), pa.binary())

    def project(self, names: Sequence[str]) -> MsgpackCodec:
        """Return the same codec for these columns only; see `Codec.project`."""
        assert self._declared is not None, "columns are inferred"
        return MsgpackCodec(self._declared.select(names))


class _TypedRows:
    """Rows of declared columns, through a generated type that msgspec checks in C.

    Where msgspec is stricter or has no such type, the row path has the word.
    """

    def __init__(self, schema: Schema) -> None:
        self._by_row = RowReader(schema)
        names = schema.arrow.names
        members = [f"m{at}" for at in range(len(names))]
        record = msgspec.defstruct(
            "Record",
            [
                _member(member, field, field.name in schema.required)
                for member, field in zip(members, schema.arrow, strict=True)
            ],
            rename=dict(zip(members, names, strict=True)),
            kw_only=True,
            gc=False,
        )
        self._decoder = msgspec.msgpack.Decoder(record, ext_hook=_extension_bytes)
        # The second name keeps the result a tuple when there is one column only.
        self._cells = attrgetter(*members, members[0])
        self._read_later = [
            (at, reader(field.type), field.name in schema.required)
            for at, field in enumerate(schema.arrow)
            if _checked_type(field.type) is Any
        ]

    def read(self, values: Sequence[bytes | None]) -> Part:
        """Return the rows of the values."""
        rows, rejected = [], []
        for at, value in enumerate(values):
            try:
                rows.append(self._row(value))
            except WrongValue as error:
                rejected.append(Rejection(at, error.problem))
        return Part(self._by_row.table(rows), rejected)

    def _row(self, value: bytes | None) -> Row:
        try:
            if value:
                return self._typed_row(value)
        except (*UNREADABLE, WrongValue):
            pass  # the row path knows whether it is wrong, and how to say it
        return self._by_row.read_row(parse_msgpack(value))

    def _typed_row(self, value: bytes) -> Row:
        row = self._cells(self._decoder.decode(value))[:-1]
        if not self._read_later:
            return row
        cells = list(row)
        for at, read, required in self._read_later:
            if cells[at] is not None:
                cells[at] = read(cells[at])
            if required and cells[at] is None:
                raise WrongValue("null")
        return tuple(cells)


def _member(member: str, field: pa.Field, required: bool) -> tuple[Any, ...]:
    kind = _checked_type(field.type)
    return (member, kind) if required else (member, kind | None if kind is not Any else Any, None)


def _checked_type(kind: pa.DataType) -> Any:
    """Return the type that msgspec checks as the row path would; `Any` if there is none."""
    if pa.types.is_integer(kind) and kind.bit_width < 64:
        low = -(1 << kind.bit_width - 1) if pa.types.is_signed_integer(kind) else 0
        return Annotated[int, msgspec.Meta(ge=low, le=low + (1 << kind.bit_width) - 1)]
    simple = {
        pa.float64(): float,
        pa.bool_(): bool,
        pa.string(): str,
        pa.binary(): bytes,
        # Values beyond the other 64-bit type are msgspec's only excess; `le` and `ge` fix it.
        pa.int64(): Annotated[int, msgspec.Meta(le=2**63 - 1)],
        pa.uint64(): Annotated[int, msgspec.Meta(ge=0)],
    }
    return simple.get(kind, Any)
