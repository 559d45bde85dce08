"""Which records are too old to be started.

A record's age is counted from its timestamp, or from when it was read if its timestamp was in
the future then.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from flowguard.chunk import Chunk, Slice
from flowguard.units import MILLISECOND

__all__ = ["newest_born_ns", "young_rows"]


def young_rows(
    piece: Slice, *, now_ns: int, max_age_ns: int
) -> pa.BooleanArray | Literal["all", "none"]:
    """Return which rows are not older than `max_age_ns`; O(1) if all or none are by the clock."""
    chunk = piece.chunk
    if now_ns - chunk.born_ns <= max_age_ns:
        return "all"
    if now_ns - chunk.fetched_ns > max_age_ns:
        return "none"
    young = pc.greater_equal(piece.timestamps, oldest_ms(chunk, now_ns, max_age_ns))
    count = young.true_count
    if count == 0:
        return "none"
    return "all" if count == piece.count else young


def newest_born_ns(piece: Slice) -> int:
    """Return when the youngest row was made, on the monotonic clock."""
    chunk = piece.chunk
    if chunk.born_ns == chunk.fetched_ns:  # none was made before it was read
        return chunk.fetched_ns
    later_ms = int(pc.max(piece.timestamps).as_py()) - chunk.first_timestamp_ms
    return min(chunk.fetched_ns, chunk.born_ns + later_ms * MILLISECOND)


def oldest_ms(chunk: Chunk, now_ns: int, max_age_ns: int) -> int:
    """Return the lowest timestamp that is not too old, of a chunk that has older ones."""
    epoch_ms = chunk.first_timestamp_ms + (chunk.fetched_ns - chunk.born_ns) // MILLISECOND
    return epoch_ms - (max_age_ns - (now_ns - chunk.fetched_ns)) // MILLISECOND
