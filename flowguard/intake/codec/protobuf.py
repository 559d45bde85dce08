"""`codec="protobuf"`: protobuf messages with a schema number of a registry.

    0x00 | schema number | message index: count, index, index … (zigzag varints) | message

The index says which message of the file it is, as a path through nested ones; `0` alone
stands for the first. Schemas come as descriptors (`?format=serialized`), because their
source text cannot be read without protobuf's compiler.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

import polars as pl
import pyarrow as pa
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    message_factory,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

from flowguard.intake.codec.codec import RegisteredSchema
from flowguard.intake.codec.framed import FRAME, FramedCodec, Writer, framed
from flowguard.intake.codec.rows import WrongValue
from flowguard.intake.codec.written import listed_rows, subject_schema

__all__ = ["ProtobufCodec"]

Read = Callable[[Any], Any]

#: Files that every protobuf has and registries do not send.
WELL_KNOWN: Final = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (duration_pb2, empty_pb2, timestamp_pb2, wrappers_pb2, descriptor_pb2)
}
#: Options that Confluent's tools understand; nothing in a message depends on them.
ONLY_OPTIONS: Final = ("confluent/meta.proto",)

TIMESTAMP: Final = "google.protobuf.Timestamp"
DURATION: Final = "google.protobuf.Duration"
#: A message with one field `value`: a scalar that may be null.
WRAPPERS: Final = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
INDEX_MAX: Final = 64  # messages nested in one another
VARINT_BYTES_MAX: Final = 5

SIMPLE: Final[Mapping[int, pa.DataType]] = {
    FieldDescriptor.CPPTYPE_INT32: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT32: pa.int64(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT64: pa.uint64(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float64(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
    FieldDescriptor.CPPTYPE_ENUM: pa.string(),
}


class ProtobufCodec(FramedCodec):
    """Protobuf messages ⇄ rows, with Confluent's framing.

    Reading: a value is read by the schema that it was written with. A field with presence
    (`optional`, a message, a member of a `oneof`) is null when it is absent; any other has
    its default then, as protobuf has it. Enums are text, maps lists of `{key, value}`,
    `Timestamp` and `Duration` times, wrappers like `Int64Value` what they wrap.
    Without declared columns the first message of the first schema names them.

    Writing: the first message of the subject's latest schema; a column that it does not
    have is an error, a null is left out.
    """

    name = "protobuf"

    def _writer(self, schema: RegisteredSchema) -> Writer:
        return ProtobufWriter(schema)

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one framed message per row; see `FramedCodec.encode`."""
        id, registered = subject_schema(self._registry, self._subject)
        message_type = message_at(file_of(registered), (0,))
        make = message_factory.GetMessageClass(message_type)
        start = framed(id) + b"\x00"
        values = []
        for row in listed_rows(frame, message_type.fields_by_name, self._subject):
            message = make()
            try:
                fill(message, row)
                values.append(start + message.SerializeToString())
            except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
                raise ValueError(f"a row does not fit {message_type.full_name}: {error}") from error
        return pa.array(values, pa.binary())


class ProtobufWriter:
    """One writer's schema.

    Args:
        schema: As the registry has it.

    Raises:
        ValueError: It is no descriptor, or it has no message.
    """

    def __init__(self, schema: RegisteredSchema) -> None:
        self._file = file_of(schema)
        self._readers: dict[bytes, Read] = {}
        first = message_at(self._file, (0,))
        self.columns = pa.schema(
            [pa.field(field.name, column_type(field, (first.full_name,))) for field in first.fields]
        )

    def read(self, value: bytes) -> dict[str, Any]:
        """Return one message; see `Writer.read`."""
        at, path = message_index(value)
        index = value[FRAME:at]
        read = self._readers.get(index)
        if read is None:
            read = self._readers[index] = message_parser(message_at(self._file, path))
        try:
            parsed: dict[str, Any] = read(value[at:])
        except RecursionError:
            raise WrongValue("value is nested too deeply") from None
        except (DecodeError, ValueError, OverflowError) as error:
            reason = f"value is not what its schema says: {type(error).__name__}: {error}"
            raise WrongValue(reason) from None
        return parsed


