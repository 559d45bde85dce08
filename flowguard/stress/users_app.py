"""A scenario's load for an app of the user's own: which topic, header and value make a record
that gets the lane it should.

    scenario lane ─▶ lane of the app ─▶ topic whose rule can yield it ─▶ header or key that does

Values are made up from the columns that the feed declares, and written by its codec, so that
agents get rows of the types they expect. What the values mean is random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl
import pyarrow as pa

from flowguard.app import App
from flowguard.errors import ConfigError
from flowguard.lanes.rules import Route
from flowguard.stress.scenario import Scenario
from flowguard.suggest import nearest

__all__ = ["Address", "UsersApp", "made_up"]

#: So many different values are made up of each topic; then they repeat.
VALUES: Final = 512

#: Values repeat, so a text column has few different ones, as names and codes do.
WORDS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where records of a lane are sent, and what gives them their lane.

    Args:
        headers: Of each record.
        key_prefix: What its key begins with.
    """

    topic: str
    headers: Mapping[str, str]
    key_prefix: str = ""


class UsersApp:
    """An app of the user's, as far as a run must know it.

    Args:
        app: The app; its module has been imported.
        spec: How its worker finds it: `MODULE[:APP]`.
        scenario: Whose lanes must be lanes of the app.

    Raises:
        ConfigError: A lane does not exist, or no record can be made that gets it.
    """

    def __init__(self, app: App, spec: str, scenario: Scenario) -> None:
        app.check()
        self.app = app
        self.spec = spec
        self.group = str(app.conf.id)
        self.lanes = {lane.name: lane for lane in app.feed_settings.lanes}
        self.addresses = {
            each.lane: self._address(each.lane, each.topic) for each in scenario.arrivals
        }

    @property
    def agent(self) -> str:
        """Return the name of the agent whose seats are shown."""
        return next(iter(self.app.runtime.declared.agents))

    @property
    def sinks(self) -> list[str]:
        """Return the topics that its agents send to, as far as they are feeds."""
        names = (
            topic
            for agent in self.app.runtime.declared.agents.values()
            for sink in agent._sinks
            if sink in self.app.declared_feeds
            for topic in sink.topics
        )
        return [
            name for name in dict.fromkeys(names) if name not in self.app.runtime.declared.feeds
        ]

    @property
    def topics(self) -> list[str]:
        """Return all that must exist before it starts."""
        return [*self.app.runtime.declared.feeds, *self.sinks, f"{self.group}.dlq"]

    def _address(self, lane: str, topic: str) -> Address:
        """Return how to reach a lane; a topic that the scenario names comes before others."""
        if lane not in self.lanes:
            like = nearest(lane, self.lanes)
            hint = f"did you mean {like!r}?" if like else f"it has {', '.join(self.lanes)}"
            raise ConfigError(
                f"the scenario sends to lane {lane!r}, which {self.spec} does not have; {hint}"
            )
        routes = self._routes()
        if topic and topic not in routes:
            like = nearest(topic, routes)
            hint = f"did you mean {like!r}?" if like else f"they read {', '.join(routes)}"
            raise ConfigError(
                f"the scenario sends to topic {topic!r}, which no agent of {self.spec} reads; "
                f"{hint}"
            )
        rank = list(self.lanes).index(lane)
        wanted = {topic: routes[topic]} if topic else routes
        for way in (by_topic, by_header, by_key_prefix, by_default):
            for name, route in wanted.items():
                if (found := way(name, route, rank)) is not None:
                    return found
        raise ConfigError(
            f"no record can be made that gets lane {lane!r} of {self.spec}: no topic, header or "
            f"key yields it; send to another lane, or give its topic a rule by header"
        )

    def _routes(self) -> dict[str, Route]:
        lanes = self.app.feed_settings.lanes
        return {
            topic: route
            for feed in dict.fromkeys(self.app.runtime.declared.feeds.values())
            for topic, route in feed.routes(lanes).items()
        }

    def values(self, topic: str, seed: int) -> list[bytes]:
        """Return values that the feed of a topic can read.

        Raises:
            ConfigError: Its codec cannot write what was made up.
        """
        feed = self.app.runtime.declared.feeds[topic]
        rng = random.Random(f"{seed}/{topic}")
        if feed.options.codec == "raw":
            return [rng.randbytes(200) for _ in range(VALUES)]
        columns = feed.options.columns
        schema = pa.schema({"id": pa.int64(), "text": pa.string()}) if columns is None else (
            columns.arrow
        )  # fmt: skip
        try:
            encoded = feed.codec.encode(made_up(schema, VALUES, rng))
        except Exception as error:  # a codec of the user's may raise anything
            raise ConfigError(
                f"feed {topic!r}: no values can be made up for codec {feed.options.codec!r}: "
                f"{error}; run the scenario without -A, or give the feed columns"
            ) from error
        return [value.as_py() for value in encoded]


