"""Play random short schedules to the scheduler and to its slow twin, by the million.

    python -m tests.property.schedules [--count 1000000] [--seed 1] [--processes 2]

Every result of every call must be the same, and all that can be asked at the end. A
schedule is known by its seed alone: what fails is printed with the command that plays
it again, call by call.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterator
from typing import Any

from flowguard._native.scheduler import Scheduler
from tests.model.scheduler import ModelScheduler

LANES_MAX = 4
NO_LIMIT = 2**62
ANY_MASK = 2**LANES_MAX - 1
CHUNK = 1000

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def options(chance: random.Random) -> dict[str, Any]:
    """Return what a scheduler is constructed with."""
    lanes = chance.randint(1, LANES_MAX)
    return {
        "lane_count": lanes,
        "weights": [chance.choice((1, 1, 3, 20)) for _ in range(lanes)],
        "cap": chance.choice((0.2, 0.5, 0.8, 1.0)),
        "floor": chance.choice((0.0, 0.01, 0.05)),
        "record_cost": chance.choice((1, 256, 5000)),
        "deadlines": [chance.random() < 0.3 for _ in range(lanes)],
        "demote_after_ns": [chance.choice((None, None, 0, 10, 40)) for _ in range(lanes)],
    }


def calls(chance: random.Random, lanes: int) -> Iterator[Call]:
    """Yield 10 to 30 calls; a handle is the number of its call."""
    # Mostly a few busy sub-queues: those that share a lane are of interest.
    queues = chance.choice((2, 3, 6))
    bytes_max = chance.choice((10, 2_000, 60_000, 200_000))
    exclusive, single_queue = chance.random() < 0.6, chance.random() < 0.3
    seats_max = chance.choice((1, 2, 4))
    now_ns = 0

    def slice_of(handle: int) -> tuple[int, ...]:
        return (
            chance.randrange(lanes),
            chance.randrange(queues),
            handle,
            chance.choice((1, 2, 7, 40)),
            chance.randint(0, bytes_max),
            chance.randrange(8),
            chance.choice((-1, 0, 1, 2)),
            now_ns - chance.randint(-20, 30),
        )

    for number in range(chance.randint(10, 30)):
        now_ns += chance.randrange(8)
        match chance.choices(range(10), (40, 34, 10, 3, 6, 3, 3, 1, 6, 4))[0]:
            case 0:
                yield "admit", slice_of(number), {}
            case 1:
                mask = ANY_MASK if chance.random() < 0.8 else chance.randint(0, ANY_MASK)
                room = NO_LIMIT if chance.random() < 0.6 else chance.randint(0, 3 * bytes_max)
                flags = {
                    "exclusive": exclusive,
                    "single_queue": single_queue,
                    "now_ns": now_ns,
                    "seats": chance.randint(1, seats_max),
                }
                yield "take", (mask, chance.choice((1, 5, 30, 300)), room), flags
            case 2:
                yield "open", (chance.randrange(lanes), chance.randrange(queues)), {}
            case 3:
                yield "close", (chance.randrange(lanes), chance.randrange(queues)), {}
            case 4:
                delta = chance.choice((-(2**62), -40_000, 0, 20_000, 70_000, 2**62))
                yield "correct", (chance.randrange(lanes), chance.randrange(queues), delta), {}
            case 5:
                yield "drop_owner", (chance.randrange(queues),), {}
            case 6:
                yield "drop_queue", (chance.randrange(queues),), {}
            case 7:
                yield "set_batch_records", (chance.randrange(lanes), chance.choice((1, 4, 90))), {}
            case 8:
                place = chance.randrange(lanes), chance.randrange(queues)
                room = NO_LIMIT if chance.random() < 0.5 else chance.randint(0, 2 * bytes_max)
                yield "extract", (*place, chance.choice((1, 5, 30, NO_LIMIT)), room), {}
            case 9:
                yield "put_back", slice_of(number), {}


def state(scheduler: Any, lanes: int) -> list[Any]:
    """Return everything that can be asked."""
    answers: list[Any] = [scheduler.ready_lanes()]
    for lane in range(lanes):
        answers += [
            scheduler.ready_records(lane),
            scheduler.demoted_records(lane),
            scheduler.queued_records(lane),
            scheduler.queued_bytes(lane),
            scheduler.sub_queues(lane),
            *(scheduler.head(lane, queue) for queue in range(6)),
        ]
    return answers


def differs(seed: int, *, says: bool = False) -> bool:
    """Play one schedule to both; tell whether anything differs."""
    chance = random.Random(seed)
    chosen = options(chance)
    lanes = chosen["lane_count"]
    real, model = Scheduler(**chosen), ModelScheduler(**chosen)
    if says:
        print(f"Scheduler(**{chosen})")
    for name, arguments, flags in calls(chance, lanes):
        result = getattr(real, name)(*arguments, **flags)
        wanted = getattr(model, name)(*arguments, **flags)
        if says:
            print(f"{name}{arguments} {flags or ''} -> {result}")
        if result != wanted or real.ready_lanes() != model.ready_lanes():
            if says:
                print(f"the model says {wanted}")
            return True
        if says and state(real, lanes) != state(model, lanes):
            print(f"then {state(real, lanes)}\nthe model has {state(model, lanes)}")
            return True
    return state(real, lanes) != state(model, lanes)


def failures(seeds: range) -> list[int]:
    """Return the seeds of these schedules that differ; a crash of either side counts."""
    return [seed for seed in seeds if differs(seed)]


def play(first: int, count: int, processes: int) -> list[int]:
    """Play `count` schedules and return the seeds of those that differ."""
    starts = range(first, first + count, CHUNK)
    chunks = [range(start, min(start + CHUNK, first + count)) for start in starts]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [seed for found in pool.imap(failures, chunks) for seed in found]


def main() -> None:
    """Play what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1, help="schedules are seed, seed + 1, ...")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.count == 1:
        raise SystemExit(differs(chosen.seed, says=True))

    started_s = time.perf_counter()
    found = play(chosen.seed, chosen.count, chosen.processes)
    elapsed_s = time.perf_counter() - started_s
    print(
        f"{chosen.count} schedules from seed {chosen.seed}: {len(found)} differ, {elapsed_s:.0f} s"
    )
    for seed in found[:5]:
        print(f"python -m tests.property.schedules --count 1 --seed {seed}")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
