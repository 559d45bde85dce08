"""Rules that look at columns: what they need, and which lane each row gets.

A step must be a pure function of the record. So its columns are declared (inferred types
depend on what a worker happened to read first), an expression must work row by row, and
a row that makes an expression fail costs no other row its lane.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from flowguard.errors import ConfigError
from flowguard.suggest import nearest

__all__ = ["ColumnStep", "declared_columns", "expression_step", "table_step"]


class ColumnStep(Protocol):
    """The part of a compiled rule that needs decoded columns."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns it needs."""
        ...

    @property
    def ranks(self) -> frozenset[int]:
        """Return every rank that it can decide for."""
        ...

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what it decides, the same in every process."""
        ...

    def decide(self, frame: pl.DataFrame) -> pl.Series:
        """Return the rank of each row, Int32; the default where nothing matches.

        Args:
            frame: The columns `names`, with their declared types.
        """
        ...


class TableStep:
    """Values of columns → ranks; made by `table_step`."""

    def __init__(self, tables: Mapping[str, tuple[pl.Series, list[int]]], default: int) -> None:
        self._tables = tables
        self._default = default

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns it needs."""
        return tuple(self._tables)

    @property
    def ranks(self) -> frozenset[int]:
        """Return every rank that it can decide for."""
        return frozenset(rank for _, ranks in self._tables.values() for rank in ranks)

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what it decides."""
        return tuple(
            (name, tuple(map(repr, values.to_list())), tuple(ranks))
            for name, (values, ranks) in self._tables.items()
        )

    def decide(self, frame: pl.DataFrame) -> pl.Series:
        """Return the rank of each row."""
        found = [
            pl.col(name).replace_strict(
                values, pl.Series(ranks, dtype=pl.Int32), default=None, return_dtype=pl.Int32
            )
            for name, (values, ranks) in self._tables.items()
        ]
        default = pl.lit(self._default, dtype=pl.Int32)
        return frame.select(rank=pl.coalesce(*found, default)).to_series()


class ExpressionStep:
    """A Polars expression that yields lane names; made by `expression_step`."""

    def __init__(
        self,
        expression: pl.Expr,
        names: Sequence[str],
        ranks: Mapping[str, int],
        default: int,
    ) -> None:
        self._expression = expression
        self._ranks = dict(ranks)
        self._default = default
        self._names = tuple(names)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns it needs."""
        return self._names

    @property
    def ranks(self) -> frozenset[int]:
        """Return every rank that it can decide for."""
        return frozenset(self._ranks.values())

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what it decides."""
        return (self._expression.meta.serialize(), tuple(self._ranks.items()))

    def decide(self, frame: pl.DataFrame) -> pl.Series:
        """Return the rank of each row.

        An expression fails as a whole when one row makes it fail. Then each row is asked
        alone, so that the others keep the lane that they have on every other worker.
        """
        try:
            names = self._evaluate(frame)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            rows = [self._alone(frame[row : row + 1]) for row in range(len(frame))]
            names = pl.Series(rows, dtype=pl.String)
        return names.replace_strict(
            list(self._ranks),
            pl.Series(list(self._ranks.values()), dtype=pl.Int32),
            default=self._default,
            return_dtype=pl.Int32,
        )

    def _evaluate(self, frame: pl.DataFrame) -> pl.Series:
        return frame.select(lane=self._expression).to_series().cast(pl.String)

    def _alone(self, row: pl.DataFrame) -> str | None:
        try:
            return str(name) if (name := self._evaluate(row)[0]) is not None else None
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None


def table_step(
    tables: Mapping[str, Mapping[Hashable, int]],
    default: int,
    columns: pa.Schema | None,
    *,
    used_by: str,
) -> TableStep:
    """Return the step of `by_column`.

    Raises:
        ConfigError: A column is not declared, or a value is none of its type.
    """
    kinds = polars_types(declared_columns(tables, columns, used_by=used_by))
    return TableStep(
        {
            name: (values_of(name, list(table), kinds[name], used_by), list(table.values()))
            for name, table in tables.items()
        },
        default,
    )


def expression_step(
    expression: pl.Expr,
    ranks: Mapping[str, int],
    default: int,
    columns: pa.Schema | None,
    *,
    used_by: str,
) -> ExpressionStep:
    """Return the step of a Polars expression.

    Raises:
        ConfigError: It needs columns that are not declared, does not work row by row, or
            yields no text.
    """
    names = sorted(set(expression.meta.root_names()))
    if not names or not is_row_by_row(expression):
        raise ConfigError(
            f"{used_by}: the expression for lanes must work row by row on the feed's columns, "
            "without aggregations, windows and order"
        )
    empty = declared_columns(names, columns, used_by=used_by).empty_table()
    try:
        kind = pl.DataFrame(empty).select(lane=expression).schema["lane"]
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{used_by}: the expression for lanes fails: {error}") from error
    if kind not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ConfigError(f"{used_by}: the expression for lanes yields {kind}, not lane names")
    return ExpressionStep(expression, names, ranks, default)


def is_row_by_row(expression: pl.Expr) -> bool:
    """Tell whether each row's result depends on that row alone."""
    waiting = [expression]
    try:
        while waiting:
            part = waiting.pop()
            if not part.meta.root_names():  # literals, and what is made of them
                continue
            # An aggregate deep inside, as in `a > a.mean()`, does not show in the whole.
            if part.meta.is_scalar() or not part.meta.is_length_preserving():
                return False
            if not part.meta.is_row_separable():
                return False
            waiting += part.meta.pop()
    except pl.exceptions.PolarsError:  # a Python function, of which nothing is known
        return False
    return True


def declared_columns(
    names: Mapping[str, Any] | Sequence[str], columns: pa.Schema | None, *, used_by: str
) -> pa.Schema:
    """Return these columns as the feed declares them.

    Raises:
        ConfigError: One of them is not declared.
    """
    if columns is None:
        raise ConfigError(
            f"{used_by}: its lanes depend on {', '.join(names)}; declare columns={{…}}, because "
            "types that are inferred could differ from worker to worker"
        )
    for name in names:
        if name not in columns.names:
            like = nearest(name, columns.names)
            hint = f"did you mean {like!r}?" if like else f"known are {', '.join(columns.names)}"
            raise ConfigError(f"{used_by} declares no column {name!r}, which lanes need; {hint}")
    return pa.schema([columns.field(name) for name in names])


def polars_types(columns: pa.Schema) -> Mapping[str, pl.DataType]:
    """Return the types that decoded columns have."""
    return pl.DataFrame(columns.empty_table()).schema


def values_of(name: str, values: list[Hashable], kind: pl.DataType, used_by: str) -> pl.Series:
    """Return values of a table as a series of the column's type.

    Raises:
        ConfigError: A value cannot be one of the column.
    """
    cells = []
    for value in values:
        try:
            cell = pl.Series([value], strict=True).cast(kind, strict=True)
            is_same = cell[0] is not None and isinstance(value, bool) == isinstance(cell[0], bool)
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            is_same = False
        if not is_same:
            raise ConfigError(
                f"{used_by}: by_column: column {name!r} is {kind}, which cannot be {value!r}"
            )
        cells.append(cell)
    found = pl.concat(cells) if cells else pl.Series([], dtype=kind)
    if found.n_unique() < len(found):
        raise ConfigError(f"{used_by}: by_column: two values of column {name!r} are the same")
    return found
