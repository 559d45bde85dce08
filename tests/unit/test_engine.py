"""The engine, fact by fact; the driver checks promise 2 after each of them."""

from __future__ import annotations

import pytest

from flowguard.facts import Failed, Finished
from flowguard.lanes.lane import Lane
from flowguard.settle.retry import Retry
from flowguard.situation import snapshot_of
from flowguard.units import MILLISECOND, SECOND
from flowguard.view import UNSETTLED_PER_SEAT, AgentPlan
from tests.builders import BULK, EPOCH_MS, REALTIME, A, B, C, EngineDriver, chunk_of, only_offsets

FAST, SLOW = 0, 1


def driver(**options: object) -> EngineDriver:
    made = EngineDriver(**options)  # type: ignore[arg-type]
    made.assign(A=0, B=0)
    return made


# Priority, floor, reserve.


def test_the_higher_lane_gets_the_next_free_seat_whatever_came_first():
    d = driver()
    (busy,) = d.records(A, range(10), SLOW)
    d.records(B, range(10), SLOW)
    d.records(A, [20], FAST)

    (started,) = d.finish(busy)

    assert started.lane == FAST


def test_a_realtime_record_waits_for_at_most_one_lower_batch_a_seat():
    d = driver(seats=2)
    d.assign(A=0, B=0, C=0)
    for partition in (A, B, C):
        d.records(partition, range(100), SLOW)
    lower = list(d.running)
    assert len(lower) == 2

    d.records(A, [200], FAST)
    (next_started,) = d.finish(lower[0])

    assert next_started.lane == FAST


def test_a_lower_lane_gets_its_floor_while_the_higher_lane_never_runs_dry():
    d = driver(records_max=10, order="none", lanes=(Lane("high"), Lane("low")))
    d.records(A, range(2_000), 0)
    d.records(B, range(2_000), 1)
    served = [0, 0]

    for _ in range(100):
        (cut,) = d.running
        served[cut.lane] += cut.num_records
        d.finish(cut)

    assert 0.05 <= served[1] / sum(served) <= 0.25
    assert served[0] / sum(served) >= 0.75


def test_reserved_seats_are_never_lent_to_another_lane():
    lanes = (Lane("realtime", reserve=0.5), BULK)
    d = driver(seats=4, lanes=lanes, order="none", records_max=1)

    d.records(A, range(10), SLOW)
    assert [cut.lane for cut in d.running] == [SLOW, SLOW]

    d.records(A, range(20, 30), FAST)
    assert [cut.lane for cut in d.running] == [SLOW, SLOW, FAST, FAST]


def test_a_lane_that_may_not_have_a_reserved_seat_asks_for_no_tick():
    lanes = (Lane("realtime", reserve=0.5), BULK)
    d = driver(seats=2, lanes=lanes, order="none", records_max=1, linger_ns=5 * MILLISECOND)
    d.records(A, range(10), SLOW)
    d.wait(5)
    d.records(B, range(10), SLOW)

    d.wait(100)

    assert len(d.running) == 1
    assert d.engine.due_ns is None


def test_a_retry_does_not_take_a_seat_that_another_lane_has_reserved():
    lanes = (Lane("realtime", reserve=0.5), BULK)
    d = driver(seats=2, lanes=lanes)
    (failing,) = d.records(A, range(10), SLOW)
    (other,) = d.fail(failing) or d.records(B, range(10), SLOW)
    assert other.lane == SLOW

    d.wait(150)
    assert d.running == [other]
    d.records(A, [50], FAST)

    assert [cut.lane for cut in d.running] == [SLOW, FAST]


def test_a_due_retry_of_a_lower_lane_lets_the_higher_lane_go_first():
    d = driver()
    (failing,) = d.records(A, [0], SLOW)
    d.fail(failing)
    (busy,) = d.records(B, range(10), SLOW)
    d.records(A, [50], FAST)
    d.now_ns += 200 * MILLISECOND

    (started,) = d.finish(busy)

    assert started.lane == FAST
    (retry,) = d.finish(started)
    assert retry is failing and retry.attempt == 2


