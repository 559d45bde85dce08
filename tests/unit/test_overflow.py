"""What the engine does with records that are too many or too old."""

from __future__ import annotations

from typing import Any

import pytest

from flowguard.commands import Cut
from flowguard.facts import Failed
from flowguard.gate import share_bytes
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Conflate, Divert, Policy, Shed
from flowguard.situation import snapshot_of
from flowguard.units import KIB, MIB
from flowguard.view import AgentPlan
from tests.builders import BULK, EPOCH_MS, REALTIME, A, B, EngineDriver, only_offsets

MEMORY_BYTES = 16 * MIB
RECORD_BYTES = 100 * KIB
SHARE_RECORDS = 40  # 40 % of what 16 MiB leaves for columns is 4 MiB
LOW_RECORDS = 32


def driver(*policies: Policy, other: Lane = REALTIME, **options: Any) -> EngineDriver:
    """Return a worker with a lane 1 that has these policies; its one seat is taken."""
    lane_options = options.pop("lane", {})
    lanes = (other, Lane("hints", overflow=list(policies), **lane_options))
    d = EngineDriver(lanes=lanes, memory_bytes=MEMORY_BYTES, **options)
    d.assign(A=0, B=0)
    return d


def busy(d: EngineDriver) -> Cut:
    """Let the seat be taken by a record of partition B."""
    (cut,) = d.fresh(B, [0], 1)
    return cut


def flood(d: EngineDriver, count: int, *, first: int = 0, **columns: Any) -> None:
    """Read large records of partition A, ten at a time."""
    for start in range(first, first + count, 10):
        offsets = range(start, min(start + 10, first + count))
        picked = {name: values[start - first :][:10] for name, values in columns.items()}
        d.fresh(A, offsets, 1, num_bytes=len(offsets) * RECORD_BYTES, **picked)


def waiting(d: EngineDriver, agent: str = "agent", lane: int = 1) -> list[int]:
    """Return the offsets that wait, in order."""
    backlog = d.engine.views[agent].backlog
    slices = [
        *backlog.waiting[lane].values(),
        *(w for (_, rank), blocks in backlog.ahead.items() if rank == lane
          for block in blocks for w in block.waiting),
    ]  # fmt: skip
    return sorted(offset for each in slices for offset in each.piece.offsets.to_pylist())


def state_of(d: EngineDriver, lane: int = 1) -> tuple[str, str | None]:
    snapshot = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS)
    return snapshot.lanes[lane].state, snapshot.lanes[lane].why


def decisions(d: EngineDriver) -> list[tuple[str, str, str, bool]]:
    return [(each.loop, each.subject, each.action, each.shadow) for each in d.engine.decisions]


# Share.


def test_the_shares_of_many_lanes_leave_a_fifth_of_the_columns_free() -> None:
    memory = EngineDriver(memory_bytes=MEMORY_BYTES).memory
    shares = [
        share_bytes(LaneSet(tuple(Lane(f"lane-{n}") for n in range(count))), memory)
        for count in (1, 2, 4)
    ]

    assert [round(each / memory.columns_bytes_max, 2) for each in shares] == [0.4, 0.4, 0.2]


# Shed.


def test_a_lane_above_its_share_sheds_the_oldest_until_it_is_well_below() -> None:
    d = driver(Shed())
    busy(d)

    flood(d, SHARE_RECORDS)
    assert d.counts(1)["held"] == SHARE_RECORDS
    flood(d, 10, first=SHARE_RECORDS)

    assert waiting(d) == list(range(SHARE_RECORDS + 10 - LOW_RECORDS, SHARE_RECORDS + 10))
    assert d.counts(1) == {"read": 51, "in_flight": 1, "held": LOW_RECORDS, "shed": 18}
    assert d.memory.held_bytes <= (LOW_RECORDS + 10) * RECORD_BYTES


def test_the_offsets_that_were_shed_are_committed_and_logged_at_the_next_tick() -> None:
    d = driver(Shed())
    busy(d)
    flood(d, 50)

    assert d.commit()[A] == 18
    assert d.unprocessed == []
    d.wait(100)

    (said,) = d.unprocessed
    assert (said.outcome, said.partition, said.ranges, said.count) == ("shed", A, ((0, 18),), 18)
    assert said.why == "4.9 MiB wait, its share is 4.0 MiB"


