"""The demo, live: a real broker, a real worker, real data, and a flood three times too big.

    flights ─▶ sender ─▶ departures ─┐              ┌─▶ risk ─▶ reader: latency, ids
                                     ├─▶ worker ────┤
    flights ─▶ flood  ─▶ rescore ────┘              └─▶ /api/state
                                                           │
                          this process: view, timeline, scorecard

Every box is a process of its own, started here and ended here, whatever happens. Nothing
is measured in this process, so drawing the view disturbs nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import polars as pl
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from flowguard.snapshot import COUNTS
from flowguard.stress.checkers import Delivery, SentRun, check_delivery, ids_below, sent_ids
from flowguard.stress.embedded import EmbeddedBroker
from flowguard.stress.load import ReadTask, SendTask
from flowguard.stress.processes import Child, CpuMeter, Worker
from flowguard.stress.report import LaneCard, Objective, Scorecard, judge

__all__ = ["Demo", "DemoPlan", "LaneMoment", "Moment", "Show"]

#: The pipeline, as it is named in `pipelines/flights.py`.
PIPELINE: Final = "pipelines.flights"
GROUP: Final = "flights"
REALTIME: Final = "realtime"
BACKFILL: Final = "backfill"
LANES: Final = (REALTIME, BACKFILL)
TOPIC_OF: Final = {REALTIME: "departures", BACKFILL: "rescore"}
SINK: Final = "risk"

#: What runs the worker, as the command `flowguard` would.
RUN_WORKER: Final = (
    *("-c", "import sys; from flowguard.cli import main; sys.exit(main())"),
    *("worker", "-A", PIPELINE),
)

#: Between the moment when all are ready and the first record.
LEAD_S: Final = 0.5

#: Until the last real-time records are settled, after the senders have ended.
SETTLE_WITHIN_S: Final = 10.0

#: The first records of a worker meet cold code; they say little about "unloaded".
COLD_S: Final = 2.0

#: Fewer records sent in time than this, and the senders were measured, not the worker.
KEPT_UP: Final = 0.99

#: With this share of the CPU gone to other programs, latency is theirs as much as ours.
CROWDED: Final = 0.2

MEMORY_SLACK: Final = 1.1
FLOOD_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What the demo does.

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
    flood_per_s: float = 6_000.0
    partitions: int = 4
    call_ms: float = 12.0
    record_us: float = 1000.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneMoment:
    """One lane during one second: rates per second, latencies in seconds."""

    offered_per_s: float
    settled_per_s: float
    waiting: int
    p50: float | None
    p99: float | None
    target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What there is to see, once a second; sizes in bytes."""

    t: float
    seconds: float
    flooding: bool
    lanes: Mapping[str, LaneMoment]
    memory_used: int
    memory_budget: int
    rss: int

    def as_entry(self) -> dict[str, Any]:
        """Return it as an entry of the scorecard's timeline."""
        lanes = self.lanes.items()
        return {
            "t": round(self.t, 1),
            "offered": {name: round(lane.offered_per_s, 1) for name, lane in lanes},
            "settled": {name: round(lane.settled_per_s, 1) for name, lane in lanes},
            "p99": {name: lane.p99 for name, lane in lanes},
            "memory": self.memory_used,
        }


class Show(Protocol):
    """Where the demo shows itself."""

    def say(self, text: str) -> None:
        """Show what happens now."""
        ...

    def moment(self, moment: Moment) -> None:
        """Show one second."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that is known when everything has ended."""

    begin_ms: int
    sent: Mapping[str, Mapping[str, Any]]
    committed: Mapping[str, Mapping[int, int]]
    arrivals: pl.DataFrame
    exit_code: int | None
    others_cpu: float


