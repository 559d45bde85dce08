"""Crashes and rebalances on the virtual clock, as many as you like: the real engine, in seconds.

    python -m tests.chaos.simulated 1000            # seeds 0 to 999
    python -m tests.chaos.simulated 1 --seed 417    # one of them again

Each seed draws what the worker is like and what goes wrong; the simulator's ten invariants
judge the run, and the figures are printed beside what may be: duplicates are what was in
flight, or settled and not committed, when the worker or a partition of it was lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.stress.simulator.history import Handed, History
from flowguard.stress.simulator.invariants import Checker
from flowguard.stress.simulator.world import World
from tests.simulator.small import in_full, scenario_of

__all__ = ["Allowed", "Figures", "simulate"]

#: An urgent lane beside a flood; how much there is of either is for the seed.
TABLES: Final = """
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[worker.lanes]]
name = "backfill"
overflow = "{overflow}"
[provider]
call = "500us"
record = "20us"
{provider}
[[arrivals]]
lane = "realtime"
model = "constant"
rate = 200
for = "2s"
[[arrivals]]
lane = "backfill"
model = "batch-dump"
count = {count}
keys = {kind = "hot", count = 50}
{more}
"""


class Allowed(Checker):
    """How much may be repeated: what was in flight or not committed when it was lost.

    Attributes:
        records: So many, of all losses together.
    """

    name = "allowed"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.records = 0
        self._flights: dict[int, Handed] = {}

    def started(self, batch: Handed) -> None:
        """Note that it is in flight."""
        self._flights[batch.cut.batch_id] = batch

    def failed(self, batch: Handed) -> None:
        """Nothing of it is in flight."""
        self._flights.pop(batch.cut.batch_id, None)

    settled = failed

    def restarted(self) -> None:
        """What was in flight settles no more."""
        self._flights.clear()

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """Count what was settled beyond the watermarks, or may yet be."""
        for segment in self.history.log[name].segments:
            row, end = segment.row_of(watermarks[segment.lane]), len(segment)
            self.records += end - row - self.history.settled.missing(segment, row, end)
        self.records += sum(
            span.stop - span.start
            for batch in self._flights.values()
            for span in batch.spans
            if span.segment.partition == name
        )


@dataclass(slots=True)
class Figures:
    """What came of runs.

    Attributes:
        wrong: Invariant → seeds in which it was broken.
        beyond: Seeds with more duplicates than may be.
        unfinished: Seeds in which not everything was settled and committed in the end.
    """

    runs: int = 0
    records: int = 0
    crashes: int = 0
    rebalances: int = 0
    lost: int = 0
    duplicates: int = 0
    allowed: int = 0
    dead_letters: int = 0
    wrong: dict[str, list[int]] = field(default_factory=dict)
    beyond: list[int] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Tell whether nothing went wrong."""
        return not (self.lost or self.wrong or self.beyond or self.unfinished)

    @property
    def lines(self) -> list[str]:
        """Return it for people."""
        order = len(self.wrong.get("nonmonotonic-poll", ()))
        return [
            f"{self.runs:,} runs, {self.records:,} records, {self.crashes:,} crashes, "
            f"{self.rebalances:,} rebalances, {self.dead_letters:,} dead letters",
            f"lost {self.lost}, duplicates {self.duplicates:,} of {self.allowed:,} that may be "
            f"(beyond: {len(self.beyond)} runs), order broken in {order} runs, "
            f"unfinished {len(self.unfinished)}",
            *(f"{name}: seeds {seeds[:20]}" for name, seeds in sorted(self.wrong.items())),
            *([f"more duplicates than may be: seeds {self.beyond[:20]}"] if self.beyond else []),
            *([f"not finished: seeds {self.unfinished[:20]}"] if self.unfinished else []),
            *self.said[:10],
        ]


def faults_of(rng: random.Random) -> str:
    """Draw what goes wrong: at least one crash or rebalance, at most six in all."""
    kinds = rng.choices(["crash", "crash", "rebalance", "pause"], k=rng.randint(1, 6))
    if "crash" not in kinds and "rebalance" not in kinds:
        kinds[0] = rng.choice(["crash", "rebalance"])
    return "\n".join(fault_of(kind, rng) for kind in kinds)


def fault_of(kind: str, rng: random.Random) -> str:
    """Draw when it happens, and how."""
    at_s = rng.uniform(0.01, 2.0)
    target = "group" if kind == "rebalance" else "worker"
    head = f"[[faults]]\nat = {at_s:.3f}\ntarget = '{target}'\ntype = '{kind}'\n"
    match kind:
        case "crash":
            return f"{head}restart = '{rng.choice([1, 50, 400])}ms'\n"
        case "rebalance":
            share = rng.choice([0.0, 0.3, 0.6, 1.0])
            return f"{head}for = '{rng.choice([50, 300, 800])}ms'\nshare = {share}\n"
        case _:
            return f"{head}for = '{rng.choice([100, 500])}ms'\n"


def world_of(seed: int) -> tuple[World, Allowed]:
    """Return the world of a seed, before it has run, and what counts what may be repeated."""
    rng = random.Random(f"{seed}/simulated chaos")
    errors, rejects = rng.choice([0.0, 0.0, 0.05]), rng.choice([0.0, 0.001])
    faults = faults_of(rng)
    tables = TABLES.replace("{count}", str(rng.choice([5_000, 15_000])))
    tables = tables.replace("{overflow}", rng.choice(["block", "spill:1GiB"]))
    scenario = scenario_of(
        tables, seed=seed, drain="120s", more=faults,
        provider=f"errors = {errors}\nrejects = {rejects}\njitter = 0.2",
        concurrency=rng.choice([1, 2, 4]),
        order=rng.choice(["partition", "partition", "key", "none"]),
        rule=rng.choice(["by_topic", "by_header"]), memory=rng.choice(["2MiB", "16MiB"]),
        commit=rng.choice(["100ms", "1s"]),
    )  # fmt: skip
    counters: list[Allowed] = []

    def also(history: History) -> list[Checker]:
        counters.append(Allowed(history))
        return list(counters)

    return World(scenario, also=also), counters[0]


def simulate(seed: int, figures: Figures) -> None:
    """Run a seed, and add what came of it."""
    world, allowed = world_of(seed)
    world.run()
    figures.runs += 1
    figures.records += world.plan.total
    figures.crashes += world.watch.crashes
    figures.rebalances += sum(second.rebalances for second in world.recording.seconds)
    figures.lost += sum(world.recording.lost)
    figures.dead_letters += world.recording.total("dead_letters")
    duplicates = sum(world.recording.duplicates)
    figures.duplicates += duplicates
    figures.allowed += allowed.records
    if duplicates > allowed.records:
        figures.beyond.append(seed)
    if not in_full(world):
        figures.unfinished.append(seed)
    for name in Counter(each.partition(":")[0] for each in world.watch.violations):
        figures.wrong.setdefault(name, []).append(seed)
    figures.said += [f"seed {seed}: {each}" for each in world.watch.violations]


def main() -> int:
    """Run so many seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.simulated", description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=1_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    options = parser.parse_args()
    figures, began_s = Figures(), time.monotonic()
    for seed in range(options.seed, options.seed + options.runs):
        simulate(seed, figures)
    print(*figures.lines, f"{time.monotonic() - began_s:.0f} s", sep="\n")
    return 0 if figures.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
