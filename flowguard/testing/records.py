"""Records for a feed: made of a frame, of plain values, of bytes, or out of nothing."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import polars as pl
import pyarrow as pa

from flowguard.agents.feed import CodecSlot, Feed
from flowguard.chunk import TopicPartition
from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.rules import LANE_HEADER, ByColumn, ByHeader, ByKeyPrefix
from flowguard.settle.egress import Header, Outgoing, as_headers, make_outgoing, split_frame
from flowguard.testing.log import Log

__all__ = ["Given", "frame_of", "new_codec", "numbered", "outgoing_for", "wire_batches"]

Given: TypeAlias = "pl.DataFrame | pa.Table | Sequence[Mapping[str, Any]] | Sequence[bytes] | int"

#: A wire batch as large as brokers take.
BATCH_BYTES_MAX: Final = 1000 * 1024

#: Made values of a text column repeat after so many rows, so that keys do too.
DISTINCT: Final = 100

#: Timestamps of made rows begin here.
BEGIN: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def new_codec(feed: Feed) -> Any:
    """Return a codec as the feed has one, which has seen nothing yet."""
    return CodecSlot(feed.options, f"{feed}-value").get()


def frame_of(given: Given, feed: Feed, chance: random.Random) -> pl.DataFrame:
    """Return records as a frame.

    Args:
        given: A frame or table, a list of dicts, or how many records to make.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(given, pl.DataFrame):
        return given
    if isinstance(given, pa.Table):
        return pl.DataFrame(pl.from_arrow(given))
    if isinstance(given, int) and not isinstance(given, bool):
        return numbered(given, feed, chance)
    if isinstance(given, Sequence) and all(isinstance(each, Mapping) for each in given):
        return pl.DataFrame(list(given), infer_schema_length=None)
    raise ConfigError(
        f"{type(given).__name__} cannot become records; give a Polars frame, an Arrow table, a "
        f"list of dicts, or how many records to make"
    )


def numbered(count: int, feed: Feed, chance: random.Random) -> pl.DataFrame:
    """Return rows with a value for each declared column; without columns, `n` from 0 on."""
    schema = feed.options.columns
    if schema is None:
        return pl.DataFrame({"n": range(count)}, schema={"n": pl.Int64})
    columns = {
        field.name: pa.array([made(field, row, chance) for row in range(count)], field.type)
        for field in schema.arrow
    }
    return pl.DataFrame(pl.from_arrow(pa.table(columns)))


def made(field: pa.Field[Any], row: int, chance: random.Random) -> Any:
    """Return a value of a column's type: whole numbers count, all else is drawn."""
    kind = field.type
    if pa.types.is_integer(kind):
        return row % (1 << (kind.bit_width - 1))
    if pa.types.is_floating(kind):
        return round(chance.uniform(0, 100), 3)
    if pa.types.is_decimal(kind):
        unscaled = chance.randrange(10 ** min(kind.precision, 5))
        return decimal.Decimal(unscaled).scaleb(-kind.scale)
    if pa.types.is_boolean(kind):
        return bool(chance.randrange(2))
    if pa.types.is_timestamp(kind):
        moment = BEGIN + dt.timedelta(seconds=row)
        return moment if kind.tz else moment.replace(tzinfo=None)
    if pa.types.is_date(kind):
        return (BEGIN + dt.timedelta(days=row % 365)).date()
    text = f"{field.name}-{chance.randrange(DISTINCT)}"
    if pa.types.is_string(kind):
        return text
    return text.encode() if pa.types.is_binary(kind) else None


# To a lane.


