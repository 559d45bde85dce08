"""Small runs of the real engine on a virtual clock; a second of them takes milliseconds.

Replay one: `pytest tests/simulator/test_small_run.py -k 'seed_7'`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from flowguard.chunk import TopicPartition
from flowguard.stress.simulator.run import scorecard_of
from flowguard.units import KIB, MIB, MILLISECOND
from tests.simulator.small import BACKFILL, REALTIME, in_full, ran, scenario_of

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seats", [1, 2, 4])
def test_a_realtime_record_waits_for_at_most_one_lower_batch_a_seat(seats: int):
    world, served = ran(scenario_of(concurrency=seats))

    assert world.watch.violations == []
    slowest_ms = world.recording.latency(REALTIME, 0, 2).percentile(100)
    # What it waits for, its own batch, a fetch with its pace, and the acknowledgement.
    assert slowest_ms <= served.service_ns[BACKFILL] // MILLISECOND + 12


def test_lower_batches_hold_a_seat_for_a_quarter_of_the_target_once_that_is_learned():
    _, served = ran(scenario_of(seconds=2))

    assert served.service_ns[BACKFILL] <= 50 * MILLISECOND // 4


def test_realtime_keeps_its_target_beside_a_flood():
    world, _ = ran(scenario_of())

    assert world.recording.latency(REALTIME, 0, 2).percentile(99) <= 50


#: A lane that may shed floods the partitions of a real-time one: 200,000 records in half a second.
HINTS = """
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[worker.lanes]]
name = "hints"
overflow = "shed"
[provider]
call = "500us"
record = "20us"
[[arrivals]]
lane = "realtime"
model = "constant"
rate = 400
for = "1s"
[[arrivals]]
lane = "hints"
model = "constant"
rate = "400k/s"
for = "500ms"
"""


@pytest.mark.parametrize("seed", [1, 7])
def test_realtime_keeps_its_target_in_partitions_that_a_lower_lane_floods_if_that_may_shed(
    seed: int,
):
    scenario = scenario_of(HINTS, rule="by_header", concurrency=2, memory="4MiB", seed=seed)

    world, _ = ran(scenario)

    realtime, hints = scorecard_of(world).lanes.values()
    assert world.recording.latency(REALTIME, 0, 2).percentile(99) <= 25
    assert realtime.counts["settled"] == realtime.counts["read"]
    assert hints.counts["read"] == hints.counts["settled"] + hints.counts["shed"]
    assert hints.counts["shed"] > 0
    # Batches of a quarter of the target: two seats for half a second, 20 µs a record and a call.
    possible = 2 * 500_000_000 * 600 // (500_000 + 20_000 * 600)
    assert hints.counts["settled"] >= 0.75 * possible


def test_the_flood_gets_all_that_realtime_leaves():
    world, _ = ran(scenario_of())

    settled = world.recording.seconds[0].lanes[BACKFILL].counts["settled"]
    assert settled * 20.5e-6 >= 0.85


def test_backfill_keeps_its_floor_when_realtime_is_infinite():
    dump = '[[arrivals]]\nlane = "realtime"\nmodel = "batch-dump"\ncount = 100_000'

    world, served = ran(scenario_of(order="none", batch={"max": 64}, more=dump, drain="0s"))

    share = served.records[BACKFILL] / (served.records[BACKFILL] + served.records[REALTIME])
    assert world.watch.violations == []
    assert 0.05 <= share <= 0.25


@pytest.mark.parametrize("order", ["partition", "key", "none"])
@pytest.mark.parametrize("rule", ["by_topic", "by_header"])
def test_everything_is_settled_once_and_committed_at_the_end(order: str, rule: str):
    world, _ = ran(scenario_of(order=order, rule=rule, concurrency=3))

    assert world.watch.violations == []
    assert in_full(world)
    assert sum(world.recording.duplicates) == sum(world.recording.lost) == 0
    assert world.worker.memory.held_bytes == 0


def test_keys_of_one_lane_have_fair_shares():
    hot = '[[arrivals]]\nlane = "realtime"\nmodel = "poisson"\nrate = "5k/s"\n'
    hot += 'keys = {kind = "hot", count = 200}'

    world, _ = ran(scenario_of(order="key", concurrency=4, more=hot))

    assert world.watch.violations == []
    assert in_full(world)


@pytest.mark.parametrize("size", ["200", "100KiB"])
def test_memory_stays_in_its_budget_whatever_waits(size: str):
    dump = f'[[arrivals]]\nlane = "backfill"\nmodel = "batch-dump"\ncount = 5_000\nsize = "{size}"'

    world, _ = ran(scenario_of(provider="jitter = 0.1", memory="2MiB", more=dump, drain="0s"))

    assert world.watch.violations == []
    assert 200 * KIB < world.watch.peak_bytes <= 2 * MIB


#: More of a lane than memory has room for, before urgent records of the same partitions.
SPILLED = """
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[worker.lanes]]
name = "bulk"
overflow = "OVERFLOW"
[provider]
call = "500us"
record = "20us"
[[arrivals]]
lane = "realtime"
model = "constant"
rate = 100
for = "2s"
[[arrivals]]
lane = "bulk"
model = "batch-dump"
count = 40_000
"""


def test_the_scorecard_tells_the_most_that_was_on_disk():
    tables = SPILLED.replace("OVERFLOW", "spill:1GiB")

    world, _ = ran(scenario_of(tables, rule="by_header", memory="4MiB"))

    card = scorecard_of(world)
    assert world.watch.violations == []
    assert card.peak_spill == world.watch.peak_spill_bytes > MIB
    assert world.worker.disk.used_bytes == 0
    assert card.lanes["bulk"].counts["settled"] == 40_000


def test_without_lanes_that_spill_nothing_is_on_disk():
    tables = SPILLED.replace("OVERFLOW", "block")

    world, _ = ran(scenario_of(tables, rule="by_header", memory="4MiB"))

    assert scorecard_of(world).peak_spill == 0


@pytest.mark.parametrize("seed", range(10), ids="seed_{}".format)
def test_a_crash_loses_nothing_and_repeats_only_what_was_not_committed(seed: int):
    print(f"seed {seed}")
    rng = random.Random(seed)
    crashes = "".join(
        f"[[faults]]\nat={rng.random() * 2:.3f}\ntarget='worker'\ntype='crash'\nrestart='50ms'\n"
        for _ in range(3)
    )

    world, _ = ran(
        scenario_of(
            seed=seed, concurrency=rng.choice([1, 3]),
            order=rng.choice(["partition", "partition", "key", "none"]), more=crashes,
        )
    )  # fmt: skip

    assert world.watch.violations == []
    assert in_full(world)


@pytest.mark.parametrize("seed", range(10), ids="seed_{}".format)
def test_a_rebalance_loses_nothing_and_stops_nothing(seed: int):
    print(f"seed {seed}")
    rng = random.Random(seed)
    faults = "".join(
        f"[[faults]]\nat={rng.random() * 2:.3f}\nfor='300ms'\ntarget='group'\ntype='rebalance'\n"
        f"share={rng.choice([0.0, 0.3, 1.0])}\n"
        for _ in range(3)
    )

    world, _ = ran(
        scenario_of(
            seed=seed, concurrency=rng.choice([1, 3]), drain="30s",
            order=rng.choice(["partition", "key", "none"]), more=faults,
            provider="errors = 0.05",
        )
    )  # fmt: skip

    assert world.watch.violations == []
    assert in_full(world)


@pytest.mark.parametrize("seed", range(5), ids="seed_{}".format)
def test_batches_that_fail_now_and_then_are_settled_in_the_end(seed: int):
    print(f"seed {seed}")
    broker = "[broker]\nrefused = 0.15\n"

    world, _ = ran(
        scenario_of(seed=seed, concurrency=2, provider="errors = 0.15", more=broker, drain="120s")
    )

    assert world.watch.violations == []
    assert in_full(world)
    assert sum(world.recording.duplicates) == 0


def test_a_partition_whose_records_always_fail_stops_no_other():
    world, _ = ran(
        scenario_of(batch={"max": 64, "by_partition": True}, drain="30s"),
        fails=lambda cut: any(piece.chunk.partition == ("backfill", 0) for piece in cut.slices),
    )

    ends = {name: point.offset for name, point in world.broker.points.items()}
    failing = ends.pop(TopicPartition("backfill", 0))
    assert {name: end for name, end in ends.items() if name.topic == "backfill"} == {
        ("backfill", number): 15_000 for number in range(1, 4)
    }
    letters = sum(book.counts.dead_letters for book in world.worker.engine.books)
    assert failing == letters <= 100, "one by one, each after all its tries"


FAULTS = [
    ("provider", "slow", "factor = 3.0"),
    ("provider", "decay", "factor = 3.0"),
    ("provider", "capacity", "seats = 1"),
    ("provider", "errors", "ratio = 0.5"),
    ("provider", "errors", "ratio = 1.0\nunavailable = true"),
    ("provider", "oscillating-errors", "low = 0.1\nhigh = 0.9\nevery = '100ms'"),
    ("provider", "outage", "retry_after = '200ms'"),
    ("provider", "hang", ""),
    ("provider", "throttle", "rate = 20"),
    ("worker", "crash", "every = '200ms'\nrestart = '10ms'"),
    ("worker", "pause", ""),
    ("worker", "stalls", "every = '100ms'\nlength = '30ms'"),
    ("group", "rebalance", "every = '200ms'"),
    ("broker", "outage", ""),
    ("broker", "slow", "delay = '50ms'"),
    ("clock", "skew", "by = '5min'"),
    ("clock", "skew", "by = '5min'\nbehind = true"),
]


@pytest.mark.parametrize(("target", "kind", "options"), FAULTS)
def test_whatever_goes_wrong_all_is_well_in_the_end(target: str, kind: str, options: str):
    fault = f"[[faults]]\nat='400ms'\nfor='600ms'\ntarget='{target}'\ntype='{kind}'\n{options}"

    world, _ = ran(
        scenario_of(concurrency=4, drain="60s", provider="capacity = 2\njitter = 0.2", more=fault)
    )

    assert world.watch.violations == []
    assert in_full(world)


def test_a_worker_that_stands_still_for_long_loses_its_partitions_and_gets_them_back():
    fault = "[[faults]]\nat='1s'\nfor='12s'\ntarget='worker'\ntype='pause'\n"

    world, _ = ran(scenario_of(seconds=15, more=fault))

    assert world.watch.violations == []
    assert in_full(world)
    assert sum(second.rebalances for second in world.recording.seconds) == 1
    assert world.recording.second(5_000 * MILLISECOND).lanes[BACKFILL].counts["settled"] == 0


def test_a_provider_that_gives_no_answer_is_given_up_and_asked_again():
    provider = "timeout = '20ms'\njitter = 0.9\nunavailable = true"

    world, _ = ran(scenario_of(provider=provider, batch={"max": 256}, drain="60s"))

    assert world.recording.total("failed") > 0
    assert in_full(world)


def test_rejected_records_become_dead_letters_and_are_counted():
    world, _ = ran(scenario_of(provider="rejects = 0.01"))

    assert 400 < world.recording.total("dead_letters") < 800
    assert world.counts(BACKFILL)["dead_letters"] == world.recording.total("dead_letters", BACKFILL)
    assert in_full(world)


def test_the_same_seed_gives_the_same_run_byte_for_byte():
    fault = "[[faults]]\nat='500ms'\ntarget='worker'\ntype='crash'\nrestart='50ms'\n"

    def run(seed: int) -> str:
        scenario = scenario_of(seed=seed, provider="errors = 0.1\njitter = 0.3", more=fault)
        return json.dumps(scorecard_of(ran(scenario)[0]).as_dict())

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_a_run_does_not_depend_on_how_python_hashes_names():
    """Sets of names come in another order in each process."""

    def run(hash_seed: int) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        return subprocess.run(
            [sys.executable, "-m", "tests.simulator.small"],
            env=environment, cwd=PROJECT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    one, other = run(1), run(2)
    assert one == other
    assert '"result": "pass"' in one
