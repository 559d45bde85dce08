"""What a frame becomes on its way out: keys, values, partitions, timestamps, headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import polars as pl
import pyarrow as pa

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard._native.record_batches import Rows
from flowguard.errors import ConfigError
from flowguard.suggest import nearest

__all__ = ["OVERRIDES", "Frame", "Header", "Outgoing", "make_outgoing", "split_frame"]

TIMESTAMP_BYTES: Final = 8

#: Columns that are not part of the value.
OVERRIDES: Final = ("_key", "_partition", "_timestamp", "_headers")

Header = tuple[str, bytes | None]

Frame: TypeAlias = pl.DataFrame | pa.Table


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """Records on their way out, by the column; one row a record.

    Args:
        keys: pa.BinaryArray, nulls allowed.
        values: pa.BinaryArray, nulls are tombstones.
        partitions: pa.Int32Array.
        timestamps: pa.Int64Array, milliseconds since 1970; an int is that of every row.
        partition_count: Partitions of the topic.
        common_headers: Headers of every record.
        own_headers: Headers of each record in place of those, or None.
        encoded_headers: The same as they are on the wire, pa.BinaryArray, or None.
    """

    keys: pa.BinaryArray
    values: pa.BinaryArray
    partitions: pa.Int32Array
    timestamps: pa.Int64Array | int
    partition_count: int
    common_headers: Sequence[Header] = ()
    own_headers: Sequence[Sequence[Header]] | None = None
    encoded_headers: pa.BinaryArray | None = None

    def headers_of(self, row: int) -> Sequence[Header]:
        """Return the headers of one record."""
        return self.common_headers if self.own_headers is None else self.own_headers[row]

    def rows(self) -> Rows:
        """Return them by partition, ready to become record batches."""
        headers = self.encoded_headers
        if headers is None and self.own_headers is not None:
            headers = pa.array([encode_headers(each) for each in self.own_headers], pa.binary())
        return Rows(
            self.keys,
            self.values,
            self.partitions,
            self.timestamps,
            encode_headers(self.common_headers) if headers is None else headers,
            self.partition_count,
        )

    @cached_property
    def num_bytes(self) -> int:
        """Return the size of what is sent, without framing."""
        num_bytes = int(self.keys.nbytes + self.values.nbytes)
        if self.encoded_headers is not None:
            num_bytes += int(self.encoded_headers.nbytes)
        return num_bytes + TIMESTAMP_BYTES * len(self.values)


def split_frame(frame: Frame, key_by: str | None) -> tuple[Frame, pa.BinaryArray]:
    """Return the columns of the value, and the keys.

    Raises:
        ConfigError: `key_by` is no column.
    """
    names = names_of(frame)
    value = frame
    if not set(OVERRIDES).isdisjoint(names):
        value = frame.drop([name for name in OVERRIDES if name in names])
    if "_key" in names:
        return value, as_keys(frame, "_key")
    if key_by is None:
        return value, pa.nulls(len(frame), pa.binary())
    if key_by not in names:
        like = nearest(key_by, names)
        hint = f"did you mean {like!r}?" if like else f"it has {', '.join(names)}"
        raise ConfigError(f"key_by={key_by!r} is no column of the frame; {hint}")
    return value, as_keys(frame, key_by)


def names_of(frame: Frame) -> list[str]:
    """Return the names of the columns."""
    return frame.column_names if isinstance(frame, pa.Table) else frame.columns


def series_of(frame: Frame, name: str) -> pl.Series:
    """Return one column as polars has it."""
    if isinstance(frame, pa.Table):
        return pl.Series(frame.column(name))
    return frame.get_column(name)


def as_keys(frame: Frame, name: str) -> pa.BinaryArray:
    """Return a column as keys: text in UTF-8, bytes as they are, all else as its text."""
    if isinstance(frame, pa.Table):
        column = frame.column(name)
        if column.type in (pa.binary(), pa.string()):  # no copy of what is right already
            return combine(column.cast(pa.binary()))
    series = series_of(frame, name)
    if series.dtype != pl.Binary:
        series = series.cast(pl.String).cast(pl.Binary)
    return combine(series.to_arrow()).cast(pa.binary())


def combine(array: Any) -> Any:
    """Return one array, whatever polars made of a column."""
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def make_outgoing(
    frame: Frame,
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
    names = names_of(frame)
    if "_partition" in names:
        chosen = series_of(frame, "_partition").cast(pl.Int32)
        check_partitions(chosen, partition_count)
        partitions = combine(chosen.fill_null(pl.Series(partitions)).to_arrow())
    timestamps = timestamp_ms
    if "_timestamp" in names:
        own = as_timestamps(series_of(frame, "_timestamp")).fill_null(timestamp_ms)
        timestamps = combine(own.to_arrow())
    own_headers = None
    if "_headers" in names:
        own_headers = [
            headers if each is None else as_headers(each)
            for each in series_of(frame, "_headers").to_list()
        ]
    return Outgoing(
        keys=keys,
        values=values,
        partitions=partitions,
        timestamps=timestamps,
        partition_count=partition_count,
        common_headers=headers,
        own_headers=own_headers,
    )


def encode_headers(headers: Sequence[Header]) -> bytes:
    """Return headers as they are on the wire."""
    return wire.encode_headers([(name.encode(), value) for name, value in headers])


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
