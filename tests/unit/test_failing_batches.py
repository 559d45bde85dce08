"""A record that keeps failing: what passes it, what waits for it, and when it is to blame."""

from __future__ import annotations

from typing import Any

from flowguard.facts import Failed, Found, Returned
from flowguard.settle.retry import Retry
from flowguard.units import MILLISECOND
from tests.builders import A, B, EngineDriver, only_offsets

SLOW = 1


def driver(**options: Any) -> EngineDriver:
    made = EngineDriver(**{"retries": Retry(max=1), "records_max": 1, **options})
    made.assign(A=0, B=0)
    return made


# Finding the record that fails.


def work(d: EngineDriver, bad: set[int]) -> list[list[int]]:
    """Let the agent work until nothing is left to do now; return what it was given, in order."""
    tried: list[list[int]] = []
    while d.running:
        (cut,) = d.running
        tried.append(only_offsets(cut))
        assert cut.attempt == 1
        if bad.isdisjoint(only_offsets(cut)):
            d.finish(cut)
        else:
            d.fail(cut)
    return tried


def test_a_batch_that_fails_is_halved_at_once_until_the_bad_record_is_alone() -> None:
    d = driver(records_max=8, seats=2, retries=Retry(max=2))
    d.records(A, range(8), SLOW)

    tried = work(d, {5})

    # Where the first half did not fail, the other must: it is not tried as a whole.
    assert tried == [[*range(8)], [0, 1, 2, 3], [4, 5], [4], [5]]
    assert d.commit()[A] == 5

    (again,) = d.wait(100)

    assert only_offsets(again) == [5] and again.attempt == 2


def test_what_its_agent_has_done_of_a_failed_batch_is_settled_and_the_rest_waits() -> None:
    d = driver(records_max=8, seats=2, retries=Retry(max=2))
    (cut,) = d.records(A, range(8), SLOW)

    d.fail(cut, found=Found(done=5, failing=1, dead_letters=[1]))

    assert d.commit()[A] == 5
    book = d.engine.books[SLOW].counts
    assert (book.settled, book.dead_letters, book.in_flight, book.held) == (4, 1, 0, 3)
    assert d.running == [], "what is behind the record waits for it"

    (again,) = d.wait(100)
    assert only_offsets(again) == [5] and again.attempt == 2
    assert [only_offsets(each) for each in d.finish(again)] == [[6, 7]]


def test_several_records_that_fail_together_are_told_apart_by_themselves() -> None:
    d = driver(records_max=8, seats=2, retries=Retry(max=2))
    (cut,) = d.records(A, range(8), SLOW)

    (half,) = d.fail(cut, found=Found(done=2, failing=4))

    assert only_offsets(half) == [2, 3]
    assert d.commit()[A] == 2


def test_a_record_that_fails_while_others_of_its_batch_are_done_is_to_blame() -> None:
    d = driver(records_max=8)
    (cut,) = d.records(A, range(8), SLOW)

    d.fail(cut, found=Found(done=3, failing=1))

    (letter,) = d.burying
    assert only_offsets(letter) == [3]


def test_a_record_that_fails_while_nothing_is_done_is_not_to_blame_yet() -> None:
    d = driver(records_max=8)
    (cut,) = d.records(A, range(8), SLOW)

    d.fail(cut, found=Found(done=0, failing=1))

    assert d.burying == []


def test_nothing_is_told_apart_in_a_batch_of_which_a_partition_is_gone() -> None:
    d = driver(records_max=8, seats=1)
    (first,) = d.records(B, range(1), SLOW)
    d.records(A, range(4), SLOW)
    d.records(B, range(1, 5), SLOW)
    (cut,) = d.finish(first)
    assert cut.num_records == 8
    d.revoke(A)

    d.fail(cut, found=Found(done=2, failing=1))

    assert d.commit() == {B: 1}


def test_what_is_behind_the_bad_record_stays_together() -> None:
    d = driver(records_max=16, seats=2, retries=Retry(max=2), order="none")
    d.records(A, range(16), SLOW)

    tried = work(d, {2})

    halves = [[*range(16)], [*range(8)], [0, 1, 2, 3], [0, 1], [2]]
    assert tried == [*halves, [*range(3, 16)]]


