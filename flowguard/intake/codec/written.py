"""Frames as rows of a registered schema: what `avro` and `protobuf` write from."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import polars as pl
import pyarrow as pa

from flowguard.intake.codec.codec import RegisteredSchema, Registry

__all__ = ["listed_rows", "subject_schema"]


def subject_schema(registry: Registry, subject: str) -> tuple[int, RegisteredSchema]:
    """Return the number of a subject's latest schema, and the schema.

    Raises:
        ValueError: The registry has none, or cannot be asked for one.
    """
    latest = getattr(registry, "latest", None)
    if latest is None:
        raise ValueError("the registry object cannot write: it has no latest(subject)")
    try:
        id, schema = latest(subject)
    except LookupError as error:
        raise ValueError(
            f"the registry has no schema for subject {subject!r}; register one before sending"
        ) from error
    return id, RegisteredSchema(schema) if isinstance(schema, str) else schema


def listed_rows(
    frame: pl.DataFrame | pa.Table, known: Container[str], subject: str
) -> list[dict[str, Any]]:
    """Return the rows of a frame; instants without a zone are UTC.

    Raises:
        ValueError: The frame has a column that the schema does not have.
    """
    if isinstance(frame, pa.Table):
        frame = pl.DataFrame(frame)
    unknown = [name for name in frame.columns if name not in known]
    if unknown:
        raise ValueError(
            f"the schema of subject {subject!r} has no {', '.join(unknown)}; select the columns "
            "that it has, or register a schema with them"
        )
    zoned = [
        zone.alias(name)
        for name, kind in frame.schema.items()
        if (zone := _in_utc(pl.col(name), kind)) is not None
    ]
    return frame.with_columns(zoned).to_dicts()


def _in_utc(cell: pl.Expr, kind: Any) -> pl.Expr | None:
    """Return the expression that gives instants a zone; None if all have one."""
    if isinstance(kind, pl.Datetime):
        return cell.dt.replace_time_zone("UTC") if kind.time_zone is None else None
    if isinstance(kind, pl.List):
        item = _in_utc(pl.element(), kind.inner)
        return None if item is None else cell.list.eval(item)
    if isinstance(kind, pl.Struct):
        found = [
            (each.name, _in_utc(cell.struct.field(each.name), each.dtype)) for each in kind.fields
        ]
        zoned = [zone.alias(name) for name, zone in found if zone is not None]
        return cell.struct.with_fields(zoned) if zoned else None
    return None