def test_what_an_agent_has_is_never_shed() -> None:
    d = driver(Shed(), records_max=5)
    d.fresh(A, range(10), 1, num_bytes=10 * RECORD_BYTES)

    flood(d, 50, first=10)

    (cut,) = d.running
    assert only_offsets(cut) == [0, 1, 2, 3, 4]
    assert 5 not in waiting(d)
    assert d.commit()[A] == 0
    d.finish(cut)
    assert d.commit()[A] == waiting(d)[0] - 5


def test_the_fattest_partition_gives_first() -> None:
    d = driver(Shed())
    busy(d)
    d.fresh(B, range(1, 11), 1, num_bytes=10 * RECORD_BYTES)

    flood(d, 40)

    # B has 10 records and A, which is shed down to 22, more than that.
    assert waiting(d) == sorted([*range(1, 11), *range(18, 40)])


def test_what_is_too_far_ahead_to_start_is_shed_when_nothing_else_is_left() -> None:
    d = driver(Shed(), order="none", seats=1)
    d.engine.views["agent"].backlog._skew_records = 5
    (poison,) = d.fresh(A, range(5), 1)
    d.fail(poison)
    flood(d, 50, first=10)

    assert d.counts(1)["shed"] == 18
    assert waiting(d) == list(range(28, 60))


def test_a_lane_says_that_it_sheds_and_why_until_it_was_calm_for_a_second() -> None:
    d = driver(Shed())
    busy(d)
    assert state_of(d)[0] == "ok"

    flood(d, 50)
    assert state_of(d) == ("shedding", "4.9 MiB wait, its share is 4.0 MiB")
    d.wait(900)
    assert state_of(d)[0] == "shedding"
    d.wait(200)

    assert state_of(d)[0] == "ok"
    assert decisions(d) == [("shed", "hints", "start", False), ("shed", "hints", "stop", False)]


def test_a_flood_that_goes_on_is_one_decision() -> None:
    d = driver(Shed())
    busy(d)

    for first in range(0, 1000, 50):
        flood(d, 50, first=first)
        d.wait(100)

    assert decisions(d) == [("shed", "hints", "start", False)]
    assert len(waiting(d)) <= SHARE_RECORDS


def test_in_shadow_nothing_is_shed_but_it_is_said_what_would_be() -> None:
    d = driver(Shed(), shadow=frozenset({"shed"}))
    busy(d)

    flood(d, 50)

    assert d.counts(1)["held"] == 50
    assert decisions(d) == [("shed", "hints", "start", True)]
    assert state_of(d)[0] == "ok"


def test_a_lane_that_blocks_leaves_nothing_out() -> None:
    d = EngineDriver(lanes=(REALTIME, BULK), memory_bytes=MEMORY_BYTES)
    d.assign(A=0, B=0)
    busy(d)

    flood(d, 60)

    assert d.counts(1)["held"] == 60


def test_a_partition_without_room_is_relieved_though_the_lane_is_within_its_share() -> None:
    d = driver(Shed())
    busy(d)
    flood(d, 30)
    account = d.engine.partitions[A].account
    others = [("other", n) for n in range(30)]
    d.memory.assign(others)
    d.memory.hold(others[0], d.memory.columns_bytes_max)  # the pool is used by others
    d.memory.reserve([account])
    assert account in d.memory.paused
    d.resumes = 0

    d.wait(100)

    assert d.memory.missing(account) == 0
    assert d.counts(1)["shed"] > 0 and d.resumes > 0
    assert state_of(d) == ("shedding", "orders[0] has no room for more")


def test_a_partition_that_waiting_records_cannot_relieve_is_left_alone() -> None:
    d = driver(Shed())
    busy(d)
    d.fresh(A, [0], 1)
    d.fresh(A, range(1, 30), 0, num_bytes=29 * RECORD_BYTES)
    account = d.engine.partitions[A].account
    others = [("other", n) for n in range(30)]
    d.memory.assign(others)
    d.memory.hold(others[0], d.memory.columns_bytes_max)
    d.memory.reserve([account])

    d.wait(100)

    assert "shed" not in d.counts(1)


# Delay.


def late(d: EngineDriver, cut: Cut, *, batches: int) -> Cut:
    """Let every batch start 30 ms after its records were read, for so long."""
    for _ in range(batches):
        d.wait(30)
        (cut,) = d.finish(cut)
    return cut


