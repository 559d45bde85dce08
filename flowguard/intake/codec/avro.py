"""`codec="avro"`: Avro records with a schema number of a registry."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import fastavro
import fastavro._read_py
import polars as pl
import pyarrow as pa
from fastavro.validation import validate

from flowguard.intake.codec.codec import RegisteredSchema
from flowguard.intake.codec.framed import FRAME, FramedCodec, Writer, framed
from flowguard.intake.codec.inferred import unify
from flowguard.intake.codec.rows import WrongValue
from flowguard.intake.codec.written import listed_rows, subject_schema

__all__ = ["AvroCodec"]

#: Logical types that are read as what they are stored as: columns have no time of day, and a
#: UUID's text is what is stored already.
PLAIN: Final = {("int", "time-millis"), ("long", "time-micros"), ("string", "uuid")}

NANOS: Final = ("timestamp-nanos", "local-timestamp-nanos")
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

SIMPLE: Final[Mapping[str, pa.DataType]] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "double": pa.float64(),
    "string": pa.string(),
    "enum": pa.string(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
}
LOGICAL: Final[Mapping[str, pa.DataType]] = {
    "date": pa.date32(),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "timestamp-nanos": pa.timestamp("ns", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "local-timestamp-nanos": pa.timestamp("ns"),
    "uuid": pa.string(),
}


class AvroCodec(FramedCodec):
    """Avro records ⇄ rows, with Confluent's framing.

    Reading: a value is read by the schema that it was written with. Enums are text, maps
    lists of `{key, value}` (or a declared struct), times of day their number, UUIDs text.
    Without declared columns whole numbers are int64 and others float64.

    Writing: with the latest schema of the subject; a column that it does not have is an error.
    """

    name = "avro"

    def _writer(self, schema: RegisteredSchema) -> Writer:
        return AvroWriter(schema)

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one framed record per row; see `FramedCodec.encode`."""
        id, registered = subject_schema(self._registry, self._subject)
        schema = parsed_schema(registered, {})
        fields = {field["name"]: field["type"] for field in schema.get("fields", ())}
        maps = {name: kind for name, kind in fields.items() if _has_map(kind)}
        values = []
        for row in listed_rows(frame, fields, self._subject):
            for name, kind in maps.items():
                if name in row:
                    row[name] = _with_maps(row[name], kind)
            values.append(_written(framed(id), schema, row))
        return pa.array(values, pa.binary())


class AvroWriter:
    """One writer's schema.

    Args:
        schema: As the registry has it.

    Raises:
        ValueError: It is no schema of records, or one that few bytes make much of.
    """

    def __init__(self, schema: RegisteredSchema) -> None:
        names: dict[str, Any] = {}
        self._schema = parsed_schema(schema, names)
        _check_arrays([self._schema, *names.values()], names)
        is_recursive = _is_recursive(self._schema, names, (), set())
        # The compiled reader has no limit to its depth: a recursive value could overflow the
        # stack. The other one is slow, but raises.
        module = fastavro._read_py if is_recursive else fastavro
        self._read: Callable[..., Any] = module.schemaless_reader
        self._nanos = _nano_fields(self._schema)
        fields = [
            pa.field(field["name"], _column_type(field["type"], names, (self._schema["name"],)))
            for field in self._schema["fields"]
        ]
        self.columns = pa.schema(fields)

    def read(self, value: bytes) -> dict[str, Any]:
        """Return one record; see `Writer.read`."""
        source = io.BytesIO(value)
        source.seek(FRAME)
        try:
            record: dict[str, Any] = self._read(source, self._schema, None)
        except RecursionError:
            raise WrongValue("value is nested too deeply") from None
        except EOFError:
            raise WrongValue("value is not what its schema says: it ends too soon") from None
        except Exception as error:  # the library raises whatever its bytes lead it to
            reason = f"value is not what its schema says: {type(error).__name__}: {error}"
            raise WrongValue(reason) from None
        rest = len(value) - source.tell()
        if rest:
            raise WrongValue(f"value has {rest} bytes more than its schema says")
        for name in self._nanos:
            if isinstance(record[name], int):
                record[name] = _nano_text(record[name])
        return record


