"""Split what one fetch held by what the parser could not see: columns, and fair shares.

    records of one lane ─▶ rule by columns ─▶ lane ─┐
                       └─▶ key, header, column ─▶ flow ─▶ parts, rows in offset order

The parser tells lanes apart by topic, header and key. Rules by columns need decoded
columns; only those are decoded. A *flow* is a sub-queue of a lane: records of one key are
always in one flow, and so are those of one tenant.

A lane that is conflated by a column also keeps that column's values: here is where columns
are decoded anyway, on the thread that fetches, and whoever conflates has them at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native.split import hash_groups, split_rows
from flowguard._native.wire import header_values
from flowguard.chunk import NO_FLOW
from flowguard.errors import ConfigError
from flowguard.lanes.columns import ColumnStep, declared_columns
from flowguard.lanes.fairness import FLOWS, Column, FairBy, Header, Key
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Conflate
from flowguard.lanes.rules import Route

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Part", "Splitter"]

#: offset, timestamp, key, value, headers.
RECORD_COLUMNS: Final = 5


class Decoded(Protocol):
    """Rows, and which values became none."""

    @property
    def frame(self) -> pl.DataFrame:
        """Return the good rows."""
        ...

    @property
    def rejected(self) -> Sequence[tuple[int, str]]:
        """Return the bad rows with reasons, ascending."""
        ...


class Projecting(Protocol):
    """A codec, as far as lanes need one."""

    def project(self, names: Sequence[str]) -> Self:
        """Return the same codec for these columns only."""
        ...

    def decode(self, values: Sequence[pa.BinaryArray]) -> Any:
        """Return `Decoded`."""
        ...


class Part(NamedTuple):
    """Records of one lane and flow, in offset order.

    Args:
        lane: Rank of the lane.
        flow: Sub-queue inside the lane, 0 .. FLOWS - 1; `NO_FLOW` if it queues by partition.
        columns: As in `Chunk`.
        entity: Value of the column that its lane is conflated by; None: its key.
    """

    lane: int
    flow: int
    columns: pa.RecordBatch
    entity: pa.BinaryArray | None = None


class Splitter:
    """Splits the records of one topic; the same record goes to the same part everywhere.

    Args:
        route: The compiled rule.
        lanes: The lanes of the app.
        codec: The feed's codec.
        columns: The columns that the feed declares, None if they are inferred.
        order: The feed's order; `"key"` keeps each key in one flow.
        used_by: Who has the rule, for errors.

    Raises:
        ConfigError: A lane is fair by something that the feed's order or columns do not
            permit.

    Thread-safety: none needed; a codec may be shared.
    """

    def __init__(
        self,
        route: Route,
        lanes: LaneSet,
        *,
        codec: Projecting,
        columns: pa.Schema | None = None,
        order: str = "partition",
        used_by: str = "the feed",
    ) -> None:
        self._step = route.columns
        self._default = route.default
        ranks = sorted(route.ranks)
        self._fair = {rank: _fair_by(lanes, rank, columns, order, used_by) for rank in ranks}
        self._entity = {rank: _conflated_by(lanes, rank, columns, used_by) for rank in ranks}
        names = _names(self._step, self._fair.values(), self._entity.values())
        self._codec = codec.project(names) if names else None
        self._groups = (max(ranks) + 1) * FLOWS

    @property
    def needed(self) -> bool:
        """Tell whether anything is to be split; if not, every chunk is one part."""
        return self._step is not None or any(
            each is not None for each in (*self._fair.values(), *self._entity.values())
        )

    @property
    def decodes(self) -> bool:
        """Tell whether splitting decodes columns, and so may wait for a schema registry."""
        return self._codec is not None

    def split(self, columns: pa.RecordBatch, lane: int) -> list[Part]:
        """Return the parts of a chunk, highest lane first; a chunk of one part is not copied.

        Parts of one lane share buffers.

        Args:
            columns: As in `Chunk`; any slice.
            lane: The rank that the parser gave all of it.

        Raises:
            Exception: Whatever a schema registry raises that cannot be reached; nothing is
                decided then, and splitting may be tried again.
        """
        if not columns.num_rows:
            return []
        if not self.needed:
            return [Part(lane, NO_FLOW, columns)]
        cells = self._cells(columns)
        lanes = self._lanes(columns, lane, cells)
        groups = lanes * FLOWS + self._flows(columns, lanes, cells)
        numbers = _int32(groups)
        columns = self._with_entities(columns, cells)
        return [
            self._part(group // FLOWS, group % FLOWS, part)
            for group, part in split_rows(columns, numbers, self._groups, FLOWS)
        ]

    def _with_entities(self, columns: pa.RecordBatch, cells: _Cells | None) -> pa.RecordBatch:
        """Append the columns that lanes are conflated by, so that they are split as well."""
        for name in self._entity_names:
            assert cells is not None
            values = _as_bytes(cells.spread(cells.frame.get_column(name)))
            columns = columns.append_column(_entity_column(name), values)
        return columns

    @property
    def _entity_names(self) -> list[str]:
        return [name for name in dict.fromkeys(self._entity.values()) if name is not None]

    def _part(self, lane: int, flow: int, columns: pa.RecordBatch) -> Part:
        name, flow = self._entity[lane], NO_FLOW if self._fair[lane] is None else flow
        if not self._entity_names:
            return Part(lane, flow, columns)
        entity = None if name is None else columns.column(_entity_column(name))
        return Part(lane, flow, columns.select(range(RECORD_COLUMNS)), entity)

    def _cells(self, columns: pa.RecordBatch) -> _Cells | None:
        if self._codec is None:
            return None
        decoded = self._codec.decode([columns.column("value")])
        return _Cells(decoded, columns.num_rows)

    def _lanes(self, columns: pa.RecordBatch, lane: int, cells: _Cells | None) -> pl.Series:
        if self._step is None or cells is None:
            return pl.repeat(lane, columns.num_rows, dtype=pl.Int32, eager=True)
        decided = self._step.decide(cells.frame.select(self._step.names))
        return cells.spread(decided).fill_null(self._default)

    def _flows(self, columns: pa.RecordBatch, lanes: pl.Series, cells: _Cells | None) -> pl.Series:
        """Return the flow of each row, by what its lane is fair by."""
        present = set(lanes.unique().to_list())
        wanted = {by for rank, by in self._fair.items() if rank in present}
        flows = pl.zeros(len(lanes), dtype=pl.Int32, eager=True)
        for by in wanted - {None}:
            found = pl.Series(hash_groups(_values(by, columns, cells), FLOWS), dtype=pl.Int32)
            if wanted == {by}:
                return found
            ranks = [rank for rank, each in self._fair.items() if each == by]
            flows = found.zip_with(lanes.is_in(ranks), flows)
        return flows


class _Cells:
    """Decoded columns, and where their rows belong."""

    def __init__(self, decoded: Decoded, rows: int) -> None:
        self.frame = decoded.frame
        bad = {row for row, *_ in decoded.rejected}
        self._index = None
        if bad:
            kept = iter(range(rows))
            self._index = pl.Series(
                [None if row in bad else next(kept) for row in range(rows)], dtype=pl.UInt32
            )

    def spread(self, column: pl.Series) -> pl.Series:
        """Return a column with a null for each value that became no row."""
        return column if self._index is None else column.gather(self._index)


def _fair_by(
    lanes: LaneSet, rank: int, columns: pa.Schema | None, order: str, used_by: str
) -> FairBy | None:
    """Return what the flows of a lane are made by; the order of the key needs the key."""
    by = lanes[rank].fair_by
    if by is None:
        return Key() if order == "key" else None
    if order == "partition":
        raise ConfigError(
            f"{used_by}: lane {lanes[rank].name!r} is fair inside the lane, which reorders a "
            'partition; declare the feed with order="key" or order="none"'
        )
    if isinstance(by, Column):
        declared_columns([by.name], columns, used_by=f"{used_by}: fair_by={by.name!r}")
    return by


def _conflated_by(lanes: LaneSet, rank: int, columns: pa.Schema | None, used_by: str) -> str | None:
    """Return the column that a lane is conflated by; None if it is the key, or not at all."""
    by = next((each.by for each in lanes[rank].overflow if isinstance(each, Conflate)), None)
    if by is not None:
        declared_columns([by], columns, used_by=f"{used_by}: Conflate(by={by!r})")
    return by


def _names(step: ColumnStep | None, fair: Any, entities: Any) -> tuple[str, ...]:
    """Return the columns to decode, each once."""
    wanted = [] if step is None else list(step.names)
    wanted += [by.name for by in fair if isinstance(by, Column)]
    wanted += [name for name in entities if name is not None]
    return tuple(dict.fromkeys(wanted))


def _entity_column(name: str) -> str:
    return f"entity {name}"


def _values(by: FairBy | None, columns: pa.RecordBatch, cells: _Cells | None) -> pa.Array:
    """Return what to hash, one value a row."""
    if isinstance(by, Header):
        return header_values(columns.column("headers"), by.name.encode())
    if isinstance(by, Column):
        assert cells is not None
        return _as_bytes(cells.spread(cells.frame.get_column(by.name)))
    return columns.column("key")


def _as_bytes(column: pl.Series) -> pa.Array:
    """Return cells as bytes, equal where they are equal."""
    found = column.to_arrow()
    if column.dtype not in (pl.String, pl.Binary):
        found = pc.cast(found, pa.string())
    return found.cast(pa.binary())


def _int32(column: pl.Series) -> pa.Int32Array:
    return column.cast(pl.Int32).rechunk().to_arrow()
