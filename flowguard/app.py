"""The app: a `faust.App` that can have feeds. Wiring only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import faust
import polars as pl
import pyarrow as pa
from faust.app.base import BootStrategy
from faust.tables.manager import TableManager
from faust.transport.drivers.aiokafka import Transport
from faust.types import ProcessingGuarantee
from faust.types.settings import Settings

from flowguard.agents.agent import FeedAgent
from flowguard.agents.feed import Feed, FeedOptions
from flowguard.clock import Clock
from flowguard.config import AppSettings, parse_shadow, resolve
from flowguard.control.memory import MemoryBudget
from flowguard.dispatch.concurrency import Adaptive, check_concurrency
from flowguard.dispatch.sizing import BatchSize
from flowguard.errors import ConfigError
from flowguard.faust_conf import FaustConf
from flowguard.intake.consumer import FeedConsumer
from flowguard.intake.producer import FeedProducer
from flowguard.intake.schema import Schema
from flowguard.intake.tables import FeedTables
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.rules import Rule
from flowguard.runtime import FeedRuntime
from flowguard.security import Secret, read_token
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry
from flowguard.settle.service import EgressService, LetterService
from flowguard.suggest import is_typo, reject_unknown
from flowguard.units import Duration, Size

__all__ = ["App"]

#: What `faust.App` takes: its settings, what is none, and the old names of some.
FAUST_OPTIONS = frozenset(
    {
        *Settings.SETTINGS,
        *("monitor", "config_source", "loop", "beacon", "env"),
        *("client_id", "commit_interval", "create_reply_topic", "num_standby_replicas"),
        *("default_partitions", "replication_factor"),
    }
)
APP_OPTIONS = FAUST_OPTIONS | {"memory", "lanes", "spill_dir", "shadow", "instance_id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an app with feeds makes when it starts; tests put their own in its place."""

    runtime: type[FeedRuntime] = FeedRuntime
    consumer: type[FeedConsumer] = FeedConsumer
    producer: type[FeedProducer] = FeedProducer
    clock: Clock | None = None


class FeedBootStrategy(BootStrategy):
    """Start the runtime of feeds before the consumer, which feeds it.

    With feeds the pages come first of all: whether the process works can be asked while it
    waits for a broker.
    """

    def server(self) -> Iterable[Any]:
        """Return all services of a worker in the order of their start."""
        app = self.app
        assert isinstance(app, App)
        services = super().server()
        if not app.has_feeds:
            return services
        pages = list(self.web_server())
        return [*pages, *(each for each in services if each not in pages)]

    def kafka_consumer(self) -> Iterable[Any]:
        """Return the services around the consumer."""
        app = self.app
        assert isinstance(app, App)
        services = list(super().kafka_consumer())
        return [app.runtime, *services] if services and app.has_feeds else services


