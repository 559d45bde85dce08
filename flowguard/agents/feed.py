"""Feeds: Faust topics that flowguard guards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import polars as pl
import pyarrow as pa
from faust.topics import Topic

from flowguard.errors import ConfigError, HookError
from flowguard.intake.codec import REGISTERED, Codec, Registry, make_codec
from flowguard.intake.schema import Schema
from flowguard.intake.schema_registry import SchemaRegistry
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.rules import Route, Rule, compile_rule, rule_fingerprint
from flowguard.lanes.split import Splitter
from flowguard.suggest import nearest

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["Feed", "FeedOptions"]

ORDERS = ("partition", "key", "none")
OFFSET_LOSS = ("stop", "earliest", "latest")

Frame: TypeAlias = pl.DataFrame | pa.Table | pa.RecordBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """What a feed declares beyond a topic.

    Args:
        codec: How values become columns, by name or as an object.
        registry: Schema registry of the codec: its address, or an object with `schema(id)`.
        columns: The declared columns, None to infer them.
        key_by: Column whose text is the key of what is sent.
        rule: Which lane a record belongs to.
        order: What may not be reordered inside a lane.
        on_offset_loss: What to do when the broker no longer has the next offset.

    Raises:
        ConfigError: An option is not one of its choices.
    """

    codec: str | object = "json"
    registry: str | Registry | None = None
    columns: Schema | None = None
    key_by: str | None = None
    rule: Rule | Lane | pl.Expr | None = None
    order: Literal["partition", "key", "none"] = "partition"
    on_offset_loss: Literal["stop", "earliest", "latest"] = "stop"

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        check_choice("on_offset_loss", self.on_offset_loss, OFFSET_LOSS)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ConfigError unless the value is one of the choices."""
    if value not in choices:
        like = nearest(str(value), choices)
        hint = f"did you mean {like!r}?" if like else f"use {', '.join(map(repr, choices))}"
        raise ConfigError(f"{name}={value!r} is not a choice; {hint}")


@dataclass(slots=True)
class CodecSlot:
    """The codec, made when it is first needed and shared by all clones of a feed."""

    options: FeedOptions
    subject: str = ""
    codec: Codec | None = field(default=None)

    def get(self) -> Codec:
        """Return the codec."""
        if self.codec is None:
            options = self.options
            self.codec = make_codec(
                options.codec,
                options.columns,
                registry=registry_of(options),
                subject=self.subject,
            )
        return self.codec


def registry_of(options: FeedOptions) -> Registry | None:
    """Return the schema registry of a feed.

    Raises:
        ConfigError: It is no address, and no object with `schema(id)`.
    """
    registry = options.registry
    if isinstance(registry, str):
        if options.codec not in REGISTERED:
            raise ConfigError(
                f"codec={options.codec!r} reads no schema registry; leave registry out, or use "
                f"{' or '.join(map(repr, REGISTERED))}"
            )
        return SchemaRegistry(registry, serialized=options.codec == "protobuf")
    if registry is not None and not callable(getattr(registry, "schema", None)):
        raise ConfigError(
            f"registry={registry!r} is no registry; give an address (https://user:password@host) "
            "or an object with schema(id)"
        )
    return registry


class Feed(Topic):
    """A guarded topic: its agents receive batches instead of values.

    Everything a Faust topic has means what it means there. `acks` is off, because
    flowguard's own ledger decides what is committed.
    """

    app: App

    def __init__(
        self,
        app: App,
        *,
        options: FeedOptions | None = None,
        codec_slot: CodecSlot | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["acks"] = False
        super().__init__(app, **kwargs)
        self.options = options or FeedOptions()
        self._codec_slot = codec_slot or CodecSlot(self.options, f"{self}-value")

    @property
    def codec(self) -> Codec:
        """Return what turns values into columns and back."""
        return self._codec_slot.get()

    def _clone_args(self) -> Mapping[str, Any]:
        return {
            **super()._clone_args(),
            "options": self.options,
            "codec_slot": self._codec_slot,
        }

    def routes(self, lanes: LaneSet) -> dict[str, Route]:
        """Return the compiled lane rule of each topic.

        Raises:
            ConfigError: The rule names a lane that the app does not have, or a column that
                is not declared.
        """
        return {
            topic: compile_rule(
                self.options.rule, topic, lanes, used_by=f"feed {topic!r}", columns=self._columns
            )
            for topic in self.topics
        }

    def is_same_as(self, other: Feed) -> bool:
        """Tell whether another object is this feed; Faust clones topics."""
        return self._codec_slot is other._codec_slot

    def splitters(self, lanes: LaneSet) -> dict[str, Splitter]:
        """Return what splits the chunks of each topic by columns and fair shares.

        Raises:
            ConfigError: A lane is fair by something that this feed's order or columns do not
                permit; or as for `routes`.
        """
        return {
            topic: Splitter(
                route,
                lanes,
                codec=self.codec,
                columns=self._columns,
                order=self.options.order,
                used_by=f"feed {topic!r}",
            )
            for topic, route in self.routes(lanes).items()
        }

    def rule_fingerprints(self, lanes: LaneSet) -> dict[str, str]:
        """Return of each topic what changes when its records may get other lanes."""
        return {
            topic: rule_fingerprint(route, lanes, codec=self.codec.name, columns=self._columns)
            for topic, route in self.routes(lanes).items()
        }

    @property
    def _columns(self) -> pa.Schema | None:
        return None if self.options.columns is None else self.options.columns.arrow

    def stream(self, **kwargs: Any) -> Any:
        """Raise: only an agent can read a feed, because only its batches are settled."""
        raise HookError(
            f"{self!r} cannot be read with stream(); read it with @app.agent(feed), or declare "
            f"app.topic({str(self)!r})"
        )

    def __repr__(self) -> str:
        return f"<Feed: {self}>"

    async def send(self, frame: Frame | None = None, *, key_by: str | None = None,
                   **kwargs: Any) -> Any:  # fmt: skip
        """Send a frame, or one value as any Faust topic does.

        Args:
            frame: A Polars frame or Arrow table. Columns `_key`, `_partition`, `_timestamp`
                (ms) and `_headers` override; all others are the value.
            key_by: Column whose text is the key; default is the feed's own.
            **kwargs: `key`, `value` and the rest of `faust.Topic.send`.

        Returns:
            For a frame, the number of records, once the broker has acknowledged all of
            them; otherwise what `faust.Topic.send` returns.

        Raises:
            SettleError: The broker refused a record; what was acknowledged before stays.
        """
        if frame is None:
            return await super().send(**kwargs)
        if kwargs:
            raise ConfigError(
                f"send(frame) takes only key_by, not {', '.join(kwargs)}; use the columns _key, "
                f"_partition, _timestamp and _headers"
            )
        if isinstance(frame, pa.RecordBatch):
            frame = pa.Table.from_batches([frame])
        if not isinstance(frame, (pl.DataFrame, pa.Table)):
            raise ConfigError(f"{self!r}.send: {type(frame).__name__} is no Polars frame or Arrow "
                              f"table; send one value with send(value=…)")  # fmt: skip
        return await self.app.egress.send(self, frame, key_by=key_by or self.options.key_by)

    def begin_send(self, frame: pl.DataFrame | pa.Table) -> asyncio.Future[None]:
        """Send a frame and wait for nothing; the current batch waits for its acknowledgement."""
        return self.app.egress.begin(self, frame, key_by=self.options.key_by)