class Demo:
    """The whole demo, as long as its `async with` block.

    Args:
        plan: What it does.
        show: Where it shows itself.
    """

    def __init__(self, plan: DemoPlan, show: Show) -> None:
        self.plan = plan
        self.show = show
        self.timeline: list[Moment] = []
        self._before: dict[str, tuple[int, int]] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="flowguard-demo-"))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # Starting.

    async def _start(self) -> None:
        self.show.say("starting the embedded broker")
        self.broker = self._stack.enter_context(EmbeddedBroker())
        await create_topics(self.broker.bootstrap, self.plan.partitions)
        self.show.say("starting the worker, and loading the flights")
        tasks = self._tasks()
        self.senders = {name: await self._start_child(name, tasks[name]) for name in LANES}
        self.reader = await self._start_child("reader", tasks["reader"])
        self.worker = Worker(
            RUN_WORKER,
            bootstrap=self.broker.bootstrap,
            environment={
                "FLIGHTS_CALL_MS": str(self.plan.call_ms),
                "FLIGHTS_RECORD_US": str(self.plan.record_us),
            },
            directory=self._directory,
            partitions=len(TOPIC_OF) * self.plan.partitions,
        )
        self._stack.push_async_callback(self.worker.end)
        await self.worker.start()
        for child in self._children:
            await child.ready.wait()

    def _tasks(self) -> dict[str, SendTask | ReadTask]:
        plan, place = self.plan, self.broker.bootstrap
        return {
            REALTIME: SendTask(
                kind="warped", bootstrap=place, topic=TOPIC_OF[REALTIME],
                partitions=plan.partitions, seconds=plan.seconds, speed=plan.speed,
            ),
            BACKFILL: SendTask(
                kind="flood", bootstrap=place, topic=TOPIC_OF[BACKFILL],
                partitions=plan.partitions, seconds=plan.seconds, begin_s=plan.warm_up_s,
                per_s=plan.flood_per_s,
            ),
            "reader": ReadTask(
                bootstrap=place, topic=SINK, partitions=plan.partitions,
                result=str(self._directory / "arrivals.arrow"),
            ),
        }  # fmt: skip

    async def _start_child(self, name: str, task: SendTask | ReadTask) -> Child:
        child = await Child.start(name, task, self._directory / f"{name}.log")
        self._stack.push_async_callback(child.end)
        return child

    @property
    def _children(self) -> list[Child]:
        return [*self.senders.values(), self.reader]

    # Running.

    async def run(self) -> Scorecard:
        """Send, watch, drain, and return the scorecard."""
        begin_ms = int((time.time() + LEAD_S) * 1e3)
        for child in self._children:
            child.order(f"begin {begin_ms}")
        self.show.say(f"serving departures; the model takes {self.plan.service_time}")
        cpu = CpuMeter()
        await self._watch(begin_ms)
        others_cpu = cpu.taken_by_others()
        sent = {name: await sender.result() for name, sender in self.senders.items()}
        self.show.say("the senders are done: draining the worker")
        await self._settle(sent[REALTIME]["sent"])
        exit_code = await self.worker.drain()
        committed = await committed_offsets(self.broker.bootstrap)
        self.show.say("counting what arrived")
        self.reader.order("stop")
        await self.reader.result()
        return scorecard_of(
            self.plan,
            Outcome(
                begin_ms=begin_ms,
                sent=sent,
                committed=committed,
                arrivals=pl.read_ipc(self._directory / "arrivals.arrow"),
                exit_code=exit_code,
                others_cpu=others_cpu,
            ),
            self.worker,
            self.timeline,
        )

    async def _watch(self, begin_ms: int) -> None:
        """Show one moment a second until the load has ended."""
        for second in range(1, int(self.plan.seconds) + 1):
            await asyncio.sleep(max(0.0, begin_ms / 1e3 + second - time.time()))
            if not self.worker.running:
                break
            moment = self._moment(time.time() - begin_ms / 1e3)
            self.timeline.append(moment)
            self.show.moment(moment)

    def _moment(self, t: float) -> Moment:
        """Return the present state of everything."""
        elapsed = t - (self.timeline[-1].t if self.timeline else 0.0)
        memory = self.worker.state["memory"]
        return Moment(
            t=t,
            seconds=self.plan.seconds,
            flooding=t > self.plan.warm_up_s,
            lanes={name: self._lane_moment(name, elapsed) for name in LANES},
            memory_used=memory["used"],
            memory_budget=memory["budget"],
            rss=self.worker.rss,
        )

    def _lane_moment(self, name: str, elapsed: float) -> LaneMoment:
        offered = int(self.senders[name].latest.get("sent", 0))
        settled = self.worker.count(name, "settled")
        offered_before, settled_before = self._before.get(name, (0, 0))
        self._before[name] = offered, settled
        seen = self.reader.latest.get("lanes", {}).get(name, {})
        return LaneMoment(
            offered_per_s=(offered - offered_before) / elapsed,
            settled_per_s=(settled - settled_before) / elapsed,
            waiting=max(0, offered - settled),
            p50=seen.get("p50"),
            p99=seen.get("p99"),
            target=self.worker.lane(name).get("target") or TARGETS[name],
        )

    async def _settle(self, realtime_sent: int) -> None:
        """Wait until the last real-time records are settled, for a short while."""
        deadline = time.monotonic() + SETTLE_WITHIN_S
        while self.worker.count(REALTIME, "settled") < realtime_sent:
            if time.monotonic() > deadline or not self.worker.running:
                return
            await asyncio.sleep(0.05)

    async def restart_worker(self) -> None:
        """Start the worker again, to work off what waits."""
        await self.worker.start()


