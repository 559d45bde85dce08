"""The processes around a worker under test: senders, and the reader of its sink.

Each is a process of its own, so that neither a busy worker nor the live view delays an
instant that is measured. `python -m flowguard.stress.load TASK` is one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import polars as pl

from flowguard.stress.offers import Offer, Planned, flood_of_flights, warped_flights
from flowguard.stress.orders import Orders
from flowguard.stress.reader import SinkReader
from flowguard.stress.sender import Sender

__all__ = ["FlightsTask", "PlanTask", "ReadTask", "Task", "as_argument"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightsTask:
    """Send departures to a topic.

    Args:
        begin_s: When to begin, from the beginning of the run.
        seconds: When to end, from the beginning of the run.
        speed: In their real rhythm, so many times faster; 0: over and over at `per_s`.
    """

    bootstrap: str
    topic: str
    partitions: int
    seconds: float
    begin_s: float = 0.0
    speed: float = 0.0
    per_s: float = 0.0
    kind: Literal["flights"] = "flights"

    def process(self) -> Sender:
        """Load the data and return what sends it."""
        offer: Offer
        if self.speed:
            offer = warped_flights(
                speed=self.speed, seconds=self.seconds, partitions=self.partitions
            )
        else:
            offer = flood_of_flights(
                per_s=self.per_s,
                begin_s=self.begin_s,
                seconds=self.seconds,
                partitions=self.partitions,
            )
        return Sender(
            offer,
            bootstrap=self.bootstrap,
            topic=self.topic,
            partitions=self.partitions,
            urgent=bool(self.speed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTask:
    """Send what a plan says.

    Args:
        plan: Its file, as `offers.Planned` reads it.
        headers: Of all records.
        urgent: Their lane has a target.
        source: Number of this sender among those of its lane.
        key_prefix: What keys begin with.
        values: A file of values to send in turn; "" for ids and padding.
    """

    bootstrap: str
    topic: str
    partitions: int
    plan: str
    headers: dict[str, str]
    urgent: bool
    source: int
    key_prefix: str = ""
    values: str = ""
    kind: Literal["plan"] = "plan"

    def process(self) -> Sender:
        """Load the plan and return what sends it."""
        headers = [(name, value.encode()) for name, value in self.headers.items()]
        values = pl.read_ipc(self.values)["value"].to_list() if self.values else []
        offer = Planned(pl.read_ipc(self.plan), headers, key_prefix=self.key_prefix, values=values)
        return Sender(
            offer,
            bootstrap=self.bootstrap,
            topic=self.topic,
            partitions=self.partitions,
            urgent=self.urgent,
            source=self.source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTask:
    """Read topics and write what arrived to the file `result`.

    Args:
        topics: Name → partitions.
        ids: Keys are ids; else arrivals are only numbered.
        earliest: From the beginning of the topics; else from now on.
    """

    bootstrap: str
    topics: dict[str, int]
    result: str
    ids: bool = True
    earliest: bool = True
    kind: Literal["read"] = "read"

    def process(self) -> SinkReader:
        """Return what reads."""
        return SinkReader(
            bootstrap=self.bootstrap,
            topics=self.topics,
            result=self.result,
            ids=self.ids,
            earliest=self.earliest,
        )


Task = FlightsTask | PlanTask | ReadTask

TASKS: Final[dict[str, type[Task]]] = {"flights": FlightsTask, "plan": PlanTask, "read": ReadTask}


def as_argument(task: Task) -> str:
    """Return a task as a command line argument."""
    return json.dumps(asdict(task))


def from_argument(argument: str) -> Task:
    """Return the task that a command line argument holds."""
    given: dict[str, Any] = json.loads(argument)
    return TASKS[given["kind"]](**given)


async def serve(argument: str) -> None:
    """Do one task, or end when nobody listens any more."""
    orders = Orders()
    listening = asyncio.create_task(orders.listen())
    running = asyncio.create_task(from_argument(argument).process().run(orders))
    await asyncio.wait({listening, running}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if not running.done():  # the input ended: so did whoever asked
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return
    running.result()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
