"""Rules: which lane a record belongs to.

A rule is declared with lanes and, once the app's lanes are known, compiled for one
topic into what the parser applies. `Route` is that compiled form in plain values;
`flowguard._native.wire.LaneRule` is made from it. A rule that looks at columns has a
second step: the parser gives every record the default lane, and `lanes/split.py` decodes
the columns that the rule needs and moves records to where they belong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl
import pyarrow as pa

from flowguard.errors import ConfigError
from flowguard.lanes.columns import ColumnStep, expression_step, table_step
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet

__all__ = [
    "ByColumn",
    "ByHeader",
    "ByKeyPrefix",
    "ByTopic",
    "Route",
    "Rule",
    "by_column",
    "by_header",
    "by_key_prefix",
    "by_topic",
    "compile_rule",
    "rule_fingerprint",
]

#: The header read by a feed that declares no rule, if the app has several lanes.
LANE_HEADER = "fg-lane"


@dataclass(frozen=True, slots=True)
class Route:
    """A rule for one topic, with lanes as ranks.

    Args:
        default: Rank of the lane of records that match nothing.
        header: Header to look at, or None.
        table: Header value or key prefix → rank; empty for a rule that the parser need not
            look for.
        columns: What decides from decoded columns, or None. With it the parser gives every
            record the default.
    """

    default: int
    header: bytes | None = None
    table: tuple[tuple[bytes, int], ...] = ()
    columns: ColumnStep | None = None

    @property
    def ranks(self) -> frozenset[int]:
        """Return every rank that a record of this topic can get."""
        decided = frozenset() if self.columns is None else self.columns.ranks
        return decided | {self.default, *(rank for _, rank in self.table)}


class Rule(Protocol):
    """A pure function of the record that names its lane."""

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return the rule for one topic.

        Raises:
            ConfigError: It names a lane that the app does not have, or a column that the
                feed does not declare.
        """
        ...


@dataclass(frozen=True, slots=True)
class ByTopic:
    """All records of a topic go to the topic's lane."""

    table: Mapping[str, Lane]
    default: Lane

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return the one lane of the topic."""
        ranks = {name: lanes.rank(lane, used_by=used_by) for name, lane in self.table.items()}
        return Route(ranks.get(topic, lanes.rank(self.default, used_by=used_by)))


@dataclass(frozen=True, slots=True)
class ByHeader:
    """The value of a header names the lane."""

    name: str
    table: Mapping[str, Lane]
    default: Lane

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return header values with their ranks."""
        return Route(
            lanes.rank(self.default, used_by=used_by),
            self.name.encode(),
            tuple(
                (v.encode(), lanes.rank(lane, used_by=used_by)) for v, lane in self.table.items()
            ),
        )


@dataclass(frozen=True, slots=True)
class ByKeyPrefix:
    """The beginning of the key names the lane; the longest prefix wins."""

    table: Mapping[str, Lane]
    default: Lane

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return prefixes with their ranks."""
        return Route(
            lanes.rank(self.default, used_by=used_by),
            None,
            tuple(
                (p.encode(), lanes.rank(lane, used_by=used_by)) for p, lane in self.table.items()
            ),
        )


@dataclass(frozen=True, slots=True)
class ByColumn:
    """The value of a column names the lane; of several columns, the first that matches."""

    tables: Mapping[str, Mapping[Hashable, Lane]]
    default: Lane

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return column values with their ranks."""
        default = lanes.rank(self.default, used_by=used_by)
        tables = {
            name: {value: lanes.rank(lane, used_by=used_by) for value, lane in table.items()}
            for name, table in self.tables.items()
        }
        return Route(default, columns=table_step(tables, default, columns, used_by=used_by))


@dataclass(frozen=True, slots=True, eq=False)
class ByExpression:
    """A Polars expression over the feed's columns yields lane names; the default is the lowest."""

    expression: pl.Expr

    def compile(
        self, topic: str, lanes: LaneSet, *, used_by: str, columns: pa.Schema | None
    ) -> Route:
        """Return the expression with the ranks of all lanes."""
        ranks = {lane.name: rank for rank, lane in enumerate(lanes)}
        lowest = len(lanes) - 1
        return Route(
            lowest,
            columns=expression_step(self.expression, ranks, lowest, columns, used_by=used_by),
        )


def by_topic(table: Mapping[str, Lane], default: Lane) -> ByTopic:
    """Give each topic of a feed a lane of its own.

    Only such rules tell, before a record is read, what a partition can hold: a partition
    of a lane with a target then has a connection of its own to the broker.

    Args:
        table: Topic → lane.
        default: The lane of every other topic of the feed.
    """
    return ByTopic(check_table("by_topic", table), check_lane("by_topic", default))