def test_retries_of_a_lower_lane_are_not_starved_by_a_higher_lane_that_never_runs_dry():
    d = driver(records_max=10, lanes=(Lane("high"), Lane("low")))
    (failing,) = d.records(A, range(10), 1)
    d.fail(failing)
    d.fetch(B, *(chunk_of(range(i, i + 10), partition=B, lane=0) for i in range(0, 1000, 10)))
    d.now_ns += SECOND
    started = 0

    while failing not in d.running and started < 100:
        (cut,) = d.running
        d.finish(cut)
        started += 1

    assert started <= 10


def test_fresh_work_is_not_starved_by_retries_that_are_always_due():
    d = EngineDriver(lanes=(Lane("high"), Lane("low")), retries=Retry(max=None))
    d.assign(A=0, B=0, C=0)
    (first,) = d.records(A, [0], 0)
    d.fail(first)
    (second,) = d.records(B, [0], 0)
    d.fail(second)
    d.now_ns += 20 * SECOND
    d.records(C, range(10), 1)
    started = 0

    while all(cut.lane == 0 for cut in d.running) and started < 100:
        (cut,) = d.running
        d.now_ns += 20 * SECOND  # so slow that a retry is due whenever a seat is free
        d.fail(cut)
        started += 1

    assert started <= 10


# Linger and batch size.


def test_a_lane_without_target_lingers_until_its_batch_is_full_or_the_time_is_over():
    d = driver(linger_ns=5 * MILLISECOND, records_max=100, lanes=(Lane("only"),), order="none")

    assert d.records(A, range(10), 0) == []
    assert d.engine.due_ns == d.now_ns + 5 * MILLISECOND
    assert d.wait(4) == []
    (late,) = d.wait(1)
    assert only_offsets(late) == list(range(10))
    d.finish(late)
    (full,) = d.records(A, range(10, 110), 0)
    assert full.num_records == 100


def test_what_one_batch_leaves_for_the_next_seat_does_not_linger_again():
    d = driver(seats=2, linger_ns=5 * MILLISECOND, lanes=(Lane("only"),))
    d.records(A, range(10), 0)
    d.records(B, range(10), 0)

    started = d.wait(5)

    assert [cut.num_records for cut in started] == [10, 10]


def test_lingering_works_at_the_very_beginning_of_time():
    d = EngineDriver(lanes=(Lane("only"),), linger_ns=5 * MILLISECOND, now_ns=0)
    d.assign(A=0)

    d.records(A, range(10), 0)

    assert d.engine.due_ns == 5 * MILLISECOND


def test_a_lane_with_a_target_never_lingers():
    d = driver(linger_ns=5 * MILLISECOND)

    (cut,) = d.records(A, [0], FAST)

    assert cut.lane == FAST


def test_a_batch_of_one_lane_takes_records_of_several_partitions():
    d = driver(lanes=(Lane("only"),), seats=1)
    d.assign(A=0, B=0, C=0)
    (first,) = d.records(C, [0], 0)
    d.records(A, [0, 1], 0)
    d.records(B, [0, 1], 0)

    (cut,) = d.finish(first)

    assert {piece.chunk.partition for piece in cut.slices} == {A, B}


def test_by_partition_gives_batches_of_one_partition_only():
    d = driver(lanes=(Lane("only"),), by_partition=True)
    (first,) = d.records(A, [0], 0)
    d.records(A, [1], 0)
    d.records(B, [0, 1], 0)

    (cut,) = d.finish(first)

    assert len({piece.chunk.partition for piece in cut.slices}) == 1


def test_every_agent_has_only_records_of_its_own_topics():
    plans = [
        AgentPlan(name="a", topics=frozenset({"orders"})),
        AgentPlan(name="b", topics=frozenset({"clicks"})),
    ]
    d = EngineDriver(agents=plans)
    clicks = A._replace(topic="clicks")
    d.own({A: 0, clicks: 0})

    (first,) = d.records(A, [0], SLOW)
    (second,) = d.fetch(clicks, chunk_of([0], partition=clicks, lane=SLOW))

    assert (first.agent, second.agent) == ("a", "b")


# Order.


def test_agents_have_one_batch_of_an_ordered_lane_of_a_partition_at_most():
    d = driver(seats=4, records_max=10)

    (first,) = d.records(A, range(30), SLOW)
    assert d.running == [first]
    (second,) = d.give_back(first)

    assert only_offsets(second) == list(range(10, 20))


