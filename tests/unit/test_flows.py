"""Flows: records that queue by key or tenant instead of by partition."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowguard.chunk import Chunk, TopicPartition
from flowguard.lanes.fairness import Key
from flowguard.lanes.lane import Lane
from flowguard.units import MILLISECOND, SECOND
from tests.builders import A, B, EngineDriver, chunk_of, only_offsets


def driver(*, order: str = "key", seats: int = 4, **options: object) -> EngineDriver:
    lanes = (Lane("only"),)
    d = EngineDriver(order=order, seats=seats, lanes=lanes, **options)  # type: ignore[arg-type]
    d.assign(A=0, B=0)
    return d


def flow(number: int, offsets: range, partition: TopicPartition = A, **options: object) -> Chunk:
    return replace(chunk_of(offsets, partition=partition, **options), flow=number)  # type: ignore[arg-type]


def test_flows_of_one_partition_run_at_once():
    d = driver(records_max=10)

    started = d.fetch(A, flow(1, range(0, 20, 2)), flow(2, range(1, 20, 2)))

    assert [only_offsets(cut) for cut in started] == [[*range(0, 20, 2)], [*range(1, 20, 2)]]


def test_one_flow_goes_one_batch_at_a_time():
    d = driver(records_max=5)
    (first,) = d.fetch(A, flow(1, range(10)))

    assert d.fetch(A, flow(1, range(10, 20))) == []
    (second,) = d.finish(first)

    assert only_offsets(second) == [5, 6, 7, 8, 9]


def test_free_seats_share_the_flows_that_are_ready():
    """Without that the first batch would take a turn of each flow, and close them all."""
    d = driver(seats=2)

    started = d.fetch(A, *(flow(number, range(number, 100, 10)) for number in range(10)))

    assert len(started) == 2
    assert {cut.num_records for cut in started} == {50}


def test_free_seats_share_the_partitions_that_are_ready():
    """Both come back from a rebalance, and are ready at the same instant."""
    d = driver(order="partition", seats=2)
    d.revoking(A, B)
    d.records(A, range(10), 0)
    d.records(B, range(10), 0)

    started = d.assign(A=0, B=0)

    assert [{piece.chunk.partition for piece in cut.slices} for cut in started] == [{A}, {B}]


def test_a_failed_flow_holds_back_only_itself():
    d = driver(records_max=10)
    failing, other = d.fetch(A, flow(1, range(0, 20, 2)), flow(2, range(1, 20, 2)))

    d.fail(failing)
    d.finish(other)
    (goes_on,) = d.fetch(A, flow(1, range(20, 30, 2)), flow(2, range(21, 30, 2)))

    assert only_offsets(goes_on) == [21, 23, 25, 27, 29]
    assert d.commit()[A] == 0


def test_what_is_finished_out_of_order_is_committed_when_what_came_before_it_is():
    d = driver(records_max=10)
    first, second = d.fetch(A, flow(1, range(5)), flow(2, range(5, 10)))

    d.finish(second)
    assert d.commit()[A] == 0
    d.finish(first)

    assert d.commit()[A] == 10


def test_a_revoked_partition_leaves_a_flow_to_the_others():
    d = driver(seats=1, records_max=4)
    d.fetch(A, flow(1, range(4)))
    d.fetch(B, flow(1, range(4), B))
    d.fetch(A, flow(1, range(4, 8)))

    d.revoke(A)
    (rest,) = d.finish(d.running[0])

    assert {piece.chunk.partition for piece in rest.slices} == {B}
    assert d.counts(0)["released"] == 8
    d.finish(rest)
    assert d.running == []
    assert d.commit() == {B: 4}


def test_a_flow_starts_nothing_while_a_partition_may_go_away_and_goes_on_then():
    d = driver(seats=1)
    (busy,) = d.fetch(A, flow(1, range(4)))
    d.fetch(A, flow(1, range(4, 8)))

    d.revoking(A, B)
    assert d.finish(busy) == []
    d.commit()
    (rest,) = d.assign(A=4, B=0)

    assert only_offsets(rest) == [4, 5, 6, 7]


def test_a_failed_batch_that_loses_its_partition_does_not_keep_the_flow_closed():
    d = driver(seats=1)
    (failing,) = d.fetch(A, flow(1, [0]))
    d.fail(failing)
    assert d.fetch(B, flow(1, range(4), B)) == []

    (rest,) = [*d.revoke(A), *d.wait(0)]

    assert {piece.chunk.partition for piece in rest.slices} == {B}


def test_by_partition_flows_do_not_count():
    d = driver(seats=2, by_partition=True)

    (started,) = d.fetch(A, flow(1, range(4)), flow(2, range(4, 8)))

    assert started.num_records == 8


@pytest.mark.parametrize("order", ["key", "none"])
def test_a_tenant_with_costly_records_gets_about_the_time_that_others_get(order: str):
    """By their bytes all records cost the same; one of the first tenant takes ten times as long."""
    lanes = (Lane("only", fair_by=Key()),)
    d = EngineDriver(order=order, lanes=lanes, records_max=8)
    d.assign(A=0)
    each = 40_000
    d.fetch(A, flow(1, range(each)), flow(2, range(each, 2 * each)))
    time_ns = {1: 0, 2: 0}
    while sum(time_ns.values()) < 100 * SECOND:
        (cut,) = d.running
        for piece in cut.slices:
            spent_ns = piece.count * (10 if piece.chunk.flow == 1 else 1) * MILLISECOND
            time_ns[piece.chunk.flow] += spent_ns
            d.now_ns += spent_ns
        d.finish(cut)

    assert time_ns[1] / time_ns[2] < 3, "without correction it is 10"


def test_a_failed_batch_that_loses_its_partition_does_not_open_a_flow_that_is_in_hand():
    """What an agent sent may fail after it came back, when it has the next batch of the flow."""
    d = driver(records_max=5)
    (failing,) = d.fetch(A, flow(1, range(5)))
    d.fetch(B, flow(1, range(20), partition=B))
    (in_hand,) = d.give_back(failing)
    d.fail(failing)

    started = d.revoke(A) + d.wait(1)

    assert only_offsets(in_hand) == [0, 1, 2, 3, 4]
    assert started == []
    (next_one,) = d.finish(in_hand)
    assert only_offsets(next_one) == [5, 6, 7, 8, 9]


def test_a_batch_that_fails_after_its_partition_went_does_not_open_a_flow_that_is_in_hand():
    d = driver(records_max=5)
    (failing,) = d.fetch(A, flow(1, range(5)))
    d.fetch(B, flow(1, range(20), partition=B))
    d.give_back(failing)
    d.revoke(A)

    assert d.fail(failing) == []


def test_a_failed_batch_opens_the_flows_that_it_held_for_a_partition_that_is_gone():
    d = driver(seats=1, records_max=20)
    (first,) = d.fetch(A, flow(3, range(5)))
    d.fetch(A, flow(1, range(5, 10)))
    d.fetch(B, flow(2, [0], partition=B))
    (both,) = d.finish(first)
    d.revoke(A)
    d.fail(both)

    (goes_on,) = d.fetch(B, flow(1, range(5, 10), partition=B))

    assert only_offsets(goes_on) == [5, 6, 7, 8, 9]
