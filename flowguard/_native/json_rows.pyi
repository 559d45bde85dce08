from typing import Any, final

import pyarrow as pa

@final
class ObjectReader:
    def __init__(self, schema: pa.Schema, *, closed: bool = False) -> None: ...
    @staticmethod
    def supports(kind: pa.DataType) -> bool: ...
    def read(
        self, values: pa.BinaryArray
    ) -> tuple[list[pa.Array[Any]], pa.BooleanArray | None]: ...
