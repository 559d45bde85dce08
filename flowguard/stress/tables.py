"""Read tables of a TOML file into frozen dataclasses, strictly.

The name of a field says how its value is read, as everywhere in flowguard: `_ns` is a
duration, `_bytes` a size, `_per_s` a rate. In the file the unit is left out, because it is
part of the value: `call_ns: int` is written `call = "4ms"`.

Errors name the file and the field, and unknown fields the nearest known one.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flowguard.errors import ConfigError
from flowguard.suggest import nearest, reject_unknown
from flowguard.units import duration_ns, rate_per_s, size_bytes

__all__ = ["Place", "choice", "key_of", "keys_of", "read_table", "tables_of", "written_as"]

T = TypeVar("T")

#: Suffix of a field → how its value is read.
UNITS: Final[Mapping[str, Callable[..., Any]]] = {
    "_ns": duration_ns,
    "_bytes": size_bytes,
    "_per_s": rate_per_s,
}

#: What people call the types of TOML.
KINDS: Final[Mapping[type, str]] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value is written, for errors: `shop.toml: [provider]`."""

    file: str
    table: str

    def __str__(self) -> str:
        return f"{self.file}: {self.table}"


def written_as(key: str = "", read: Callable[[Any, str], Any] | None = None) -> dict[str, Any]:
    """Return field metadata: another key in the file, or another way to read the value.

    Args:
        read: Value and place → field; raises ConfigError.
    """
    return {"key": key, "read": read}


def key_of(field: dataclasses.Field[Any]) -> str:
    """Return what a field is called in the file: its name without the unit."""
    if key := field.metadata.get("key"):
        return str(key)
    for suffix in UNITS:
        if field.name.endswith(suffix):
            return field.name.removesuffix(suffix)
    return field.name


def keys_of(kind: type[Any]) -> list[str]:
    """Return the keys that a table of this kind may have."""
    return [key_of(field) for field in dataclasses.fields(kind) if field.init]


def read_table(
    kind: type[T], table: Any, place: Place, *, owner: str = "", also: Sequence[str] = ()
) -> T:
    """Return a table as a dataclass.

    Args:
        kind: A dataclass; fields without a default must be in the table.
        table: What the file has.
        owner: What the table is called where a key of it is unknown; its place by default.
        also: Keys that are somebody else's, and left out here.

    Raises:
        ConfigError: A key is unknown or missing, or a value cannot be read.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} must be a table, not {table!r}")
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    keys = keys_of(kind)
    reject_unknown(table, known=[*keys, *also], owner=owner or str(place))
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields:
        key = key_of(field)
        if not field.init:
            continue
        if key in table:
            values[field.name] = read_value(field, hints[field.name], table[key], f"{place} {key}")
        elif is_required(field):
            raise ConfigError(f"{place} lacks {key}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{place} {error}") from None


def is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def read_value(field: dataclasses.Field[Any], hint: Any, value: Any, name: str) -> Any:
    """Return one value as its field wants it."""
    read = field.metadata.get("read")
    if read is not None:
        return read(value, name)
    for suffix, parse in UNITS.items():
        if field.name.endswith(suffix):
            return parse(value, name=name)
    return plain_value(hint, value, name)


def plain_value(hint: Any, value: Any, name: str) -> Any:
    """Return a value without a unit, checked against the type of its field."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        kinds = [each for each in get_args(hint) if each is not type(None)]
        return plain_value(kinds[0], value, name)
    if origin is Literal:
        return choice(value, get_args(hint), name)
    if origin in (tuple, frozenset):
        if not isinstance(value, list):
            raise ConfigError(f"{name}={value!r} must be a list")
        return origin(plain_value(get_args(hint)[0], each, name) for each in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"{name}={value!r} is no number that can be used")
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{name}={value!r} must be {KINDS[hint]}")
    return value


def choice(value: Any, known: Sequence[Any], name: str) -> Any:
    """Return a value that is one of a few.

    Raises:
        ConfigError: It is another one; the message names the nearest.
    """
    if value in known:
        return value
    like = nearest(str(value), [str(each) for each in known])
    hint = f"did you mean {like}?" if like else f"use {', '.join(map(str, known))}"
    raise ConfigError(f"{name}={value!r} is not known; {hint}")


def tables_of(document: Mapping[str, Any], key: str, file: str) -> list[tuple[Any, Place]]:
    """Return an array of tables with their places: `[[faults]] 2`.

    Raises:
        ConfigError: It is no array of tables.
    """
    tables = document.get(key, [])
    if not isinstance(tables, list):
        raise ConfigError(f"{file}: {key} must be an array of tables; write [[{key}]]")
    return [(each, Place(file, f"[[{key}]] {n}")) for n, each in enumerate(tables, 1)]
