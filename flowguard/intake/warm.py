"""Do once, before the first record, what is slow the first time.

The readers behind the codecs load most of their code when they are first used: a third of
a second, and tens of megabytes that would otherwise look like growth under load.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import polars as pl
import pyarrow as pa

from flowguard._native import wire
from flowguard.intake.codec import make_codec
from flowguard.intake.schema import Schema

__all__ = ["warm_up"]

#: More than codecs read row by row.
ROWS: Final = 1024

SAMPLE: Final = {
    "number": pl.Series([1.5], dtype=pl.Float64),
    "whole": pl.Series([1], dtype=pl.Int64),
    "text": pl.Series(["a"], dtype=pl.String),
    "exact": pl.Series(["1.50"]).str.to_decimal(scale=2).cast(pl.Decimal(12, 2)),
    "at": pl.Series([0], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")),
}
COLUMNS: Final = {
    "number": "float64",
    "whole": "int64",
    "text": "string",
    "exact": "decimal128(12,2)",
    "at": "timestamp[ms, UTC]",
}


def warm_up(codecs: Iterable[str]) -> None:
    """Write and read a few rows with each of these codecs; runs on any thread."""
    rows = {name: column.new_from_index(0, ROWS) for name, column in SAMPLE.items()}
    for name in sorted(set(codecs) & {"json", "msgpack"}):
        codec = make_codec(name, Schema.parse(COLUMNS))
        values = codec.encode(pl.DataFrame(rows))
        codec.decode([values.slice(0, 1)])
        frame = codec.decode([values, values.slice(1)]).frame
        frame.filter(pl.col("whole") > 0).to_arrow()
    headers = pa.array([wire.encode_headers([(b"lane", b"a")])] * 2, pa.binary())
    wire.decode_headers(headers).to_pylist()
