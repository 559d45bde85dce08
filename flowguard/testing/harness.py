"""The harness: a user's app on a log in memory and a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import polars as pl

from flowguard.agents.feed import Feed
from flowguard.app import App
from flowguard.chunk import TopicPartition
from flowguard.errors import ConfigError, SimulationError
from flowguard.lanes.lane import Lane
from flowguard.observe.state import state_document
from flowguard.settle.egress import Outgoing
from flowguard.snapshot import COUNTS
from flowguard.testing.broker import Broker
from flowguard.testing.found import frame_of_topic, letters_in
from flowguard.testing.log import Log
from flowguard.testing.loop import VirtualClock, VirtualLoop
from flowguard.testing.moment import Moment, topic_of
from flowguard.testing.outside import Outside
from flowguard.testing.records import Given, outgoing_for, wire_batches
from flowguard.testing.watch import LatencySummary, Watch
from flowguard.testing.worker import WorkerLife
from flowguard.units import MILLISECOND, SECOND, Duration, duration_ns

__all__ = ["Harness"]

#: A worker that does not get its partitions within so much virtual time never will.
READY_WITHIN_NS: Final = 120 * SECOND
LOOK_EVERY_NS: Final = 10 * MILLISECOND

#: Partitions of a topic that declares none; few, so that a test is quick to read.
PARTITIONS: Final = 4


class Harness:
    """Runs an app as a worker would, without Kafka and without waiting.

    The app's own agents, codecs, lanes and sinks run under flowguard's own runtime, engine
    and delivery. Kafka is a log in memory, and time passes only when all wait for it. The
    same seed gives the same run. Instants count from when the worker has its partitions.

    Args:
        app: The app, as it is declared; it must not have been started otherwise. It may be
            given to another harness when this one is done with.
        seed: Of all that is random: latencies of the broker, what a crash leaves, `random`.
        partitions: Partitions of each topic that does not declare them.

    Raises:
        SimulationError: The app has been started already.
        ConfigError: The app cannot work.
    """

    def __init__(self, app: App, seed: int = 1, *, partitions: int = PARTITIONS) -> None:
        if not app.has_feeds:
            raise ConfigError(
                "the harness runs apps with feeds, and no agent of this one reads one; test it "
                "with Faust's own test contexts"
            )
        self.app = app
        self.seed = seed
        self._chance = random.Random(seed)
        self._clock = VirtualClock()
        self._loop = VirtualLoop(self._clock)
        self._outside = Outside(self._clock, seed)
        self._log = Log(declared_partitions(app), partitions)
        self._broker = Broker(self._log, self._loop, random.Random(self._chance.random()))
        self._watch = Watch(self._log)
        self._spill_dir = tempfile.mkdtemp(prefix="flowguard-harness-")
        self._lives: list[WorkerLife] = []  # the one that lives, if one does
        self._origin_ns: int | None = None  # where instants count from
        self._agenda: list[tuple[int, int, Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._done = False
        self._cleaner = weakref.finalize(self, clean_up, self._lives, self._loop, self._spill_dir)

    # What happens.

    def produce(
        self,
        feed: Feed,
        records: Given,
        *,
        lane: str | Lane | None = None,
        every: Duration = 0,
        at: Duration | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> int:
        """Let records arrive in a feed, and return how many.

        They are encoded with the feed's codec and go through its lane rule when they are read.
        `key_by` and the columns `_key`, `_partition`, `_timestamp` (ms since 1970) and
        `_headers` mean what they mean in a sink; without keys partitions take turns.

        Args:
            feed: The feed.
            records: A Polars frame, an Arrow table, a list of dicts; a number: so many are
                made, after the declared columns; or a list of bytes: values as they are.
            lane: The lane that they should get by the feed's rule.
            every: Time between two of them.
            at: When the first one arrives; now without one.
            headers: Headers of every record.

        Raises:
            ConfigError: There is no such lane or instant, or the records cannot be encoded.
        """
        if not isinstance(feed, Feed):
            raise ConfigError(f"{feed!r} is no feed; give one that app.feed(…) returned")
        at_ns = self._now_ns if at is None else duration_ns(at, name="at")
        every_ns = duration_ns(every, name="every")
        self._check_instant(at_ns)
        topic = feed.get_topic_name()
        outgoing = outgoing_for(
            feed,
            records,
            log=self._log,
            lanes=self.app.feed_settings.lanes,
            lane=lane.name if isinstance(lane, Lane) else lane,
            headers=headers or {},
            chance=self._chance,
        )
        count = len(outgoing.values)
        step = 1 if every_ns else max(1, count)
        for first in range(0, count, step):
            instant_ns = at_ns + first * every_ns
            self._on(instant_ns, partial(self._append, topic, outgoing, first, first + step))
        return count

    def _append(self, topic: str, outgoing: Outgoing, first: int, end: int) -> None:
        if isinstance(outgoing.timestamps, int):  # the records say nothing else
            outgoing = replace(outgoing, timestamps=self._clock.epoch_ms())
        for name, batch in wire_batches(topic, outgoing, first, min(end, len(outgoing.values))):
            self._log.append(name, batch)

    def at(self, instant: Duration) -> Moment:
        """Return an instant of the run, to let something happen then.

        Raises:
            ConfigError: It has passed.
        """
        at_ns = duration_ns(instant, name="at")
        self._check_instant(at_ns)
        return Moment(self, at_ns)

    def _check_instant(self, at_ns: int) -> None:
        if at_ns < self._now_ns:
            raise ConfigError(
                f"{at_ns / SECOND:g} s has passed, it is {self.now:g} s; instants count from the "
                f"beginning of the run"
            )

    # The run.

    async def run(self, duration: Duration) -> None:
        """Let so much virtual time pass; the first time, a worker starts before.

        Raises:
            SimulationError: The worker does not start, or something in it never comes to rest.
            Exception: What made the worker end by itself.
        """
        self.run_now(duration)

    def run_now(self, duration: Duration) -> None:
        """Do the same, for tests that are not `async`."""
        length_ns = duration_ns(duration, name="run")
        self._check_open()
        with self._outside.shut():
            if self._origin_ns is None:
                self._start()
                self._until_ready()
                self._origin_ns = self._clock.now_ns()
            self._run_until(self._origin_ns + self._now_ns + length_ns)

    def _run_until(self, end_ns: int) -> None:
        assert self._origin_ns is not None
        while True:
            due_ns = self._agenda[0][0] + self._origin_ns if self._agenda else end_ns
            if due_ns > end_ns:
                due_ns = end_ns
            self._pass_until(due_ns)
            if not self._agenda or self._agenda[0][0] + self._origin_ns > end_ns:
                if self._clock.now_ns() >= end_ns:
                    return
                continue
            _, _, action = heapq.heappop(self._agenda)
            action()

    def _until_ready(self) -> None:
        give_up_ns = self._clock.now_ns() + READY_WITHIN_NS
        while self._life is not None and not self._life.ready:
            self._pass_until(self._clock.now_ns() + LOOK_EVERY_NS)
            if self._clock.now_ns() > give_up_ns:
                raise SimulationError(
                    f"the worker has no partitions after {READY_WITHIN_NS // SECOND} s; does "
                    f"something in it wait for a service that the harness does not have?"
                )

    def _pass_until(self, at_ns: int) -> None:
        """Let time pass; what made the worker end by itself goes before what came of that."""
        try:
            self._loop.run_until(at_ns)
        finally:
            self._check_life()

    def _check_life(self) -> None:
        if self._life is not None:
            self._life.check()

    def _check_open(self) -> None:
        if self._done:
            raise SimulationError("this harness is closed; make another one of the app")

    async def stop(self) -> None:
        """Stop the worker in order, as SIGTERM does: finish what is in flight, and commit."""
        if self._life is None:
            return
        life = self._life
        with self._outside.shut():
            stopping = self._loop.create_task(life.stop())
            give_up_ns = self._clock.now_ns() + READY_WITHIN_NS
            while not stopping.done() and self._clock.now_ns() < give_up_ns:
                self._loop.run_until(self._clock.now_ns() + LOOK_EVERY_NS)
            if not stopping.done():
                raise SimulationError(
                    f"the worker does not stop within {READY_WITHIN_NS // SECOND} s; something "
                    f"in it ignores that it is cancelled"
                )
            stopping.result()
            self._die()

    def close(self) -> None:
        """End it, and forget all that is under way; safe to call again."""
        if not self._done:
            self._done = True
            with self._outside.shut():
                self._die()
        self._cleaner()

    async def __aenter__(self) -> Harness:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The worker.

    @property
    def _life(self) -> WorkerLife | None:
        return self._lives[0] if self._lives else None

    def _start(self) -> None:
        if self._life is None:
            life = WorkerLife(
                self.app,
                loop=self._loop,
                clock=self._clock,
                broker=self._broker,
                watch=self._watch,
                spill_dir=self._spill_dir,
            )
            self._lives.append(life)

    def _die(self) -> None:
        while self._lives:
            self._lives.pop().die()

    def _rebalance(self, away: float) -> None:
        if self._life is None:
            return
        names = [
            TopicPartition(topic, number)
            for topic in sorted(self._life.runtime.declared.feeds)
            for number in range(len(self._log.topic(topic)))
        ]
        self._life.rebalance(self._chance.sample(names, round(away * len(names))))

    def _on(self, at_ns: int, action: Callable[[], Any]) -> None:
        heapq.heappush(self._agenda, (at_ns, next(self._numbers), action))

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._loop.create_task(coroutine)

    # What came of it.

    @property
    def _now_ns(self) -> int:
        return 0 if self._origin_ns is None else self._clock.now_ns() - self._origin_ns

    @property
    def now(self) -> float:
        """Return the present instant, in seconds from the beginning of the run."""
        return self._now_ns / SECOND

    def sent(self, feed: Any, *, meta: bool = False) -> pl.DataFrame:
        """Return what is in a feed or topic, in the order of its writing.

        Args:
            feed: A feed, or a topic or its name; of a plain topic `key` and `value` are bytes.
            meta: Add `_partition`, `_offset`, `_timestamp` (ms since 1970), `_key` (bytes) and
                `_headers` (a list of name and value).
        """
        return frame_of_topic(self._log, topic_of(feed), feed, meta=meta)

    def dead_letters(self) -> pl.DataFrame:
        """Return the dead letters in all topics, in the order of their writing.

        Columns: `topic`, `partition`, `offset`, `timestamp` (ms since 1970) of the record,
        `key`, `value` (bytes), `error`, `reason`, `attempt`, and `letter_topic`, where it is.
        """
        return letters_in(self._log)

    @property
    def lost(self) -> int:
        """Return how many records were committed although no agent finished them.

        Those that a lane's policy left out, and dead letters, are not lost.
        """
        return self._watch.lost

    @property
    def unfinished(self) -> int:
        """Return how many records have arrived and still wait, or are in an agent's hands."""
        return self._watch.unfinished

    @property
    def duplicates(self) -> int:
        """Return how often records took effect again: were finished, or wrote to a sink.

        An attempt that a crash cut off while it was writing counts, too.
        """
        return self._watch.duplicates

    @property
    def duplicates_allowed(self) -> int:
        """Return how many repeats the promise permits after what has happened so far.

        For each crash and each rebalance, what was in flight and what was settled since the last
        commit. With `order` key and none, 65,536 records a lane and partition come on top.
        """
        return self._watch.allowed

    @property
    def peak_bytes(self) -> int:
        """Return the most memory that feeds have held, in bytes."""
        return self._watch.peak_bytes

    def latency(self, lane: str | Lane | None = None) -> LatencySummary:
        """Return how long records took from their timestamp until they were settled.

        Args:
            lane: The lane; all of them without one.

        Raises:
            ConfigError: There is no such lane.
        """
        if lane is None:
            return self._watch.latency(None)
        return self._watch.latency(self._rank_of(lane))

    def counts(self, lane: str | Lane) -> dict[str, int]:
        """Return what became of a lane's records in this worker's life, by the names of the docs.

        Raises:
            ConfigError: There is no such lane.
            SimulationError: There is no worker now.
        """
        rank = self._rank_of(lane)
        name = self.app.feed_settings.lanes[rank].name
        document = self.state["lanes"][name]
        return {each: document[each] for each in COUNTS}

    @property
    def state(self) -> dict[str, Any]:
        """Return the state document of the worker, as `GET /api/state` does.

        Raises:
            SimulationError: There is no worker now.
        """
        if self._life is None:
            raise SimulationError("there is no worker now; run the harness, or ask before it stops")
        return state_document(self._life.runtime.snapshot(), app=self.app.conf.id, worker="harness")

    def _rank_of(self, lane: str | Lane) -> int:
        name = lane.name if isinstance(lane, Lane) else lane
        names = [each.name for each in self.app.feed_settings.lanes]
        if name not in names:
            raise ConfigError(f"there is no lane {name!r}; the app has {', '.join(names)}")
        return names.index(name)


def declared_partitions(app: App) -> dict[str, int]:
    """Return the topics whose declaration says how many partitions they have."""
    return {
        topic: feed.partitions
        for feed in app.declared_feeds
        for topic in feed.topics
        if feed.partitions
    }


def clean_up(lives: list[WorkerLife], loop: VirtualLoop, spill_dir: str) -> None:
    """Close what a harness has opened; it may have been forgotten without a word."""
    while lives:
        lives.pop().die()
    loop.forget()
    loop.close()
    shutil.rmtree(spill_dir, ignore_errors=True)
