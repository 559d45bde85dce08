"""An agent that stands still: does the group notice, and how soon does reading go on?

    python benchmarks/bench_stall.py --broker HOST:PORT [--seconds 180] [--pauses 20]

Two workers, one after the other, each in a process of its own:

- one whose agent takes a batch and then nothing for three minutes, while records keep coming
  and `broker_max_poll_interval` is 30 s. Kafka takes the partitions of a consumer that does not
  poll; a worker whose agent waits must not look like one. Target: no rebalance, nothing lost;
- one with 16 MiB of memory and an agent that lets it fill up until partitions are no longer read,
  and then returns everything at once, again and again. Target: from the moment when there is
  room again (the engine's command Resume) to the first record that is read, at most 50 ms.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from multiprocessing.connection import Connection
from typing import Any

import programs
from confluent_kafka import Producer

from flowguard.bench.cluster import topics
from flowguard.errors import FlowguardError

PARTITIONS = 4
MAX_POLL_S = 30.0
RATE = 200
READY_WITHIN_S = 60.0
DONE_WITHIN_S = 60.0
AFTER_S = 5.0

MEMORY = "16MiB"
RECORD_BYTES = 2_000
BATCH_BYTES = 64 * 1024
RESUME_S = 0.05


def work_stalled(broker: str, topic: str, group: str, pipe: Connection) -> None:
    """Stop inside the agent when told to, go on when told to; tell of records and rebalances."""
    import asyncio

    import flowguard as fg

    app = fg.App(
        group, memory="64MiB", broker_max_poll_interval=MAX_POLL_S,
        broker_session_timeout=10.0, broker_heartbeat_interval=1.0, **programs.app_options(broker),
    )  # fmt: skip
    feed = app.feed(topic, codec="raw")
    free = asyncio.Event()
    free.set()

    @app.agent(feed, concurrency=PARTITIONS)
    async def stall(batches: Any) -> None:
        async for batch in batches:
            await free.wait()
            pipe.send(("records", len(batch)))

    @app.task
    async def obey() -> None:
        def heard() -> None:
            if pipe.recv() == "stop":
                free.clear()
            else:
                free.set()

        asyncio.get_running_loop().add_reader(pipe.fileno(), heard)

    @app.on_partitions_assigned.connect
    async def assigned(_: Any, partitions: Any = (), **__: Any) -> None:
        pipe.send(("rebalance", len(partitions)))

    programs.run_worker(app)


def stalled(broker: str, seconds: float) -> bool:
    """Let an agent stand still; print what came of it, and return whether all is well."""
    run = f"flowguard-stall-{uuid.uuid4().hex[:8]}"
    with topics(broker, run, partitions=PARTITIONS):
        worker, pipe = programs.start(work_stalled, broker=broker, topic=run, group=run)
        try:
            return watch_stalled(broker, run, seconds, pipe)
        finally:
            programs.end(worker)


def watch_stalled(broker: str, topic: str, seconds: float, pipe: Connection) -> bool:
    """Offer records before, during and after the stall, and count what is told."""
    counts = {"records": 0, "rebalance": 0}
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5})
    sent = 0

    def offer(for_s: float) -> None:
        nonlocal sent
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            producer.produce(topic, programs.value_of(sent, 0), b"k%d" % sent)
            sent += 1
            producer.poll(0)
            hear(pipe, counts, 1 / RATE)

    wait_for(lambda: counts["records"] > 0, lambda: offer(0.5), READY_WITHIN_S)
    joined = counts["rebalance"]
    pipe.send("stop")
    print(
        f"the agent stands still for {seconds:g} s, max poll interval {MAX_POLL_S:g} s", flush=True
    )
    offer(seconds)
    during = counts["rebalance"] - joined
    pipe.send("go on")
    offer(AFTER_S)
    producer.flush(10)
    wait_for(lambda: counts["records"] >= sent, lambda: hear(pipe, counts, 0.2), DONE_WITHIN_S)
    twice = counts["records"] - sent
    after = counts["rebalance"] - joined - during
    return all([
        programs.mark("rebalances while the agent stands still: 0", during == 0, str(during)),
        programs.mark("rebalances after it: 0", after == 0, str(after)),
        programs.mark("every record came once", twice == 0, f"{sent:,} sent, {twice:+,}"),
    ])  # fmt: skip


def hear(pipe: Connection, counts: dict[str, int], seconds: float) -> None:
    """Take in what the worker tells, for so long."""
    until = time.monotonic() + seconds
    while pipe.poll(max(0.0, until - time.monotonic())):
        what, count = pipe.recv()
        counts[what] += count if what == "records" else 1


def wait_for(condition: Any, meanwhile: Any, within_s: float) -> None:
    """Do something until a condition holds.

    Raises:
        FlowguardError: It did not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise FlowguardError(f"the worker was not through within {within_s:.0f} s")
        meanwhile()


