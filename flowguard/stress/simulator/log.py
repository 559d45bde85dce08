"""The log of the simulated broker: all records of a run, as columns.

A record is there from the instant at which it was planned, so nothing is appended while the
run goes on: how far a partition reaches is looked up by time. What a fetch brings is a slice
of columns that were made once, so it costs the same for one record as for a thousand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from flowguard._native import wire
from flowguard._native.split import hash_groups
from flowguard.chunk import NO_FLOW, TopicPartition
from flowguard.lanes.fairness import FLOWS
from flowguard.stress.plan import NO_KEY, Plan
from flowguard.stress.scenario import Scenario
from flowguard.units import MILLISECOND

__all__ = ["EPOCH_MS", "PartitionLog", "Segment", "Span", "log_of"]

#: The wall clock at the beginning of each scenario.
EPOCH_MS = 1_700_000_000_000

#: Bytes of a record beside its value and key: on the wire, and as columns (offset and
#: timestamp, and where key, value and headers begin).
WIRE_OVERHEAD = 12
COLUMNS_OVERHEAD = 28
KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive records of a segment.

    Args:
        segment: Whose.
        start: The first row.
        stop: The row after the last.
    """

    segment: Segment
    start: int
    stop: int

    @property
    def columns(self) -> pa.RecordBatch:
        """Return them as columns; nothing is copied."""
        return self.segment.columns.slice(self.start, self.stop - self.start)

    @property
    def timestamps(self) -> pa.Int64Array:
        """Return their timestamps, ms; nothing is copied."""
        return self.segment.timestamps.slice(self.start, self.stop - self.start)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of their columns."""
        before = self.segment.bytes_before
        return before[self.stop] - before[self.start]


@dataclass(slots=True, eq=False)
class Segment:
    """The records of one partition, lane and flow, in offset order.

    Args:
        partition: Where they are.
        lane: Rank of their lane.
        flow: As in `Chunk`.
        columns: As in `Chunk`.
        bytes_before: For each row, and after the last, the bytes of all rows before it.
    """

    partition: TopicPartition
    lane: int
    flow: int
    columns: pa.RecordBatch
    bytes_before: memoryview
    offsets: memoryview = field(init=False)
    timestamps: pa.Int64Array = field(init=False)
    timestamps_ms: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = longs_of(self.columns.column(0))
        self.timestamps = self.columns.column(1)
        self.timestamps_ms = longs_of(self.timestamps)

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def row_of(self, offset: int) -> int:
        """Return the first row at or after an offset."""
        return bisect_left(self.offsets, offset)


class PartitionLog:
    """One partition.

    Args:
        name: Which.
        instants: When each record is there, from the beginning of the scenario, ns.
        bytes_before: For each record, and after the last, the bytes on the wire before it.
        segments: Its records.
    """

    def __init__(
        self,
        name: TopicPartition,
        instants: memoryview,
        bytes_before: memoryview,
        segments: list[Segment],
    ) -> None:
        self.name = name
        self.instants = instants
        self.bytes_before = bytes_before
        self.segments = segments

    def __len__(self) -> int:
        return len(self.instants)

    def end_at(self, now_ns: int) -> int:
        """Return the offset after the last record that is there."""
        return bisect_right(self.instants, now_ns)

    def bytes_between(self, first: int, end: int) -> int:
        """Return the bytes on the wire of records."""
        return max(0, self.bytes_before[end] - self.bytes_before[first])

    def end_within(self, first: int, num_bytes: int) -> int:
        """Return how far so many bytes reach; at least one record further, as Kafka does."""
        end = bisect_right(self.bytes_before, self.bytes_before[first] + num_bytes) - 1
        return min(len(self), max(end, first + 1))

    def spans(self, first: int, end: int) -> list[Span]:
        """Return the records from one offset to before another, segment by segment."""
        if len(self.segments) == 1:
            return [Span(self.segments[0], first, end)]
        spans = []
        for segment in self.segments:
            start, stop = segment.row_of(first), segment.row_of(end)
            if start < stop:
                spans.append(Span(segment, start, stop))
        return spans


def log_of(plan: Plan, scenario: Scenario) -> dict[TopicPartition, PartitionLog]:
    """Return the log of a run."""
    log = {}
    for topic, frame in plan.topics.items():
        parts = frame.partition_by("partition", as_dict=True)
        for number in range(scenario.worker.partitions):
            name = TopicPartition(topic, number)
            log[name] = partition_log(name, parts.get((number,), frame.clear()), scenario)
    return log


def partition_log(name: TopicPartition, frame: pl.DataFrame, scenario: Scenario) -> PartitionLog:
    frame = frame.with_row_index("offset").with_columns(pl.col("offset").cast(pl.Int64))
    keyed = scenario.worker.order == "key"
    ranks = frame["lane"].unique().sort().to_list()
    segments = []
    for rank in ranks:
        rows = frame if len(ranks) == 1 else frame.filter(pl.col("lane") == rank)
        by_flow = keyed or scenario.worker.lanes[rank].fair_by is not None
        segments += segments_of(name, rank, rows, by_flow=by_flow)
    wire_bytes = frame["size"].cast(pl.Int64) + WIRE_OVERHEAD
    return PartitionLog(name, longs(frame["at_ns"]), sums_before(wire_bytes), segments)


def segments_of(
    name: TopicPartition, rank: int, rows: pl.DataFrame, *, by_flow: bool
) -> list[Segment]:
    """Return the records of a lane, by flow if the lane or the order is by key."""
    if not by_flow:
        return [Segment(name, rank, NO_FLOW, columns_of(rows), sums_before(column_bytes(rows)))]
    flows = pl.Series("flow", hash_groups(keys_of(rows["key"]), FLOWS))
    parts = rows.with_columns(flows).partition_by("flow", as_dict=True)
    return [
        Segment(name, rank, int(flow), columns_of(part), sums_before(column_bytes(part)))
        for (flow,), part in sorted(parts.items())
    ]


def columns_of(rows: pl.DataFrame) -> pa.RecordBatch:
    """Return records as the parser makes them; values are left out."""
    count = rows.height
    empty = pa.nulls(count, pa.binary())
    timestamps = rows["at_ns"] // MILLISECOND + EPOCH_MS
    return pa.RecordBatch.from_arrays(
        [arrow(rows["offset"]), arrow(timestamps), keys_of(rows["key"]), empty, headers_of(count)],
        names=["offset", "timestamp", "key", "value", "headers"],
    )


def headers_of(count: int) -> pa.BinaryArray:
    """Return the headers of so many records: none."""
    none = wire.encode_headers([])
    return pa.array([none], pa.binary()).take(pa.nulls(count, pa.int32()).fill_null(0))


def keys_of(keys: pl.Series) -> pa.BinaryArray:
    """Return keys as bytes; those without one are null."""
    numbers = arrow(keys)
    there = arrow(keys != NO_KEY).buffers()[1]
    buffers = [there, numbers.buffers()[1]]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(keys), buffers).cast(pa.binary())


def column_bytes(rows: pl.DataFrame) -> pl.Series:
    return rows["size"].cast(pl.Int64) + COLUMNS_OVERHEAD + KEY_BYTES


def sums_before(values: pl.Series) -> memoryview:
    """Return for each value the sum of those before it, and at the end that of all."""
    return longs(pl.concat([pl.Series(values.name, [0], pl.Int64), values.cum_sum()]))


def longs(values: pl.Series) -> memoryview:
    """Return a column of int64 to look up single values in."""
    return longs_of(arrow(values))


def longs_of(column: pa.Array) -> memoryview:
    offset = column.offset
    return memoryview(column.buffers()[1]).cast("b").cast("q")[offset : offset + len(column)]


def arrow(values: pl.Series) -> pa.Array:
    """Return a column as one Arrow array that begins at its buffer."""
    return pa.concat_arrays([values.rechunk().to_arrow()])
