"""How soon the records of a topic are wanted, by the lanes that they may have."""

from __future__ import annotations

from typing import Any

import pytest

import flowguard as fg
from flowguard.declared import Declared
from flowguard.intake.cursors import Haste, PartitionPlan
from flowguard.lanes.lane_set import LaneSet

TIGHT = fg.Lane("tight", target="25ms")
EASY = fg.Lane("easy", target="1s")
BULK = fg.Lane("bulk")


def plans_of(**topics: fg.Lane) -> dict[str, PartitionPlan]:
    app = fg.App("shop", lanes=[TIGHT, EASY, BULK])
    feed = app.feed(*topics, codec="raw", lanes=fg.by_topic(topics, default=BULK))

    @app.agent(feed)
    async def work(batches: Any) -> None:
        async for _ in batches:
            pass

    return Declared(app, LaneSet((TIGHT, EASY, BULK))).partition_plans


def test_topics_are_asked_for_as_soon_as_their_lanes_have_to_have_them() -> None:
    plans = plans_of(alerts=TIGHT, hints=EASY, backfill=BULK)

    assert [plans[each].haste for each in ("alerts", "hints", "backfill")] == [
        Haste.MOST, Haste.SOME, Haste.NONE,
    ]  # fmt: skip


def test_where_few_records_come_at_a_time_requests_are_a_sixteenth_of_the_target_apart() -> None:
    plans = plans_of(alerts=TIGHT, hints=EASY, backfill=BULK)

    assert plans["alerts"].pace_s == pytest.approx(0.025 / 16)
    assert plans["hints"].pace_s == pytest.approx(0.020), "and never more than that"
    assert plans["backfill"].pace_s == pytest.approx(0.005), "nobody said that it has time"
