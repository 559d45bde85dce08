"""What goes wrong in a run, and when: the same seed gives the same plan."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["SESSION_S", "Plan", "Setup", "Step", "plan_of"]

Nemesis = Literal[
    "kill",  # kill -9, and back after a while
    "kill-all",
    "freeze",  # SIGSTOP, SIGCONT: shorter or longer than the session
    "terminate",  # SIGTERM, exit 0, and back after a while
    "join",
    "leave",
    "slow",  # the agent takes so long for each batch
    "outage",  # the agent says that what it needs is not there
    "wipe",  # the spill directory is deleted
    "broker",  # restarted on the same data
]

#: A member that is silent for so long is none any more.
SESSION_S: Final = 4.0

#: What happens how often, beside kills.
WEIGHTS: Final[dict[Nemesis, int]] = {
    "kill": 6, "kill-all": 1, "freeze": 3, "terminate": 2, "join": 3, "leave": 2, "slow": 2,
    "outage": 1, "wipe": 2,
}  # fmt: skip

#: Where kills are asked for, most instants are kills; an average kill of these takes 1.4 workers.
KILLING: Final[dict[Nemesis, int]] = {
    "kill": 8, "kill-all": 2, "freeze": 1, "terminate": 1, "join": 1, "leave": 1, "wipe": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that goes wrong.

    Args:
        at_s: When, from the beginning.
        what: It.
        worker: To which worker: one of those that run then, by number.
        for_s: For how long, or until it is back.
    """

    at_s: float
    what: Nemesis
    worker: int = 0
    for_s: float = 0.0

    def __str__(self) -> str:
        whom = f" worker {self.worker}" if self.what not in EVERYBODY else ""
        lasts = f", {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:6.1f} s  {self.what}{whom}{lasts}"


EVERYBODY: Final = ("kill-all", "slow", "outage", "broker", "join")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the run is of.

    Args:
        order: Of the feed.
        lanes: 1, or 2: an urgent one and one that spills, in the same partitions.
        seats: Batches of a worker at once.
        batch_records: Most in a batch.
        workers: At the beginning.
        poison_every: One of so many records makes the agent raise.
        garbage_every: One of so many cannot be decoded.
        rate_per_s: Records produced a second.
        batch_s: How long the agent takes for a batch.
        backlog_records: Produced before the first worker starts.
    """

    order: Literal["partition", "key", "none"]
    lanes: int
    seats: int
    batch_records: int
    workers: int
    poison_every: int
    garbage_every: int
    rate_per_s: int
    batch_s: float
    backlog_records: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run: what it is of, how long records are produced, and what goes wrong meanwhile."""

    seed: int
    seconds: float
    setup: Setup
    steps: tuple[Step, ...]

    @property
    def lines(self) -> list[str]:
        """Return the plan for people."""
        return [f"seed {self.seed}, {self.seconds:.0f} s: {self.setup}", *map(str, self.steps)]

    @property
    def counts(self) -> Counter[str]:
        """Return how often each thing happens."""
        return Counter(step.what for step in self.steps)


def plan_of(
    seed: int,
    *,
    seconds: float,
    workers_max: int = 3,
    every_s: float = 4.0,
    kills: bool = False,
    broker: bool = False,
) -> Plan:
    """Return the plan of a seed.

    Args:
        seconds: For how long records are produced.
        workers_max: At once.
        every_s: From one thing to the next, on average.
        kills: Most of it are kills.
        broker: It may be restarted.
    """
    rng = random.Random(f"{seed}/chaos")
    setup = setup_of(rng, workers_max)
    weights: dict[Nemesis, int] = dict(KILLING if kills else WEIGHTS)
    if broker:
        weights["broker"] = 1
    if setup.lanes == 1:
        weights.pop("wipe")
    steps: list[Step] = []
    at_s = rng.uniform(1.0, 2.0)
    while at_s < seconds:
        what = rng.choices(list(weights), list(weights.values()))[0]
        steps.append(
            Step(
                at_s=round(at_s, 2),
                what=what,
                worker=rng.randrange(workers_max),
                for_s=round(length_of(what, rng), 2),
            )
        )
        at_s += every_s * rng.uniform(0.6, 1.4)
    return Plan(seed=seed, seconds=seconds, setup=setup, steps=tuple(steps))


def setup_of(rng: random.Random, workers_max: int) -> Setup:
    """Draw what the run is of."""
    batch_records = rng.choice([20, 50, 100])
    lanes = rng.choice([1, 2])
    return Setup(
        order=rng.choice(["partition", "partition", "key", "none"]),
        lanes=lanes,
        seats=rng.choice([1, 2, 4]),
        batch_records=batch_records,
        workers=rng.randint(1, workers_max),
        poison_every=rng.choice([499, 997]),
        garbage_every=rng.choice([307, 701]),
        rate_per_s=rng.choice([400, 800]),
        batch_s=rng.choice([0.005, 0.015]),
        backlog_records=4_000 if lanes == 2 else 500,  # with two, more than memory has room for
    )


def length_of(what: Nemesis, rng: random.Random) -> float:
    """Draw how long something lasts."""
    match what:
        case "kill" | "kill-all" | "terminate":
            # At once, as by a supervisor, or so late that others have taken over.
            return rng.choice([0.0, rng.uniform(0.2, 1.5), SESSION_S * 1.3])
        case "freeze":
            return rng.choice([rng.uniform(0.3, SESSION_S / 2), SESSION_S * rng.uniform(1.2, 1.6)])
        case "slow" | "outage":
            return rng.uniform(1.0, 3.0)
        case "broker":
            return rng.uniform(0.5, 3.0)
        case _:
            return 0.0
