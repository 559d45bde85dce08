"""What was parsed of one partition, as chunks for the engine.

    lanes of the parser ─▶ blocks of so many rows ─▶ parts by column rule and flow ─▶ chunks

Most feeds need neither blocks nor parts; then a lane of a response is one chunk, and
nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native.wire import LaneColumns
from flowguard.chunk import NO_FLOW, Chunk, TopicPartition
from flowguard.lanes.split import Part, Splitter
from flowguard.units import MILLISECOND

__all__ = ["BLOCK_RECORDS", "Arrival", "block_of", "chunks_of"]

#: Where order allows a lane to run ahead, it does so by blocks of so many records.
BLOCK_RECORDS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Arrival:
    """When records arrived, on both clocks."""

    at_ns: int
    epoch_ms: int

    def born_ns(self, timestamp_ms: int) -> int:
        """Return a record's timestamp on the monotonic clock; the future counts as now."""
        return self.at_ns - max(0, self.epoch_ms - timestamp_ms) * MILLISECOND


def chunks_of(
    partition: TopicPartition,
    lanes: Sequence[LaneColumns],
    arrival: Arrival,
    *,
    splitter: Splitter | None = None,
    in_blocks: bool = False,
) -> list[Chunk]:
    """Return the chunks of one partition's section of a response.

    Args:
        partition: Where the records were read.
        lanes: What was parsed.
        splitter: What moves records to lanes and flows that the parser cannot see, or None.
        in_blocks: The feed's order lets a lane run ahead of its oldest record.

    Raises:
        Exception: A schema that is needed to split cannot be had; to be tried again.
    """
    if splitter is None and not in_blocks:
        return [whole(partition, lane, arrival) for lane in lanes]
    return [
        chunk
        for lane in lanes
        for block, columns in enumerate(blocks_of(lane.columns))
        for chunk in parts_of(partition, lane, columns, block, arrival, splitter)
    ]


class Again(NamedTuple):
    """Records of a lane that were fetched once before, as the parser gave them."""

    lane: int
    columns: pa.RecordBatch
    num_bytes: int


def block_of(
    partition: TopicPartition,
    lane: int,
    columns: pa.RecordBatch,
    arrival: Arrival,
    splitter: Splitter | None,
) -> list[Chunk]:
    """Return the chunks of one block of a lane that comes back from disk.

    Raises:
        Exception: A schema that is needed to split cannot be had; to be tried again.
    """
    again = Again(lane, columns, columns.nbytes)
    chunks = parts_of(partition, again, columns, 0, arrival, splitter)
    return [each if each.lane == lane else replace(each, lane=lane) for each in chunks]


def whole(partition: TopicPartition, lane: LaneColumns, arrival: Arrival) -> Chunk:
    """Return a lane of a response as one chunk."""
    return Chunk(
        partition=partition,
        lane=lane.lane,
        columns=lane.columns,
        num_bytes=lane.num_bytes,
        first_offset=lane.first_offset,
        first_timestamp_ms=lane.first_timestamp,
        fetched_ns=arrival.at_ns,
        born_ns=arrival.born_ns(lane.first_timestamp),
    )


def blocks_of(columns: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut records into blocks; nothing is copied."""
    for start in range(0, columns.num_rows, BLOCK_RECORDS):
        yield columns.slice(start, BLOCK_RECORDS)


def parts_of(
    partition: TopicPartition,
    lane: LaneColumns | Again,
    columns: pa.RecordBatch,
    block: int,
    arrival: Arrival,
    splitter: Splitter | None,
) -> Iterator[Chunk]:
    """Yield the chunks of one block.

    Parts of a lane share their buffers, so each is charged with its share of them.
    """
    parts = [Part(lane.lane, NO_FLOW, columns)]
    if splitter is not None:
        parts = splitter.split(columns, lane.lane)
    for part in parts:
        first_timestamp_ms = int(pc.min(part.columns.column(1)).as_py())
        yield Chunk(
            partition=partition,
            lane=part.lane,
            columns=part.columns,
            num_bytes=lane.num_bytes * part.columns.num_rows // lane.columns.num_rows
            + (0 if part.entity is None else part.entity.nbytes),
            first_offset=int(part.columns.column(0)[0].as_py()),
            first_timestamp_ms=first_timestamp_ms,
            fetched_ns=arrival.at_ns,
            born_ns=arrival.born_ns(first_timestamp_ms),
            flow=part.flow,
            block=block,
            entity=part.entity,
        )
