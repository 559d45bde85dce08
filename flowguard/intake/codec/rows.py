"""What a value means, one value at a time: the law that every faster path obeys.

A parsed value is made of None, bool, int, float, `Number` (a JSON number with a point or
an exponent, still as text), str, bytes, list, dict and, from formats that have them,
`Decimal`, `datetime`, `date` and `timedelta`. A *reader* turns one of those into what
`pa.array(…, type)` takes, exactly, or raises `WrongValue`.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Final

import msgspec
import pyarrow as pa

from flowguard.intake.codec.codec import Rejection
from flowguard.intake.schema import Schema

__all__ = [
    "BLANK",
    "Number",
    "Part",
    "RowReader",
    "WrongValue",
    "as_text",
    "counts",
    "join_parts",
    "reader",
]

Reader = Callable[[Any], Any]

#: A value of nothing but these bytes is blank, and means what a tombstone means.
BLANK: Final = b" \t\r\n"
#: Longest text of a value that a reason quotes.
QUOTED_CHARS: Final = 40

PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
INT64: Final = range(-(2**63), 2**63)
DECIMAL_TEXT: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: ISO 8601, extended format; without an offset it is UTC.
TIMESTAMP_TEXT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?)?"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
DATE_TEXT: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
#: The Gregorian calendar repeats every 400 years; Python's begins with year 1.
DAYS_IN_400_YEARS: Final = 146_097


class Number:
    """A JSON number with a point or an exponent, as its text: nothing is rounded yet."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def integral(self) -> int | None:
        """Return it as an int if it is one of at most 38 digits (`1.0`, `1e3`)."""
        number = _exact(self)
        if number is None or abs(number.adjusted()) > 38 or number != number.to_integral_value():
            return None
        return int(number)


class WrongValue(ValueError):
    """A parsed value does not fit its column.

    Args:
        problem: The rest of the sentence that begins with the column's name.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def inside(self, step: str) -> WrongValue:
        """Return the same error one level further out."""
        self.path = f"{step}{self.path}"
        return self


class Part:
    """Rows of a stretch of values: a table of the good ones, and the rejected.

    Args:
        table: The good rows, in order.
        rejected: Ascending; rows count from the first value of the stretch.
        length: How many values the stretch has.
    """

    __slots__ = ("length", "rejected", "table")

    def __init__(self, table: pa.Table, rejected: list[Rejection]) -> None:
        self.table = table
        self.rejected = rejected
        self.length = table.num_rows + len(rejected)


def join_parts(parts: Sequence[Part]) -> Part:
    """Return stretches one after the other; all have one schema."""
    rejected, start = [], 0
    for part in parts:
        rejected += [Rejection(start + row, reason) for row, reason in part.rejected]
        start += part.length
    return Part(pa.concat_tables([part.table for part in parts]), rejected)


class RowReader:
    """Turns parsed values into rows of a schema.

    Args:
        schema: The columns.
        anything_as_text: A string column takes every value, as its JSON text. For columns
            whose type was inferred and widened to string.
    """

    def __init__(self, schema: Schema, *, anything_as_text: bool = False) -> None:
        self.schema = schema
        self.columns = [
            (field.name, reader(field.type, anything_as_text), field.name in schema.required)
            for field in schema.arrow
        ]
        self.empty_row = (None,) * len(self.columns)

    def read(self, parsed: Iterable[Any]) -> Part:
        """Return the rows of parsed values; a `WrongValue` among them is a rejection."""
        rows, rejected = [], []
        for at, value in enumerate(parsed):
            try:
                rows.append(self.read_row(value))
            except WrongValue as error:
                rejected.append(Rejection(at, error.problem))
            except RecursionError:
                rejected.append(Rejection(at, "value is nested too deeply"))
        return Part(self.table(rows), rejected)

    def read_row(self, value: Any) -> tuple[Any, ...]:
        """Return one row; None is a tombstone.

        Raises:
            WrongValue: The whole reason is in `problem`.
        """
        if isinstance(value, WrongValue):
            raise value
        if value is None:
            return self._tombstone()
        if not isinstance(value, dict):
            raise WrongValue(f"value is not an object, found {described(value)}")
        row = []
        for name, read, required in self.columns:
            cell = value.get(name)
            if cell is not None:
                try:
                    cell = read(cell)
                except WrongValue as error:
                    raise WrongValue(f'column "{name}{error.path}": {error.problem}') from None
            if cell is None and required:
                raise WrongValue(f'column "{name}" is {"null" if name in value else "missing"}')
            row.append(cell)
        return tuple(row)

    def _tombstone(self) -> tuple[Any, ...]:
        for name, _, required in self.columns:
            if required:
                raise WrongValue(f'column "{name}" is missing: the value is empty')
        return self.empty_row

    @cached_property
    def _no_rows(self) -> pa.Table:
        """What is left where all values are bad, mostly a single one: made once."""
        return self.schema.arrow.empty_table()

    def table(self, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
        """Return rows as a table of the schema. Shape: `len(rows)` rows."""
        if not self.columns:
            return pa.table({"": pa.nulls(len(rows))}).select([])
        if not rows:
            return self._no_rows
        columns = zip(*rows, strict=True)
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self.schema.arrow, strict=True)
        ]
        return pa.table(arrays, schema=self.schema.arrow)


# ------------------------------------------------------------------ readers by type


def reader(kind: pa.DataType, anything_as_text: bool = False) -> Reader:
    """Return what reads one non-null parsed value as `kind`."""
    if pa.types.is_integer(kind):
        return _integer_reader(kind)
    if pa.types.is_floating(kind):
        return _float_reader(kind)
    if pa.types.is_boolean(kind):
        return _bool
    if pa.types.is_string(kind):
        return as_text if anything_as_text else _string
    if pa.types.is_binary(kind):
        return _binary
    if pa.types.is_decimal(kind):
        return _decimal_reader(kind)
    if pa.types.is_timestamp(kind):
        return _timestamp_reader(kind)
    if pa.types.is_date(kind):
        return _date
    if pa.types.is_duration(kind):
        return _duration_reader(kind)
    if pa.types.is_list(kind):
        return _list_reader(kind, anything_as_text)
    if pa.types.is_struct(kind):
        return _struct_reader(kind, anything_as_text)
    return _null


def described(value: Any) -> str:
    """Return a parsed value as a reason shows it: `text "12"`, `number 1.5`, `a list`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float, Number)):
        return f"number {_clipped(value.text if isinstance(value, Number) else repr(value))}"
    if isinstance(value, str):
        return f'text "{_clipped(value)}"'
    for kind, name in ((list, "a list"), (dict, "an object"), (bytes, "bytes")):
        if isinstance(value, kind):
            return name
    return f"{type(value).__name__} {_clipped(str(value))}"