def by_header(name: str, table: Mapping[str, Lane], default: Lane) -> ByHeader:
    """Let a header of the record name the lane.

    Args:
        name: Header; if a record repeats it, the last one counts.
        table: Header value → lane.
        default: The lane of records without the header, with null or any other value.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"by_header({name!r}, …): the header needs a name")
    return ByHeader(name, check_table("by_header", table), check_lane("by_header", default))


def by_key_prefix(table: Mapping[str, Lane], default: Lane) -> ByKeyPrefix:
    """Let the beginning of the record's key name the lane.

    Args:
        table: Prefix → lane; the longest prefix that fits wins.
        default: The lane of records without a key, or whose key fits no prefix.
    """
    return ByKeyPrefix(check_table("by_key_prefix", table), check_lane("by_key_prefix", default))


def by_column(tables: Mapping[str, Mapping[Hashable, Lane]], default: Lane) -> ByColumn:
    """Let the value of a column name the lane.

    The feed must declare the column, because types that are inferred could differ from
    worker to worker.

    Args:
        tables: Column → {value → lane}; of several columns, the first that matches counts.
        default: The lane of records whose columns are missing, null, not readable or of any
            other value.
    """
    is_table = isinstance(tables, Mapping) and all(
        isinstance(name, str) and isinstance(table, Mapping) for name, table in tables.items()
    )
    if not is_table or not tables:
        raise ConfigError(f"by_column: give {{column: {{value: lane}}}}, got {tables!r}")
    checked = {}
    for name, table in tables.items():
        checked[name] = {value: check_lane("by_column", lane) for value, lane in table.items()}
    return ByColumn(checked, check_lane("by_column", default))


def compile_rule(
    rule: Rule | Lane | pl.Expr | None,
    topic: str,
    lanes: LaneSet,
    *,
    used_by: str,
    columns: pa.Schema | None = None,
) -> Route:
    """Return the rule of one topic; a single lane, and no rule at all, are rules too.

    Without a rule the header `fg-lane` names the lane, if the app has several; the default
    is the lowest.

    Args:
        rule: The rule.
        topic: The topic.
        lanes: The lanes of the app.
        used_by: Who has the rule, for errors.
        columns: The columns that the feed declares, None if they are inferred.

    Raises:
        ConfigError: It names a lane that the app does not have, or a column that the feed
            does not declare.
    """
    if isinstance(rule, Lane):
        return Route(lanes.rank(rule, used_by=used_by))
    if isinstance(rule, pl.Expr):
        rule = ByExpression(rule)
    if rule is not None:
        return rule.compile(topic, lanes, used_by=used_by, columns=columns)
    lowest = len(lanes) - 1
    if lowest == 0:
        return Route(0)
    table = tuple((lane.name.encode(), rank) for rank, lane in enumerate(lanes))
    return Route(lowest, LANE_HEADER.encode(), table)


def rule_fingerprint(route: Route, lanes: LaneSet, *, codec: str, columns: pa.Schema | None) -> str:
    """Return 16 hex digits that change when a rule may put a record into another lane.

    Commits carry it: positions of single lanes mean something only under the rule by which
    they were counted.

    Args:
        route: The compiled rule.
        lanes: The lanes of the app; what counts is their names, in order.
        codec: Name of the feed's codec; counts for rules that look at columns.
        columns: The feed's declared columns; count for rules that look at columns.
    """
    parts: list[tuple[object, ...]] = [
        ("lanes", *(lane.name for lane in lanes)),
        ("default", route.default),
        ("header", route.header),
        ("table", *sorted(route.table)),
    ]
    if route.columns is not None:
        parts += [
            ("columns", *route.columns.identity),
            ("codec", codec),
            ("schema", *(f"{each.name}: {each.type}" for each in columns or ())),
            ("polars", pl.__version__),
        ]
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def check_table(rule: str, table: Mapping[str, Lane]) -> dict[str, Lane]:
    """Return a copy of a rule's table, or raise ConfigError."""
    if not isinstance(table, Mapping) or not all(isinstance(key, str) for key in table):
        raise ConfigError(f"{rule}: give a mapping of text to lanes, got {table!r}")
    return {key: check_lane(rule, lane) for key, lane in table.items()}


def check_lane(rule: str, lane: Lane) -> Lane:
    """Return the lane, or raise ConfigError if it is none."""
    if not isinstance(lane, Lane):
        raise ConfigError(f"{rule}: {lane!r} is no lane; give an fg.Lane")
    return lane
