"""Intake alone, beside what the socket can do: receive, parse, hand over, no agent.

    python benchmarks/bench_intake.py --broker HOST:PORT [--records 3000000] [--partitions 1,8,64]

    topic ─▶ limit:  a blocking socket that looks at headers of wire batches only
          ─▶ intake: Fetcher on a thread of its own ─▶ event loop that counts and lets go

Both read the same topic in fresh processes, in rotation; the clock and what counts are those
of `flowguard bench`. "faults" are page faults for 1,000 records: memory that was fresh.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import programs
from aiokafka.client import AIOKafkaClient

from flowguard._native.wire import LaneRule
from flowguard.bench.cluster import leaders_of, topics
from flowguard.bench.meter import Context, Meter, Reading
from flowguard.bench.peers import limit
from flowguard.bench.records import LANE_HEADER
from flowguard.bench.wire import fill
from flowguard.chunk import TopicPartition
from flowguard.clock import SystemClock
from flowguard.control.memory import MemoryBudget
from flowguard.facts import Fetched, Stopped
from flowguard.intake.cursors import Haste, PartitionPlan
from flowguard.intake.fetcher import Fetcher
from flowguard.units import MIB

#: The last tenth stays unread: nobody is measured while it waits for the end.
READ_SHARE = 0.9

MEMORY_BYTES = 512 * MIB

#: As a worker with feeds sets it.
SWITCH_INTERVAL_S = 0.0005


def read_limit(context: Context, records: int, pipe: Connection) -> None:
    """Receive only."""
    run, before = limit.setup(context), faults()
    pipe.send((run(records), faults() - before))


def read_intake(context: Context, records: int, pipe: Connection) -> None:
    """Run the fetcher on a thread, as a worker does, and count on the event loop."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    asyncio.run(count_fetched(context, Meter(records), pipe))


async def count_fetched(context: Context, meter: Meter, pipe: Connection) -> None:
    """Count what a fetcher on another thread hands over, and let it go at once."""
    loop = asyncio.get_running_loop()
    memory = MemoryBudget(MEMORY_BYTES)
    over = asyncio.Event()
    before = faults()

    def take(facts: Sequence[Fetched | Stopped]) -> None:
        for fact in facts:
            assert isinstance(fact, Fetched), fact
            num_bytes = sum(chunk.num_bytes for chunk in fact.chunks)
            memory.release((fact.partition, fact.epoch), num_bytes)
            if meter.add(sum(chunk.num_records for chunk in fact.chunks)):
                over.set()

    stop = fetch_on_thread(context, memory, lambda facts: loop.call_soon_threadsafe(take, facts))
    await over.wait()
    pipe.send((meter.reading, faults() - before))
    await asyncio.to_thread(stop)


def fetch_on_thread(
    context: Context, memory: MemoryBudget, deliver: Callable[[Sequence[Any]], Any]
) -> Callable[[], None]:
    """Fetch all partitions on a thread with an event loop of its own; return what ends it."""
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def fetch() -> None:
        client = AIOKafkaClient(bootstrap_servers=context.broker)
        await client.bootstrap()
        client.set_topics([context.topic])
        await client.force_metadata_update()
        fetcher = Fetcher(
            client=client,
            plans={context.topic: plan()},
            lane_count=2,
            memory=memory,
            clock=SystemClock(),
            deliver=deliver,
            touch=lambda: None,
            find_offset=lambda name, which: None,
            begin_anew=lambda name, epoch, offset: None,
        )
        names = [TopicPartition(context.topic, each) for each in range(context.partitions)]
        memory.assign((name, 1) for name in names)
        fetcher.assign(dict.fromkeys(names, (0, 1)))
        await done.wait()
        await fetcher.stop()
        await client.close()

    thread = threading.Thread(target=loop.run_until_complete, args=[fetch()], name="fetcher")
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(done.set)
        thread.join()

    return stop


def plan() -> PartitionPlan:
    """Return how `flowguard bench` reads: two lanes by a header."""
    rule = LaneRule.by_header(LANE_HEADER.encode(), {b"rt": 0}, 1)
    return PartitionPlan(rule=rule, haste=Haste.NONE, may_be_urgent=True, on_offset_loss="stop")


def faults() -> int:
    """Return the page faults of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


CONTENDERS: Mapping[str, Callable[..., None]] = {"limit": read_limit, "intake": read_intake}


def measure(broker: str, records: int, partitions: int, turns: int) -> None:
    """Fill a topic, let both read it in turn, print their medians."""
    topic = f"flowguard-intake-{uuid.uuid4().hex[:8]}"
    taken: dict[str, list[tuple[Reading, int]]] = {name: [] for name in CONTENDERS}
    with topics(broker, topic, partitions=partitions):
        leaders = leaders_of(broker, topic)
        fill(topic, leaders, records)
        context = Context(
            broker=broker, topic=topic, partitions=partitions, group="", directory="",
            leaders={str(each): address for each, address in leaders.items()},
        )  # fmt: skip
        for _ in range(turns):
            for name, program in CONTENDERS.items():
                taken[name].append(take_turn(program, context, int(records * READ_SHARE)))
    base = median(reading.per_second for reading, _ in taken["limit"])
    for name, turn in taken.items():
        rate = median(reading.per_second for reading, _ in turn)
        cpu_us = median(reading.cpu_us_per_record for reading, _ in turn)
        fresh = median(count / reading.records * 1e3 for reading, count in turn)
        row = f"{partitions:10} {name:8} {rate:12,.0f} {rate / base:10.2f} {cpu_us:8.3f}"
        print(f"{row} {fresh:8.2f}", flush=True)


def take_turn(program: Callable[..., None], context: Context, records: int) -> tuple[Reading, int]:
    """Let one read in a process of its own."""
    process, pipe = programs.start(program, context=context, records=records)
    reading, fresh = pipe.recv()
    process.join()
    return reading, fresh


def main() -> None:
    """Measure, and print a row for each contender and number of partitions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--records", type=int, default=3_000_000)
    parser.add_argument("--partitions", default="1,8,64", metavar="N,…")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    print(
        f"{'partitions':>10} {'':8} {'records/s':>12} {'× limit':>10} {'CPU µs':>8} {'faults':>8}"
    )
    for partitions in map(int, given.partitions.split(",")):
        measure(given.broker, given.records, partitions, given.turns)


if __name__ == "__main__":
    main()
