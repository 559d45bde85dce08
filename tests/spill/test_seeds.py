"""A worker on a disk that crashes and fails at random: nothing lost, little twice, ever.

pytest tests/spill/test_seeds.py                        # 500 seeds
pytest tests/spill/test_seeds.py -m slow                # 12,000
python -m tests.spill.test_seeds 4711                   # one, to see what it does
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from tests.spill.crash_disk import NEVER, Crash
from tests.spill.worker import LANES, PLACES, World

STEPS = 80
SHARDS = 10


@dataclass
class Seen:
    """What happened over many seeds, so that it is known that something did."""

    crashes: int = 0
    faults: int = 0
    reused: int = 0
    refetched: int = 0
    repeated: int = 0


def run(seed: int, seen: Seen, *, steps: int = STEPS) -> None:
    """Let things happen that follow from a seed, then settle accounts."""
    world = World(seed)
    random = world.random
    for _ in range(steps):
        try:
            step(world)
            world.worker.check()
        except Crash:
            restart(world, random.choice(["kill", "power"]))
    while True:
        try:
            world.end()
            break
        except Crash:
            restart(world, "kill")
    seen.crashes += world.crashes
    seen.faults += world.faults
    seen.reused += world.reused + world.worker.reused
    seen.refetched += world.refetched + world.worker.refetched
    seen.repeated += world.log.repeated


def restart(world: World, how: str) -> None:
    """Start again, as often as starting itself crashes."""
    while True:
        world.disk.crash_at = NEVER
        world.restart(how)
        if world.random.random() < 0.2:
            world.log.recreate(world.random.choice(PLACES))
        elif world.random.random() < 0.1:
            place = world.random.choice(PLACES)
            world.log.move(place, world.random.randrange(world.log.ends[place] + 1))
        if world.random.random() < 0.3:
            world.flip()
        if world.random.random() < 0.2:
            world.disk.crash_at = world.disk.ops + world.random.randrange(1, 60)
        try:
            world.worker = world.start()
            return
        except Crash:
            how = world.random.choice(["kill", "power"])


def step(world: World) -> None:
    """Do one thing."""
    random, worker = world.random, world.worker
    place, lane = random.choice(PLACES), random.choice(LANES)
    if place not in worker.positions:
        if random.random() < 0.5:
            world.elsewhere(place, random.randrange(30))
        worker.assign(place)
    match random.randrange(20):
        case 0 | 1 | 2:
            world.produce(place, random.randrange(20, 120))
        case 3 | 4 | 5:
            worker.fetch(place, random.randrange(10, 60))
        case 6 | 7 | 8 | 9:
            worker.spill(place, random.choice(LANES[1:]))
            worker.spill(place, random.choice(LANES[1:]))
        case 10 | 11:
            worker.load(place, lane)
        case 12 | 13:
            worker.deliver(place, lane, random.randrange(1, 20))
        case 14:
            worker.commit(place)
        case 15:
            worker.revoke(place, commit=random.random() < 0.7)
        case 16:
            world.clock.move(random.choice([0.1, 1, 11, 31, 700]))
            worker.store.upkeep()
        case 17:
            world.fault() if random.random() < 0.6 else world.heal()
        case 18:
            world.disk.crash_at = world.disk.ops + random.randrange(1, 40)
        case 19 if random.random() < 0.3:
            restart(world, random.choice(["close", "kill", "power"]))


def run_all(seeds: range) -> Seen:
    seen = Seen()
    for seed in seeds:
        try:
            run(seed, seen)
        except BaseException as error:
            error.add_note(f"replay with: python -m tests.spill.test_seeds {seed}")
            raise
    return seen


@pytest.mark.parametrize("shard", range(SHARDS))
def test_500_seeds_lose_nothing(shard: int) -> None:
    seen = run_all(range(50 * shard, 50 * (shard + 1)))

    assert seen.crashes > 40 and seen.faults > 40
    assert seen.reused > 20 and seen.refetched > 0  # so both ways back were gone


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_12000_seeds_lose_nothing(shard: int) -> None:
    run_all(range(1200 * shard + 1000, 1200 * (shard + 1) + 1000))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        found = Seen()
        run(int(argument), found)
        print(argument, found)
