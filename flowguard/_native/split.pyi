from typing import Any

import pyarrow as pa

def hash_groups(values: pa.Array[Any], groups: int) -> pa.Int32Array: ...
def split_rows(
    batch: pa.RecordBatch, groups: pa.Int32Array, count: int, stride: int = 1
) -> list[tuple[int, pa.RecordBatch]]: ...