def _clipped(text: str) -> str:
    return text if len(text) <= QUOTED_CHARS else f"{text[: QUOTED_CHARS - 1]}…"


def _wrong(kind: object, value: Any) -> WrongValue:
    return WrongValue(f"expected {kind}, found {described(value)}")


def _unfit(kind: object, value: Any) -> WrongValue:
    return WrongValue(f"{described(value)} does not fit {kind}")


def _null(value: Any) -> None:
    raise _wrong("null", value)


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _wrong("bool", value)
    return value


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _wrong("string", value)
    return value


def _binary(value: Any) -> bytes:
    # JSON has no bytes: there, a binary column is the UTF-8 of a string.
    if type(value) is str:
        return value.encode()
    if type(value) is not bytes:
        raise _wrong("binary", value)
    return value


def _whole(value: Any) -> int | None:
    """Return a number without a fraction as an int, anything else as None."""
    if type(value) is int:
        return value
    if isinstance(value, Number):
        return value.integral()
    if type(value) is float and value.is_integer():
        return int(value)
    return None


def _integer_reader(kind: pa.DataType) -> Reader:
    signed = pa.types.is_signed_integer(kind)
    values = range(-(1 << kind.bit_width - 1), 1 << kind.bit_width - 1)
    if not signed:
        values = range(1 << kind.bit_width)

    def read(value: Any) -> int:
        number = _whole(value)
        if number is None:
            raise _wrong(kind, value)
        if number not in values:
            raise _unfit(kind, value)
        return number

    return read


def _float_reader(kind: pa.DataType) -> Reader:
    name = "float32" if kind.bit_width == 32 else "float64"

    def read(value: Any) -> float:
        if isinstance(value, float):
            number = value  # MessagePack: infinities and NaN are said, not overflown
            overflow = False
        elif type(value) is int or isinstance(value, Number):
            number = _float(value)
            overflow = abs(number) == float("inf")
        else:
            raise _wrong(name, value)
        if overflow or (name == "float32" and _overflows_float32(number)):
            raise _unfit(name, value)
        return number

    return read


def _float(value: int | Number) -> float:
    try:
        return float(value.text if isinstance(value, Number) else value)
    except OverflowError:
        return float("inf")


def _overflows_float32(number: float) -> bool:
    try:
        struct.pack("<f", number)
    except OverflowError:
        return True
    return False


def _decimal_reader(kind: pa.DataType) -> Reader:
    step = Decimal(1).scaleb(-kind.scale)
    context = Context(prec=kind.precision, traps=[InvalidOperation])

    def read(value: Any) -> Decimal:
        number = _exact(value)
        if number is None:
            raise _wrong(kind, value)
        try:
            # Fails when the result has more digits than the precision allows.
            fitted = number.quantize(step, context=context)
        except InvalidOperation:
            raise _unfit(kind, value) from None
        if fitted != number:
            raise _unfit(kind, value)
        return fitted

    return read


