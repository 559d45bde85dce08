"""How long it takes from resuming a partition to its first record.

    python benchmarks/bench_resume.py [--broker HOST:PORT] [--turns 50] [--json]

Bulk that was left out of fetch requests (rung 2 of the overload ladder) is taken in again. Once
alone on its connection, and once beside a partition that is read all the while and has nothing
new, so that a request without the other one is under way. Exits 1 if a turn takes more than 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Sequence
from statistics import median
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from brokers import kafka

from flowguard._native.wire import LaneRule
from flowguard.bench.cluster import topics
from flowguard.chunk import TopicPartition
from flowguard.clock import SystemClock
from flowguard.control.memory import MemoryBudget
from flowguard.facts import Fetched, Stopped
from flowguard.intake.cursors import Haste, PartitionPlan
from flowguard.intake.fetcher import Fetcher
from flowguard.units import MIB

LIMIT_S = 0.050
HELD_S = 0.15


async def measure(broker: str, topic: str, beside: bool, turns: int) -> list[float]:
    """Return the seconds from resuming to the first record, turn by turn."""
    bulk, quiet = TopicPartition(topic, 0), TopicPartition(topic, 1)
    arrived = asyncio.Event()

    def deliver(facts: Sequence[Fetched | Stopped]) -> None:
        for fact in facts:
            if isinstance(fact, Fetched):
                for chunk in fact.chunks:
                    memory.release((fact.partition, fact.epoch), chunk.num_bytes)
                arrived.set()

    client = AIOKafkaClient(bootstrap_servers=broker)
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await client.bootstrap()
    await client.set_topics([topic])
    await producer.start()
    memory = MemoryBudget(64 * MIB)
    plan = PartitionPlan(
        rule=LaneRule.constant(0), haste=Haste.NONE, may_be_urgent=False, on_offset_loss="stop"
    )
    fetcher = Fetcher(
        client=client, plans={topic: plan}, lane_count=1, memory=memory, clock=SystemClock(),
        deliver=deliver, touch=lambda: None, find_offset=lambda name, which: None,
        begin_anew=lambda name, epoch, offset: None,
    )  # fmt: skip
    names = [bulk, quiet] if beside else [bulk]
    memory.assign([(name, 1) for name in names])
    fetcher.assign(dict.fromkeys(names, (0, 1)))
    found = []
    for _ in range(turns):
        fetcher.hold(frozenset({bulk}))
        await asyncio.sleep(HELD_S)
        await producer.send_and_wait(topic, b"x" * 100, partition=0)
        await asyncio.sleep(HELD_S)
        arrived.clear()
        began_s = time.perf_counter()
        fetcher.hold(frozenset())
        await arrived.wait()
        found.append(time.perf_counter() - began_s)
    await fetcher.stop()
    await producer.stop()
    await client.close()
    return found


def main() -> int:
    """Measure both, and say whether all turns were quick enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print a document")
    given = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    with kafka(given.broker) as broker:
        for name, beside in (("alone", False), ("beside another", True)):
            topic = f"bench-resume-{uuid.uuid4().hex[:8]}"
            with topics(broker, topic, partitions=2):
                found = asyncio.run(measure(broker, topic, beside, given.turns))
            runs[name] = {"median": median(found), "max": max(found), "turns": len(found)}
    passed = all(each["max"] <= LIMIT_S for each in runs.values())
    if given.json:
        print(json.dumps({"schema": "flowguard.bench-resume/v1", "runs": runs, "passed": passed}))
    else:
        for name, each in runs.items():
            print(f"{name:>16}: median {each['median'] * 1e3:5.1f} ms, "
                  f"max {each['max'] * 1e3:5.1f} ms of {each['turns']} turns")  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