# What gives a record its lane.


def by_topic(topic: str, route: Route, rank: int) -> Address | None:
    """Return the address where all records of a topic get the lane."""
    only = route.default == rank and not route.table and route.columns is None
    return Address(topic=topic, headers={}) if only else None


def by_header(topic: str, route: Route, rank: int) -> Address | None:
    """Return the address where a header yields the lane."""
    if route.header is None:
        return None
    name = route.header.decode()
    for value, yielded in route.table:
        if yielded == rank:
            return Address(topic=topic, headers={name: value.decode()})
    return None


def by_key_prefix(topic: str, route: Route, rank: int) -> Address | None:
    """Return the address where the beginning of a key yields the lane."""
    if route.header is not None:
        return None
    for prefix, yielded in route.table:
        if yielded == rank:
            return Address(topic=topic, headers={}, key_prefix=prefix.decode())
    return None


def by_default(topic: str, route: Route, rank: int) -> Address | None:
    """Return the address where records that match nothing get the lane."""
    reached = route.default == rank and route.columns is None
    return Address(topic=topic, headers={}) if reached else None


# Values.


def made_up(schema: pa.Schema, rows: int, rng: random.Random) -> pl.DataFrame:
    """Return rows of these types; nested and unknown types are null."""
    columns = {}
    for field in schema:
        make = maker_of(field.type)
        values = None if make is None else [make(rng) for _ in range(rows)]
        columns[field.name] = (
            pa.nulls(rows, field.type) if values is None else pa.array(values, field.type)
        )
    frame = pl.from_arrow(pa.table(columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def maker_of(kind: pa.DataType) -> Callable[[random.Random], Any] | None:
    """Return what makes values of a type, None if there is nothing simple."""
    for is_kind, make in MAKERS:
        if is_kind(kind):
            return make
    return None


def instant(rng: random.Random) -> datetime:
    """Return an instant of the last years, to the second."""
    return datetime.fromtimestamp(rng.randrange(1_600_000_000, 1_700_000_000), UTC)


MAKERS: Final[Iterable[tuple[Callable[[pa.DataType], bool], Callable[[random.Random], Any]]]] = (
    (pa.types.is_boolean, lambda rng: rng.random() < 0.5),
    (pa.types.is_integer, lambda rng: rng.randrange(100)),
    (pa.types.is_floating, lambda rng: round(rng.uniform(0, 1000), 3)),
    (pa.types.is_decimal, lambda rng: rng.randrange(100)),
    (pa.types.is_string, lambda rng: f"word-{rng.randrange(WORDS)}"),
    (pa.types.is_large_string, lambda rng: f"word-{rng.randrange(WORDS)}"),
    (pa.types.is_binary, lambda rng: rng.randbytes(16)),
    (pa.types.is_timestamp, instant),
    (pa.types.is_date, lambda rng: instant(rng).date()),
)
