"""The declared columns of a feed: names, Arrow types, and which must not be null.

A type is text (`"int64"`, `"!timestamp[us, UTC]"`, `"list<struct<sku: string, n: int32>>"`),
a `pa.DataType`, or the annotation of a `faust.Record` field. All three end in one Arrow
type of a small set: those that JSON and MessagePack can say exactly and Polars can hold.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import types
import typing
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from flowguard.errors import ConfigError
from flowguard.suggest import nearest

__all__ = ["Schema", "canonical", "parse_type"]

SIMPLE_TYPES: Final[dict[str, pa.DataType]] = {
    **{
        f"{sign}int{bits}": pa.type_for_alias(f"{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float32": pa.float32(),
    "float": pa.float64(),
    "float64": pa.float64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "str": pa.string(),
    "utf8": pa.string(),
    "binary": pa.binary(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "date32": pa.date32(),
    "date32[day]": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "null": pa.null(),
}
#: How a parametrised type is written; shown in errors and searched for the nearest name.
PARAMETRISED: Final = (
    "timestamp[us, UTC]",
    "duration[ms]",
    "decimal128(12, 2)",
    "list<int64>",
    "struct<name: int64>",
)
TEMPORAL: Final = re.compile(r"(timestamp|duration)\[\s*(s|ms|us|ns)\s*(?:,\s*(?:tz=)?(.+?)\s*)?\]")
DECIMAL: Final = re.compile(r"decimal128\(\s*(\d+)\s*,\s*(\d+)\s*\)")
NESTED: Final = re.compile(r"(list|struct)<(.*)>", re.DOTALL)

#: A plain annotation of a Faust record, as an Arrow type.
ANNOTATIONS: Final[dict[Any, pa.DataType]] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    dt.datetime: pa.timestamp("us", "UTC"),
    dt.date: pa.date32(),
    dt.timedelta: pa.duration("us"),
    # As wide as decimal128 goes, with room for money, rates and coordinates after the point.
    decimal.Decimal: pa.decimal128(38, 9),
}


@dataclass(frozen=True)
class Schema:
    """The declared columns of a feed.

    Args:
        arrow: Names and types, in declared order; always nullable, see `required`.
        required: Columns declared as `"!type"`: a null or a missing one rejects the row.
    """

    arrow: pa.Schema
    required: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, columns: Mapping[str, str | pa.DataType] | pa.Schema | type) -> Schema:
        """Return the schema of `columns=`: a mapping, a `pa.Schema` or a `faust.Record`.

        Raises:
            ConfigError: It names the column, what is wrong with its type, and the nearest
                type there is.
        """
        if isinstance(columns, pa.Schema):
            declared = [_from_field(field) for field in columns]
        elif isinstance(columns, Mapping):
            declared = [_from_entry(name, kind) for name, kind in columns.items()]
        elif _is_record(columns):
            declared = _from_record(columns)
        else:
            raise ConfigError(
                f"columns={columns!r} declares no columns; pass {{name: type}}, a pyarrow.Schema "
                "or a faust.Record"
            )
        return cls._of(declared)

    def select(self, names: Iterable[str]) -> Schema:
        """Return the schema of these columns only."""
        wanted = list(names)
        return Schema(
            arrow=pa.schema([self.arrow.field(name) for name in wanted]),
            required=self.required & set(wanted),
        )

    @classmethod
    def _of(cls, declared: list[tuple[str, pa.DataType, bool]]) -> Schema:
        names = [name for name, _, _ in declared]
        if not names:
            raise ConfigError("columns declares no column; leave it out to have types inferred")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f'column "{name}" is declared twice')
        return cls(
            arrow=pa.schema([pa.field(name, kind) for name, kind, _ in declared]),
            required=frozenset(name for name, _, required in declared if required),
        )


def parse_type(text: str) -> pa.DataType:
    """Return the Arrow type that `text` names, without a leading `"!"`.

    Raises:
        ConfigError: There is no such type; the message names the nearest one.
    """
    text = text.strip()
    if text in SIMPLE_TYPES:
        return SIMPLE_TYPES[text]
    if match := TEMPORAL.fullmatch(text):
        return _temporal(match[1], match[2], match[3])
    if match := DECIMAL.fullmatch(text):
        return _decimal(int(match[1]), int(match[2]))
    if match := NESTED.fullmatch(text):
        return _list(match[2]) if match[1] == "list" else _struct(match[2])
    like = nearest(text, [*SIMPLE_TYPES, *PARAMETRISED])
    hint = f"did you mean {like!r}?" if like else f"known are {', '.join(_known())}"
    raise ConfigError(f"there is no type {text!r}; {hint}")


def _known() -> Iterable[str]:
    return [name for name in SIMPLE_TYPES if name != "date32[day]"] + list(PARAMETRISED)


def _temporal(kind: str, unit: Any, zone: str | None) -> pa.DataType:
    if kind == "duration":
        if zone:
            raise ConfigError(f"a duration has no time zone; write 'duration[{unit}]'")
        return pa.duration(unit)
    return pa.timestamp(unit, _known_zone(zone)) if zone else pa.timestamp(unit)


def _known_zone(zone: str) -> str:
    # Polars panics on a zone it does not know, so that must not get past the declaration.
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        like = nearest(zone, zoneinfo.available_timezones())
        hint = f"did you mean {like!r}?" if like else "use a name like 'UTC' or 'Europe/Zurich'"
        raise ConfigError(f"there is no time zone {zone!r}; {hint}") from None
    return zone


def _decimal(precision: int, scale: int) -> pa.DataType:
    if not (1 <= precision <= 38 and 0 <= scale <= precision):
        raise ConfigError(
            f"decimal128({precision}, {scale}) cannot be: precision is 1 to 38, "
            "scale 0 to the precision"
        )
    return pa.decimal128(precision, scale)


def _list(inner: str) -> pa.DataType:
    # Arrow itself prints a list as "list<item: int64>"; that text is accepted back.
    return pa.list_(parse_type(inner.strip().removeprefix("item:")))


def _struct(inner: str) -> pa.DataType:
    fields = []
    for part in _split_fields(inner):
        name, colon, kind = part.partition(":")
        if not colon or not name.strip():
            raise ConfigError(f"a field of a struct is written 'name: type', not {part.strip()!r}")
        fields.append(pa.field(name.strip(), parse_type(kind)))
    return pa.struct(fields)


def _split_fields(inner: str) -> list[str]:
    """Split at the commas that are not inside `<>`, `[]` or `()`."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(inner):
        depth += (char in "<[(") - (char in ">])")
        if char == "," and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
    return [*parts, inner[start:]]