def test_a_lane_with_a_target_sheds_what_waits_too_long_while_its_queue_never_empties() -> None:
    d = driver(Shed(), other=BULK, lane={"target": "40ms"}, records_max=1)
    (cut,) = d.fresh(A, [0], 1)
    offset = 1
    while "shed" not in d.counts(1) and offset < 200:
        d.fresh(A, range(offset, offset + 4), 1)
        offset += 4
        d.wait(10)
        (cut,) = d.finish(cut)

    # A quarter of the target may be spent in line: 10 ms; twice that is too long.
    backlog = d.engine.views["agent"].backlog
    assert all(
        d.now_ns - each.piece.chunk.fetched_ns <= 20_000_000 for each in backlog.waiting[1].values()
    )
    assert ("queue-delay", "hints", "overloaded", False) in decisions(d)
    d.wait(100)
    assert d.unprocessed[0].why.endswith("10.0 ms is what its target has for that")


def test_a_burst_that_is_worked_off_is_no_overload() -> None:
    d = driver(Shed(), other=BULK, lane={"target": "40ms"}, records_max=10)
    (_cut,) = d.fresh(A, [0], 1)
    d.fresh(A, range(1, 101), 1)
    for offset in range(101, 201):
        d.wait(5)
        d.fresh(A, [offset], 1)
        for each in d.running:
            d.finish(each)

    assert "shed" not in d.counts(1)
    assert decisions(d) == []


def test_an_agent_that_starts_nothing_for_long_overloads_the_lane() -> None:
    d = driver(Shed(), other=BULK, lane={"target": "40ms"}, records_max=1)
    d.fresh(A, [0], 1)
    d.fresh(A, [1, 2], 1)
    d.wait(0)
    d.wait(150)  # its first batch was started in this interval, and at once

    d.wait(150)

    assert d.counts(1)["shed"] == 2


def test_in_shadow_the_delay_is_only_reported() -> None:
    d = driver(
        Shed(), other=BULK, lane={"target": "40ms"}, records_max=1,
        shadow=frozenset({"queue-delay"}),
    )  # fmt: skip
    d.fresh(A, [0], 1)
    d.fresh(A, [1, 2], 1)
    d.wait(0)
    d.wait(150)  # its first batch was started in this interval, and at once

    d.wait(150)

    assert "shed" not in d.counts(1)
    assert decisions(d) == [("queue-delay", "hints", "overloaded", True)]


def test_a_lane_without_a_target_may_wait_as_long_as_it_likes() -> None:
    d = driver(Shed(), records_max=1)
    d.fresh(A, [0], 1)
    d.fresh(A, [1, 2], 1)

    for _ in range(20):
        d.wait(1000)

    assert d.counts(1)["held"] == 2


# Conflate.


def test_a_lane_above_its_share_keeps_the_newest_of_each_key() -> None:
    d = driver(Conflate())
    busy(d)

    flood(d, 50, keys=[b"k%d" % (n % 7) for n in range(50)])

    assert waiting(d) == list(range(43, 50))
    assert d.counts(1) == {"read": 51, "in_flight": 1, "held": 7, "conflated": 43}
    assert d.commit()[A] == 43
    assert d.memory.held_bytes < 11 * RECORD_BYTES


def test_conflated_records_come_out_in_order_of_their_offsets_with_their_values() -> None:
    d = driver(Conflate())
    cut = busy(d)
    keys = [b"a", b"b", b"a", None, b"c"] * 10
    flood(d, 50, keys=keys, values=[b"%d" % n for n in range(50)])

    (following,) = d.finish(cut)

    wanted = [*range(3, 46, 5), 46, 47, 48, 49]
    assert only_offsets(following) == wanted
    values = [v for piece in following.slices for v in piece.columns.column("value").to_pylist()]
    assert values == [b"%d" % n for n in wanted]


def test_the_offsets_that_were_conflated_are_logged_and_no_others() -> None:
    d = driver(Conflate())
    busy(d)
    flood(d, 50, keys=[b"a", None, b"b", b"a", b"a"] * 10)
    d.wait(100)

    assert sorted(d.left("conflated") + waiting(d)) == list(range(50))
    assert all(each.why == "a newer record of the same key waits" for each in d.unprocessed)


