"""W3C trace context: the trace that the output of a batch belongs to.

A batch has as many parents as its records have traces, and an output can only name one. So an
output names the one that all records of the batch share. Naming one of several would hang the
output of thousands of records onto the trace of one. No trace is begun here.

Source: W3C Trace Context (traceparent); OpenTelemetry semantic conventions for messaging spans,
    batches: links to all, a parent only where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native import wire

__all__ = ["TRACEPARENT_HEADER", "shared_traceparent"]

TRACEPARENT_HEADER: Final = "traceparent"

#: version - trace id - parent id - flags; an id of zeros, and version ff, are invalid.
FORM: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def shared_traceparent(columns: Iterable[pa.BinaryArray]) -> bytes | None:
    """Return the `traceparent` that all records have; None if one has none or another.

    Records without headers, and those of many traces, cost two look-ups, not one a record.

    Args:
        columns: The headers of the records, as they are on the wire.
    """
    shared: bytes | None = None
    for headers in columns:
        if not len(headers):
            continue
        if shared is None:
            shared = named(headers.slice(0, 1))
            if shared is None or not FORM.fullmatch(shared):
                return None
        if named(headers.slice(len(headers) - 1)) != shared:
            return None
        if len(headers) <= 2:
            continue
        values = wire.header_values(headers, TRACEPARENT_HEADER.encode())
        if values.null_count or not pc.all(pc.equal(values, shared)).as_py():
            return None
    return shared


def named(one: pa.BinaryArray) -> bytes | None:
    """Return the `traceparent` of a single record."""
    value = wire.header_values(one, TRACEPARENT_HEADER.encode())[0].as_py()
    return value if value is None else bytes(value)