def _from_entry(name: Any, kind: Any) -> tuple[str, pa.DataType, bool]:
    if not isinstance(name, str):
        raise ConfigError(f"column {name!r}: a name is text")
    try:
        if isinstance(kind, pa.DataType):
            return name, canonical(kind), False
        if isinstance(kind, str):
            text = kind.strip()
            return name, parse_type(text.removeprefix("!")), text.startswith("!")
    except ConfigError as error:
        raise ConfigError(f'column "{name}": {error}') from None
    raise ConfigError(
        f'column "{name}": {kind!r} is no type; write it like "int64", or pass a pyarrow type'
    )


def _from_field(field: pa.Field) -> tuple[str, pa.DataType, bool]:
    name, kind, _ = _from_entry(field.name, field.type)
    return name, kind, not field.nullable


def canonical(kind: pa.DataType) -> pa.DataType:
    """Return the same type without its storage variants (large_, _view), or raise."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(canonical(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, canonical(field.type)) for field in kind.fields])
    # Everything else has exactly one text, so the text decides whether it is known.
    aliases = {"float": pa.float32(), "double": pa.float64()}
    return aliases.get(str(kind)) or parse_type(str(kind))


def _is_record(columns: object) -> typing.TypeGuard[type]:
    # Duck typing: this layer does not import faust (ARCHITECTURE §3).
    return isinstance(columns, type) and hasattr(getattr(columns, "_options", None), "fields")


def _from_record(record: type) -> list[tuple[str, pa.DataType, bool]]:
    """Return the columns of a `faust.Record`: required unless optional or with a default."""
    options: Any = record._options  # type: ignore[attr-defined]
    declared = []
    for name, annotation in options.fields.items():
        try:
            declared.append((name, _from_annotation(annotation), name not in options.optionalset))
        except ConfigError as error:
            raise ConfigError(f'column "{name}" of {record.__name__}: {error}') from None
    return declared


def _from_annotation(annotation: Any) -> pa.DataType:
    if annotation in ANNOTATIONS:
        return ANNOTATIONS[annotation]
    if _is_record(annotation):
        return pa.struct([pa.field(name, kind) for name, kind, _ in _from_record(annotation)])
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        known = [argument for argument in arguments if argument is not type(None)]
        if len(known) == 1:
            return _from_annotation(known[0])
    if origin in (list, set, frozenset) or (origin is tuple and arguments[1:] == (...,)):
        return pa.list_(_from_annotation(arguments[0]))
    raise ConfigError(
        f"{annotation!r} has no column type; declare columns={{name: type}} instead of the record"
    )