def test_a_tombstone_replaces_what_it_deletes() -> None:
    d = driver(Conflate())
    busy(d)
    flood(d, 50, keys=[b"a"] * 50, values=[b"1"] * 49 + [None])

    (only,) = d.engine.views["agent"].backlog.waiting[1].values()
    assert only.piece.columns.column("value").to_pylist() == [None]


def test_keys_of_another_partition_are_other_records() -> None:
    d = driver(Conflate())
    busy(d)
    d.fresh(B, range(1, 11), 1, keys=[b"a"] * 10)
    flood(d, 50, keys=[b"a"] * 50)

    assert waiting(d) == [10, 49]


def test_what_is_left_when_conflated_is_shed_if_the_list_says_so() -> None:
    d = driver(Conflate(), Shed())
    busy(d)
    flood(d, 50, keys=[b"k%d" % (n % 45) for n in range(50)])

    assert d.counts(1)["conflated"] == 5
    assert d.counts(1)["shed"] > 0
    assert len(waiting(d)) <= LOW_RECORDS


def test_unique_keys_block_in_the_end() -> None:
    d = driver(Conflate())
    busy(d)
    flood(d, 60, keys=[b"k%d" % n for n in range(60)])

    assert d.counts(1)["held"] == 60


def test_what_is_half_dispatched_is_conflated_in_the_rest() -> None:
    d = driver(Conflate(), records_max=3)
    (cut,) = d.fresh(A, range(10), 1, num_bytes=10 * RECORD_BYTES, keys=[b"a"] * 10)
    flood(d, 40, first=10, keys=[b"a"] * 40)

    assert only_offsets(cut) == [0, 1, 2]
    assert waiting(d) == [49]
    d.finish(cut)
    assert d.commit()[A] == 49
    assert d.memory.held_by(d.engine.partitions[A].account) < 11 * RECORD_BYTES


# Divert.


def test_a_lane_above_its_share_sends_the_oldest_to_another_topic() -> None:
    d = driver(Divert("later"))
    busy(d)

    flood(d, 50)

    (cut,) = d.diverting
    assert d.topics == ["later"]
    assert only_offsets(cut)[0] == 0
    assert d.counts(1)["in_flight"] == 1 + cut.num_records
    assert d.commit()[A] == 0
    d.acknowledge(cut)
    assert d.counts(1)["diverted"] == cut.num_records
    assert d.commit()[A] == cut.num_records
    d.wait(100)
    assert d.left("diverted") == only_offsets(cut)


def test_diverting_goes_on_until_the_lane_is_well_below_its_share() -> None:
    d = driver(Divert("later"))
    busy(d)
    flood(d, 50)

    while d.diverting:
        d.acknowledge(d.diverting[0])

    assert waiting(d) == list(range(50 - LOW_RECORDS, 50))


def test_a_partition_in_order_waits_for_what_is_diverted() -> None:
    d = driver(Divert("later"))
    first = busy(d)
    flood(d, 50)
    (_cut,) = d.diverting

    assert d.finish(first) == []
    while d.diverting:
        started = d.acknowledge(d.diverting[0])

    assert only_offsets(started[0])[0] == waiting_or_started(d)


def waiting_or_started(d: EngineDriver) -> int:
    return min([*waiting(d), *(offset for cut in d.running for offset in only_offsets(cut))])


def test_without_order_others_go_on_while_records_are_diverted() -> None:
    d = driver(Divert("later"), order="none")
    first = busy(d)
    flood(d, 50)

    assert d.diverting and d.finish(first) != []


def test_what_could_not_be_diverted_waits_again_in_its_place() -> None:
    d = driver(Divert("later"), records_max=4)
    first = busy(d)
    flood(d, 50)
    (cut,) = d.diverting

    d.bounce(cut)
    assert d.counts(1) == {"read": 51, "in_flight": 1, "held": 50}
    assert d.diverting == []
    (following,) = d.finish(first)

    assert only_offsets(following) == [0, 1, 2, 3]


def test_after_a_failure_the_next_policy_is_tried_until_a_backoff_has_passed() -> None:
    d = driver(Divert("later"), Shed())
    busy(d)
    flood(d, 50)
    (cut,) = d.diverting
    shed_before = d.counts(1).get("shed", 0)

    d.bounce(cut)
    assert d.counts(1)["shed"] > shed_before
    d.wait(150)
    flood(d, 20, first=50)

    assert d.diverting != []


