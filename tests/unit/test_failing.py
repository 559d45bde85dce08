"""What becomes of batches that fail: split, tried again, buried; and nothing in an outage."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flowguard.chunk import TopicPartition
from flowguard.commands import BuryBatch, Cut
from flowguard.facts import Finished, Nack, Returned
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Shed
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry
from flowguard.view import AgentPlan
from tests.builders import EPOCH_MS, EngineDriver, chunk_of, only_offsets

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)
SECOND_MS = 1_000


def plan(**options: Any) -> AgentPlan:
    return AgentPlan(
        name="agent", topics=frozenset({"orders"}), retries=Retry(3, "100ms..10s"), **options
    )


@dataclass
class World:
    """An agent that some records make raise.

    Args:
        raises: Tells of an offset whether the agent raises on it now.
    """

    raises: Callable[[int], bool]
    options: dict[str, Any] = field(default_factory=dict)
    lanes: Sequence[Lane] = (Lane("default"),)
    offsets: int = 0
    settled: list[int] = field(default_factory=list)
    letters: list[int] = field(default_factory=list)
    calls: int = 0
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver = EngineDriver(agents=[plan(**self.options)], lanes=self.lanes)
        self.driver.assign(A=0, B=0)

    def produce(self, count: int, partition: TopicPartition = A) -> None:
        first, self.offsets = self.offsets, self.offsets + count
        self.driver.fetch(
            partition, chunk_of(range(first, first + count), partition=partition, lane=0)
        )

    def step(self) -> None:
        """Let the agent do all that it has, and the broker take all dead letters."""
        driver = self.driver
        while driver.running or driver.burying:
            for cut in list(driver.running):
                self.serve(cut)
            for cut in list(driver.burying):
                self.letters += only_offsets(cut)
                driver.bury(cut)

    def serve(self, cut: Cut) -> None:
        self.calls += 1
        offsets = only_offsets(cut)
        if any(map(self.raises, offsets)):
            self.driver.fail(cut, kind="RuntimeError", **self.how)
        else:
            self.settled += offsets
            self.driver.finish(cut)

    def run(self, seconds: float, each_ms: int = 100) -> None:
        self.step()
        for _ in range(round(seconds * 1000 / each_ms)):
            self.driver.wait(each_ms)
            self.step()

    @property
    def counts(self) -> Any:
        return self.driver.engine.books[0].counts


def poisoned(*offsets: int, **options: Any) -> World:
    return World(lambda offset: offset in offsets, options)


@pytest.mark.parametrize("bad", [0, 1, 500, 1022, 1023])
def test_a_record_that_fails_is_found_at_once_and_only_it_is_tried_again(bad: int):
    world = poisoned(bad)
    world.produce(1024)

    world.step()

    assert world.settled == list(range(bad)), "what came before it, in order"
    assert world.calls <= 21
    world.run(2)
    assert (world.settled, world.letters) == ([n for n in range(1024) if n != bad], [bad])
    assert world.counts.dead_letters == 1 and world.counts.settled == 1023
    assert world.driver.commit() == {A: 1024, B: 0}


def test_the_failures_of_the_batch_do_not_count():
    attempts: list[int] = []
    world = poisoned(7)
    world.produce(16)

    def serve(cut: Cut) -> None:
        if only_offsets(cut) == [7]:
            attempts.append(cut.attempt)
        World.serve(world, cut)

    world.serve = serve  # type: ignore[method-assign]
    world.run(3)

    assert attempts == [1, 2, 3]
    assert world.letters == [7]


def test_a_record_that_succeeds_at_its_second_try_is_no_dead_letter_and_keeps_its_place():
    failed: list[int] = []
    world = World(lambda offset: offset == 5 and len(failed) < 2 and not failed.append(offset))
    world.produce(10)

    world.run(3)

    assert (world.settled, world.letters) == (list(range(10)), [])


def test_many_bad_records_are_all_found():
    rng = random.Random(3)
    bad = set(rng.sample(range(4000), 40))
    world = World(bad.__contains__)
    world.produce(4000)

    world.run(120)

    assert sorted(world.letters) == sorted(bad)
    assert world.settled == [n for n in range(4000) if n not in bad]


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_an_outage_of_minutes_makes_no_dead_letter_and_is_over_by_itself(count: int):
    down = [True]
    world = World(lambda _: down[0], how={"transient": count == 1})
    world.produce(count)
    world.produce(count, B)

    world.run(300, 200)
    assert (world.settled, world.letters) == ([], [])
    assert world.calls < 400, "it is tried now and then only"
    down[0] = False
    world.run(11)

    assert sorted(world.settled) == list(range(2 * count)) and world.letters == []
    assert [n for n in world.settled if n < count] == list(range(count)), "in order"


def test_an_outage_that_begins_in_the_middle_makes_no_dead_letter():
    down = [False]
    world = World(lambda _: down[0])
    world.produce(100)
    world.run(1)
    down[0] = True
    for _ in range(60):
        world.produce(10)
        world.run(1)
    down[0] = False
    world.run(20)

    assert (world.settled, world.letters) == (list(range(700)), [])


def test_bad_records_first_of_all_are_told_from_an_outage():
    world = poisoned(0, 1, 2)
    world.produce(100)

    world.run(30)

    assert (world.letters, world.settled) == ([0, 1, 2], list(range(3, 100)))


def test_more_bad_records_in_a_row_than_failures_that_are_an_outage_are_found():
    bad = set(range(10, 40))
    world = World(bad.__contains__)
    world.produce(100)

    world.run(1200, each_ms=1000)

    assert (set(world.letters), world.settled) == (bad, [*range(10), *range(40, 100)])


def test_a_bad_record_that_nothing_follows_is_a_dead_letter():
    world = poisoned(0)
    world.produce(1)

    world.run(2)

    assert world.letters == [0]


def test_what_looks_like_an_outage_is_none_once_another_partition_goes_on():
    world = poisoned(0)
    world.produce(1)
    world.how["transient"] = True
    world.run(5)
    assert world.letters == []

    world.produce(10, B)
    world.run(11)

    assert world.letters == [0]


def test_rejected_records_are_not_tried_again():
    world = poisoned(3, 8)
    world.how = {"rejected": True}
    world.produce(10)

    world.step()

    assert (world.letters, len(world.settled)) == ([3, 8], 8)


def test_a_dead_letter_that_is_not_acknowledged_keeps_its_lane_waiting_and_is_written_again():
    world = poisoned(0)
    world.how = {"rejected": True}
    driver = world.driver
    world.produce(1)
    world.serve(driver.running[0])
    (cut,) = driver.burying
    driver.refuse_burial(cut)
    world.produce(5)
    assert not driver.running and not driver.burying
    assert driver.engine.due_ns is not None
    world.produce(5, B)
    assert [only_offsets(cut) for cut in driver.running] == [[6, 7, 8, 9, 10]], "others go on"

    world.run(1)

    assert (world.letters, sorted(world.settled)) == ([0], list(range(1, 11)))


def test_any_number_of_rejected_records_is_no_outage():
    world = World(lambda offset: offset < 90)
    world.how = {"rejected": True}
    world.produce(200)

    world.step()

    assert (world.letters, world.settled) == ([*range(90)], [*range(90, 200)])


def test_a_dead_letter_says_what_the_record_failed_of_and_not_what_happened_to_the_letter():
    world = poisoned(0)
    world.how = {"rejected": True}
    driver = world.driver
    commands: list[BuryBatch] = []
    observe = driver.engine.observe

    def note(*facts: Any) -> Any:
        answered = observe(*facts)
        commands.extend(each for each in answered if isinstance(each, BuryBatch))
        return answered

    driver.engine.observe = note  # type: ignore[method-assign]
    world.produce(1)
    world.serve(driver.running[0])
    driver.refuse_burial(driver.burying[0], "LettersNotWritten: no")
    world.run(1)

    assert [(each.error, each.reason) for each in commands] == [
        ("RuntimeError", "RuntimeError: no")
    ] * 2


def test_too_many_dead_letters_stop_the_lane_of_the_partition_and_nothing_else():
    bulk = Lane("bulk", overflow=Shed())
    world = World(
        lambda offset: offset < 400 and offset % 2 == 0,
        {"dead_letters": DeadLetters(max_ratio=0.1), "order": "none"},
        lanes=(bulk, Lane("other")),
    )
    driver = world.driver
    world.how = {"rejected": True}
    world.produce(400)

    world.step()

    assert len(world.letters) <= 101
    partition = driver.engine.partitions[A]
    assert "max_ratio 0.1" in partition.stopped[0]
    first_unfinished = driver.commit()[A]
    assert first_unfinished < 400
    assert driver.memory.held_bytes == 0
    assert world.counts.released == 400 - world.counts.settled - world.counts.dead_letters
    world.produce(10)
    assert world.counts.held == 0 and not driver.running, "what comes is let go of at once"
    world.produce(10, B)
    driver.fetch(A, chunk_of(range(500, 510), partition=A, lane=1))
    world.step()
    assert set(range(410, 420)) | set(range(500, 510)) <= set(world.settled)
    assert driver.commit()[A] == first_unfinished


def test_nacked_records_are_tried_again_and_the_others_are_settled():
    world = poisoned()
    driver = world.driver
    world.produce(6)
    (cut,) = driver.running
    driver.running.clear()

    driver.tell(Returned(batch_id=cut.batch_id, at_ns=driver.now_ns, nacked=True))
    world.produce(4)
    assert not driver.running, "what comes behind them waits"
    nacked = {1: Nack("no"), 4: Nack("no", after_ns=5_000_000_000)}
    driver.tell(
        Finished(
            batch_id=cut.batch_id, dead_letters=(), at_ns=driver.now_ns, epoch_ms=EPOCH_MS,
            nacked=nacked,
        )
    )  # fmt: skip

    assert world.counts.settled == 4
    assert driver.commit()[A] == 1
    driver.wait(150)
    assert [(only_offsets(each), each.attempt) for each in driver.running] == [([1], 2)]
    world.step()
    assert driver.commit()[A] == 4
    world.run(6)
    assert world.settled == [1, 4, 6, 7, 8, 9] and driver.commit()[A] == 10


def test_revoked_records_of_a_batch_that_was_split_are_let_go_of():
    world = poisoned(3)
    world.produce(8)
    world.step()
    world.driver.revoke(A)

    world.run(5)

    assert world.counts.held == world.counts.in_flight == 0
    assert not world.driver.engine.views["agent"].flights


@pytest.mark.parametrize("order", ["partition", "key", "none"])
@pytest.mark.parametrize("seed", range(12))
def test_everything_is_settled_or_buried_in_the_end(order: str, seed: int):
    rng = random.Random(seed)
    bad: Collection[int] = set(rng.sample(range(200), rng.choice([0, 1, 5, 30])))
    down: list[bool] = [False]
    world = World(lambda n: down[0] or n in bad, {"order": order, "seats": rng.randrange(1, 4)})
    first, end = sorted(rng.choices(range(21), k=2))
    for step in range(20):
        down[0] = first <= step < end
        world.produce(rng.randrange(1, 30), rng.choice([A, B]))
        world.run(*rng.choice([(0.1,), (1,), (30, 500)]))
    down[0] = False
    world.run(60, 500)
    for partition in (A, B):  # whether the last ones are to blame, what comes next shows
        world.produce(3, partition)
    world.run(60, 500)

    assert sorted(world.settled) == [n for n in range(world.offsets) if n not in bad]
    assert sorted(world.letters) == [n for n in range(world.offsets) if n in bad]
    assert world.counts.held == world.counts.in_flight == 0
