from collections.abc import Sequence

import pyarrow as pa

def newest(
    offsets: Sequence[pa.Int64Array], keys: Sequence[pa.BinaryArray]
) -> list[pa.BooleanArray | None]: ...
def outside_cohort(
    keys: pa.BinaryArray, offsets: pa.Int64Array, periods: pa.Int64Array, ratio: float
) -> pa.BooleanArray | None: ...
def span(keep: pa.BooleanArray) -> tuple[int, int, int]: ...
def left_out(
    offsets: pa.Int64Array, keep: pa.BooleanArray | None, whole_lane: bool = True
) -> list[tuple[int, int]]: ...