def test_after_a_failure_a_lane_blocks_until_a_backoff_has_passed() -> None:
    d = driver(Divert("later"))
    busy(d)
    flood(d, 50)
    d.bounce(d.diverting[0])

    d.wait(50)
    assert d.diverting == []
    d.wait(100)
    assert d.diverting != []


def test_a_dependency_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    d = driver(Divert("later"))
    busy(d)
    flood(d, 50)
    (cut,) = d.diverting
    d.diverting = []
    d.tell(Failed(batch_id=cut.batch_id, why="no", at_ns=d.now_ns, retry_after_ns=5_000_000_000))

    d.wait(1000)
    assert d.diverting == []
    d.wait(4500)
    assert d.diverting != []


def test_a_partition_that_is_taken_away_while_it_is_diverted_is_let_go_once() -> None:
    d = driver(Divert("later"))
    busy(d)
    flood(d, 50)
    (cut,) = d.diverting

    d.revoking(A)
    assert d.engine.records_in_flight(frozenset({A})) == cut.num_records
    d.revoke(A)
    d.acknowledge(cut)

    assert d.counts(1)["released"] == 50
    assert "diverted" not in d.counts(1)


def test_a_partition_that_comes_back_goes_on_where_its_diversion_ends() -> None:
    d = driver(Divert("later"))
    first = busy(d)
    flood(d, 50)
    (_cut,) = d.diverting
    d.revoking(A, B)
    d.finish(first)
    d.own({A: 0, B: 0})

    assert d.running == []
    while d.diverting:
        d.acknowledge(d.diverting[0])

    assert d.running != []


def test_nothing_is_diverted_or_shed_of_partitions_that_may_go_away() -> None:
    for policy in (Divert("later"), Shed()):
        d = driver(policy)
        busy(d)
        flood(d, 40)
        d.revoking(A)
        flood(d, 10, first=40)

        assert d.diverting == []
        assert d.counts(1)["held"] == 50


# max_age.


def aging(**options: Any) -> EngineDriver:
    return driver(other=BULK, lane={"max_age": "10s"}, **options)


def test_what_waited_longer_than_max_age_is_never_started() -> None:
    d = aging()
    cut = busy(d)
    d.fresh(A, range(10), 1)
    d.wait(5_000)
    d.fresh(A, range(10, 15), 1)

    d.wait(6_000)
    assert d.counts(1) == {"read": 16, "in_flight": 1, "held": 5, "expired": 10}
    assert d.commit()[A] == 10
    (following,) = d.finish(cut)

    assert only_offsets(following) == list(range(10, 15))
    d.wait(100)
    assert d.left("expired") == list(range(10))
    assert d.unprocessed[0].why == "older than max_age 10.0 s"


def test_a_batch_that_has_expired_takes_no_seat() -> None:
    d = driver(lane={"max_age": "10s"})
    cut = busy(d)
    for number in range(5):
        d.fresh(A, [number], 1)
    d.fresh(A, [5], 0)
    d.now_ns += 11_000_000_000

    (following,) = d.finish(cut)

    assert following.lane == 0
    assert d.counts(1)["expired"] == 5


def test_old_timestamps_expire_row_by_row() -> None:
    d = aging()
    cut = busy(d)
    # Read when the first was 9 s old.
    ages_ms = [9_000, 2_000, 8_500, 1_000, 0, -50_000]
    d.fresh(A, range(6), 1, age_ms=9_000, timestamps=[EPOCH_MS - age for age in ages_ms])
    d.now_ns += 2_000_000_000

    (following,) = d.finish(cut)

    assert only_offsets(following) == [1, 3, 4, 5]
    assert d.counts(1)["expired"] == 2
    d.finish(following)
    d.wait(100)
    assert d.left("expired") == [0, 2]
    assert d.memory.held_bytes == 0


def test_old_rows_are_not_started_even_if_memory_has_no_room_for_a_copy_of_the_others() -> None:
    d = aging()
    cut = busy(d)
    ages_ms = [9_000, 0, 9_000, 0]
    for first in (0, 4):  # several slices of the partition, so that none is replaced as a whole
        d.fresh(A, range(first, first + 4), 1, age_ms=9_000,
                timestamps=[EPOCH_MS - age for age in ages_ms])  # fmt: skip
    others = [("other", number) for number in range(99)]
    d.memory.assign(others)
    for each in others:
        d.memory.hold(each, d.memory.columns_bytes_max)
    d.now_ns += 2_000_000_000

    (following,) = d.finish(cut)

    assert only_offsets(following) == [1, 3, 5, 7]
    assert d.counts(1)["expired"] == 4


