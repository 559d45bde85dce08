"""The demo: a year of flights beside a flood three times too big, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowguard.stress.checkers import Delivery
from flowguard.stress.live import (
    ARRIVALS_FILE,
    LaneSetup,
    LiveRun,
    Outcome,
    Phase,
    SenderSetup,
    Setup,
)
from flowguard.stress.load import FlightsTask, ReadTask
from flowguard.stress.moments import Moment, Show
from flowguard.stress.outcome import (
    broken_promises,
    crowded_out,
    delivery_of,
    lagging,
    lane_card,
)
from flowguard.stress.processes import Worker
from flowguard.stress.report import Objective, Scorecard, judge

__all__ = ["Demo", "DemoPlan"]

#: The pipeline, as it is named in `pipelines/flights.py`.
PIPELINE: Final = "pipelines.flights"
GROUP: Final = "flights"
REALTIME: Final = "realtime"
BACKFILL: Final = "backfill"
SINK: Final = "risk"

TARGET_S: Final = 0.4  # as in `pipelines/flights.py`

LANES: Final = (
    LaneSetup(name=REALTIME, topic="departures", target=TARGET_S),
    LaneSetup(name=BACKFILL, topic="rescore", must_finish=False),  # it never can
)

#: What runs the worker, as the command `flowguard` would.
RUN_WORKER: Final = (
    *("-c", "import sys; from flowguard.cli import main; sys.exit(main())"),
    *("worker", "-A", PIPELINE),
)

#: Until the last real-time records are settled, after the senders have ended.
SETTLE_WITHIN_S: Final = 10.0

#: The first records of a worker meet cold code; they say little about "unloaded".
COLD_S: Final = 2.0

MEMORY_SLACK: Final = 1.1
FLOOD_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What the demo does.

    Four calls at once, each of a quarter of the target (44 records), do 1,760 records/s: the flood
    is three times that on any machine, and two slow cores still carry it.

    Args:
        seconds: Of load, >= 5; the first quarter, 8 s at most, is real-time only.
        speed: How much faster than in 2013 departures happen; 21,600 is six hours a second.
        flood_per_s: Records a second that are to be scored again.
        partitions: Of each topic.
        call_ms: Service time of a call of the model.
        record_us: Service time of each record of a call.
    """

    seconds: float = 40.0
    speed: float = 21_600.0
    flood_per_s: float = 5_400.0
    partitions: int = 4
    call_ms: float = 12.0
    record_us: float = 2000.0

    @property
    def warm_up_s(self) -> float:
        """Return for how long there is no flood."""
        return min(8.0, self.seconds / 4)

    @property
    def flood_s(self) -> float:
        """Return for how long there is a flood."""
        return self.seconds - self.warm_up_s

    @property
    def service_time(self) -> str:
        """Return the stated service time, for people."""
        return f"{self.call_ms:g} ms a call + {self.record_us:g} µs a record, four calls at once"

    async def setup(self, bootstrap: str, directory: Path) -> Setup:
        """Return the processes that it takes."""
        realtime, backfill = LANES
        where: dict[str, Any] = {"bootstrap": bootstrap, "partitions": self.partitions}
        departures = FlightsTask(
            **where, topic=realtime.topic, seconds=self.seconds, speed=self.speed
        )
        flood = FlightsTask(
            **where, topic=backfill.topic, seconds=self.seconds, begin_s=self.warm_up_s,
            per_s=self.flood_per_s,
        )  # fmt: skip
        return Setup(
            group=GROUP,
            command=RUN_WORKER,
            environment={
                "FLIGHTS_CALL_MS": str(self.call_ms),
                "FLIGHTS_RECORD_US": str(self.record_us),
            },
            topics=dict.fromkeys((realtime.topic, backfill.topic, SINK), self.partitions),
            lanes=LANES,
            senders=(
                SenderSetup(lane=REALTIME, task=departures),
                SenderSetup(lane=BACKFILL, task=flood),
            ),
            reader=ReadTask(
                bootstrap=bootstrap,
                topics={SINK: self.partitions},
                result=str(directory / ARRIVALS_FILE),
            ),
            seconds=self.seconds,
            settle_s=SETTLE_WITHIN_S,
            phases=(
                Phase(begin_s=0, text=f"no flood yet; the model takes {self.service_time}"),
                Phase(begin_s=self.warm_up_s, text="the flood is on", disturbed=True),
            ),
        )


