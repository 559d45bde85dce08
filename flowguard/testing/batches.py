"""A batch out of nothing, for unit tests of agents."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import polars as pl
import pyarrow as pa

from flowguard.agents.event import FaustDelivery
from flowguard.agents.feed import Feed
from flowguard.batch import Batch
from flowguard.chunk import Chunk, Slice, TopicPartition
from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.serving import OCCASIONS
from flowguard.settle.egress import as_headers, as_timestamps, encode_headers, split_frame
from flowguard.testing.records import frame_of, new_codec

__all__ = ["batch"]

#: The columns that the parser makes.
PARSED: Final = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.binary(), nullable=False),
    ]
)

NOWHERE: Final = "batch"


def batch(
    records: Any,
    *,
    feed: Feed | None = None,
    lane: str | Lane = "default",
    headers: Mapping[str, Any] | None = None,
    degraded: bool | str = False,
    attempt: int = 1,
) -> Batch:
    """Return a batch as an agent gets it, without an app that runs.

    With a feed the records go through its codec and come out as they do in a worker, with its
    declared columns and types; what it rejects is not in the batch. Without one the batch has
    the frame as it is given, and no values in `records`.

    Args:
        records: A Polars frame, an Arrow table or a list of dicts; with a feed also how many to
            make. The columns `_key`, `_timestamp` (ms since 1970), `_partition` and `_headers`
            are those of the records and no part of the value.
        feed: The feed that they came from.
        lane: Their lane, or its name; with a feed that of its app with that name.
        headers: Headers of every record.
        degraded: Whether the agent's fallback serves it; or why: `brownout`, `failure` or
            `deadline`.
        attempt: 1 at first, one more after each failure.

    Raises:
        ConfigError: The records are none, or there is no such lane or occasion.
    """
    if degraded not in (True, False, *OCCASIONS):
        raise ConfigError(f"degraded={degraded!r} is no occasion; use {', '.join(OCCASIONS)}")
    occasion = ("brownout" if degraded else "") if isinstance(degraded, bool) else degraded
    if feed is None and isinstance(records, int):
        raise ConfigError("only a feed tells what to make; give batch(…, feed=…), or a frame")
    source: Any = feed if feed is not None else SimpleNamespace(topics=[NOWHERE])
    frame = frame_of(records, source, random.Random(0))
    key_by = None
    if feed is not None and feed.options.key_by in frame.columns:
        key_by = feed.options.key_by
    value, keys = split_frame(frame, key_by)
    decoded = None
    values: pa.BinaryArray = pa.nulls(len(frame), pa.binary())
    if feed is not None:
        codec = new_codec(feed)
        values = codec.encode(value)
        decoded = codec.decode([values])
    assert isinstance(value, pl.DataFrame)
    rows = value if decoded is None else decoded.frame
    return Batch(
        feed=source,
        lane=lane_of(lane, feed),
        slices=slices_of(frame, keys, values, headers or {}, str(source.topics[0])),
        frame=lambda: rows,
        rejected=() if decoded is None else sorted(dict(decoded.rejected)),
        attempt=attempt,
        delivery=FaustDelivery(feed.app if feed is not None else SimpleNamespace()),  # type: ignore[arg-type]
        occasion=occasion,
    )


def lane_of(lane: str | Lane, feed: Feed | None) -> Lane:
    """Return the lane, of the feed's app if it has one of that name.

    Raises:
        ConfigError: The app has lanes, and none of that name.
    """
    if isinstance(lane, Lane):
        return lane
    lanes = [] if feed is None else list(feed.app._declared_lanes)
    for each in lanes:
        if each.name == lane:
            return each
    if lane == "default":
        return lanes[-1] if lanes else Lane("default")
    if lanes:
        names = ", ".join(each.name for each in lanes)
        raise ConfigError(f"there is no lane {lane!r}; the app has {names}")
    return Lane(lane)


def slices_of(
    frame: pl.DataFrame, keys: pa.BinaryArray, values: pa.BinaryArray,
    headers: Mapping[str, Any], topic: str,
) -> list[Slice]:  # fmt: skip
    """Return records as they are after parsing, partition by partition, in the order of rows.

    Rows of one partition that follow one another are one slice, so that row i stays row i.
    """
    now_ms = time.time_ns() // 1_000_000
    count = len(frame)
    stamps = [now_ms] * count
    if "_timestamp" in frame.columns:
        stamps = as_timestamps(frame.get_column("_timestamp")).fill_null(now_ms).to_list()
    partitions = [0] * count
    if "_partition" in frame.columns:
        partitions = frame.get_column("_partition").fill_null(0).to_list()
    common = encode_headers(as_headers(headers))
    packed = [common] * count
    if "_headers" in frame.columns:
        own = frame.get_column("_headers").to_list()
        packed = [common if each is None else encode_headers(as_headers(each)) for each in own]
    offsets: dict[int, itertools.count[int]] = {}
    numbers = [next(offsets.setdefault(each, itertools.count())) for each in partitions]
    columns = pa.RecordBatch.from_arrays(
        [
            pa.array(numbers, pa.int64()),
            pa.array(stamps, pa.int64()),
            keys,
            values,
            pa.array(packed, pa.binary()),
        ],
        schema=PARSED,
    )
    found = []
    first = 0
    for partition, run in itertools.groupby(partitions):
        end = first + len(list(run))
        found.append(slice_of(TopicPartition(topic, partition), columns.slice(first, end - first)))
        first = end
    return found or [slice_of(TopicPartition(topic, 0), columns)]


def slice_of(partition: TopicPartition, columns: pa.RecordBatch) -> Slice:
    """Return records of one partition as one slice."""
    count = columns.num_rows
    chunk = Chunk(
        partition=partition,
        lane=0,
        columns=columns,
        num_bytes=int(columns.nbytes),
        first_offset=columns.column(0)[0].as_py() if count else 0,
        first_timestamp_ms=min(columns.column(1).to_pylist(), default=0),
        fetched_ns=0,
    )
    return Slice(chunk, 0, count)