def work_filled(broker: str, topic: str, group: str, pipe: Connection) -> None:
    """Hold batches until partitions are paused, then return them all; tell how long reading
    took to go on."""
    import asyncio

    import flowguard as fg
    from flowguard.commands import Resume
    from flowguard.facts import Fetched

    app = fg.App(group, memory=MEMORY, **programs.app_options(broker))
    feed = app.feed(topic, codec="raw", order="none")
    free, went_on = asyncio.Event(), asyncio.Event()
    resumed_at: list[float] = []

    @app.agent(feed, concurrency=128, batch=fg.BatchSize(max=128))
    async def hold(batches: Any) -> None:
        async for _ in batches:
            await free.wait()

    @app.task
    async def turn() -> None:
        engine = app.runtime.engine
        observe = engine.observe

        def listening(*facts: Any) -> Any:
            if resumed_at and any(isinstance(fact, Fetched) and fact.chunks for fact in facts):
                pipe.send(time.perf_counter() - resumed_at.pop())
                went_on.set()
            commands = observe(*facts)
            if not resumed_at and any(isinstance(each, Resume) for each in commands):
                resumed_at.append(time.perf_counter())
            return commands

        engine.observe = listening  # type: ignore[method-assign]
        while True:
            held = app.runtime.snapshot().partitions
            if held and all(each.paused and each.held_bytes for each in held):
                free.set()
                await went_on.wait()
                free.clear()
                went_on.clear()
            await asyncio.sleep(0.05)

    programs.run_worker(app)


def filled(broker: str, pauses: int) -> bool:
    """Let memory fill up again and again; print how long reading took to go on."""
    run = f"flowguard-resume-{uuid.uuid4().hex[:8]}"
    with topics(broker, run, partitions=PARTITIONS):
        producer = Producer(
            {"bootstrap.servers": broker, "queue.buffering.max.messages": 1_000_000,
             "batch.size": BATCH_BYTES}
        )  # fmt: skip
        for number in range(pauses * 6_000):
            producer.produce(run, programs.value_of(number, 0).ljust(RECORD_BYTES), b"k%d" % number)
            if number % 1_000 == 0:
                producer.poll(0)
        producer.flush(60)
        worker, pipe = programs.start(work_filled, broker=broker, topic=run, group=run)
        try:
            times = []
            while len(times) < pauses and pipe.poll(READY_WITHIN_S):
                times.append(float(pipe.recv()))
        finally:
            programs.end(worker)
    if len(times) < pauses:
        raise FlowguardError(f"memory filled up {len(times)} times of {pauses} and no more")
    times.sort()
    median_ms, worst_ms = programs.percentile(times, 0.5) * 1e3, times[-1] * 1e3
    return programs.mark(
        f"resume → first record ≤ {RESUME_S * 1e3:g} ms, {pauses} times", times[-1] <= RESUME_S,
        f"worst {worst_ms:.1f} ms, median {median_ms:.1f} ms",
    )  # fmt: skip


def main() -> None:
    """Measure, print, and exit 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long the agent stalls")
    parser.add_argument("--pauses", type=int, default=20, help="how often memory fills up")
    given = parser.parse_args()
    held = [filled(given.broker, given.pauses), stalled(given.broker, given.seconds)]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