def to_lane(
    frame: pl.DataFrame, headers: list[Header], lane: str, feed: Feed, lanes: LaneSet
) -> tuple[pl.DataFrame, list[Header]]:
    """Return records and headers that the feed's rule gives this lane.

    Raises:
        ConfigError: There is no such lane, or its rule is one that must see the records.
    """
    names = [each.name for each in lanes]
    if lane not in names:
        raise ConfigError(f"there is no lane {lane!r}; the app has {', '.join(names)}")
    rule = feed.options.rule
    if rule is None:
        return frame, [*headers, (LANE_HEADER, lane.encode())] if len(names) > 1 else headers
    if isinstance(rule, Lane) and rule.name == lane:
        return frame, headers
    if isinstance(rule, ByHeader) and (value := value_for(rule.table, lane, rule.default)):
        return frame, [*headers, (rule.name, value[0].encode())] if value[0] else headers
    if isinstance(rule, ByKeyPrefix) and (value := value_for(rule.table, lane, rule.default)):
        keys = pl.format("{}{}", pl.lit(value[0]), pl.int_range(pl.len()))
        return (frame if "_key" in frame.columns else frame.with_columns(_key=keys)), headers
    if isinstance(rule, ByColumn) and len(rule.tables) == 1:
        [(column, table)] = rule.tables.items()
        if found := value_for(table, lane, None):
            dtype = frame.schema.get(column)
            return frame.with_columns(pl.lit(found[0], dtype=dtype).alias(column)), headers
    raise ConfigError(
        f"{feed!r}: its rule cannot be turned around to give lane {lane!r}; leave `lane` out and "
        f"give records that the rule puts there"
    )


def value_for(table: Mapping[Any, Lane], lane: str, default: Lane | None) -> tuple[Any] | None:
    """Return what a rule's table has for a lane, in a tuple; "" stands for its default."""
    for value, each in table.items():
        if each.name == lane:
            return (value,)
    return ("",) if default is not None and default.name == lane else None


# To the wire.


def outgoing_for(
    feed: Feed,
    given: Given,
    *,
    log: Log,
    lanes: LaneSet,
    lane: str | None,
    headers: Mapping[str, Any],
    chance: random.Random,
) -> Outgoing:
    """Return records as a producer writes them to a feed.

    Args:
        given: As for `frame_of`, or a list of bytes: values as they are, which may be broken.
        lane: The lane that they should get.
        headers: Headers of every record.

    Returns:
        The records; their timestamp is 0 unless the frame has a column `_timestamp`.
    """
    count = len(log.topic(feed.get_topic_name()))
    common = as_headers(headers)
    values: pa.BinaryArray | None = None
    if isinstance(given, Sequence) and given and isinstance(given[0], bytes | None):
        values = pa.array(list(given), pa.binary())
        frame = pl.DataFrame({"value": list(given)}, schema={"value": pl.Binary})
    else:
        frame = frame_of(given, feed, chance)
    if lane is not None:
        frame, common = to_lane(frame, common, lane, feed, lanes)
    key_by = feed.options.key_by if feed.options.key_by in frame.columns else None
    value, keys = split_frame(frame, key_by)
    encoded = new_codec(feed).encode(value) if values is None else values
    outgoing = make_outgoing(
        frame,
        keys=keys,
        values=encoded,
        partition_count=count,
        keyless_partition=0,
        timestamp_ms=0,
        headers=common,
    )
    if "_key" in frame.columns or "_partition" in frame.columns or key_by is not None:
        return outgoing
    # Without keys a producer spreads records; here by turns, which is the same each time.
    turns = pa.array([row % count for row in range(len(frame))], pa.int32())
    return replace(outgoing, partitions=turns)


def rows_of(outgoing: Outgoing, first: int, end: int) -> Outgoing:
    """Return some of the records."""
    size = end - first
    stamps = outgoing.timestamps
    own = outgoing.own_headers
    return replace(
        outgoing,
        keys=outgoing.keys.slice(first, size),
        values=outgoing.values.slice(first, size),
        partitions=outgoing.partitions.slice(first, size),
        timestamps=stamps if isinstance(stamps, int) else stamps.slice(first, size),
        own_headers=None if own is None else own[first:end],
    )


def wire_batches(
    topic: str, outgoing: Outgoing, first: int, end: int
) -> Iterator[tuple[TopicPartition, bytes]]:
    """Yield some of the records as wire batches of their partitions."""
    for partition, batch in rows_of(outgoing, first, end).rows().encode(BATCH_BYTES_MAX):
        batch.close()
        batch.seal()
        yield TopicPartition(topic, partition), bytes(memoryview(batch))