def test_each_of_several_bad_records_is_found() -> None:
    d = driver(records_max=64, seats=2, retries=Retry(max=2), order="none")
    d.records(A, range(64), SLOW)
    bad = {0, 1, 31, 40, 63}

    tried = work(d, bad)

    alone = {offsets[0] for offsets in tried if len(offsets) == 1}
    assert bad <= alone
    assert len(tried) <= 1 + 7 * len(bad)  # six halvings and the rest for each of them
    found = [offset for offsets in tried if bad.isdisjoint(offsets) for offset in offsets]
    assert sorted(found) == sorted(set(range(64)) - bad)


def test_the_rest_is_tried_as_it_is_where_a_partition_of_it_has_gone() -> None:
    d = driver(records_max=8, seats=1, retries=Retry(max=2), order="none")
    (first,) = d.records(A, [0], SLOW)
    d.records(A, range(1, 5), SLOW)
    d.records(B, range(4), SLOW)
    (both,) = d.finish(first)
    assert both.num_records == 8
    (half,) = d.fail(both)
    gone = {A, B} - {half.slices[0].chunk.partition}
    (half,) = d.fail(half)  # two of it are with the rest again

    d.revoke(*gone)
    (rest,) = d.finish(half)

    assert only_offsets(rest) == [each + 2 for each in only_offsets(half)]


def test_a_record_that_was_rejected_becomes_a_dead_letter_at_once_and_others_go_on() -> None:
    d = driver(retries=Retry(max=5))
    (cut,) = d.records(A, range(2), SLOW)

    d.fail(cut, rejected=True)

    # What is behind it does not wait until the letter is written.
    assert d.burying == [cut]
    (following,) = d.running
    d.bury(cut)
    assert only_offsets(following) == [1]
    assert d.counts(SLOW) == {"read": 2, "dead_letters": 1, "in_flight": 1}
    assert d.commit()[A] == 1


# What is exhausted lets others pass.


def test_what_is_exhausted_is_a_dead_letter_when_what_comes_behind_succeeds() -> None:
    d = driver()
    (bad, *_) = d.records(A, range(2), SLOW)
    (behind,) = d.fail(bad)
    assert only_offsets(behind) == [1] and d.burying == []

    d.finish(behind)

    assert d.burying == [bad]
    d.bury(bad)
    assert d.commit()[A] == 2


def test_when_what_comes_behind_fails_too_nothing_is_a_dead_letter() -> None:
    d = driver()
    (first, *_) = d.records(A, range(2), SLOW)
    (second,) = d.fail(first)
    d.fail(second)

    for _ in range(5):
        (again,) = d.wait(20_000)
        assert again is first
        (again,) = d.fail(first)
        assert again is second
        assert d.fail(second) == []

    assert d.burying == []
    assert d.commit()[A] == 0


def test_what_is_exhausted_opens_nothing_that_an_agent_has_a_batch_of() -> None:
    d = driver(seats=3)
    (first,) = d.records(A, range(4), SLOW)
    (second,) = d.give_back(first)

    assert d.fail(first) == [], "what comes of the second one tells as well"
    assert d.give_back(second) == []
    assert d.settle(second) == [first], "the agent works: now it shows which it was"


def test_nothing_passes_what_is_exhausted_once_something_else_was_started() -> None:
    d = driver(seats=2)
    (bad, *_) = d.records(A, range(2), SLOW)
    (other, *_) = d.records(B, range(2), SLOW)

    assert d.fail(bad) == [], "the other one may show whether it is to blame"
    assert bad in d.finish(other), "what was missing may be there now"
    d.finish(bad)

    assert d.burying == []


def test_what_is_exhausted_is_not_tried_while_what_passed_it_is_not_acknowledged() -> None:
    d = driver()
    (bad, *_) = d.records(A, range(2), SLOW)
    (behind,) = d.fail(bad)
    d.give_back(behind)

    assert d.wait(20_000) == []

    d.settle(behind)
    assert d.burying == [bad]


# Dead letters that are not taken.


