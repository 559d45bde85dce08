"""Values that name their schema: what `avro` and `protobuf` have in common.

    0x00 | schema number, 4 bytes, big-endian | payload       (Confluent's framing)

    value ─▶ number ─▶ writer's schema, asked of the registry once ─▶ parsed value ─▶ rows.py

Each value is read by the schema that it was written with, so a schema may change in the
middle of a batch. What a parsed value means for a column is said by `rows.py`, as for every
other format.

A value with an unknown number or without framing is rejected. A registry that does not
answer is no fault of the value: its error goes to the caller, who tries the batch again.

Source: Confluent documentation, "Wire format".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, Self

import polars as pl
import pyarrow as pa

from flowguard.intake.codec.codec import Decoded, RegisteredSchema, Registry
from flowguard.intake.codec.frames import to_frame
from flowguard.intake.codec.inferred import unify
from flowguard.intake.codec.rows import RowReader, WrongValue
from flowguard.intake.schema import Schema

__all__ = ["FRAME", "FramedCodec", "Writer", "framed"]

#: Bytes before the payload.
FRAME: Final = 5
MAGIC: Final = 0

Convert = Callable[[Any], Any]


class Writer(Protocol):
    """One writer's schema, ready to read what it wrote."""

    @property
    def columns(self) -> pa.Schema:
        """Return the columns that hold everything it writes."""
        ...

    def read(self, value: bytes) -> dict[str, Any]:
        """Return one value, parsed; the payload follows the frame.

        Raises:
            WrongValue: The bytes were not written by this schema.
        """
        ...


class FramedCodec(ABC):
    """Values with a schema number ⇄ rows.

    Args:
        columns: The declared columns; None to derive them from the first writer's schema.
        registry: Where writers' schemas are.
        subject: Under which the registry has the schema of what is sent.
    """

    name: str
    waits = True

    def __init__(self, columns: Schema | None, registry: Registry, subject: str) -> None:
        self.notices: list[str] = []
        self._declared = columns
        self._registry = registry
        self._subject = subject
        self._writers: dict[int, Writer | str] = {}  # text says why there is none
        #: What reads rows, and of how many writers it was made.
        self._made: tuple[int, RowReader, dict[str, Convert]] | None = None

    @abstractmethod
    def _writer(self, schema: RegisteredSchema) -> Writer:
        """Return a writer's schema ready to read.

        Raises:
            Exception: The schema is none.
        """

    @abstractmethod
    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one framed value per row, written by the subject's latest schema.

        Raises:
            ValueError: The subject has no schema, or a row does not fit it.
            RegistryError: The registry does not answer.
        """

    def project(self, names: Sequence[str]) -> Self:
        """Return the same codec for these columns only; see `Codec.project`."""
        assert self._declared is not None, "columns are derived"
        other = type(self)(self._declared.select(names), self._registry, self._subject)
        other._writers = self._writers
        return other

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; see `Codec.decode`.

        Raises:
            RegistryError: The registry does not answer; no row is judged then.
        """
        parsed = [self._parsed(value) for array in values for value in array.to_pylist()]
        reader, lists = self._columns()
        for name, convert in lists.items():
            for row in parsed:
                if isinstance(row, dict) and isinstance(row.get(name), (dict, list)):
                    row[name] = convert(row[name])
        part = reader.read(parsed)
        return Decoded(to_frame(part.table), part.rejected)

    def _parsed(self, value: bytes | None) -> Any:
        """Return a value parsed, None for a tombstone or blank, a `WrongValue` for a bad one."""
        if not value:
            return None
        if len(value) < FRAME or value[0] != MAGIC:
            return WrongValue("value is not framed: it does not begin with 0 and a schema number")
        id = int.from_bytes(value[1:FRAME], "big")
        try:
            writer = self._writers.get(id) or self._load(id)
            return WrongValue(writer) if isinstance(writer, str) else writer.read(value)
        except WrongValue as error:
            return error

    def _load(self, id: int) -> Writer | str:
        """Return the writer's schema with this number, from now on known, or what is wrong.

        Raises:
            WrongValue: The registry has none.
        """
        try:
            schema = self._registry.schema(id)
        except LookupError as error:
            raise WrongValue(f"value has schema {id}: {error}") from error
        if isinstance(schema, str):
            schema = RegisteredSchema(schema)
        try:
            found: Writer | str = self._writer(schema)
        except Exception as error:  # whatever a library finds wrong; the number never changes
            found = f"schema {id} cannot be read: {type(error).__name__}: {error}"
        self._writers[id] = found
        return found

    def _columns(self) -> tuple[RowReader, dict[str, Convert]]:
        """Return what reads rows now, and the columns whose maps are lists.

        Derived columns are made anew from all writers known, so that two threads that meet
        new ones at the same time lose neither.
        """
        writers = () if self._declared is not None else tuple(self._writers.values())
        made = self._made
        if made is None or made[0] != len(writers):
            schema = self._declared or Schema(self._derived(writers))
            reader = RowReader(schema, anything_as_text=self._declared is None)
            self._announce(made[1].schema.arrow if made is not None else (), schema.arrow)
            made = self._made = (len(writers), reader, _map_columns(schema.arrow))
        return made[1], made[2]

    def _derived(self, writers: Sequence[Writer | str]) -> pa.Schema:
        """Return columns that hold everything that these writers write."""
        fields: dict[str, pa.Field] = {}
        for writer in writers:
            for field in () if isinstance(writer, str) else writer.columns:
                known = fields.get(field.name)
                kind = field.type if known is None else unify(known.type, field.type)
                fields[field.name] = pa.field(field.name, kind)
        return pa.schema(list(fields.values()))

    def _announce(self, before: Iterable[pa.Field], after: Iterable[pa.Field]) -> None:
        """Tell the operator what changed in columns that were there."""
        known = {field.name: field.type for field in before}
        for field in after if known else ():
            if field.name not in known:
                self.notices.append(f'column "{field.name}" appeared as {field.type}')
            elif field.type != known[field.name]:
                was = known[field.name]
                self.notices.append(f'column "{field.name}" widened from {was} to {field.type}')


def framed(id: int) -> bytes:
    """Return the frame of a payload."""
    return bytes([MAGIC]) + id.to_bytes(4, "big")


# ------------------------------------------------------------------ maps
# Arrow's readers and Polars have no maps here: they are lists of {key, value}.


def _map_columns(columns: Iterable[pa.Field]) -> dict[str, Convert]:
    found = ((field.name, _map_reader(field.type)) for field in columns)
    return {name: convert for name, convert in found if convert is not None}


def _map_reader(kind: pa.DataType) -> Convert | None:
    """Return what turns maps inside a cell into lists; None if there can be none."""
    if pa.types.is_struct(kind):
        inner = _map_columns(kind.fields)
        return (lambda cell: _struct_cell(cell, inner)) if inner else None
    if not pa.types.is_list(kind):
        return None
    item = _map_reader(kind.value_type)
    is_map = pa.types.is_struct(kind.value_type) and [
        field.name for field in kind.value_type.fields
    ] == ["key", "value"]
    if not is_map and item is None:
        return None

    def convert(cell: Any) -> Any:
        if is_map and isinstance(cell, dict):
            cell = [{"key": key, "value": value} for key, value in cell.items()]
        return [item(each) for each in cell] if item and isinstance(cell, list) else cell

    return convert


def _struct_cell(cell: Any, inner: dict[str, Convert]) -> Any:
    if not isinstance(cell, dict):
        return cell
    return cell | {name: convert(cell[name]) for name, convert in inner.items() if name in cell}
