"""Small runs of the real engine on a virtual clock; a second of them takes milliseconds.

Replay one: `pytest tests/simulator/test_small_run.py -k 'seed_7'`.
"""

from __future__ import annotations

import random

import pytest

from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Shed
from flowguard.units import MIB, MILLISECOND, SECOND
from tests.simulator.world import World

REALTIME, BACKFILL = 0, 1
LANES = (Lane("realtime", target="50ms"), Lane("backfill"))


def work(lane: int, records: int) -> int:
    """Half a millisecond a batch and 20 µs a record."""
    return 500_000 + 20_000 * records


def flooded(**options: object) -> World:
    """A backlog of 60,000 records beside one real-time record each 10 ms."""
    made = World(LANES, service=work, **options)  # type: ignore[arg-type]
    for partition in range(3):
        made.produce(partition, BACKFILL, 20_000)
    made.produce_every(10 * MILLISECOND, partition=3, lane=REALTIME, until_ns=2 * SECOND)
    return made


@pytest.mark.parametrize("seats", [1, 2, 4])
def test_a_realtime_record_waits_for_at_most_one_lower_batch_a_seat(seats: int):
    world = flooded(seats=seats)

    seen = world.run(2 * SECOND)

    assert len(seen.waits_ns[REALTIME]) >= 150
    assert max(seen.waits_ns[REALTIME]) <= seen.service_ns_max[BACKFILL]


def test_lower_batches_hold_a_seat_for_a_quarter_of_the_target_once_that_is_learned():
    seen = flooded(records_max=4096).run(2 * SECOND)

    assert seen.service_ns_max[BACKFILL] <= 50 * MILLISECOND // 4


def test_realtime_keeps_its_target_beside_a_flood():
    seen = flooded().run(2 * SECOND)

    assert seen.percentile_ns(REALTIME, 99) <= 50 * MILLISECOND


@pytest.mark.parametrize("seed", [1, 7])
def test_realtime_keeps_its_target_in_partitions_that_a_lower_lane_floods_if_that_may_shed(
    seed: int,
):
    lanes = (Lane("realtime", target="50ms"), Lane("hints", overflow=Shed()))
    world = World(lanes, service=work, seats=2, memory_bytes=4 * MIB, seed=seed)
    for partition in range(4):
        world.produce_every(10 * MILLISECOND, partition=partition, lane=0, until_ns=SECOND)
        world.produce_every(
            MILLISECOND, partition=partition, lane=1, until_ns=SECOND // 2, count=100
        )

    seen = world.run(2 * SECOND)

    realtime, hints = (book.counts for book in world.engine.books)
    assert seen.percentile_ns(REALTIME, 99) <= 25 * MILLISECOND
    assert (realtime.read, realtime.settled) == (400, 400)
    assert hints.read == hints.settled + hints.shed == 200_000
    possible = 2 * (SECOND // 2) * 1000 // work(1, 1000)  # by two seats while the flood lasts
    assert hints.settled >= 0.8 * possible
    assert seen.peak_bytes <= 4 * MIB


def test_the_flood_gets_all_that_realtime_leaves():
    seen = flooded().run(SECOND)

    busy_ns = seen.served[BACKFILL] * work(BACKFILL, 400) / 400
    assert busy_ns >= 0.85 * SECOND


def test_backfill_keeps_its_floor_when_realtime_is_infinite():
    world = World(LANES, service=work, order="none", records_max=64)
    world.produce(0, REALTIME, 100_000)
    world.produce(1, BACKFILL, 100_000)

    seen = world.run(2 * SECOND)

    share = seen.served[BACKFILL] / (seen.served[BACKFILL] + seen.served[REALTIME])
    assert 0.05 <= share <= 0.25


def test_everything_is_settled_once_and_committed_at_the_end():
    world = flooded()

    seen = world.run(10 * SECOND)

    assert world.lost() == 0
    assert seen.duplicates == 0
    assert world.committed == {name: len(world.log[name]) for name in world.names}
    assert world.memory.used_bytes == 0


def test_memory_stays_in_its_budget_whatever_waits():
    world = World(LANES, service=lambda lane, records: SECOND, memory_bytes=MIB)
    for partition in range(4):
        world.produce(partition, BACKFILL, 50_000)

    seen = world.run(5 * SECOND)

    assert MIB // 4 < seen.peak_bytes <= MIB


@pytest.mark.parametrize("seed", range(10), ids="seed_{}".format)
def test_a_crash_loses_nothing_and_repeats_only_what_was_not_committed(seed: int):
    print(f"seed {seed}")
    rng = random.Random(seed)
    world = flooded(
        seed=seed, seats=rng.choice([1, 3]), order="partition" if rng.random() < 0.7 else "none"
    )
    for _ in range(3):
        crash_ns = rng.randrange(2 * SECOND)
        world.at(crash_ns, world.crash)

    seen = world.run(15 * SECOND)

    assert world.lost() == 0
    assert seen.crashes == 3
    assert seen.duplicates <= world.settled_since_commit_max * seen.crashes
    assert world.committed == {name: len(world.log[name]) for name in world.names}


@pytest.mark.parametrize("seed", range(5), ids="seed_{}".format)
def test_batches_that_fail_now_and_then_are_settled_in_the_end(seed: int):
    print(f"seed {seed}")
    world = World(
        LANES,
        service=work,
        fails=lambda rng, cut: rng.random() < 0.3,
        seed=seed,
        seats=2,
    )
    for partition in range(4):
        world.produce(partition, BACKFILL, 1_000)
    world.produce_every(20 * MILLISECOND, partition=3, lane=REALTIME, until_ns=SECOND)

    seen = world.run(120 * SECOND)

    assert world.lost() == 0
    assert seen.duplicates == 0


def test_a_partition_whose_batches_always_fail_stops_no_other():
    world = World(
        LANES,
        service=work,
        fails=lambda rng, cut: any(p.chunk.partition.partition == 0 for p in cut.slices),
        records_max=64,
    )
    for partition in range(3):
        world.produce(partition, BACKFILL, 1_000)

    seen = world.run(30 * SECOND)

    reached = {name.partition: sum(1 for n, _ in seen.settled if n == name) for name in world.names}
    assert reached[1] == reached[2] == 1_000
    assert world.committed[world.names[0]] == 0


def test_the_same_seed_gives_the_same_run():
    def run() -> object:
        world = flooded(seed=3, fails=lambda rng, cut: rng.random() < 0.1)
        world.at(SECOND // 2, world.crash)
        return world.run(SECOND)

    assert run() == run()
