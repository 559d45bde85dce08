"""What a frame becomes on its way out: keys, values, partitions, timestamps, headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import pyarrow as pa

from flowguard._native.murmur2 import partitions_of
from flowguard.errors import ConfigError
from flowguard.suggest import nearest

__all__ = ["OVERRIDES", "Header", "Outgoing", "make_outgoing", "split_frame"]

#: Columns that are not part of the value.
OVERRIDES: Final = ("_key", "_partition", "_timestamp", "_headers")

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Records on their way out, by the column; one row a record.

    Args:
        keys: pa.BinaryArray, nulls allowed.
        values: pa.BinaryArray, nulls are tombstones.
        partitions: pa.Int32Array.
        timestamps: pa.Int64Array, milliseconds since 1970.
        common_headers: Headers of every record.
        own_headers: Headers of each record in place of those, or None.
    """

    keys: pa.BinaryArray
    values: pa.BinaryArray
    partitions: pa.Int32Array
    timestamps: pa.Int64Array
    common_headers: Sequence[Header] = ()
    own_headers: Sequence[Sequence[Header]] | None = None

    def headers_of(self, row: int) -> Sequence[Header]:
        """Return the headers of one record."""
        return self.common_headers if self.own_headers is None else self.own_headers[row]

    @property
    def num_bytes(self) -> int:
        """Return the size of what is sent, without framing."""
        return int(self.keys.nbytes + self.values.nbytes + self.timestamps.nbytes)


def split_frame(frame: pl.DataFrame, key_by: str | None) -> tuple[pl.DataFrame, pa.BinaryArray]:
    """Return the columns of the value, and the keys.

    Raises:
        ConfigError: `key_by` is no column.
    """
    value = frame
    if not set(OVERRIDES).isdisjoint(frame.columns):
        value = pl.DataFrame(
            [frame.get_column(name) for name in frame.columns if name not in OVERRIDES]
        )
    if "_key" in frame.columns:
        return value, as_keys(frame.get_column("_key"))
    if key_by is None:
        return value, pa.nulls(len(frame), pa.binary())
    if key_by not in frame.columns:
        like = nearest(key_by, frame.columns)
        hint = f"did you mean {like!r}?" if like else f"it has {', '.join(frame.columns)}"
        raise ConfigError(f"key_by={key_by!r} is no column of the frame; {hint}")
    return value, as_keys(frame.get_column(key_by))


def as_keys(column: pl.Series) -> pa.BinaryArray:
    """Return a column as keys: text in UTF-8, bytes as they are, all else as its text."""
    if column.dtype != pl.Binary:
        column = column.cast(pl.String).cast(pl.Binary)
    return combine(column.to_arrow()).cast(pa.binary())


def combine(array: Any) -> Any:
    """Return one array, whatever polars made of a column."""
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def make_outgoing(
    frame: pl.DataFrame,
    *,
    keys: pa.BinaryArray,
    values: pa.BinaryArray,
    partition_count: int,
    keyless_partition: int,
    timestamp_ms: int,
    headers: Sequence[Header],
) -> Outgoing:
    """Return the records of a frame, with what its columns override.

    Args:
        frame: The frame as it was given, with its overriding columns.
        partition_count: Partitions of the topic.
        keyless_partition: Where records without key and partition go.
        timestamp_ms: The timestamp of rows that override none.
        headers: The headers of rows that override none.

    Raises:
        ConfigError: `_partition` names one that the topic does not have.
    """
    partitions = partitions_of(keys, partition_count, keyless_partition)
    if "_partition" in frame.columns:
        own = pl.Series(frame.get_column("_partition")).cast(pl.Int32)
        check_partitions(own, partition_count)
        partitions = combine(own.fill_null(pl.from_arrow(partitions)).to_arrow())
    timestamps = pl.Series([timestamp_ms], dtype=pl.Int64).new_from_index(0, len(frame))
    if "_timestamp" in frame.columns:
        timestamps = as_timestamps(frame.get_column("_timestamp")).fill_null(timestamp_ms)
    own_headers = None
    if "_headers" in frame.columns:
        own_headers = [
            headers if each is None else as_headers(each)
            for each in frame.get_column("_headers").to_list()
        ]
    return Outgoing(
        keys=keys,
        values=values,
        partitions=partitions,
        timestamps=combine(timestamps.to_arrow()),
        common_headers=headers,
        own_headers=own_headers,
    )


def check_partitions(own: pl.Series, partition_count: int) -> None:
    """Raise ConfigError for a partition that the topic does not have."""
    wrong = own.filter((own < 0) | (own >= partition_count))
    if len(wrong):
        raise ConfigError(
            f"_partition={wrong[0]} does not exist; the topic has partitions 0 to "
            f"{partition_count - 1}"
        )


def as_timestamps(column: pl.Series) -> pl.Series:
    """Return timestamps in milliseconds since 1970."""
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.epoch("ms")
    return column.cast(pl.Int64)


def as_headers(given: Any) -> list[Header]:
    """Return the headers of one row: a struct by name, or a list of name and value."""
    if isinstance(given, Mapping):
        return [(name, as_bytes(value)) for name, value in given.items() if value is not None]
    return [(each["name"], as_bytes(each["value"])) for each in given]


def as_bytes(value: Any) -> bytes | None:
    """Return a header value as bytes."""
    return value if value is None or isinstance(value, bytes) else str(value).encode()
