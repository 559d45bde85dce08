"""What the outcome of a live run says: what is lost, who lagged, what was broken."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from flowguard.snapshot import COUNTS
from flowguard.stress.live import LaneSetup, Outcome
from flowguard.stress.outcome import crowded_out, delivery_of, lagging, lane_card
from flowguard.stress.workload import record_id

LANE = LaneSetup(name="realtime", topic="t", target=0.05)


def sender(**known: Any) -> dict[str, Any]:
    """Return what a sender of ten records says."""
    return {"planned": 10, "sent": 10, "late": 0, "runs": [(0, 100, 0, 10, 0)], "failed": [],
            **known}  # fmt: skip


def arrivals(*ids: int, latency_ms: float = 10.0) -> pl.DataFrame:
    """Return arrivals of records that were due one a second."""
    return pl.DataFrame(
        {
            "lane": ["realtime"] * len(ids),
            "id": list(ids),
            "latency_ms": [latency_ms] * len(ids),
            "timestamp_ms": [1_000 * (each % 100) for each in ids],
        },
        schema={"lane": pl.String, "id": pl.Int64, "latency_ms": pl.Float64,
                "timestamp_ms": pl.Int64},
    )  # fmt: skip


def outcome(**known: Any) -> Outcome:
    """Return the outcome of a run in which all went well."""
    given: dict[str, Any] = {
        "begin_ms": 0,
        "sent": {"realtime": [sender()]},
        "committed": {"t": {0: 110}},
        "arrivals": arrivals(*range(10)),
        "ids": True,
        "counts": {"realtime": {**dict.fromkeys(COUNTS, 0), "read": 10, "settled": 10}},
        "exit_code": 0,
        "others_cpu": 0.0,
    }
    return Outcome(**{**given, **known})


def test_what_was_committed_and_arrived_is_neither_lost_nor_waiting() -> None:
    delivery = delivery_of(LANE, outcome())

    assert delivery is not None
    assert (delivery.sent, delivery.arrived, delivery.lost, delivery.waiting) == (10, 10, 0, 0)


def test_what_was_committed_and_did_not_arrive_is_lost() -> None:
    delivery = delivery_of(LANE, outcome(arrivals=arrivals(*range(8))))

    assert delivery is not None and delivery.lost == 2


def test_what_was_not_committed_waits() -> None:
    delivery = delivery_of(LANE, outcome(committed={}, arrivals=arrivals(*range(8))))

    assert delivery is not None
    assert (delivery.lost, delivery.waiting) == (0, 2)


def test_what_the_worker_says_it_shed_is_not_lost() -> None:
    counts = {"realtime": {**dict.fromkeys(COUNTS, 0), "shed": 1, "expired": 1}}

    delivery = delivery_of(LANE, outcome(arrivals=arrivals(*range(7)), counts=counts))

    assert delivery is not None and delivery.lost == 1


def test_records_of_two_senders_are_told_apart() -> None:
    first = sender()
    second = sender(runs=[(0, 110, 0, 10, 1)])
    ids = [*range(10), *(record_id(0, number, 1) for number in range(9))]
    found = outcome(
        sent={"realtime": [first, second]}, committed={"t": {0: 120}}, arrivals=arrivals(*ids)
    )

    delivery = delivery_of(LANE, found)

    assert delivery is not None
    assert (delivery.sent, delivery.lost, delivery.duplicates) == (20, 1, 0)


def test_where_records_are_not_known_again_nothing_is_said_of_delivery() -> None:
    assert delivery_of(LANE, outcome(ids=False)) is None
    assert delivery_of(LANE, outcome(arrivals=None)) is None


def test_latency_is_that_of_the_judged_time() -> None:
    late = pl.concat([arrivals(*range(5)), arrivals(*range(5, 10), latency_ms=80.0)])

    card = lane_card(
        LANE, outcome(arrivals=late), None, unloaded_s=(0.0, 5.0), judged_s=(5.0, 10.0)
    )

    assert (card.p50, card.unloaded_p99, card.on_time) == (0.08, 0.01, 0.0)


def test_without_arrivals_latency_is_unknown() -> None:
    card = lane_card(LANE, outcome(arrivals=None), None, unloaded_s=None, judged_s=(0.0, 10.0))

    assert (card.p99, card.unloaded_p99, card.on_time) == (None, None, None)


@pytest.mark.parametrize(
    ("known", "lags"),
    [({}, False), ({"sent": 9}, True), ({"late": 1}, True)],
)
def test_a_sender_that_missed_more_than_one_in_a_hundred_lags(
    known: dict[str, Any], lags: bool
) -> None:
    found = lagging({"realtime": [sender(**known)]})

    assert bool(found) is lags
    assert all("too busy" in each for each in found)


def test_several_senders_of_a_lane_are_judged_together() -> None:
    many = sender(planned=1_000, sent=1_000)

    assert not lagging({"realtime": [many, sender(late=5)]})


def test_other_programs_are_named_when_they_took_much() -> None:
    assert crowded_out(outcome(others_cpu=0.1)) == []
    assert "60%" in crowded_out(outcome(others_cpu=0.6))[0]