def _nano_fields(schema: dict[str, Any]) -> list[str]:
    """Return the fields that count nanoseconds, which the library leaves as numbers.

    Raises:
        ValueError: Such a count lies inside another type, where nobody would notice.
    """
    found = []
    for field in schema["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        is_nano = [isinstance(kind, dict) and kind.get("logicalType") in NANOS for kind in kinds]
        if any(is_nano):
            found.append(field["name"])
        elif any("timestamp-nanos" in json.dumps(kind) for kind in kinds):
            raise ValueError("timestamp-nanos inside another type is not read")
    return found


def _nano_text(count: int) -> str:
    """Return an instant as text, which every column of timestamps reads exactly."""
    seconds, nanos = divmod(count, 10**9)
    return f"{EPOCH + dt.timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{nanos:09}Z"


def parsed_schema(schema: RegisteredSchema, named: dict[str, Any]) -> dict[str, Any]:
    """Return a schema as the library needs it, and add its named types to `named`.

    Raises:
        ValueError: It is none, or not one of records.
    """
    for _, text in schema.references:
        fastavro.parse_schema(_plain(json.loads(text)), named_schemas=named)
    parsed = fastavro.parse_schema(_plain(json.loads(schema.text)), named_schemas=named)
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ValueError("it describes no records")
    return parsed


def _plain(schema: Any) -> Any:
    """Return a schema without the logical types that are read as what they are stored as."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kind, logical = schema.get("type"), schema.get("logicalType")
    plain = {key: _plain(each) if key in INSIDE else each for key, each in schema.items()}
    if isinstance(kind, str) and (kind, logical) in PLAIN:
        del plain["logicalType"]
    return plain


#: Members of a schema that hold schemas.
INSIDE: Final = ("type", "fields", "items", "values")


def _is_recursive(
    schema: Any, names: Mapping[str, Any], inside: tuple[str, ...], done: set[str]
) -> bool:
    """Tell whether a type holds itself."""
    if isinstance(schema, list):
        return any(_is_recursive(each, names, inside, done) for each in schema)
    if isinstance(schema, str):
        if schema in inside:
            return True
        known = schema in names and schema not in done
        return known and _is_recursive(names[schema], names, inside, done)
    kind = schema["type"]
    if kind in ("array", "map"):
        return _is_recursive(schema["items" if kind == "array" else "values"], names, inside, done)
    if kind != "record":
        return not isinstance(kind, str) and _is_recursive(kind, names, inside, done)
    inside = (*inside, schema["name"])
    if any(_is_recursive(field["type"], names, inside, done) for field in schema["fields"]):
        return True
    done.add(schema["name"])
    return False


def _check_arrays(schema: Any, names: Mapping[str, Any]) -> None:
    """Raise ValueError for an array of items without bytes: five bytes could say a trillion."""
    if isinstance(schema, list):
        for each in schema:
            _check_arrays(each, names)
    elif isinstance(schema, dict):
        if schema.get("type") == "array" and not _takes_bytes(schema["items"], names):
            raise ValueError("an array of items that take no bytes is not read")
        for member in INSIDE:
            _check_arrays(schema.get(member), names)


def _takes_bytes(schema: Any, names: Mapping[str, Any], depth: int = 0) -> bool:
    """Tell whether every value of a schema takes a byte or more."""
    if isinstance(schema, str) and schema in names:
        schema = names[schema]
    if isinstance(schema, str):
        return schema != "null"
    if isinstance(schema, list) or depth > len(names) + 8:
        return True
    if schema["type"] == "record":
        return any(_takes_bytes(field["type"], names, depth + 1) for field in schema["fields"])
    if schema["type"] == "fixed":
        return bool(schema["size"])
    return bool(schema["type"] != "null")


def _column_type(schema: Any, names: Mapping[str, Any], inside: tuple[str, ...]) -> pa.DataType:
    """Return the type of a column that holds everything of a schema."""
    if isinstance(schema, list):
        kind = pa.null()
        for each in schema:
            kind = unify(kind, _column_type(each, names, inside))
        return kind
    if isinstance(schema, str) and schema in names:
        schema = names[schema]
    if isinstance(schema, str):
        return SIMPLE[schema]
    kind, logical = schema["type"], schema.get("logicalType")
    if logical == "decimal" and kind in ("bytes", "fixed"):
        return _decimal_type(schema["precision"], schema.get("scale", 0))
    if logical in LOGICAL:
        return LOGICAL[logical]
    if kind == "array":
        return pa.list_(_column_type(schema["items"], names, inside))
    if kind == "map":
        value = _column_type(schema["values"], names, inside)
        return pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", value)]))
    if kind != "record":
        return (
            SIMPLE[kind]
            if isinstance(kind, str) and kind in SIMPLE
            else _column_type(kind, names, inside)
        )
    if schema["name"] in inside:  # it holds itself: as text, whatever its depth
        return pa.string()
    inside = (*inside, schema["name"])
    return pa.struct(
        [pa.field(each["name"], _column_type(each["type"], names, inside))
         for each in schema["fields"]]
    )  # fmt: skip


def _decimal_type(precision: int, scale: int) -> pa.DataType:
    fits = precision <= 38 and 0 <= scale <= precision
    return pa.decimal128(precision, scale) if fits else pa.string()


# ------------------------------------------------------------------ writing


def _written(frame: bytes, schema: dict[str, Any], row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(frame)
    try:
        # The writer itself would cut 1.5 down to 1 and let a long pass for an int.
        validate(row, schema)
        fastavro.schemaless_writer(out, schema, row)
    except Exception as error:  # the library raises whatever a cell leads it to
        reason = f"a row does not fit the schema: {type(error).__name__}: {error}"
        raise ValueError(reason) from error
    return out.getvalue()


def _has_map(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(_has_map(each) for each in schema)
    if not isinstance(schema, dict):
        return False
    if schema["type"] == "record":
        return any(_has_map(field["type"]) for field in schema["fields"])
    return schema["type"] == "map" or _has_map(schema.get("items"))


def _with_maps(cell: Any, schema: Any) -> Any:
    """Return a cell with a dict for every list of `{key, value}` that the schema calls a map."""
    if isinstance(schema, list):
        schema = next((each for each in schema if _has_map(each)), None)
    if not isinstance(schema, dict) or cell is None:
        return cell
    if schema["type"] == "map" and isinstance(cell, list):
        return {each["key"]: _with_maps(each["value"], schema["values"]) for each in cell}
    if schema["type"] == "array" and isinstance(cell, list):
        return [_with_maps(each, schema["items"]) for each in cell]
    if schema["type"] == "record" and isinstance(cell, dict):
        kinds = {field["name"]: field["type"] for field in schema["fields"]}
        return {name: _with_maps(each, kinds.get(name)) for name, each in cell.items()}
    return cell