class App(faust.App):
    """A Faust app that can have feeds.

    Without feeds it is a `faust.App` in every setting.

    Args:
        id: The app's id, and its consumer group.
        memory: Most that feeds hold: fetch buffers, columns, decoded frames, output that is
            not acknowledged.
        lanes: The worker's one order of priority, highest first; without it there is one
            lane, `default`.
        spill_dir: Where lanes with `fg.Spill(…)` spill to, on a local disk; `spill` in Faust's
            data directory if nothing is given. It may be deleted at any time.
        shadow: Control loops that only say what they would do: `concurrency`, `batch-size`,
            `queue-delay`, `memory`, `ladder`, `brownout`, `shed`.
        instance_id: What this worker is called in its group; no other worker may have the same.
            Without it a worker whose data directory is on a disk finds a name by itself.
        **options: All that `faust.App` takes.

    Raises:
        ConfigError: An option is unknown; the message names the nearest known one.
    """

    BootStrategy = FeedBootStrategy
    Settings = FaustConf
    parts = Parts()

    def __init__(
        self,
        id: str,
        *,
        memory: Size | None = None,
        lanes: Sequence[Lane] | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        shadow: Iterable[str] | None = None,
        instance_id: str | None = None,
        **options: Any,
    ) -> None:
        # Faust ignores what it does not know, and an app without feeds is Faust's app; but a
        # slip of the pen is never meant.
        self._unknown = options.keys() - FAUST_OPTIONS
        self._reject(name for name in self._unknown if is_typo(name, APP_OPTIONS))
        self._declared_lanes = LaneSet.of(lanes)
        if shadow is not None:
            shadow = sorted(parse_shadow(shadow, owner="App(shadow=…)"))
        directory = None if spill_dir is None else os.fspath(spill_dir)
        self._declared = {
            "memory": memory,
            "spill_dir": directory,
            "shadow": shadow,
            "instance_id": instance_id,
        }
        self.declared_feeds: list[Feed] = []
        #: What the command line and the configuration file say; set before the start.
        self.command_line: dict[str, Any] = {}
        self.config_file: tuple[Mapping[str, Any], str] = ({}, "the configuration file")
        self.web_token_file: str | None = None
        super().__init__(id, **options)

    def _reject(self, unknown: Iterable[str]) -> None:
        reject_unknown(unknown, known=APP_OPTIONS, owner="App")

    # Declarations.

    def feed(
        self,
        *topics: str,
        codec: str | object = "json",
        registry: Any = None,
        columns: Mapping[str, Any] | pa.Schema | type | None = None,
        key_by: str | None = None,
        lanes: Lane | Rule | pl.Expr | None = None,
        order: Literal["partition", "key", "none"] = "partition",
        on_offset_loss: Literal["stop", "earliest", "latest"] = "stop",
        **topic_options: Any,
    ) -> Feed:
        """Declare a guarded topic.

        Args:
            topics: One name or more.
            codec: `json`, `msgpack`, `avro`, `protobuf`, `arrow`, `raw`, or an object with
                `decode(values: pa.BinaryArray) -> pa.RecordBatch` and `encode(frame)`.
            registry: For `avro` and `protobuf`: the address of a Confluent schema registry
                (`https://user:password@host`), or an object with `schema(id)`.
            columns: Name → Arrow type, a `pa.Schema` or a `faust.Record`; None infers them.
            key_by: Column whose text is the key of what is sent to it.
            lanes: The lane of all its records, a rule, or a Polars expression over declared
                columns that yields lane names; null and unknown names get the lowest lane.
            order: What may not be reordered inside a lane: `partition`, `key` (records of
                other keys may overtake), or `none`.
            on_offset_loss: What to do when the broker no longer has the next offset.
            **topic_options: What `app.topic` takes.

        Raises:
            ConfigError: An option is unknown or not one of its choices.
        """
        self._reject(self._unknown)
        if not topics:
            raise ConfigError("a feed needs a topic; patterns are not available in this version")
        reject_unknown(
            topic_options.keys() - TOPIC_OPTIONS,
            known=(*TOPIC_OPTIONS, *FEED_OPTIONS),
            later=("pattern",),
            owner=f"feed {topics[0]!r}",
        )
        options = FeedOptions(
            codec=codec,
            registry=registry,
            columns=None if columns is None else Schema.parse(columns),
            key_by=key_by,
            rule=lanes,
            order=order,
            on_offset_loss=on_offset_loss,
        )
        feed = Feed(self, topics=topics, options=options, **topic_options)
        _ = feed.codec
        feed.routes(self._declared_lanes)
        if lanes is not None:  # without a rule it may be one that is only sent to
            feed.splitters(self._declared_lanes)
        self.declared_feeds.append(feed)
        return feed

    def agent(self, channel: Any = None, **options: Any) -> Callable[[Any], Any]:
        """Declare an agent; on a feed its events are batches.

        On a feed, `concurrency` is the most batches at once, a number or `fg.Adaptive`;
        `batch` an `fg.BatchSize`; `retries` an `fg.Retry`; `timeout` how long the function may
        take for a batch (`"30s"`); `dead_letters` an `fg.DeadLetters`.
        """
        if not isinstance(channel, Feed):
            return super().agent(channel, **options)
        return self._feed_agent(channel, **options)

    actor = agent  # Faust's old name for it

    def _feed_agent(
        self,
        feed: Feed,
        *,
        name: str | None = None,
        concurrency: int | Adaptive = 1,
        sink: Iterable[Any] | None = None,
        batch: BatchSize | None = None,
        retries: Retry | None = None,
        timeout: Duration | None = None,
        dead_letters: DeadLetters | None = None,
        **unknown: Any,
    ) -> Callable[[Any], FeedAgent]:
        known = ("name", "concurrency", "sink", "batch", "retries", "timeout", "dead_letters")
        reject_unknown(unknown, known=known, owner="an agent on a feed")
        check_concurrency(concurrency)
        if batch is not None and not isinstance(batch, BatchSize):
            raise ConfigError(f"batch={batch!r} is not available; use fg.BatchSize(…)")
        if isinstance(retries, int) and not isinstance(retries, bool):
            retries = Retry(retries)
        if retries is not None and not isinstance(retries, Retry):
            raise ConfigError(f"retries={retries!r} is not available; use fg.Retry(…)")
        if dead_letters is not None and not isinstance(dead_letters, DeadLetters):
            raise ConfigError(f"dead_letters={dead_letters!r} is none; use fg.DeadLetters(…)")

        def declare(function: Any) -> FeedAgent:
            agent = FeedAgent(
                function,
                app=self,
                name=name,
                channel=feed,
                concurrency=concurrency,
                sink=sink,
                batch=batch,
                retries=retries,
                timeout=timeout,
                dead_letters=dead_letters,
                on_error=self._on_agent_error,
                help=function.__doc__,
            )
            self.agents[agent.name] = agent
            self.topics.beacon.add(agent)
            return agent

        return declare

    # Wiring.

    @property
    def has_feeds(self) -> bool:
        """Tell whether an agent reads a feed."""
        return any(isinstance(agent, FeedAgent) for agent in self.agents.values())

    @cached_property
    def feed_settings(self) -> AppSettings:
        """Return the resolved settings; the command line must have been read by then."""
        file, file_name = self.config_file
        return resolve(
            lanes=self._declared_lanes,
            code=self._declared,
            file=file,
            file_name=file_name,
            environment=os.environ,
            command_line=self.command_line,
            spill_dir=str(self.conf.datadir / "spill"),
        )

    @cached_property
    def web_token(self) -> Secret | None:
        """Return what whoever changes the worker through its pages must have, if anything."""
        return read_token(os.environ, self.web_token_file)

    @cached_property
    def runtime(self) -> FeedRuntime:
        """Return what drives the engine; made when the worker starts."""
        settings = self.feed_settings
        return self.parts.runtime(
            self,
            lanes=settings.lanes,
            memory=MemoryBudget(settings.memory_bytes),
            drain_timeout_s=settings.drain_timeout_s,
            spill_dir=settings.spill_dir,
            shadow=settings.shadow,
            instance_id=settings.instance_id,
            clock=self.parts.clock,
            loop=self.loop,
            beacon=self.beacon,
        )

    @cached_property
    def egress(self) -> EgressService:
        """Return what sends frames."""
        return EgressService(self)

    @cached_property
    def letters(self) -> LetterService:
        """Return what writes dead letters."""
        return LetterService(self)

    def check(self) -> None:
        """Raise ConfigError for what cannot work with feeds; nothing is started."""
        if not self.has_feeds:
            return
        guarantee: object = self.conf.processing_guarantee
        if guarantee == ProcessingGuarantee.EXACTLY_ONCE:
            raise ConfigError(
                'processing_guarantee="exactly_once" is not available with feeds in this version; '
                "leave it out: delivery is at least once"
            )
        if not isinstance(self.transport, Transport):
            raise ConfigError(
                f"feeds need Kafka; broker={self.conf.broker[0]} is not kafka://HOST:PORT"
            )
        _ = self.web_token
        self.runtime.declared.check()

    @cached_property
    def tables(self) -> Any:
        """Return Faust's tables."""
        chosen: Any = self.conf.TableManager
        if chosen is not TableManager:  # somebody wants another one
            return super().tables
        return FeedTables(app=self, beacon=self.beacon)

    def worker_init_post_autodiscover(self) -> None:
        """Prepare a web server only if there will be one, which takes long to load."""
        if self.has_feeds and not self.conf.web_enabled:
            self.on_worker_init.send()
        else:
            super().worker_init_post_autodiscover()

    def on_rebalance_return(self) -> None:
        """Tell sensors of it, unless the end of the rebalance before has ended this one, too.

        What moves between workers takes two rebalances, one right behind the other.
        """
        if self._rebalancing_sensor_state or not self.has_feeds:
            super().on_rebalance_return()

    def on_rebalance_end(self) -> None:
        """Tell sensors of it, unless they were told."""
        if self._rebalancing_sensor_state or not self.has_feeds:
            super().on_rebalance_end()
        else:
            self.rebalancing = False

    def _new_consumer(self) -> Any:
        if not self.has_feeds:
            return super()._new_consumer()
        self.check()
        return self.parts.consumer(
            self.transport,
            callback=self.topics.on_message,
            on_partitions_revoked=self._on_partitions_revoked,
            on_partitions_assigned=self._on_partitions_assigned,
            beacon=self.beacon,
            loop=self.loop,
        )

    def _new_web(self) -> Any:
        # `@app.page` may ask for it before an agent is declared, so FeedWeb itself looks,
        # once the server starts, whether the app has feeds.
        if self.conf.web.scheme != "aiohttp":
            return super()._new_web()
        from flowguard.web import FeedWeb  # a web server takes long to load; some have no pages

        return FeedWeb(self)

    def _new_producer(self) -> Any:
        if not self.declared_feeds:  # an app may send to feeds that it does not read
            return super()._new_producer()
        return self.parts.producer(self.transport, loop=self.loop, beacon=self.beacon)


FEED_OPTIONS = frozenset(
    {"codec", "registry", "columns", "key_by", "lanes", "order", "on_offset_loss"}
)
TOPIC_OPTIONS = frozenset(
    {
        "schema", "key_type", "value_type", "partitions", "retention", "compacting", "deleting",
        "replicas", "internal", "config", "maxsize", "allow_empty", "has_prefix",
        "key_serializer", "value_serializer",
    }
)  # fmt: skip
