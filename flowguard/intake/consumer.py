"""The Faust consumer of an app with feeds.

Group membership, metadata, heartbeats, commits and plain topics stay with Faust and
aiokafka. For partitions of feeds three things differ:

- aiokafka never fetches them: they are paused in its subscription the moment they are
  assigned, for good. flowguard's own `Fetcher` reads them, on the same thread.
- What may be committed is the engine's answer, not a list of acknowledged offsets; with
  the offset go the watermarks of the lanes, in its metadata.
- A commit that fails, of plain partitions too, is tried again at the next interval; it does
  not crash the app, as in Faust.
- A partition whose beginning nobody knows, because it has no leader, is read once there is one;
  the others do not wait for it.
- A rebalance interrupts only the partitions that move, see `coordinator` and `assignor`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from flowguard.chunk import TopicPartition
from flowguard.intake.consumer_thread import FeedConsumerThread, Positions

if TYPE_CHECKING:
    from flowguard.runtime import FeedRuntime

__all__ = ["FeedConsumer"]

#: Finished work that is not committed yet is repeated after a crash.
COMMIT_INTERVAL_S = 1.0

#: Partitions without a position are looked at so often.
LOOK_AGAIN_S: Final = 0.5


class FeedConsumer(Consumer):
    """Faust's consumer; partitions of feeds are read and committed by flowguard."""

    _thread: FeedConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._feeds_resumed: set[TP] = set()
        self._streams_due = False  # assigned, but their flow has not begun
        self._streams_resumed: set[TP] = set()  # of those, what will flow
        self._feed_positions: Positions | None = None
        self._looking: object = None  # for positions that nobody knew, in this assignment
        self._handed_over = False
        super().__init__(*args, **kwargs)
        if not self.runtime.commit_interval_is_set:
            self.commit_interval = COMMIT_INTERVAL_S

    @property
    def runtime(self) -> FeedRuntime:
        """Return what drives the engine."""
        return cast("FeedRuntime", self.app.runtime)  # type: ignore[attr-defined]

    def _new_consumer_thread(self) -> FeedConsumerThread:
        return FeedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _split(self, tps: Iterable[TP]) -> tuple[set[TP], set[TP]]:
        """Return the plain partitions, and those of feeds."""
        plain: set[TP] = set()
        feeds: set[TP] = set()
        for tp in tps:
            (feeds if self.runtime.declared.is_feed(tp.topic) else plain).add(TP(*tp))
        return plain, feeds

    # Flow: Faust decides when feeds flow, and never fetches them itself.
    #
    # Faust resumes plain streams, then seeks their positions, then empties the queues of agents.
    # What they brought in between would come twice or be lost, so they wait for the end of it.

    def _set_active_tps(self, tps: set[TP]) -> set[TP]:
        return super()._set_active_tps(self._split(tps)[0])

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause fetching."""
        plain, feeds = self._split(tps)
        self._looking = None if feeds else self._looking
        super().pause_partitions(plain)
        self._streams_resumed -= plain
        self._feeds_resumed -= feeds

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume fetching."""
        plain, feeds = self._split(tps)
        if self._streams_due:
            streams = {tp for tp in plain if not self._is_changelog_tp(tp)}
            self._streams_resumed |= streams
            plain -= streams
        super().resume_partitions(plain)
        self._feeds_resumed |= feeds

    def on_buffer_drop(self, tp: TP) -> None:
        """Let a partition flow again whose agent has room, unless it is paused for a rebalance."""
        if tp in self._paused_partitions:
            self._buffered_partitions.discard(tp)
        else:
            super().on_buffer_drop(tp)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let go of what is not ours any more, and let Faust prepare the new partitions."""
        self._streams_due = True
        self._feed_positions = None  # of an assignment that is over
        _, feeds = self._split(assigned)
        ours = {TopicPartition(*tp) for tp in feeds}
        if lost := frozenset(self.runtime.engine.partitions.keys() - ours):
            await self._let_go(lost)
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek all partitions to their committed offset.

        Of an assignment that is over meanwhile nothing is sought; the next one is.
        """
        generation = self.app.consumer_generation_id
        try:
            await super().perform_seek()
        except IllegalStateError as error:
            self.log.info("not sought, because the group rebalances again: %s", error)
            return
        positions = await self._positions_of_new()
        if generation == self.app.consumer_generation_id:  # not of an assignment that is over
            self._feed_positions = positions

    async def _positions_of_new(self) -> Positions:
        """Return where to begin with the partitions that are not held."""
        _, feeds = self._split(self.assignment())
        new = sorted(tp for tp in feeds if TopicPartition(*tp) not in self.runtime.membership.held)
        if not new:
            return {}
        if not self.runtime.cluster:
            self.runtime.cluster = await self._thread.cluster_id()
        positions = await self._thread.feed_positions(new)
        await self.runtime.find_spilled(positions)
        return positions

    def resume_flow(self) -> None:
        """Let messages flow; for feeds this is when reading begins.

        Faust also calls this while tables recover, before it has sought any position.
        """
        super().resume_flow()
        if self._streams_resumed:
            streams, self._streams_resumed = self._streams_resumed, set()
            self._streams_due = False
            super().resume_partitions(streams & self.assignment())
        ours = self.assignment() & self._feeds_resumed
        positions = {} if not self.assignment() else self._feed_positions
        self._feed_positions = None
        if positions is not None:
            self.runtime.assigned(
                {name: stored for name, stored in positions.items() if TP(*name) in ours}
            )
            self._looking = looking = object()
            if missing := {tp for tp in ours if not self._is_known(tp, positions)}:
                self.add_future(self._begin_later(missing, looking))

    def _is_known(self, tp: TP, positions: Positions) -> bool:
        """Tell whether a partition is held, or has a position to begin at."""
        name = TopicPartition(*tp)
        return name in positions or name in self.runtime.engine.partitions

    async def _begin_later(self, missing: set[TP], looking: object) -> None:
        """Read partitions once somebody knows where they begin, unless they move meanwhile."""
        self.log.warning(
            "%s: nobody says where to begin, because no broker leads it or the topic is gone; it "
            "is read as soon as somebody does", ", ".join(f"{t}[{n}]" for t, n in sorted(missing)),
        )  # fmt: skip
        while missing and not self.should_stop:
            await self.sleep(LOOK_AGAIN_S)
            found: Positions = {}
            with contextlib.suppress(KafkaError, TimeoutError):
                found = await self._thread.later_positions(sorted(missing & self.assignment()))
            if looking is not self._looking or not missing & self.assignment():
                return
            if found:
                missing -= {TP(*name) for name in found}
                await self.runtime.begin_later(found)

    # Rebalance and shutdown.

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Prepare for a rebalance: partitions that we keep until we let go of them flow on.

        Otherwise the next assignment may give them to somebody at once: what is in flight is
        finished and committed, and only then Faust forgets it. What the group has forgotten
        already is not ours to commit.
        """
        self._feed_positions = None  # of an assignment that is over
        member = self._thread.member
        if member is not None and member.fenced:
            self.runtime.membership.fence()
        elif feeds := self._split(revoked)[1]:
            if member is None or not member.keeps:
                await self.runtime.revoking(frozenset(TopicPartition(*tp) for tp in feeds))
            await self._commit_now()
        await super().on_partitions_revoked(revoked)

    async def _let_go(self, lost: frozenset[TopicPartition]) -> None:
        """Let go of partitions that the last rebalance took from us.

        Where nobody has them before we ask for another rebalance, they finish and commit.
        """
        member = self._thread.member
        if member is not None and member.kept:
            await self.runtime.revoking(lost)
            points = self.runtime.commit_points(lost)
            stored = self.runtime.stored(points)
            if points and await self._thread.commit_feeds(stored, handed_over=True):
                self.runtime.committed(points)
            self._handed_over = True
        self.runtime.revoked(lost)

    def take_handed_over(self) -> bool:
        """Tell once whether partitions wait for another rebalance, because we had them."""
        handed_over, self._handed_over = self._handed_over, False
        return handed_over

    async def _commit_now(self) -> None:
        """Commit a snapshot of its own; one that is under way may be too old."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.maybe_wait_for_commit_to_finish()
        await self.commit()

    async def wait_empty(self) -> None:
        """Wait for what is in flight, but no longer than the drain timeout, and commit."""
        await self.runtime.drain()
        await super().wait_empty()

    # Commits.

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        for name in self.runtime.engine.partitions:
            if topics is None or name in topics or name.topic in topics:
                yield TP(*name)

    def _new_offset(self, tp: TP) -> int | None:
        if not self.runtime.declared.is_feed(tp.topic):
            return super()._new_offset(tp)
        partition = self.runtime.engine.partitions.get(TopicPartition(*tp))
        return None if partition is None else partition.ledger.point.offset

    def _should_commit(self, tp: TP, offset: int) -> bool:
        """Commit a feed also if only its watermarks moved."""
        if not self.runtime.declared.is_feed(tp.topic):
            return bool(super()._should_commit(tp, offset))
        partition = self.runtime.engine.partitions[TopicPartition(*tp)]
        return self._committed_offset[tp] is None or partition.ledger.point != partition.committed

    async def _commit_offsets(
        self, offsets: Mapping[TP, int], start_new_transaction: bool = True
    ) -> bool:
        """Commit plain partitions as Faust does, and those of feeds on their own.

        Faust flushes the producer first. What a feed may commit is acknowledged already, so
        it waits for nobody else's output.
        """
        plain, feeds = self._split(offsets)
        done = not plain or await super()._commit_offsets(
            {tp: offsets[tp] for tp in plain}, start_new_transaction
        )
        return await self._commit_feeds(feeds) and bool(done)

    async def _commit_feeds(self, tps: set[TP]) -> bool:
        """Commit offsets and watermarks as they are now, in one snapshot."""
        points = self.runtime.commit_points(TopicPartition(*tp) for tp in tps)
        if not points:
            return True
        if not await self._thread.commit_feeds(self.runtime.stored(points)):
            return False
        offsets = {TP(*name): point.offset for name, point in points.items()}
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(dict(offsets))
        self.app.tables.on_commit(dict(offsets))
        self.runtime.committed(points)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave feeds to flowguard's own state."""
        if not self.runtime.declared.is_feed(tp.topic):
            super().verify_event_path(now, tp)