def test_after_a_failure_nothing_of_the_lane_is_started_until_it_is_settled():
    d = driver(seats=4, records_max=1)
    (first,) = d.records(A, range(4), SLOW)
    (second,) = d.give_back(first)
    d.tell(Failed(batch_id=first.batch_id, why="not acknowledged", at_ns=d.now_ns))

    assert d.finish(second) == []
    (retry,) = d.wait(100)
    assert retry is first
    assert d.give_back(first) == []
    (third,) = d.settle(first)

    assert only_offsets(third) == [2]


def test_failed_batches_of_a_lane_are_tried_again_one_by_one_the_oldest_first():
    d = driver(seats=4, records_max=1)
    (first,) = d.records(A, range(4), SLOW)
    (second,) = d.give_back(first)
    (third,) = d.give_back(second)
    d.give_back(third)
    for cut in (third, second, first):
        d.tell(Failed(batch_id=cut.batch_id, why="not acknowledged", at_ns=d.now_ns))
        d.now_ns += MILLISECOND
    (fourth,) = [cut for cut in d.running if cut not in (first, second, third)]
    d.running = [fourth]

    d.wait(60_000)
    assert d.running == [fourth]
    assert d.finish(fourth) == [first]
    assert d.finish(first) == [second]
    assert d.finish(second) == [third]


def test_another_lane_of_the_partition_does_not_wait_for_it():
    d = driver(seats=4)
    d.records(A, range(10), SLOW)

    (cut,) = d.records(A, [10], FAST)

    assert cut.lane == FAST


def test_without_order_a_lane_of_a_partition_uses_all_seats():
    d = driver(seats=3, records_max=10, order="none")

    cuts = d.records(A, range(30), SLOW)

    assert [only_offsets(cut)[0] for cut in cuts] == [0, 10, 20]


def test_a_failed_batch_keeps_its_partition_closed_until_it_is_settled():
    d = driver(seats=2, records_max=1)
    (failing,) = d.records(A, range(2), SLOW)

    assert d.fail(failing) == []
    (retry,) = d.wait(100)
    assert only_offsets(retry) == [0]
    (after,) = d.finish(retry)
    assert only_offsets(after) == [1]


# Failure and backoff.


def test_a_failed_batch_waits_twice_as_long_each_time():
    d = driver(retries=Retry(max=None))
    (cut,) = d.records(A, [0], SLOW)
    waits = []

    for _ in range(9):
        d.fail(cut)
        assert d.engine.due_ns is not None
        waits.append((d.engine.due_ns - d.now_ns) // MILLISECOND)
        d.wait(waits[-1] - 0.5)
        assert d.running == []
        d.wait(0.5)
        assert d.running == [cut]

    assert waits == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
    assert cut.attempt == 10


def test_other_partitions_and_lanes_go_on_while_a_batch_waits_for_its_retry():
    d = driver()
    (failing,) = d.records(A, [0], SLOW)
    d.fail(failing)

    (other,) = d.records(B, range(5), SLOW)
    d.finish(other)
    (fast,) = d.records(A, [5], FAST)
    d.finish(fast)

    assert d.engine.committable() == {A: 0, B: 5}


def test_a_batch_that_waits_for_its_retry_is_held_not_in_flight():
    d = driver()
    (cut,) = d.records(A, [0], SLOW)

    d.fail(cut)

    assert d.counts(SLOW) == {"read": 1, "held": 1}


def test_the_state_of_a_lane_says_which_partition_waits_and_why():
    d = driver()
    (cut,) = d.records(A, [0], SLOW)
    d.fail(cut, "ValueError: bad row")

    lane = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes[SLOW]

    assert lane.state == "stopped"
    assert lane.why == "orders[0] waits: ValueError: bad row; attempt 2 in 0.1 s"


# Seats and settling.


def test_a_seat_is_free_as_soon_as_the_agent_comes_back():
    d = driver()
    (first,) = d.records(A, range(5), SLOW)
    d.records(B, range(5), SLOW)

    (second,) = d.give_back(first)

    assert d.counts(SLOW) == {"read": 10, "in_flight": 10}
    assert only_offsets(second) == list(range(5))


def test_the_output_that_is_not_acknowledged_is_bounded_by_the_seats():
    d = driver(order="none", records_max=1)
    d.records(A, range(100), SLOW)

    while (unreturned := [cut for cut in d.running if cut.started_ns >= 0]) and any(
        d.give_back(cut) for cut in unreturned[-1:]
    ):
        pass

    assert len(d.running) == UNSETTLED_PER_SEAT
    assert d.engine.due_ns is None


def test_a_failed_send_counts_once_though_the_agent_had_come_back():
    d = driver()
    (cut,) = d.records(A, [0], SLOW)

    d.fail(cut)
    (retry,) = d.wait(100)
    d.finish(retry)

    assert d.counts(SLOW) == {"read": 1, "settled": 1}


def test_dead_letters_are_counted_apart_from_what_the_agent_settled():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)

    d.finish(cut, dead_letters=2)

    assert d.counts(SLOW) == {"read": 5, "settled": 3, "dead_letters": 2}
    assert d.engine.committable()[A] == 5