def test_rows_stay_where_they_are_when_memory_has_no_room_for_a_copy() -> None:
    d = driver(Conflate(), records_max=1)
    d.fresh(A, range(9), 1, keys=[b"a", b"b", b"a", b"c", b"a", b"d", b"e", b"f", b"g"])
    others = [("other", number) for number in range(99)]
    d.memory.assign(others)
    for each in others:
        d.memory.hold(each, d.memory.columns_bytes_max)
    d.memory.hold(d.engine.partitions[A].account, d.memory.columns_bytes_max)
    d.engine.overflow.set_shed_ratio(1, 0.5, "a test says so")

    d.wait(100)

    assert waiting(d) == list(range(1, 9))  # the batch that runs holds the chunk
    assert "conflated" not in d.counts(1)


def test_a_prefix_that_is_too_old_moves_the_watermark_on() -> None:
    d = aging()
    cut = busy(d)
    d.fresh(A, range(4), 1, age_ms=9_000,
            timestamps=[EPOCH_MS - age for age in (9_000, 8_900, 500, 0)])  # fmt: skip
    d.now_ns += 2_000_000_000
    (following,) = d.finish(cut)

    assert only_offsets(following) == [2, 3]
    assert d.commit()[A] == 2


def test_timestamps_of_the_future_count_as_now() -> None:
    d = aging()
    cut = busy(d)
    d.fresh(A, range(2), 1, timestamps=[EPOCH_MS + 10**9] * 2)

    d.wait(9_000)
    assert d.counts(1)["held"] == 2
    d.wait(2_000)

    assert d.counts(1)["expired"] == 2
    d.finish(cut)


def test_a_batch_that_waits_for_its_retry_is_looked_at_again() -> None:
    d = aging()
    (cut,) = d.fresh(A, [0], 1)
    d.fail(cut)
    assert d.running == []

    d.wait(11_000)

    assert d.running == []
    assert d.counts(1) == {"read": 1, "expired": 1}
    assert d.commit()[A] == 1
    assert d.engine.views["agent"].flights == {}
    assert d.fresh(A, [1], 1) != []


def test_a_retry_goes_on_with_what_is_young_enough() -> None:
    d = aging(records_max=10)
    cut = busy(d)
    d.fresh(A, range(3), 1)
    d.wait(5_000)
    d.fresh(A, range(3, 6), 1)
    (following,) = d.finish(cut)
    d.refuse(following)

    d.wait(6_000)

    (again,) = d.running
    assert again is following and only_offsets(again) == [3, 4, 5]
    d.finish(again)
    assert d.commit()[A] == 6


def test_a_batch_that_runs_does_not_expire() -> None:
    d = aging()
    (cut,) = d.fresh(A, range(3), 1)

    d.wait(60_000)
    d.finish(cut)

    assert d.counts(1) == {"read": 3, "settled": 3}


def test_expired_records_cost_the_lane_nothing_of_its_rate() -> None:
    d = driver(lane={"max_age": "10s", "rate": "10/s"})
    busy(d)
    d.fresh(A, range(100), 1)
    d.now_ns += 11_000_000_000
    d.fresh(A, [100], 1)

    started = d.finish(d.running[0])

    assert [only_offsets(cut) for cut in started] == [[100]]


def test_what_is_too_far_ahead_to_start_expires_as_well() -> None:
    d = aging(order="none")
    d.engine.views["agent"].backlog._skew_records = 5
    d.fresh(A, range(5), 1)
    d.fresh(A, range(5, 50), 1)

    d.wait(11_000)

    assert d.counts(1) == {"read": 50, "in_flight": 5, "expired": 45}


# Several agents.


def two(*policies: Policy, **lane: Any) -> EngineDriver:
    plans = [AgentPlan(name=name, topics=frozenset({"orders"})) for name in ("one", "two")]
    d = EngineDriver(
        lanes=(BULK, Lane("hints", overflow=list(policies), **lane)),
        agents=plans,
        memory_bytes=MEMORY_BYTES,
    )
    d.assign(A=0, B=0)
    return d


