"""Cut a record batch that is too large for its topic into two."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native import wire
from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.errors import WireError
from flowguard.intake.compression import decompress

__all__ = ["halve"]

#: A batch that we made is never unpacked to more; what does not fit was not made by us.
UNPACKED_BYTES_MAX: Final = 2**31 - 1

#: Every record is in lane 0 of 1.
NO_LANES: Final = wire.LaneRule.constant(0)


def halve(batch: RecordBatch) -> tuple[RecordBatch, RecordBatch]:
    """Return two batches with the records of one, in their order, about equal in bytes.

    Each has one record or more, and none is compressed.

    Args:
        batch: A sealed batch of two records or more.
    """
    columns = columns_of(batch)
    sizes = pc.add(
        pc.add(size_of(columns.column("key")), size_of(columns.column("value"))),
        size_of(columns.column("headers")),
    )
    ends = pc.cumulative_sum(pc.cast(sizes, pa.int64())).to_numpy()
    middle = int(ends.searchsorted(ends[-1] / 2)) + 1
    middle = min(max(1, middle), batch.count - 1)
    rows = Rows(
        columns.column("key"), columns.column("value"),
        pa.repeat(pa.scalar(0, pa.int32()), batch.count), columns.column("timestamp"),
        columns.column("headers"), 1,
    )  # fmt: skip
    return cut(rows, 0, middle), cut(rows, middle, batch.count)


def columns_of(batch: RecordBatch) -> Any:
    """Return the records of a sealed batch by the column, as those that are fetched."""
    data = memoryview(batch)
    parsed = wire.parse_records(
        data,
        wire.PartitionSection(topic="", partition=0, start=0, size=len(data), aborted=()),
        asked_offset=0,
        rule=NO_LANES,
        lane_count=1,
        max_bytes=UNPACKED_BYTES_MAX,
        batch_bytes_max=UNPACKED_BYTES_MAX,
        decompress=decompress,
        check_crc=False,
    )
    if parsed.error is not None or parsed.num_records != batch.count:
        raise WireError(f"a batch of {batch.count} records that was to be sent cannot be read")
    return parsed.lanes[0].columns


def size_of(column: pa.BinaryArray) -> Any:
    """Return the size of each row in bytes; a null has none."""
    return pc.fill_null(pc.binary_length(column), 0)


def cut(rows: Rows, start: int, stop: int) -> RecordBatch:
    """Return a batch with these rows, however large they are."""
    batch = RecordBatch(UNPACKED_BYTES_MAX)
    rows.append_to(batch, start, stop)
    batch.close()
    return batch