def test_a_dead_letter_that_is_not_taken_keeps_its_partition_closed_and_is_written_again() -> None:
    d = driver(seats=2)
    (bad, *_) = d.records(A, range(6), SLOW)
    (behind,) = d.fail(bad)
    (next_one, *_) = d.finish(behind)
    (following,) = d.finish(next_one)

    d.refuse_burial(bad)
    assert d.burying == []
    assert d.finish(following) == []

    d.records(B, [0], SLOW)
    d.finish(d.running[0])
    assert d.burying == [], "it waits, whatever else succeeds"
    d.wait(100)
    assert d.burying == [bad]
    (rest,) = d.bury(bad)
    assert only_offsets(rest) == [4]
    assert d.commit()[A] == 4
    assert d.counts(SLOW)["dead_letters"] == 1


# Nacks.


def test_a_record_that_is_nacked_again_and_again_becomes_a_dead_letter() -> None:
    d = driver(records_max=4, retries=Retry(max=3))
    (cut,) = d.records(A, range(4), SLOW)
    d.nack(cut, 2)
    attempts = []
    while not d.burying:
        (lone,) = d.wait(20_000)
        attempts.append((only_offsets(lone), lone.attempt))
        d.nack(lone, 0)
    assert attempts == [([2], 2), ([2], 3)]
    d.bury(d.burying[0])
    assert d.counts(SLOW) == {"read": 4, "settled": 3, "dead_letters": 1}
    assert d.commit()[A] == 4


def test_a_nack_without_a_reason_is_one_as_well() -> None:
    d = driver(records_max=4, retries=Retry(max=3))
    (cut,) = d.records(A, range(4), SLOW)
    d.nack(cut, 2, why="")
    (lone,) = d.wait(100)
    assert only_offsets(lone) == [2] and lone.attempt == 2


def test_a_batch_of_which_each_record_is_nacked_does_not_show_that_the_agent_works() -> None:
    d = driver()
    (bad, *_) = d.records(A, range(2), SLOW)
    (behind,) = d.fail(bad)

    d.nack(behind, 0)

    assert d.burying == []


def test_what_is_nacked_of_a_partition_that_is_gone_closes_nothing_for_its_next_life() -> None:
    d = driver(seats=2, records_max=4)
    (before,) = d.records(A, range(4), SLOW)
    d.revoke(A)
    d.assign(A=0, B=0)
    (again,) = d.records(A, range(4), SLOW)
    d.tell(Returned(batch_id=before.batch_id, at_ns=d.now_ns, nacked=True))
    d.finish(again)
    d.nack(before, 1)

    (after,) = d.records(A, range(4, 8), SLOW)

    assert only_offsets(after) == [4, 5, 6, 7]


# Something is missing, or one record is to blame.


def test_many_failures_in_a_row_are_an_outage_and_what_is_new_is_tried_in_turn() -> None:
    """A record that fails for reasons of its own does not keep all others from being tried."""
    d = driver(retries=Retry(max=None))
    (bad,) = d.records(A, [0], SLOW)
    while not d.engine.views["agent"].serving.is_shut:
        d.fail(bad)
        d.wait(20_000)
    d.records(B, [0], SLOW)

    for _ in range(10):
        (probe,) = d.running or d.wait(20_000)
        if probe is not bad:
            break
        d.fail(bad)

    assert probe is not bad
    d.finish(probe)
    assert not d.engine.views["agent"].serving.is_shut


# Lanes that stop.


def test_a_lane_that_stops_lets_go_of_what_it_had_and_the_others_go_on() -> None:
    d = driver(seats=2, records_max=4, memory_bytes=1 << 26)
    (cut,) = d.records(A, range(4), SLOW)
    d.tell(Failed(batch_id=cut.batch_id, why="ValueError", at_ns=d.now_ns, stops={A: "too many"}))
    d.running.remove(cut)
    d.now_ns += MILLISECOND

    d.running = [each for each in d.running if each.lane != SLOW]
    d.wait(20_000)

    assert d.running == []
    assert d.counts(SLOW) == {"read": 4, "released": 4}
    assert d.records(A, range(4, 8), SLOW) == []
    (fast,) = d.records(A, [8], 0)
    d.finish(fast)
    assert d.commit()[A] == 0