def _exact(value: Any) -> Decimal | None:
    if type(value) is int or isinstance(value, Decimal):
        return Decimal(value)
    text = value.text if isinstance(value, Number) else value
    if type(text) is not str or not DECIMAL_TEXT.fullmatch(text):
        return None  # a binary float is never taken: its digits are not the sender's
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        return None


def _timestamp_reader(kind: pa.DataType) -> Reader:
    held = counts(kind)

    def read(value: Any) -> int:
        if isinstance(value, str):
            count = _timestamp_text(value, kind.unit)
        elif isinstance(value, dt.datetime):
            count = _datetime_count(value, kind.unit)
        else:
            count = _whole(value)
        if count is None:
            raise _wrong(kind, value)
        if count not in held:
            raise _unfit(kind, value)
        return count

    return read


def counts(kind: pa.DataType) -> range:
    """Return the counts that a temporal type can hold, in its unit."""
    # Polars has no seconds: it holds them as milliseconds, in the same 64 bits.
    return range(-(2**63) // 1000 + 1, 2**63 // 1000) if kind.unit == "s" else INT64


def _timestamp_text(text: str, unit: str) -> int | None:
    """Return an ISO 8601 instant in units since the epoch, None if it is none or finer."""
    match = TIMESTAMP_TEXT.fullmatch(text)
    days = _days(match[1]) if match else None
    if match is None or days is None:
        return None
    hour, minute, second = (int(match[at] or 0) for at in (2, 3, 4))
    offset_hour, offset_minute = int(match[7] or 0), int(match[8] or 0)
    if hour > 23 or offset_hour > 23 or max(minute, second, offset_minute) > 59:
        return None
    offset = (offset_hour * 3600 + offset_minute * 60) * (-1 if match[6] == "-" else 1)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset
    nanoseconds = int((match[5] or "").ljust(9, "0"))
    return _in_unit(seconds * 10**9 + nanoseconds, unit)


def _datetime_count(moment: dt.datetime, unit: str) -> int | None:
    utc = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    since = utc - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return _in_unit((since // dt.timedelta(microseconds=1)) * 1000, unit)


def _in_unit(nanoseconds: int, unit: str) -> int | None:
    count, rest = divmod(nanoseconds, 10**9 // PER_SECOND[unit])
    return None if rest else count


def _date(value: Any) -> int:
    days = value.toordinal() - EPOCH_DAY if type(value) is dt.date else _whole(value)
    if isinstance(value, str):
        days = _days(value)
    if days is None:
        raise _wrong("date32", value)
    if days not in range(-(2**31), 2**31):
        raise _unfit("date32", value)
    return days


def _days(text: str) -> int | None:
    match = DATE_TEXT.fullmatch(text)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups())
    shift = DAYS_IN_400_YEARS if year == 0 else 0
    try:
        return dt.date(year or 400, month, day).toordinal() - shift - EPOCH_DAY
    except ValueError:
        return None


def _duration_reader(kind: pa.DataType) -> Reader:
    held = counts(kind)

    def read(value: Any) -> int:
        count = _whole(value)
        if isinstance(value, dt.timedelta):
            count = _in_unit(value // dt.timedelta(microseconds=1) * 1000, kind.unit)
        if count is None:
            raise _wrong(kind, value)
        if count not in held:
            raise _unfit(kind, value)
        return count

    return read


def _list_reader(kind: pa.DataType, anything_as_text: bool) -> Reader:
    read_item = reader(kind.value_type, anything_as_text)

    def read(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _wrong("list", value)
        items = []
        for at, item in enumerate(value):
            try:
                items.append(None if item is None else read_item(item))
            except WrongValue as error:
                raise error.inside(f"[{at}]") from None
        return items

    return read


def _struct_reader(kind: pa.DataType, anything_as_text: bool) -> Reader:
    fields = [(field.name, reader(field.type, anything_as_text)) for field in kind.fields]

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong("struct", value)
        cells = {}
        for name, read_field in fields:
            cell = value.get(name)
            try:
                cells[name] = None if cell is None else read_field(cell)
            except WrongValue as error:
                raise error.inside(f".{name}") from None
        return cells

    return read


# ------------------------------------------------------------------ text of anything


def as_text(value: Any) -> str:
    """Return a parsed value as text: strings as they are, everything else as its JSON."""
    return value if type(value) is str else _json_text(value)


def _json_text(value: Any) -> str:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_json_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_json_text(str(k))}:{_json_text(v)}' for k, v in value.items())}}}"
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return msgspec.json.encode(value).decode()