# ------------------------------------------------------------------ schemas


def file_of(schema: RegisteredSchema) -> FileDescriptor:
    """Return a schema's file, with all that it imports, in a pool of its own.

    Raises:
        ValueError: It is no descriptor, or imports what is not there.
    """
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for name, text in (*schema.references, ("", schema.text)):
        file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text))
        # Registries leave the name out, or give each file the same.
        file.name = name or "flowguard/registered.proto"
        needed = [each for each in file.dependency if each not in ONLY_OPTIONS]
        del file.dependency[:], file.public_dependency[:], file.weak_dependency[:]
        file.dependency.extend(needed)
        for each in needed:
            if each in WELL_KNOWN and each not in added:
                pool.AddSerializedFile(WELL_KNOWN[each].serialized_pb)
                added.add(each)
        if file.name not in added:
            pool.Add(file)
            added.add(file.name)
    try:
        return pool.FindFileByName("flowguard/registered.proto")
    except KeyError as error:
        raise ValueError(f"it imports what is not there: {error}") from None


def message_at(file: FileDescriptor, path: tuple[int, ...]) -> Descriptor:
    """Return the message at a path of indexes.

    Raises:
        WrongValue: There is none.
    """
    messages = list(file.message_types_by_name.values())
    found = None
    for index in path:
        if not 0 <= index < len(messages):
            raise WrongValue(f"the schema has no message {list(path)}")
        found = messages[index]
        messages = list(found.nested_types)
    if found is None:
        raise WrongValue("the schema has no message")
    return found


def message_index(value: bytes) -> tuple[int, tuple[int, ...]]:
    """Return where the message begins, and the path of its type.

    Raises:
        WrongValue: There is no index.
    """
    if value[FRAME : FRAME + 1] == b"\0":  # nearly always
        return FRAME + 1, (0,)
    at, count = _zigzag(value, FRAME)
    if not 0 <= count <= INDEX_MAX:
        raise WrongValue(f"value has a message index of {count} numbers")
    path = []
    for _ in range(count):
        at, index = _zigzag(value, at)
        path.append(index)
    return at, tuple(path) or (0,)


