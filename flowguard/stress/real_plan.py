"""A scenario as processes: for the pipeline that it states, or for an app of the user's own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from flowguard.errors import FlowguardError
from flowguard.lanes.lane import Lane
from flowguard.stress.brief import Brief
from flowguard.stress.chance import Chance
from flowguard.stress.cluster import partitions_of
from flowguard.stress.live import ARRIVALS_FILE, LaneSetup, Phase, SenderSetup, Setup
from flowguard.stress.load import PlanTask, ReadTask
from flowguard.stress.plan import NO_KEY, Plan, plan_of
from flowguard.stress.reader import LANE_HEADER
from flowguard.stress.recorded import AGENT
from flowguard.stress.scenario import Scenario
from flowguard.stress.users_app import Address, UsersApp
from flowguard.units import SECOND

__all__ = ["OwnPipeline", "RealPlan", "UsersPipeline"]

RUN_WORKER: Final = (
    *("-c", "import sys; from flowguard.cli import main; sys.exit(main())"),
    *("worker", "-A"),
)
PIPELINE: Final = "flowguard.stress.pipeline:app"

#: What one process sends in a second without being late, on a core that it shares.
SENDER_PER_S_MAX: Final = 20_000


class RealPlan(Protocol):
    """What a real run needs of whatever is under test."""

    scenario: Scenario
    records: Plan
    agent: str

    async def setup(self, bootstrap: str, directory: Path) -> Setup:
        """Return the processes that it takes; all records are planned before one is sent."""
        ...


class OwnPipeline:
    """The pipeline that the scenario states, in a group and with topics that are nobody else's."""

    agent: str = AGENT

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.records = plan_of(scenario, Chance(scenario.seed))
        name = f"flowguard-stress-{uuid.uuid4().hex[:8]}"
        self.brief = Brief(scenario=scenario, group=name, prefix=f"{name}-")

    async def setup(self, bootstrap: str, directory: Path) -> Setup:
        """Return the processes that it takes."""
        scenario, brief = self.scenario, self.brief
        brief.write(directory)
        partitions = scenario.worker.partitions
        names = [*(brief.prefix + topic for topic in scenario.topics), brief.sink,
                 f"{brief.group}.dlq", *diverted_to(scenario)]  # fmt: skip
        topics = dict.fromkeys(names, partitions)
        addresses = {
            each.lane: Address(
                topic=brief.prefix + scenario.topic_of(each), headers={LANE_HEADER: each.lane}
            )
            for each in scenario.arrivals
        }
        lanes = lanes_of(scenario, addresses, {each.name: each for each in scenario.worker.lanes})
        return Setup(
            group=brief.group,
            command=(*RUN_WORKER, PIPELINE),
            environment={},
            topics=topics,
            lanes=lanes,
            senders=Senders(scenario, self.records, bootstrap, directory).of(
                lanes, addresses, topics
            ),
            reader=ReadTask(
                bootstrap=bootstrap,
                topics={brief.sink: partitions},
                result=str(directory / ARRIVALS_FILE),
            ),
            seconds=scenario.duration_ns / SECOND,
            settle_s=scenario.drain_ns / SECOND,
            phases=phases_of(scenario),
        )


class UsersPipeline:
    """An app of the user's, in its own group and with its own topics.

    Args:
        found: The app.
        embedded: The broker is the embedded one, so its topics are made here.
    """

    def __init__(self, scenario: Scenario, found: UsersApp, *, embedded: bool) -> None:
        self.scenario = scenario
        self.records = plan_of(scenario, Chance(scenario.seed))
        self.found = found
        self.embedded = embedded
        self.agent = found.agent

    async def setup(self, bootstrap: str, directory: Path) -> Setup:
        """Return the processes that it takes.

        Raises:
            FlowguardError: A topic of the app does not exist.
        """
        scenario, found = self.scenario, self.found
        if self.embedded:
            topics = dict.fromkeys(found.topics, scenario.worker.partitions)
        else:
            topics = await partitions_of(bootstrap, found.topics)
            for topic in found.app.runtime.declared.feeds:
                if topic not in topics:
                    raise FlowguardError(
                        f"topic {topic!r} of {found.spec} does not exist at {bootstrap}, and "
                        f"nothing was started; create it"
                    )
        lanes = lanes_of(scenario, found.addresses, found.lanes)
        sinks = {topic: topics[topic] for topic in found.sinks if topic in topics}
        senders = Senders(scenario, self.records, bootstrap, directory)
        for topic in {each.topic for each in found.addresses.values()}:
            senders.use_values(topic, found.values(topic, scenario.seed))
        reader = ReadTask(
            bootstrap=bootstrap,
            topics=sinks,
            result=str(directory / ARRIVALS_FILE),
            ids=False,
            earliest=False,
        )
        return Setup(
            group=found.group,
            command=(*RUN_WORKER, found.spec),
            environment={},
            topics=topics,
            lanes=lanes,
            senders=senders.of(lanes, found.addresses, topics),
            reader=reader if sinks else None,
            seconds=scenario.duration_ns / SECOND,
            settle_s=scenario.drain_ns / SECOND,
            phases=phases_of(scenario),
            read=tuple(found.app.runtime.declared.feeds),
            keep_topics=not self.embedded,
            worker_directory=Path(os.getcwd()),
        )


