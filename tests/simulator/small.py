"""Small scenarios for tests: a worker, a flood beside real-time records, and what it did."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from flowguard.commands import Cut
from flowguard.stress.scenario import Scenario, parse_scenario
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.invariants import Checker
from flowguard.stress.simulator.run import scorecard_of
from flowguard.stress.simulator.world import World

__all__ = ["BACKFILL", "FLOOD", "REALTIME", "Served", "in_full", "ran", "scenario_of"]

REALTIME, BACKFILL = 0, 1

#: Half a millisecond a batch and 20 µs a record; 60,000 records at once beside one real-time
#: record each 10 ms.
FLOOD = """
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[worker.lanes]]
name = "backfill"
[provider]
call = "500us"
record = "20us"
{provider}
[[arrivals]]
lane = "realtime"
model = "constant"
rate = 100
for = "2s"
[[arrivals]]
lane = "backfill"
model = "batch-dump"
count = 60_000
{more}
"""


def scenario_of(
    tables: str = FLOOD,
    *,
    seconds: float = 2.0,
    drain: str = "15s",
    seed: int = 1,
    provider: str = "",
    more: str = "",
    **worker: Any,
) -> Scenario:
    """Return a scenario; arguments that are not named are options of the worker."""
    options = {"concurrency": 1, "memory": "16MiB", **worker}
    written = "\n".join(f"{key} = {as_toml(value)}" for key, value in options.items())
    head = f"""
[scenario]
name = "small"
duration = {seconds}
drain = "{drain}"
seed = {seed}
[worker]
{written}
"""
    text = head + tables.replace("{provider}", provider).replace("{more}", more)
    return parse_scenario(text, file="small.toml")


def as_toml(value: Any) -> str:
    """Return a value as in TOML; dictionaries are inline tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


class Served(Checker):
    """Which batches the agent had, and for how long.

    Attributes:
        service_ns: Lane → the longest time of a batch with the agent.
        records: Lane → records that were settled.
    """

    name = "served"

    def __init__(self, history: History, now_ns: Callable[[], int]) -> None:
        super().__init__(history)
        self._now_ns = now_ns
        self.service_ns: dict[int, int] = defaultdict(int)
        self.records: dict[int, int] = defaultdict(int)

    def returned(self, batch: Handed) -> None:
        """Measure it."""
        lane, service_ns = batch.cut.lane, self._now_ns() - batch.cut.started_ns
        self.service_ns[lane] = max(self.service_ns[lane], service_ns)

    def settled(self, batch: Handed) -> None:
        """Count it."""
        self.records[batch.cut.lane] += batch.cut.num_records


def ran(scenario: Scenario, *, fails: Callable[[Cut], bool] | None = None) -> tuple[World, Served]:
    """Run a scenario; return the world as it is then, and what its agent served."""
    found: list[Served] = []

    def also(history: History) -> list[Served]:
        found.append(Served(history, lambda: world.agenda.now_ns))
        return found

    world = World(scenario, fails=fails, also=also)
    world.run()
    return world, found[0]


def in_full(world: World) -> bool:
    """Tell whether every record is settled, and everything is committed."""
    ends = {name: len(partition) for name, partition in world.log.items()}
    committed = {name: point.offset for name, point in world.broker.points.items()}
    return world.watch.ended_records == world.plan.total and committed == ends


#: Something of everything, to be run in a process of its own.
TROUBLED = """
[[faults]]
at = "300ms"
target = "worker"
type = "crash"
restart = "50ms"
[[faults]]
at = "600ms"
for = "300ms"
target = "group"
type = "rebalance"
share = 0.5
"""


if __name__ == "__main__":
    troubled = scenario_of(
        more=TROUBLED, order="none", concurrency=3, provider="errors = 0.1\njitter = 0.3"
    )
    print(json.dumps(scorecard_of(ran(troubled)[0]).as_dict()))