def _zigzag(value: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(value[at : at + VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return at + place + 1, (number >> 1) ^ -(number & 1)
    raise WrongValue("value ends inside its message index")


# ------------------------------------------------------------------ reading


def message_parser(message_type: Descriptor) -> Read:
    """Return what parses bytes of a message into a dict."""
    parse = message_factory.GetMessageClass(message_type).FromString
    read = message_reader(message_type, {})

    def parse_and_read(content: bytes) -> Any:
        return read(parse(content))

    return parse_and_read


def message_reader(message_type: Descriptor, known: dict[str, Read]) -> Read:
    """Return what makes a parsed value of a message.

    Args:
        message_type: Its type.
        known: Readers made so far; a type may hold itself.
    """
    name = message_type.full_name
    if name in WRAPPERS:
        return lambda message: message.value
    if name in (TIMESTAMP, DURATION):
        return _instant if name == TIMESTAMP else _duration
    if name in known:
        return lambda message: known[name](message)
    known[name] = lambda message: None  # replaced below, before anyone calls it
    cells = [(each.name, each.has_presence, field_reader(each, known))
             for each in message_type.fields]  # fmt: skip

    def read(message: Message) -> dict[str, Any]:
        return {
            name: None
            if has_presence and not message.HasField(name)
            else cell(getattr(message, name))
            for name, has_presence, cell in cells
        }

    known[name] = read
    return read


def field_reader(field: FieldDescriptor, known: dict[str, Read]) -> Read:
    """Return what makes a parsed value of a field."""
    if is_map(field):
        value = field_reader(field.message_type.fields_by_name["value"], known)
        return lambda entries: {key: value(entries[key]) for key in entries}
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        one = message_reader(field.message_type, known)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        one = enum_reader(field)
    else:
        one = _as_it_is
    if not field.is_repeated:
        return one
    return list if one is _as_it_is else lambda cells: [one(each) for each in cells]


def enum_reader(field: FieldDescriptor) -> Read:
    """Return what makes text of an enum's number; an unknown number stays one, as text."""
    names = {number: each.name for number, each in field.enum_type.values_by_number.items()}
    return lambda number: names.get(number) or str(number)


def is_map(field: FieldDescriptor) -> bool:
    """Tell whether a field is a map."""
    kind = field.message_type
    return field.is_repeated and kind is not None and kind.GetOptions().map_entry


def _as_it_is(cell: Any) -> Any:
    return cell


def _instant(message: Any) -> Any:
    whole, rest = divmod(message.nanos, 1000)
    moment = EPOCH + dt.timedelta(seconds=message.seconds, microseconds=whole)
    # Python has no nanoseconds, text does.
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}{rest:03}Z" if rest else moment


def _duration(message: Any) -> dt.timedelta:
    whole, rest = divmod(message.nanos, 1000)
    if rest:
        raise ValueError("a duration of nanoseconds cannot be read")
    return dt.timedelta(seconds=message.seconds, microseconds=whole)


def column_type(field: FieldDescriptor, inside: tuple[str, ...]) -> pa.DataType:
    """Return the type of a column that holds everything of a field."""
    if is_map(field):
        entry = field.message_type.fields_by_name
        return pa.list_(
            pa.struct([(name, column_type(entry[name], inside)) for name in ("key", "value")])
        )
    kind = _cell_type(field, inside)
    return pa.list_(kind) if field.is_repeated else kind


def _cell_type(field: FieldDescriptor, inside: tuple[str, ...]) -> pa.DataType:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return pa.binary() if field.type == FieldDescriptor.TYPE_BYTES else pa.string()
    if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
        return SIMPLE[field.cpp_type]
    name = field.message_type.full_name
    if name == TIMESTAMP:
        return pa.timestamp("us", "UTC")
    if name == DURATION:
        return pa.duration("us")
    if name in WRAPPERS:
        return _cell_type(field.message_type.fields_by_name["value"], inside)
    if name in inside:  # it holds itself: as text, whatever its depth
        return pa.string()
    fields = field.message_type.fields
    return pa.struct([pa.field(each.name, column_type(each, (*inside, name))) for each in fields])


# ------------------------------------------------------------------ writing


def fill(message: Any, row: Mapping[str, Any]) -> None:
    """Write a row into an empty message; nulls are left out.

    Raises:
        TypeError, ValueError, KeyError: A cell does not fit.
    """
    fields = message.DESCRIPTOR.fields_by_name
    for name, cell in row.items():
        if cell is not None:
            _fill_field(message, fields[name], cell)


def _fill_field(message: Any, field: FieldDescriptor, cell: Any) -> None:
    is_scalar = not field.is_repeated and not field.message_type
    target: Any = None if is_scalar else getattr(message, field.name)
    if is_map(field):
        value = field.message_type.fields_by_name["value"]
        for entry in cell:
            if value.message_type:
                _fill_message(target[entry["key"]], entry["value"])
            else:
                target[entry["key"]] = _scalar(value, entry["value"])
    elif not field.is_repeated:
        if field.message_type:
            _fill_message(target, cell)
        else:
            setattr(message, field.name, _scalar(field, cell))
    elif field.message_type:
        for each in cell:
            _fill_message(target.add(), each)
    else:
        target.extend(_scalar(field, each) for each in cell)


def _fill_message(message: Any, cell: Any) -> None:
    message.SetInParent()
    name = message.DESCRIPTOR.full_name
    if name in WRAPPERS:
        message.value = cell
    elif name == TIMESTAMP:
        since = cell - EPOCH
        message.seconds = since // dt.timedelta(seconds=1)
        message.nanos = since % dt.timedelta(seconds=1) // dt.timedelta(microseconds=1) * 1000
    elif name == DURATION:
        micros = cell // dt.timedelta(microseconds=1)
        seconds = abs(micros) // 1_000_000 * (1 if micros >= 0 else -1)
        message.seconds = seconds
        message.nanos = (micros - seconds * 1_000_000) * 1000
    else:
        fill(message, cell)


def _scalar(field: FieldDescriptor, cell: Any) -> Any:
    if field.enum_type is not None and isinstance(cell, str):
        return field.enum_type.values_by_name[cell].number
    return cell
