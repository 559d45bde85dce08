"""Compare the records of a frame with what its header says of them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from flowguard.spill.layout import FrameHeader
from flowguard.spill.payload import probe_crc
from flowguard.spill.reading import Broken, read_batches, reveal

__all__ = ["validate"]

OFFSET, TIMESTAMP = 0, 1


def validate(header: FrameHeader, payload: pa.Buffer) -> None:
    """Decode a payload that is not encrypted, whose checksum agreed.

    Raises:
        Broken: It is no Arrow, or holds other records than the header says.
    """
    probe, _ = reveal(header, None)
    batches = read_batches(header, payload, None)
    if not header.records:
        raise Broken("it has no records")
    offsets = _bounds(batches, OFFSET)
    if offsets != (header.first_offset, header.last_offset):
        raise Broken(f"it has offsets {offsets[0]} to {offsets[1]}")
    if _bounds(batches, TIMESTAMP) != (header.min_timestamp_ms, header.max_timestamp_ms):
        raise Broken("its timestamps are not those of its header")
    newest = next(batch for batch in reversed(batches) if batch.num_rows)
    _, *record = (column[-1].as_py() for column in newest.columns)
    if probe_crc(*record) != probe:
        raise Broken("its newest record is not the one that its header tells")


def _bounds(batches: list[pa.RecordBatch], index: int) -> tuple[int, int]:
    found = pc.min_max(pa.chunked_array([batch.column(index) for batch in batches]))
    return found["min"].as_py(), found["max"].as_py()