TARGETS: Final[Mapping[str, float | None]] = {REALTIME: 0.2, BACKFILL: None}


async def create_topics(bootstrap: str, partitions: int) -> None:
    """Create the topics of the pipeline."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = [*TOPIC_OF.values(), SINK]
        await admin.create_topics([NewTopic(name, partitions, 1) for name in names])
    finally:
        await admin.close()


async def committed_offsets(bootstrap: str) -> dict[str, dict[int, int]]:
    """Return the group's committed offset of each partition, by lane."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(GROUP)
    finally:
        await admin.close()
    return {
        name: {each.partition: at.offset for each, at in offsets.items() if each.topic == topic}
        for name, topic in TOPIC_OF.items()
    }


# The scorecard.


def scorecard_of(
    plan: DemoPlan, outcome: Outcome, worker: Worker, timeline: Sequence[Moment]
) -> Scorecard:
    """Return what the run showed."""
    deliveries = {name: delivery_of(name, outcome) for name in LANES}
    lanes = {
        name: lane_card(plan, name, outcome, deliveries[name], worker.lane(name)) for name in LANES
    }
    lost = sum(each.lost for each in deliveries.values())
    capacity = capacity_of(plan, timeline)
    flood = deliveries[BACKFILL].sent / plan.flood_s
    budget = worker.state["memory"]["budget"]
    objectives = [
        Objective(name="lost", limit=0, value=lost),
        Objective(name="realtime unfinished", limit=0, value=deliveries[REALTIME].waiting),
        Objective(name="realtime p99", limit=lanes[REALTIME].target or 0.2,
                  value=lanes[REALTIME].p99),
        Objective(name="memory", limit=budget * MEMORY_SLACK, value=worker.peak_memory),
        Objective(name="flood factor", limit=FLOOD_FACTOR, at_least=True,
                  value=flood / capacity if capacity else None),
    ]  # fmt: skip
    result, why = judge(
        objectives,
        broken=broken_promises(outcome, deliveries, worker),
        invalid=[*lagging(outcome), *crowded_out(outcome)],
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
        objectives=objectives,
        lanes=lanes,
        timeline=[moment.as_entry() for moment in timeline],
        notes=notes_of(plan, flood, capacity, deliveries),
    )