# Commits.


def test_only_what_is_finished_may_be_committed():
    d = driver(seats=4)
    (slow,) = d.records(A, range(10), SLOW)
    (fast,) = d.records(A, range(10, 20), FAST)

    d.finish(fast)
    assert d.engine.committable()[A] == 0
    d.give_back(slow)
    assert d.engine.committable()[A] == 0
    d.settle(slow)

    assert d.engine.committable()[A] == 20


def test_batches_that_finish_out_of_order_commit_up_to_the_oldest_unfinished_one():
    d = driver(seats=3, records_max=10, order="none")
    first, second, third = d.records(A, range(30), SLOW)

    d.finish(third)
    assert d.engine.committable()[A] == 0
    d.finish(first)
    assert d.engine.committable()[A] == 10
    d.finish(second)

    assert d.engine.committable()[A] == 30


def test_a_record_that_waits_is_never_committed():
    d = driver(seats=1)
    (busy,) = d.records(A, [0], FAST)
    d.records(A, range(1, 5), SLOW)

    d.settle(busy) if d.give_back(busy) else None

    assert d.engine.committable()[A] == 1


def test_what_the_parser_skipped_is_committed_with_what_came_before_it():
    d = driver()
    (cut,) = d.fetch(A, chunk_of([3, 7], lane=SLOW), next_offset=12)

    d.finish(cut)

    assert d.engine.committable()[A] == 12


def test_an_empty_answer_moves_the_position():
    d = driver()

    d.fetch(A, next_offset=40)

    assert d.engine.committable()[A] == 40


# Memory.


def test_memory_is_released_when_the_last_record_of_a_chunk_is_settled():
    d = driver(records_max=10)
    d.fetch(A, chunk_of(range(20), lane=SLOW, num_bytes=5_000))
    assert d.memory.held_bytes == 5_000

    (second,) = d.finish(d.running[0])
    assert d.memory.held_bytes == 5_000
    d.finish(second)

    assert d.memory.held_bytes == 0


def test_a_failed_batch_keeps_its_memory():
    d = driver()
    (cut,) = d.fetch(A, chunk_of(range(20), lane=SLOW, num_bytes=5_000))

    d.fail(cut)

    assert d.memory.held_bytes == 5_000


def test_chunks_of_an_older_assignment_leave_no_memory_behind():
    d = driver()
    old_epoch = d.reading[A][1]
    d.revoke(A)
    d.assign(A=0, B=0)

    d.fetch(A, chunk_of(range(20), lane=SLOW, num_bytes=5_000), epoch=old_epoch)

    assert d.memory.held_bytes == 0
    assert d.counts(SLOW) == {}


def test_chunks_of_a_partition_that_is_gone_are_ignored():
    d = driver()
    epoch = d.reading[B][1]
    d.revoke(B)

    d.fetch(B, chunk_of(range(20), partition=B, lane=SLOW, num_bytes=5_000), epoch=epoch)

    assert d.memory.held_bytes == 0
    assert d.running == []