def diverted_to(scenario: Scenario) -> set[str]:
    """Return the topics that lanes divert to, which nothing else names."""
    policies: list[object] = []
    for lane in scenario.worker.lanes:
        given: object = lane.overflow
        policies += given if isinstance(given, (list, tuple)) else [given]
    return {str(topic) for each in policies if (topic := getattr(each, "topic", None))}


def lanes_of(
    scenario: Scenario, addresses: Mapping[str, Address], lanes: Mapping[str, Lane]
) -> list[LaneSetup]:
    """Return the lanes that records are sent to, highest first."""
    return [
        LaneSetup(name=name, topic=addresses[name].topic, target=lane.target)
        for name, lane in lanes.items()
        if name in addresses
    ]


def phases_of(scenario: Scenario) -> tuple[Phase, ...]:
    """Return what goes on when, for people."""
    doing = Phase(
        begin_s=scenario.warmup_ns / SECOND,
        text=scenario.about or scenario.name,
        disturbed=True,
    )
    return (Phase(begin_s=0, text="warming up"), doing) if scenario.warmup_ns else (doing,)


@dataclass(slots=True)
class Senders:
    """Makes the senders of a plan; what they send lies in files of the run."""

    scenario: Scenario
    records: Plan
    bootstrap: str
    directory: Path
    _values: dict[str, str] = field(default_factory=dict)

    def use_values(self, topic: str, values: Sequence[bytes]) -> None:
        """Send these values to a topic, in turn."""
        file = self.directory / f"values-{len(self._values)}.arrow"
        pl.DataFrame({"value": values}, schema={"value": pl.Binary}).write_ipc(file)
        self._values[topic] = str(file)

    def of(
        self,
        lanes: Sequence[LaneSetup],
        addresses: Mapping[str, Address],
        topics: Mapping[str, int],
    ) -> list[SenderSetup]:
        """Return what sends to these lanes.

        Args:
            topics: With their partitions.
        """
        return [
            SenderSetup(lane=lane.name, task=self._task(lane, source, part, address, partitions))
            for lane in lanes
            for address in [addresses[lane.name]]
            for partitions in [topics[address.topic]]
            for source, part in enumerate(shared_out(self._frame(lane.name, partitions)))
        ]

    def _frame(self, lane: str, partitions: int) -> pl.DataFrame:
        """Return all records of a lane, in the partitions that there really are."""
        rank = self.scenario.worker.lane_names.index(lane)
        frames = [frame.filter(pl.col("lane") == rank) for frame in self.records.topics.values()]
        frame = pl.concat(frames).sort("at_ns", maintain_order=True)
        if partitions == self.scenario.worker.partitions:
            return frame
        turn = pl.int_range(pl.len())
        at = pl.when(pl.col("key") == NO_KEY).then(turn).otherwise(pl.col("key"))
        return frame.with_columns((at % partitions).cast(pl.Int16).alias("partition"))

    def _task(
        self, lane: LaneSetup, source: int, part: pl.DataFrame, address: Address, partitions: int
    ) -> PlanTask:
        file = self.directory / f"plan-{lane.name}-{source}.arrow"
        part.write_ipc(file)
        return PlanTask(
            bootstrap=self.bootstrap,
            topic=address.topic,
            partitions=partitions,
            plan=str(file),
            headers=dict(address.headers),
            urgent=lane.target is not None,
            source=source,
            key_prefix=address.key_prefix,
            values=self._values.get(address.topic, ""),
        )


def shared_out(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the records of a lane, dealt out to as many senders as the rush needs."""
    by_second = frame.group_by(pl.col("at_ns") // SECOND).len()["len"].to_list()
    count = max(1, -(-max(by_second, default=0) // SENDER_PER_S_MAX))
    return [frame.gather_every(count, offset) for offset in range(count)]