def test_what_one_agent_processed_is_settled_whatever_the_other_did() -> None:
    d = two(max_age="10s")
    ones, twos = d.fresh(B, [0], 1)
    d.fresh(A, range(10), 1)
    (of_one,) = d.finish(ones)
    d.finish(of_one)

    d.wait(11_000)
    assert d.counts(1)["settled"] == 10
    assert "expired" not in d.counts(1)
    assert d.commit()[A] == 10
    d.finish(twos)

    d.wait(100)
    assert d.counts(1) == {"read": 11, "settled": 11}
    assert d.unprocessed == []


def test_what_no_agent_processed_counts_once() -> None:
    d = two(Shed())
    d.fresh(B, [0], 1)

    flood(d, 50)

    assert waiting(d, "one") == waiting(d, "two")
    assert d.counts(1)["shed"] == 18
    d.wait(100)
    assert d.left("shed") == list(range(18))


def test_agents_conflate_what_waits_for_each() -> None:
    d = two(Conflate())
    ones, _twos = d.fresh(B, [0], 1)
    d.fresh(A, range(10), 1, num_bytes=10 * RECORD_BYTES, keys=[b"a"] * 10)
    (of_one,) = d.finish(ones)
    flood(d, 40, first=10, keys=[b"a"] * 40)

    assert waiting(d, "two") == [49]
    d.finish(of_one)
    for cut in list(d.running):
        d.finish(cut)
    while d.running:
        d.finish(d.running[0])
    assert d.counts(1) == {"read": 51, "settled": 7, "conflated": 44}  # one got the first five
    assert d.memory.held_bytes == 0


# The ladder's ratio.


def test_a_share_of_the_keys_is_shed_as_it_comes_and_the_same_keys_again() -> None:
    d = driver(Shed())
    busy(d)
    keys = [b"k%d" % n for n in range(1000)]
    d.engine.overflow.set_shed_ratio(1, 0.3, "the ladder is on rung 5")

    d.fresh(A, range(1000), 1, keys=keys)
    once = set(waiting(d))
    d.fresh(A, range(1000, 2000), 1, keys=keys)
    again = {offset - 1000 for offset in waiting(d) if offset >= 1000}

    assert once == again
    assert 630 < len(once) < 770
    d.wait(100)
    assert sorted(d.left("shed") + waiting(d)) == list(range(2000))
    assert d.unprocessed[0].why == "30% of its keys are left out: the ladder is on rung 5"


def test_nothing_more_is_shed_when_the_share_is_back_at_nothing() -> None:
    d = driver(Shed())
    busy(d)
    d.engine.overflow.set_shed_ratio(1, 1.0, "why")
    d.fresh(A, range(10), 1)
    d.engine.overflow.set_shed_ratio(1, 0.0, "")

    d.fresh(A, range(10, 20), 1)

    assert waiting(d) == list(range(10, 20))
    assert d.commit()[A] == 10


def test_a_lane_that_is_only_conflated_is_conflated_all_the_time() -> None:
    d = driver(Conflate())
    busy(d)
    d.engine.overflow.set_shed_ratio(1, 0.1, "why")

    d.fresh(A, range(10), 1, keys=[b"a"] * 10)
    d.wait(100)

    assert waiting(d) == [9]
    assert "shed" not in d.counts(1)


def test_a_lane_that_blocks_or_diverts_is_never_shed_by_the_ladder() -> None:
    for policies in ((), (Divert("later"),)):
        d = driver(*policies)
        busy(d)
        d.engine.overflow.set_shed_ratio(1, 1.0, "why")
        d.engine.overflow.set_shed_ratio(0, 1.0, "why")
        d.fresh(A, range(10), 1)

        assert d.counts(1)["held"] == 10


# Counting.


@pytest.mark.parametrize("order", ["partition", "key", "none"])
def test_memory_returns_to_nothing_when_all_has_come_out(order: str) -> None:
    d = driver(Conflate(), Divert("later"), Shed(), order=order, lane={"max_age": "10s"})
    cut = busy(d)
    flood(d, 200, keys=[b"k%d" % (n % 60) for n in range(200)])
    d.wait(2_000)
    d.finish(cut)
    for _ in range(100):
        for each in d.diverting:
            d.acknowledge(each)
        for each in d.running:
            d.finish(each)
        d.wait(50)

    assert d.memory.used_bytes == 0
    assert d.commit() == {A: 200, B: 1}
    counts = d.counts(1)
    assert counts.keys() <= {"read", "settled", "conflated", "diverted", "shed", "expired"}
