"""Types that nobody declared: found in the first records, and from then on only wider.

    null ──▶ anything        int64 ──▶ float64 ──▶ string (the JSON text)

A batch that needs a wider type gets it at once; batches already handed out keep theirs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa

from flowguard.intake.codec.rows import INT64, PER_SECOND, Number, RowReader, WrongValue
from flowguard.intake.schema import Schema

__all__ = ["FIXED_AFTER_RECORDS", "InferredColumns", "infer", "unify"]

#: Records whose types are taken in without a word; later changes are notices.
FIXED_AFTER_RECORDS: Final = 1_000

BY_PYTHON_TYPE: Final[dict[type, pa.DataType]] = {
    type(None): pa.null(),
    bool: pa.bool_(),
    float: pa.float64(),
    Number: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
}


def infer(value: Any) -> pa.DataType:
    """Return the narrowest type that holds a parsed value."""
    if type(value) in BY_PYTHON_TYPE:
        return BY_PYTHON_TYPE[type(value)]
    if type(value) is int:
        # A float would round a larger integer, and those are mostly identifiers.
        return pa.int64() if value in INT64 else pa.string()
    if isinstance(value, list):
        item = pa.null()
        for each in value:
            item = unify(item, infer(each))
        return pa.list_(item)
    if isinstance(value, dict):
        return pa.struct([pa.field(str(name), infer(each)) for name, each in value.items()])
    return pa.timestamp("us", "UTC") if isinstance(value, dt.datetime) else pa.string()


def unify(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the narrowest type that is as wide as both."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        return _wider_decimal(one, other)
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz == other.tz:
        return max(one, other, key=lambda kind: PER_SECOND[kind.unit])
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(unify(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return pa.struct(list(_unify_fields(one.fields, other.fields).values()))
    return pa.string()


def _wider_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    scale = max(one.scale, other.scale)
    whole = max(one.precision - one.scale, other.precision - other.scale)
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else pa.string()


def _unify_fields(one: Iterable[pa.Field], other: Iterable[pa.Field]) -> dict[str, pa.Field]:
    fields = {field.name: field for field in one}
    for field in other:
        known = fields.get(field.name)
        kind = field.type if known is None else unify(known.type, field.type)
        fields[field.name] = pa.field(field.name, kind)
    return fields


class InferredColumns:
    """The schema as inferred so far.

    Thread-safety: the schema is replaced as a whole. Two threads may widen it at the same
    time and one change be lost; the next batch that needs it finds it again.
    """

    def __init__(self, notices: list[str]) -> None:
        self.schema = Schema(pa.schema([]))
        self.seen_records = 0
        self._notices = notices

    @property
    def fixed(self) -> bool:
        """Whether the first records have been seen."""
        return self.seen_records >= FIXED_AFTER_RECORDS

    def take_in(self, parsed: Iterable[Any]) -> Schema:
        """Return the schema, made as wide as these values need; wrong ones don't count."""
        rows = [value for value in parsed if isinstance(value, dict)]
        before = {field.name: field for field in self.schema.arrow}
        after = dict(before)
        readers = RowReader(self.schema, anything_as_text=True).columns
        for row in rows:
            for name, read, _ in readers:
                # Once fixed, what a column can hold is no reason to widen it.
                if name in row and not (self.fixed and _holds(read, row[name])):
                    after |= _unify_fields([after[name]], [pa.field(name, infer(row[name]))])
            for name in (name for name in row if name not in before):
                found = [pa.field(name, infer(row[name]))]
                after |= _unify_fields([after[name]] if name in after else [], found)
        self._announce(before, after)
        self.seen_records += len(rows)
        if after != before:
            self.schema = Schema(pa.schema(list(after.values())))
        return self.schema

    def _announce(self, before: dict[str, pa.Field], after: dict[str, pa.Field]) -> None:
        if not self.fixed:
            return
        for name, field in after.items():
            if name not in before:
                self._notices.append(f'column "{name}" appeared as {field.type}')
            elif field.type != before[name].type:
                self._notices.append(
                    f'column "{name}" widened from {before[name].type} to {field.type}'
                )


def _holds(read: Any, cell: Any) -> bool:
    if cell is None:
        return True
    try:
        read(cell)
    except WrongValue:
        return False
    return True
