"""Fault 25: the store under any order of events, against what a worker owes.

`ledger.Log` is the ledger of obligations, `worker.Worker` what holds them; after each step the
worker's bounds are checked, at the end nothing is lost and nothing came twice without a reason.
A failure prints the steps that lead to it; hypothesis replays it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowguard.chunk import TopicPartition
from tests.spill.crash_disk import NEVER, Crash
from tests.spill.ledger import LANES, PLACES
from tests.spill.worker import World

FRAME_NUMBERS = 6  # frames of a segment, so that numbers run out

places = st.sampled_from(PLACES)
lanes = st.sampled_from(LANES)
spilled_lanes = st.sampled_from(LANES[1:])


class StoreMachine(RuleBasedStateMachine):
    """Kafka, a disk, and one worker after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch("flowguard.spill.stream.FRAME_NUMBERS", FRAME_NUMBERS)
        self.patch.start()
        self.world = World(0)

    def teardown(self) -> None:
        try:
            self.world.disk.crash_at = NEVER
            self.world.end()
        finally:
            self.patch.stop()

    @initialize(seed=st.integers(0, 1 << 20), short=st.booleans())
    def choose(self, seed: int, short: bool) -> None:
        self.world.random.seed(seed)
        self.world.disk.short = short

    def attempt(self, what: Callable[..., object], *arguments: Any) -> None:
        """Do something; where the process ends in it, the next one starts."""
        try:
            what(*arguments)
        except Crash:
            self.start_again("kill")

    def start_again(self, how: str) -> None:
        self.world.disk.crash_at = NEVER
        self.world.restart(how)
        self.world.worker = self.world.start()

    def has(self, place: TopicPartition) -> bool:
        return place in self.world.worker.positions

    # Records.

    @rule(place=places, count=st.integers(1, 120))
    def produce(self, place: TopicPartition, count: int) -> None:
        self.world.produce(place, count)

    @rule(place=places, count=st.integers(1, 80))
    def poll(self, place: TopicPartition, count: int) -> None:
        if self.has(place):
            self.attempt(self.world.worker.fetch, place, count)

    @rule(place=places, lane=spilled_lanes, times=st.integers(1, 3))
    def spill(self, place: TopicPartition, lane: str, times: int) -> None:
        for _ in range(times):
            if self.has(place):
                self.attempt(self.world.worker.spill, place, lane)

    @rule(place=places, lane=lanes)
    def read(self, place: TopicPartition, lane: str) -> None:
        if self.has(place):
            self.attempt(self.world.worker.load, place, lane)

    @rule(place=places, lane=lanes, count=st.integers(1, 40))
    def finish(self, place: TopicPartition, lane: str, count: int) -> None:
        if self.has(place):
            self.attempt(self.world.worker.deliver, place, lane, count)

    @rule(place=places)
    def commit(self, place: TopicPartition) -> None:
        if self.has(place):
            self.world.worker.commit(place)

    # Partitions.

    @rule(place=places, in_peace=st.booleans())
    def revoke(self, place: TopicPartition, in_peace: bool) -> None:
        if self.has(place):
            self.attempt(lambda: self.world.worker.revoke(place, commit=in_peace))

    @rule(place=places, count=st.integers(0, 60))
    def assign(self, place: TopicPartition, count: int) -> None:
        if not self.has(place):
            self.world.elsewhere(place, count)
            self.attempt(self.world.worker.assign, place)

    # The worker and its disk.

    @rule(seconds=st.sampled_from([0.1, 1, 11, 31, 700]))
    def upkeep(self, seconds: float) -> None:
        self.world.clock.move(seconds)
        self.attempt(self.world.worker.store.upkeep)

    @rule(how=st.sampled_from(["close", "kill", "power"]))
    def restart(self, how: str) -> None:
        if how == "close":
            self.world.disk.heal()
        self.start_again(how)

    @rule(operations=st.integers(1, 40))
    def crash_soon(self, operations: int) -> None:
        self.world.disk.crash_at = self.world.disk.ops + operations

    @rule(room=st.integers(0, 3_000))
    def fill_the_disk(self, room: int) -> None:
        self.world.disk.capacity_bytes = self.world.disk.used_bytes + room

    @rule(
        op=st.sampled_from(["*", "write_at", "read_into", "create", "unlink", "open", "truncate"]),
        number=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE]),
        times=st.sampled_from([1, 5, 1 << 30]),
        effect=st.booleans(),
    )
    def fail(self, op: str, number: int, times: int, effect: bool) -> None:
        self.world.disk.fail(op, number, times=times, effect=effect)

    @precondition(lambda self: self.world.disk.faults or self.world.disk.capacity_bytes < NEVER)
    @rule()
    def heal(self) -> None:
        self.world.disk.heal()

    @rule()
    def flip_a_bit(self) -> None:
        self.world.flip()

    @rule()
    def delete_everything(self) -> None:
        self.world.disk.remove_tree("/spill")

    @invariant()
    def bounds_hold(self) -> None:
        self.world.worker.check()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
