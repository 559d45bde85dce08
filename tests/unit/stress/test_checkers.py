"""Checkers: what was lost, repeated, or is unaccounted for."""

from __future__ import annotations

import polars as pl

from flowguard.snapshot import COUNTS
from flowguard.stress.checkers import SentRun, check_delivery, ids_below, imbalances, sent_ids
from flowguard.stress.workload import record_id


def ids(*values: int) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64)


def test_everything_that_arrived_once_is_neither_lost_nor_repeated() -> None:
    delivery = check_delivery(sent=ids(1, 2, 3), must_arrive=ids(1, 2, 3), arrived=ids(3, 1, 2))

    assert (delivery.sent, delivery.arrived) == (3, 3)
    assert (delivery.lost, delivery.duplicates, delivery.unknown, delivery.waiting) == (0, 0, 0, 0)


def test_what_had_to_arrive_and_did_not_is_lost() -> None:
    delivery = check_delivery(sent=ids(1, 2, 3), must_arrive=ids(1, 2), arrived=ids(1))

    assert delivery.lost == 1
    assert delivery.waiting == 1, "3 lies above the committed offset"


def test_what_was_finished_but_not_committed_is_not_waiting() -> None:
    delivery = check_delivery(sent=ids(1, 2, 3), must_arrive=ids(1), arrived=ids(1, 2))

    assert (delivery.lost, delivery.waiting, delivery.arrived) == (0, 1, 2)


def test_repeats_are_counted_beyond_the_first() -> None:
    delivery = check_delivery(sent=ids(1, 2), must_arrive=ids(1, 2), arrived=ids(1, 2, 2, 2))

    assert (delivery.duplicates, delivery.arrived) == (2, 2)


def test_what_was_never_sent_is_unknown() -> None:
    delivery = check_delivery(sent=ids(1), must_arrive=ids(1), arrived=ids(1, 99))

    assert (delivery.unknown, delivery.arrived, delivery.lost) == (1, 1, 0)


def test_nothing_sent_is_nothing_lost() -> None:
    delivery = check_delivery(sent=sent_ids([]), must_arrive=ids_below([], {}), arrived=ids())

    assert (delivery.sent, delivery.lost, delivery.waiting) == (0, 0, 0)


def test_what_lies_below_the_committed_offset_is_found_by_partition() -> None:
    runs = [
        SentRun(partition=0, offset=0, number=0, count=3),
        SentRun(partition=0, offset=3, number=3, count=3),
        SentRun(partition=1, offset=0, number=0, count=5),
        SentRun(partition=2, offset=0, number=0, count=5),
    ]

    finished = ids_below(runs, {0: 4, 1: 5}).to_list()

    assert finished == [
        *(record_id(0, number) for number in range(4)),
        *(record_id(1, number) for number in range(5)),
    ], "a partition without a committed offset has finished nothing"


def test_offsets_count_even_where_they_are_not_the_numbers() -> None:
    repeated = SentRun(partition=0, offset=10, number=4, count=2)  # a sender that tried again

    assert ids_below([repeated], {0: 11}).to_list() == [record_id(0, 4)]


def test_counts_that_add_up_are_balanced() -> None:
    lane = dict.fromkeys(COUNTS, 1) | {"read": len(COUNTS) - 1}

    assert imbalances({"realtime": lane}) == []


def test_a_record_that_vanished_is_named_with_its_lane() -> None:
    lane = dict.fromkeys(COUNTS, 0) | {"read": 10, "settled": 9}

    [found] = imbalances({"realtime": lane})

    assert "realtime" in found
    assert "+1 of 10" in found
