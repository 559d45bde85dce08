"""What may be declared as `columns=`."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Optional

import faust
import polars as pl
import pyarrow as pa
import pytest

from flowguard.errors import ConfigError
from flowguard.intake.schema import Schema, parse_type


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int64", pa.int64()),
        ("uint8", pa.uint8()),
        ("float", pa.float64()),
        ("float32", pa.float32()),
        ("str", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestamp[ms]", pa.timestamp("ms")),
        ("timestamp[ns,Europe/Zurich]", pa.timestamp("ns", "Europe/Zurich")),
        ("timestamp[us, tz=UTC]", pa.timestamp("us", "UTC")),
        ("duration[s]", pa.duration("s")),
        ("decimal128(12,2)", pa.decimal128(12, 2)),
        ("list<decimal128(12, 2)>", pa.list_(pa.decimal128(12, 2))),
        ("list<item: int64>", pa.list_(pa.int64())),
        (
            "struct<a: list<struct<b: decimal128(3, 1)>>, c: timestamp[us, UTC]>",
            pa.struct(
                {
                    "a": pa.list_(pa.struct({"b": pa.decimal128(3, 1)})),
                    "c": pa.timestamp("us", "UTC"),
                }
            ),
        ),
    ],
)
def test_a_type_is_written_as_arrow_writes_it(text: str, kind: pa.DataType) -> None:
    assert parse_type(text) == kind
    assert Schema.parse({"c": f"!{text}"}) == Schema(pa.schema({"c": kind}), frozenset("c"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("int46", "int64"),
        ("strng", "string"),
        ("timestamp[min]", "did you mean 'timestamp"),
        ("timestamp[us, UCT+]", "UCT"),
        ("decimal128(39, 2)", "1 to 38"),
        ("decimal(12, 2)", "decimal128(12, 2)"),
        ("list<int46>", "int64"),
        ("struct<int64>", "name: type"),
        ("zzz", "known are int8"),
        ("duration[ms, UTC]", "no time zone"),
    ],
)
def test_a_wrong_type_names_its_column_and_the_nearest_type(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Schema.parse({"good": "int64", "amount": text})
    assert 'column "amount"' in str(raised.value)
    assert hint in str(raised.value)


def test_a_pyarrow_schema_is_taken_with_its_nullability_and_without_storage_variants() -> None:
    schema = Schema.parse(
        pa.schema(
            [
                pa.field("a", pa.large_string(), nullable=False),
                pa.field("b", pa.large_list(pa.string_view())),
                pa.field("c", pa.float32()),
            ]
        )
    )
    expected = {"a": pa.string(), "b": pa.list_(pa.string()), "c": pa.float32()}
    assert schema.arrow == pa.schema(expected)
    assert schema.required == {"a"}


def test_a_polars_frame_can_lend_its_schema() -> None:
    frame = pl.DataFrame({"a": [1], "s": ["x"], "d": [Decimal("1.25")], "l": [["x"]]})
    assert Schema.parse(frame.to_arrow().schema).arrow.names == ["a", "s", "d", "l"]


def test_a_type_that_cannot_be_declared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'column "m".*no type'):
        Schema.parse({"m": pa.map_(pa.string(), pa.int64())})


def test_a_column_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match='"a" is declared twice'):
        Schema.parse(pa.schema([("a", pa.int64()), ("a", pa.string())]))


@pytest.mark.parametrize("columns", [{}, pa.schema([])])
def test_no_columns_at_all_are_refused(columns: object) -> None:
    with pytest.raises(ConfigError, match="no column"):
        Schema.parse(columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [["a"], 7, int, {"a": 7}, {1: "int64"}])
def test_what_is_no_declaration_is_a_config_error(columns: object) -> None:
    with pytest.raises(ConfigError):
        Schema.parse(columns)  # type: ignore[arg-type]


class Item(faust.Record):
    sku: str


class Order(faust.Record):
    number: int
    price: Decimal
    at: datetime
    day: date
    item: Item
    note: Optional[str]  # noqa: UP045 - the form of Faust's own documentation
    tags: list[str] = []  # noqa: RUF012 - so are its defaults
    rate: float | None = None


def test_a_faust_record_requires_what_has_no_default_and_is_not_optional() -> None:
    schema = Schema.parse(Order)
    assert schema.required == {"number", "price", "at", "day", "item"}
    assert schema.arrow == pa.schema(
        {
            "number": pa.int64(),
            "price": pa.decimal128(38, 9),
            "at": pa.timestamp("us", "UTC"),
            "day": pa.date32(),
            "item": pa.struct({"sku": pa.string()}),
            "note": pa.string(),
            "tags": pa.list_(pa.string()),
            "rate": pa.float64(),
        }
    )


class Odd(faust.Record):
    anything: dict[str, int]


def test_a_faust_field_without_column_type_names_record_and_field() -> None:
    with pytest.raises(ConfigError, match='"anything" of Odd'):
        Schema.parse(Odd)