def test_the_fetcher_is_woken_when_a_paused_partition_has_room_again():
    d = driver(lanes=(Lane("only"),), memory_bytes=2**20)
    size = d.memory.columns_bytes_max
    d.fetch(A, chunk_of(range(20), num_bytes=size))
    d.memory.settle(d.memory.reserve([(name, epoch) for name, (_, epoch) in d.reading.items()]))
    assert d.memory.paused

    while d.running:
        d.finish(d.running[0])

    assert d.resumes == 1


# Rebalance.


def test_a_partition_that_comes_back_with_its_committed_offset_keeps_what_it_has():
    d = driver(seats=1)
    (busy,) = d.records(A, range(5), SLOW)
    d.records(A, range(5, 9), SLOW)
    epoch = d.reading[A]
    d.revoking(A, B)

    d.assign(A=0, B=0)

    assert d.reading[A] == (9, epoch[1])
    (after,) = d.finish(busy)
    assert only_offsets(after) == list(range(5, 9))


def test_a_partition_that_comes_back_with_another_offset_is_begun_anew():
    d = driver()
    d.records(A, range(5), SLOW)
    epoch = d.reading[A][1]
    d.revoking(A, B)

    d.assign(A=3, B=0)

    assert d.reading[A] == (3, epoch + 2)
    assert d.counts(SLOW) == {"read": 5, "released": 5}


def test_a_kept_partition_is_compared_with_what_was_committed_last():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.finish(cut)
    d.commit()
    epoch = d.reading[A][1]

    d.assign(A=5, B=0)

    assert d.reading[A] == (5, epoch)


def test_finishing_a_batch_of_a_dropped_partition_changes_nothing():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.revoke(A)
    d.assign(A=0, B=0)
    before = d.counts(SLOW)

    d.finish(cut)

    assert d.counts(SLOW) == before == {"read": 5, "released": 5}
    assert d.engine.committable()[A] == 0
    assert d.memory.held_bytes == 0


def test_failing_a_batch_of_a_dropped_partition_does_not_try_it_again():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.revoke(A)

    d.fail(cut)
    d.wait(60_000)

    assert d.running == []
    assert d.engine.due_ns is None


def test_a_batch_of_two_partitions_is_tried_again_without_the_one_that_was_dropped():
    d = driver(lanes=(Lane("only"),))
    d.assign(A=0, B=0, C=0)
    (first,) = d.records(C, [0], 0)
    d.records(A, [0, 1], 0)
    d.records(B, [0, 1], 0)
    (both,) = d.finish(first)
    d.refuse(both)

    d.revoke(B)
    (retry,) = d.wait(100)

    assert {piece.chunk.partition for piece in retry.slices} == {A}
    d.finish(retry)
    assert d.counts(0) == {"read": 5, "settled": 3, "released": 2}


def test_a_batch_that_waits_for_its_retry_is_let_go_with_its_partition():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.fail(cut)

    d.revoke(A)

    assert d.counts(SLOW) == {"read": 5, "released": 5}
    assert d.engine.due_ns is None


def test_nothing_of_a_partition_that_may_go_away_is_started():
    d = driver()
    (busy,) = d.records(B, range(5), SLOW)
    d.records(A, range(5), SLOW)

    d.revoking(A)
    d.finish(busy)
    d.records(A, range(5, 10), FAST)

    assert d.running == []


def test_no_retry_is_started_for_a_partition_that_may_go_away():
    d = driver()
    (cut,) = d.records(A, [0], SLOW)
    d.fail(cut)

    d.revoking(A)

    assert d.wait(60_000) == []
    assert d.engine.due_ns is None
    assert d.assign(A=0, B=0) == [cut]


def test_a_batch_that_finishes_while_its_partition_may_go_away_still_counts():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.records(A, range(5, 9), SLOW)
    d.revoking(A)

    assert d.finish(cut) == []
    assert d.engine.committable()[A] == 5
    (after,) = d.assign(A=0, B=0)

    assert only_offsets(after) == [5, 6, 7, 8]


def test_a_partition_that_came_back_stays_in_order_behind_its_batch_in_flight():
    d = driver(seats=4)
    (busy,) = d.records(A, range(5), SLOW)
    d.records(A, range(5, 9), SLOW)

    d.revoking(A)

    assert d.assign(A=0, B=0) == []
    (after,) = d.finish(busy)
    assert only_offsets(after) == [5, 6, 7, 8]


