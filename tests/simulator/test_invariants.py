"""Each invariant is broken once on purpose, in the engine, and its checker must say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowguard.chunk import Chunk, TopicPartition
from flowguard.commands import Cut, Unprocessed
from flowguard.control.memory import MemoryBudget, Reservation
from flowguard.facts import CommitPoint
from flowguard.settle.ledger import PartitionLedger
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.invariants.lanes import Balanced
from flowguard.stress.simulator.invariants.records import CommitFloor, Duplicates, Order
from flowguard.stress.simulator.watch import Watch
from flowguard.stress.simulator.world import World
from flowguard.tally import Tally
from flowguard.view import View
from tests.simulator.small import ran, scenario_of

CRASH = "[[faults]]\nat='600ms'\ntarget='worker'\ntype='crash'\nrestart='50ms'\n"

Plant = Callable[[pytest.MonkeyPatch], None]


def broken(names: set[str], **options: Any) -> list[str]:
    """Run, and return what the checkers of these names say."""
    world, _ = ran(scenario_of(**options))
    return [each for each in world.watch.violations if each.partition(":")[0] in names]


def test_nothing_is_said_of_an_engine_that_is_right() -> None:
    world, _ = ran(scenario_of(concurrency=3, more=CRASH))

    assert world.watch.violations == []


def test_a_commit_beyond_what_is_finished_is_found_at_once_and_as_lost_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_is_done(self: PartitionLedger) -> CommitPoint:
        return CommitPoint(self.position, (self.position,) * len(self.restored))

    monkeypatch.setattr(PartitionLedger, "point", property(read_is_done))

    said = broken({"commit-floor", "lost-write"}, more=CRASH, commit="100ms")

    assert any("are committed and not finished" in each for each in said)
    assert any(each.startswith("lost-write") for each in said)


def test_a_chunk_that_the_engine_forgets_is_skipped_and_unseen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admit, calls = View.admit, []

    def forget_one(self: View, partition: Any, ledger: Any, chunks: Any, *rest: Any) -> None:
        calls.append(chunks)
        if len(calls) != 5:
            admit(self, partition, ledger, chunks, *rest)

    monkeypatch.setattr(View, "admit", forget_one)

    said = broken({"poll-skip", "unseen"})

    assert any(each.startswith("poll-skip") and "are skipped" in each for each in said)
    assert any(each.startswith("unseen") and "nobody works" in each for each in said)


def test_what_was_finished_before_a_crash_and_is_repeated_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Chunk, "from_offset", lambda self, offset: self)

    said = broken({"duplicate"}, more=CRASH, commit="50ms", rule="by_header")

    assert any("was finished to row" in each for each in said)


def test_a_record_that_is_settled_twice_in_one_assignment_is_found() -> None:
    world = World(scenario_of())
    checker = Duplicates(world.history)
    name = TopicPartition("backfill", 0)
    first, second = (
        Handed(Cut(number, "agent", 1, ()), world.log[name].spans(*offsets), 1)
        for number, offsets in ((1, (0, 10)), (2, (8, 20)))
    )

    checker.assigned(name, (0, 0))
    for batch in (first, second):
        checker.started(batch)
        checker.settled(batch)

    assert checker.violations == ["duplicate: 2 records of backfill[0] lane 1 are settled twice"]


def test_a_commit_that_goes_back_is_found() -> None:
    world = World(scenario_of())
    checker = CommitFloor(world.history)
    name = TopicPartition("realtime", 0)

    checker.committed({name: CommitPoint(0, (0, 0))})
    world.history.ended.add(next(iter(world.log[name].spans(0, 3))))
    checker.committed({name: CommitPoint(3, (3, 3))})
    checker.committed({name: CommitPoint(2, (2, 2))})

    assert checker.violations == ["commit-floor: realtime[0] goes back from 3 to 2"]


def test_two_batches_of_one_partition_at_once_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    make = View.__init__

    def unordered(self: View, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        self._ordered = False

    monkeypatch.setattr(View, "__init__", unordered)

    said = broken({"nonmonotonic-poll"}, concurrency=4)

    assert any("are with the agent at once" in each for each in said)


def test_going_on_before_a_retry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    set_back = View.set_back

    def let_go_on(self: View, flight: Any, *rest: Any, **options: Any) -> None:
        set_back(self, flight, *rest, **options)
        for queue in flight.queues:
            self.scheduler.open(flight.cut.lane, queue)

    monkeypatch.setattr(View, "set_back", let_go_on)

    said = broken({"nonmonotonic-poll"}, provider="errors = 0.2")

    assert any("while an earlier batch waits for its retry" in each for each in said)


def handed(world: World, number: int, *offsets: tuple[int, int], again: bool = False) -> Handed:
    name = TopicPartition("backfill", 0)
    spans = [span for each in offsets for span in world.log[name].spans(*each)]
    return Handed(Cut(number, "agent", 1, (), again=again), spans, 1)


def test_a_batch_that_is_tried_again_whole_does_not_wait_for_itself() -> None:
    world = World(scenario_of())
    checker = Order(world.history, "key")
    # Keys take turns in a batch, so that a sub-queue is in it more than once.
    parts = ((0, 4), (4, 7))

    checker.started(handed(world, 1, *parts))
    checker.failed(handed(world, 1, *parts))
    checker.started(handed(world, 1, *parts, again=True))
    assert checker.violations == []
    checker.failed(handed(world, 1, *parts))
    checker.started(handed(world, 2, (4, 7), again=True))

    assert len(checker.violations) == 1 and "waits for its retry" in checker.violations[0]


def test_memory_beyond_the_budget_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: MemoryBudget, partition: Any, reservation: Reservation) -> int:
        return 1 << 40

    monkeypatch.setattr(MemoryBudget, "allowance", generous)
    monkeypatch.setattr(MemoryBudget, "_share", lambda self, partition, need: 1 << 30)
    dump = "[[arrivals]]\nlane='backfill'\nmodel='batch-dump'\ncount=50_000\nsize='2KiB'"

    slow = "slow_share = 1.0\nslow_factor = 100.0"

    said = broken({"memory"}, memory="2MiB", more=dump, provider=slow, drain="0s")

    assert any("bytes are held, and 2,097,152 may be" in each for each in said)


def test_a_count_that_does_not_balance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Tally.failed

    def count_twice(self: Tally, piece: Any) -> None:
        failed(self, piece)
        self._counts[piece.chunk.lane].held += piece.count

    monkeypatch.setattr(Tally, "failed", count_twice)

    assert broken({"unbalanced"}, provider="errors = 0.2")


def left(outcome: str, count: int, ranges: tuple[tuple[int, int], ...]) -> Unprocessed:
    return Unprocessed(
        outcome=outcome, lane=1, partition=TopicPartition("backfill", 0), ranges=ranges,
        count=count, why="for fun",
    )  # fmt: skip


@pytest.mark.parametrize("outcome", ["shed", "conflated", "expired"])
def test_a_record_of_a_lossless_lane_that_is_left_out_is_found(outcome: str) -> None:
    world = World(scenario_of())
    watch = Watch(
        world.history, world.recording, [Balanced(world.history, world.scenario.worker.lanes)]
    )

    watch.left(left(outcome, 10, ((5, 15),)), 0)

    assert watch.violations == [
        f"unbalanced: lane backfill declares nothing by which records are {outcome}"
    ]
    assert world.recording.total(outcome) == 10


def test_a_log_of_other_offsets_than_were_left_out_is_found() -> None:
    world = World(scenario_of())
    checker = Balanced(world.history, world.scenario.worker.lanes)
    watch = Watch(world.history, world.recording, [checker])

    watch.left(left("shed", 11, ((5, 10), (20, 25))), 0)

    assert "11 left, 10 offsets are logged" in checker.violations[0]


def test_records_that_are_left_out_and_not_logged_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Tally.started

    def shed_in_silence(self: Tally, piece: Any) -> None:
        started(self, piece)
        counts = self._counts[piece.chunk.lane]
        counts.in_flight, counts.shed = counts.in_flight - 1, counts.shed + 1

    monkeypatch.setattr(Tally, "started", shed_in_silence)

    said = broken({"unbalanced"})

    assert any("are counted as left out, and 0 were logged" in each for each in said)


def hide(monkeypatch: pytest.MonkeyPatch, hidden: int, behind: int) -> None:
    """Let a lane have no seat while another one is ready."""
    mask_of = View._lane_mask

    def masked(self: View, now_ns: int) -> int:
        mask = mask_of(self, now_ns)
        return mask & ~(1 << hidden) if mask >> behind & 1 else mask

    monkeypatch.setattr(View, "_lane_mask", masked)


@pytest.mark.parametrize("seats", [1, 3])
def test_a_lower_lane_that_goes_first_is_found(monkeypatch: pytest.MonkeyPatch, seats: int) -> None:
    hide(monkeypatch, hidden=0, behind=1)

    said = broken({"priority-inversion"}, concurrency=seats, order="none", batch={"max": 256})

    assert any("lane realtime waits while" in each for each in said)


def test_a_lane_that_is_never_served_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, hidden=1, behind=0)
    dump = "[[arrivals]]\nlane='realtime'\nmodel='batch-dump'\ncount=100_000"

    said = broken({"starvation"}, more=dump, order="none", batch={"max": 64})

    assert any("lane backfill waits while others are given" in each for each in said)


def test_a_lane_keeps_only_a_few_violations_and_counts_the_others() -> None:
    checker = Duplicates(History({}))

    for number in range(10):
        checker.broken(str(number))

    assert checker.violations == [f"duplicate: {number}" for number in range(3)]
    assert checker.count == 10
