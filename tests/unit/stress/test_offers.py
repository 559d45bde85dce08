"""Offers: each record once, in its partition, with an id that is its own."""

from __future__ import annotations

import json

import polars as pl
import pytest

from flowguard.stress.offers import Planned
from flowguard.stress.workload import record_id
from flowguard.units import MILLISECOND


def planned(**options: object) -> Planned:
    """Return six records over two partitions, one a millisecond; some have keys."""
    plan = pl.DataFrame(
        {
            "at_ns": [number * MILLISECOND for number in range(6)],
            "partition": [0, 1, 1, 0, 1, 0],
            "key": [-1, 7, 7, -1, 9, -1],
            "size": [200, 60, 60, 200, 100, 1],
        },
        schema={"at_ns": pl.Int64, "partition": pl.Int16, "key": pl.Int64, "size": pl.Int32},
    )
    return Planned(plan, [("fg-lane", b"realtime")], **options)  # type: ignore[arg-type]


def test_what_is_due_is_dealt_out_to_partitions_without_gap_or_repeat() -> None:
    offer = planned()

    first = [list(offer.of(partition, 0, 4)) for partition in (0, 1)]
    rest = [list(offer.of(partition, 4, 6)) for partition in (0, 1)]

    assert first == [[0, 3], [1, 2]]
    assert rest == [[5], [4]]


def test_numbers_count_within_a_partition() -> None:
    offer = planned()

    assert [offer.number(1, index) for index in (1, 2, 4)] == [0, 1, 2]


def test_a_partition_without_records_has_none() -> None:
    assert list(planned().of(3, 0, 6)) == []


def test_values_hold_the_id_and_are_as_large_as_planned() -> None:
    offer = planned()

    key, value = offer.record(0, 12345)

    assert json.loads(value)["id"] == 12345
    assert 150 < len(value) <= 200
    assert key is None


def test_a_value_is_never_too_small_for_its_id() -> None:
    _, value = planned().record(5, 2**50)

    assert json.loads(value)["id"] == 2**50


def test_keys_are_those_of_the_plan() -> None:
    offer = planned()

    assert offer.record(1, 0)[0] == offer.record(2, 0)[0] == b"key-7"


def test_a_key_prefix_is_there_even_without_a_key() -> None:
    offer = planned(key_prefix="vip-")

    assert offer.record(0, 0)[0] == b"vip-"
    assert offer.record(1, 0)[0] == b"vip-key-7"


def test_given_values_are_sent_in_turn() -> None:
    offer = planned(values=[b"one", b"two"])

    assert [offer.record(index, 0)[1] for index in range(3)] == [b"one", b"two", b"one"]


def test_it_is_due_at_the_instants_of_the_plan() -> None:
    schedule = planned().schedule

    assert schedule.total == 6
    assert schedule.due(2 * MILLISECOND + 1) == 3
    assert schedule.at_ns(5) == 5 * MILLISECOND


@pytest.mark.parametrize("other", [(1, 2, 4), (2, 2, 3), (1, 3, 3)])
def test_ids_of_other_senders_partitions_and_numbers_differ(other: tuple[int, int, int]) -> None:
    partition, number, source = other

    assert record_id(partition, number, source) != record_id(1, 2, 3)
    assert 0 <= record_id(4095, 2**40 - 1, 2**11 - 1) < 2**63
