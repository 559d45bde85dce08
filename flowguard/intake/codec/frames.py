"""Arrow tables as Polars frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

__all__ = ["to_frame"]


@dataclass(frozen=True, slots=True)
class Stream:
    """A table that shows nothing of itself but Arrow's stream interface."""

    table: pa.Table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return the table as a capsule; nothing is copied."""
        return self.table.__arrow_c_stream__(requested_schema)


def to_frame(table: pa.Table) -> pl.DataFrame:
    """Return a table as a frame, which has its height even without columns.

    Polars converts what it knows to be a table on all its threads. To wake them and wait for
    them takes five times as long as a small table does, and longer where every core is busy;
    a stream it converts on this thread.
    """
    return pl.DataFrame(Stream(table)) if table.num_columns else pl.DataFrame(height=table.num_rows)