class Demo(LiveRun):
    """The whole demo, as long as its `async with` block.

    Args:
        plan: What it does.
        show: Where it shows itself.
    """

    def __init__(self, plan: DemoPlan, show: Show) -> None:
        super().__init__(plan.setup, show)
        self.plan = plan

    async def card(self) -> Scorecard:
        """Do it all, and return the scorecard."""
        outcome = await self.run()
        return scorecard_of(self.plan, outcome, self.worker, self.timeline)


# The scorecard.


def scorecard_of(
    plan: DemoPlan, outcome: Outcome, worker: Worker, timeline: Sequence[Moment]
) -> Scorecard:
    """Return what the run showed: latencies are those during the flood."""
    deliveries = {lane.name: delivered(lane, outcome) for lane in LANES}
    lanes = {
        lane.name: lane_card(
            lane,
            outcome,
            deliveries[lane.name],
            unloaded_s=(COLD_S, plan.warm_up_s),
            judged_s=(plan.warm_up_s, plan.seconds),
        )
        for lane in LANES
    }
    lost = sum(each.lost for each in deliveries.values())
    capacity = capacity_of(plan, timeline)
    flood = deliveries[BACKFILL].sent / plan.flood_s
    budget = worker.state["memory"]["budget"]
    objectives = [
        Objective(name="lost", limit=0, value=lost),
        Objective(name="realtime unfinished", limit=0, value=deliveries[REALTIME].waiting),
        Objective(name="realtime p99", limit=TARGET_S, value=lanes[REALTIME].p99),
        Objective(name="memory", limit=budget * MEMORY_SLACK, value=worker.peak_memory),
        Objective(name="flood factor", limit=FLOOD_FACTOR, at_least=True,
                  value=flood / capacity if capacity else None),
    ]  # fmt: skip
    result, why = judge(
        objectives,
        broken=broken_promises(outcome, deliveries, worker),
        invalid=crowded_out(outcome),
        lagging=lagging(outcome.sent),
    )
    return Scorecard(
        scenario="demo",
        result=result,
        why=why,
        offered=sum(each.sent for each in deliveries.values()),
        lost=lost,
        duplicates=sum(each.duplicates for each in deliveries.values()),
        peak_memory=worker.peak_memory,
        peak_rss=worker.peak_rss,
        peak_spill=worker.peak_spill,
        objectives=objectives,
        lanes=lanes,
        timeline=[moment.as_entry() for moment in timeline],
        notes=notes_of(plan, flood, capacity, deliveries),
    )


def delivered(lane: LaneSetup, outcome: Outcome) -> Delivery:
    """Return what became of a lane's records; the demo reads its sink."""
    delivery = delivery_of(lane, outcome)
    assert delivery is not None
    return delivery


def capacity_of(plan: DemoPlan, timeline: Sequence[Moment]) -> float | None:
    """Return what the worker settled a second while it always had something to do."""
    loaded = [moment for moment in timeline if plan.warm_up_s + 1 < moment.t < plan.seconds + 0.5]
    rates = [sum(lane.settled_per_s for lane in each.lanes.values()) for each in loaded]
    return sum(rates) / len(rates) if rates else None


def notes_of(
    plan: DemoPlan, flood: float, capacity: float | None, deliveries: Mapping[str, Delivery]
) -> list[str]:
    """Return what a reader of the table should know."""
    offered = f"{deliveries[REALTIME].sent:,} departures and {deliveries[BACKFILL].sent:,} records"
    return [
        f"{offered} of the flood were sent; the model takes {plan.service_time},",
        f"so the worker did {capacity or 0:,.0f} records/s while the flood offered {flood:,.0f}/s.",
        "Latency is from the intended instant to the arrival at a reader of the sink, during "
        "the flood.",
        "What waits in Kafka is neither lost nor finished: it lies above the committed offset.",
    ]
