"""Rules: which lane a record belongs to.

A rule is declared with lanes and, once the app's lanes are known, compiled for one
topic into what the parser applies. `Route` is that compiled form in plain values;
`flowguard._native.wire.LaneRule` is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet

__all__ = [
    "ByHeader",
    "ByKeyPrefix",
    "ByTopic",
    "Route",
    "Rule",
    "by_header",
    "by_key_prefix",
    "by_topic",
    "compile_rule",
]

#: The header read by a feed that declares no rule, if the app has several lanes.
LANE_HEADER = "fg-lane"


@dataclass(frozen=True, slots=True)
class Route:
    """A rule for one topic, with lanes as ranks.

    Args:
        default: Rank of the lane of records that match nothing.
        header: Header to look at, or None.
        table: Header value or key prefix → rank; empty for a rule that never looks.
    """

    default: int
    header: bytes | None = None
    table: tuple[tuple[bytes, int], ...] = ()

    @property
    def ranks(self) -> frozenset[int]:
        """Return every rank that a record of this topic can get."""
        return frozenset({self.default, *(rank for _, rank in self.table)})


class Rule(Protocol):
    """A pure function of the record that names its lane."""

    def compile(self, topic: str, lanes: LaneSet, *, used_by: str) -> Route:
        """Return the rule for one topic.

        Raises:
            ConfigError: It names a lane that the app does not have.
        """
        ...


@dataclass(frozen=True, slots=True)
class ByTopic:
    """All records of a topic go to the topic's lane."""

    table: Mapping[str, Lane]
    default: Lane

    def compile(self, topic: str, lanes: LaneSet, *, used_by: str) -> Route:
        """Return the one lane of the topic."""
        ranks = {name: lanes.rank(lane, used_by=used_by) for name, lane in self.table.items()}
        return Route(ranks.get(topic, lanes.rank(self.default, used_by=used_by)))


@dataclass(frozen=True, slots=True)
class ByHeader:
    """The value of a header names the lane."""

    name: str
    table: Mapping[str, Lane]
    default: Lane

    def compile(self, topic: str, lanes: LaneSet, *, used_by: str) -> Route:
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

    def compile(self, topic: str, lanes: LaneSet, *, used_by: str) -> Route:
        """Return prefixes with their ranks."""
        return Route(
            lanes.rank(self.default, used_by=used_by),
            None,
            tuple(
                (p.encode(), lanes.rank(lane, used_by=used_by)) for p, lane in self.table.items()
            ),
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


def compile_rule(rule: Rule | Lane | None, topic: str, lanes: LaneSet, *, used_by: str) -> Route:
    """Return the rule of one topic; a single lane, and no rule at all, are rules too.

    Without a rule the header `fg-lane` names the lane, if the app has several; the default
    is the lowest.
    """
    if isinstance(rule, Lane):
        return Route(lanes.rank(rule, used_by=used_by))
    if rule is not None:
        return rule.compile(topic, lanes, used_by=used_by)
    lowest = len(lanes) - 1
    if lowest == 0:
        return Route(0)
    table = tuple((lane.name.encode(), rank) for rank, lane in enumerate(lanes))
    return Route(lowest, LANE_HEADER.encode(), table)


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