def delivery_of(name: str, outcome: Outcome) -> Delivery:
    """Return what became of a lane's records.

    What the worker committed must be in the sink. What it did not is safe in Kafka: of the
    flood it could never do all, of the departures that is an objective of its own.
    """
    runs = [SentRun(*run) for run in outcome.sent[name]["runs"]]
    sent = sent_ids(runs)
    must_arrive = ids_below(runs, outcome.committed[name])
    arrived = outcome.arrivals.filter(pl.col("lane") == name)["id"]
    return check_delivery(sent=sent, must_arrive=must_arrive, arrived=arrived)


def lane_card(
    plan: DemoPlan, name: str, outcome: Outcome, delivery: Delivery, state: Mapping[str, Any]
) -> LaneCard:
    """Return a lane's part: latencies are those during the flood."""
    arrivals = outcome.arrivals.filter(pl.col("lane") == name)
    since_s = (arrivals["timestamp_ms"] - outcome.begin_ms) / 1e3
    latency_s = arrivals["latency_ms"] / 1e3
    loaded = latency_s.filter(since_s >= plan.warm_up_s)
    unloaded = latency_s.filter((since_s >= COLD_S) & (since_s < plan.warm_up_s))
    target = TARGETS[name]
    return LaneCard(
        counts={count: int(state.get(count, 0)) for count in COUNTS},
        waiting=delivery.waiting,
        p50=quantile(loaded, 0.5),
        p99=quantile(loaded, 0.99),
        p999=quantile(loaded, 0.999),
        unloaded_p99=quantile(unloaded, 0.99),
        target=target,
        on_time=None if target is None else share_within(loaded, target),
    )


def quantile(values: pl.Series, q: float) -> float | None:
    """Return a quantile, an actual value of the series; None of nothing."""
    return values.quantile(q, interpolation="higher")


def share_within(values: pl.Series, most: float) -> float | None:
    """Return the share of values that are not above `most`; None of nothing."""
    return int((values <= most).sum()) / len(values) if len(values) else None


def capacity_of(plan: DemoPlan, timeline: Sequence[Moment]) -> float | None:
    """Return what the worker settled a second while it always had something to do."""
    loaded = [moment for moment in timeline if moment.t > plan.warm_up_s + 1]
    rates = [sum(lane.settled_per_s for lane in each.lanes.values()) for each in loaded]
    return sum(rates) / len(rates) if rates else None


def lagging(outcome: Outcome) -> list[str]:
    """Return which senders were too slow for the run to say anything."""
    found = []
    for name, sent in outcome.sent.items():
        in_time = sent["sent"] - sent["late"]
        if in_time < KEPT_UP * sent["planned"]:
            found.append(
                f"the sender of {name} sent only {in_time:,} of {sent['planned']:,} records in "
                f"time; this machine is too busy to tell"
            )
    return found


def crowded_out(outcome: Outcome) -> list[str]:
    """Return that other programs took the CPU that the run needed, if they did."""
    if outcome.others_cpu < CROWDED:
        return []
    return [f"meanwhile other programs took {outcome.others_cpu:.0%} of this machine's CPU"]


def broken_promises(
    outcome: Outcome, deliveries: Mapping[str, Delivery], worker: Worker
) -> list[str]:
    """Return what must never be, whatever the objectives say."""
    broken = [*worker.imbalances]
    broken += [
        f"{each.lost:,} records of lane {name} are lost"
        for name, each in deliveries.items()
        if each.lost
    ]
    if outcome.exit_code != 0:
        how = "had to be killed" if outcome.exit_code is None else f"exited {outcome.exit_code}"
        broken.append(f"the worker {how} instead of draining")
    broken += [
        f"lane {name}: {each.unknown:,} arrivals were never sent"
        for name, each in deliveries.items()
        if each.unknown
    ]
    broken += [error for sent in outcome.sent.values() for error in sent["failed"][:1]]
    return broken


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