def test_records_in_flight_counts_what_agents_have_and_nothing_that_waits():
    d = driver(seats=2)
    d.records(A, range(5), SLOW)
    (failing,) = d.records(B, [0], SLOW)
    assert d.engine.records_in_flight() == 6

    d.fail(failing)

    assert d.engine.records_in_flight() == 5
    assert d.engine.records_in_flight(frozenset({B})) == 0
    d.revoke(A)
    assert d.engine.records_in_flight() == 0


# Partitions that cannot be read.


def test_a_stopped_partition_is_not_read_again_and_says_why():
    d = driver()

    d.stop_reading(A, "orders[0] at offset 3: bad checksum")
    d.assign(A=0, B=0, C=0)
    d.stop_reading(C, "gone")
    d.revoke(B)

    assert C not in d.reading
    state = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS)
    assert [each.why for each in state.partitions if each.partition == C] == ["gone"]


def test_a_stopped_partition_is_tried_anew_after_a_rebalance():
    d = driver()
    epoch = d.reading[A][1]
    d.stop_reading(A, "bad checksum")

    d.assign(A=0, B=0)

    assert d.reading[A] == (0, epoch + 2)


def test_what_was_read_before_a_partition_stopped_is_finished_and_committed():
    d = driver()
    (cut,) = d.records(A, range(5), SLOW)
    d.stop_reading(A, "bad checksum")

    d.finish(cut)

    assert d.engine.committable()[A] == 5


# What is shown.


def test_a_snapshot_shows_latency_from_the_record_timestamp():
    d = driver()
    (cut,) = d.fetch(A, chunk_of([0, 1], lane=FAST, timestamps=[EPOCH_MS, EPOCH_MS - 995]))
    d.give_back(cut)
    d.tell(Finished(batch_id=cut.batch_id, dead_letters=(), at_ns=d.now_ns, epoch_ms=EPOCH_MS + 5))

    lane = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes[FAST]

    assert lane.p50 == pytest.approx(0.005, abs=0.001)
    assert lane.p999 == pytest.approx(1.0, rel=0.02)
    assert lane.on_time == 0.5


def test_recent_latency_forgets_what_is_older_than_half_a_minute():
    d = driver()
    (cut,) = d.records(A, [0], FAST)
    d.finish(cut)

    for _ in range(3):
        d.wait(15_000)

    lane = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes[FAST]
    assert lane.p99 is not None
    assert lane.p99_recent is None


def test_the_oldest_age_is_that_of_the_oldest_unfinished_record():
    d = driver()
    d.fetch(A, chunk_of([0], lane=SLOW, timestamps=[EPOCH_MS - 3_000]))
    d.fetch(B, chunk_of([0], partition=B, lane=SLOW, timestamps=[EPOCH_MS - 1_000]))

    lanes = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes

    assert lanes[SLOW].oldest_age == 3.0
    assert lanes[FAST].oldest_age is None


def test_batches_of_an_app_with_a_target_are_cut_so_short_that_a_seat_is_free_in_a_quarter_of_it():
    d = driver(lanes=(REALTIME, BULK), order="none")
    d.records(A, range(2_000), SLOW)
    (cut,) = d.running
    assert cut.num_records == 64

    d.now_ns += 50 * MILLISECOND
    (shorter,) = d.finish(cut)

    assert shorter.num_records == 16


def test_a_partition_that_left_and_came_back_goes_on_though_an_old_batch_still_runs():
    d = driver()
    (old,) = d.records(A, range(10), SLOW)
    d.revoke(A)
    d.assign(A=0, B=0)
    d.revoking(A)
    d.assign(A=0, B=0)

    d.finish(old)
    (again,) = d.records(A, range(10), SLOW)

    assert only_offsets(again) == [*range(10)]


def test_a_retry_waits_until_what_came_before_it_is_acknowledged():
    """It may fail yet; then it goes first."""
    d = driver(records_max=1)
    (first, *_) = d.records(A, range(2), SLOW)
    (second,) = d.give_back(first)
    d.fail(second)
    assert d.wait(1_000) == []

    d.fail(first)

    assert d.wait(1_000) == [first]
