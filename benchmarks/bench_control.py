"""Measure what control loops cost: a sample, a window, and a share of one core at full speed.

    python benchmarks/bench_control.py [--seconds 60]

The share is that of a worker that finishes 1,000 batches and ticks ten times a second. A busy
engine is run twice on a virtual clock: with all its loops, and with ticks that do nothing. What
it costs more to tell it of a tick is what loops cost, whatever is added to `Engine._steer`;
beside that each batch is handed to them when it ends (`View._ended`).

A figure is the least of five rounds of processor time. Exits 1 above 1 % of a core.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

import pyarrow as pa

from flowguard.chunk import Chunk, TopicPartition
from flowguard.commands import Command, Cut, StartBatch
from flowguard.control.limit import Limiter
from flowguard.control.limits import ALGORITHMS
from flowguard.control.memory import MemoryBudget
from flowguard.dispatch.concurrency import Adaptive
from flowguard.engine import Engine
from flowguard.facts import Assigned, Fact, Fetched, Finished, Returned, Ticked
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.units import MIB, MILLISECOND, SECOND
from flowguard.view import AgentPlan

ROUNDS: Final = 5
BATCHES_PER_S: Final = 1_000
TICKS_PER_S: Final = 10
SHARE_MAX: Final = 0.01

RECORDS: Final = 64
SEATS: Final = 32
PARTITIONS: Final = 8
LANES: Final = (Lane("realtime", target="50ms", reserve=0.25), Lane("bulk"))


class WithoutLoops(Engine):
    """An engine whose loops do nothing."""

    def _steer(self, fact: Ticked) -> list[Command]:
        self._steered_ns = fact.at_ns
        for view in self.views.values():
            view.seats.limiter._samples.clear()  # nobody looks at them
        return []


def columns() -> pa.RecordBatch:
    """Return the records of a chunk; what is in them does not matter here."""
    numbers = pa.array(range(RECORDS), pa.int64())
    texts = pa.array([b"{}"] * RECORDS, pa.binary())
    return pa.RecordBatch.from_arrays(
        [numbers, numbers, texts, texts, texts],
        names=["offset", "timestamp", "key", "value", "headers"],
    )


class Worker:
    """A worker on a virtual clock that always has work; batches take 10 to 40 ms."""

    def __init__(self, make: type[Engine]) -> None:
        plan = AgentPlan(
            name="agent", topics=frozenset({"orders"}), seats=64, adaptive=Adaptive(min=SEATS),
            records_max=RECORDS, order="none",
        )  # fmt: skip
        self.engine = make(LaneSet(LANES), [plan], MemoryBudget(512 * MIB))
        self.now_ns = SECOND
        self.running: list[Cut] = []
        self.spent_ns = self.ticks = 0
        self.columns = columns()
        self.position = 0
        self.names = [TopicPartition("orders", number) for number in range(PARTITIONS)]
        self.tell(Assigned(offsets=dict.fromkeys(self.names, 0), at_ns=self.now_ns))

    def tell(self, fact: Fact) -> None:
        """Tell the engine; take note of what ticks cost."""
        begun_ns = time.process_time_ns()
        commands = self.engine.observe(fact)
        if isinstance(fact, Ticked):
            self.spent_ns += time.process_time_ns() - begun_ns
            self.ticks += 1
        self.running += [each.cut for each in commands if isinstance(each, StartBatch)]

    def fetch(self) -> None:
        """Bring a chunk of each lane to each partition."""
        for name in self.names:
            chunks = [
                Chunk(partition=name, lane=lane, columns=self.columns, num_bytes=RECORDS * 100,
                      first_offset=self.position + lane * RECORDS, first_timestamp_ms=0,
                      fetched_ns=self.now_ns)
                for lane in range(len(LANES))
            ]  # fmt: skip
            epoch = self.engine.partitions[name].epoch
            self.tell(
                Fetched(partition=name, epoch=epoch, chunks=chunks,
                        next_offset=self.position + 2 * RECORDS, at_ns=self.now_ns)
            )  # fmt: skip
        self.position += 2 * RECORDS

    def work(self, seconds: int) -> None:
        """Finish batches and tick for so long."""
        step_ns = SECOND // BATCHES_PER_S
        for number in range(seconds * BATCHES_PER_S):
            self.now_ns += step_ns
            if len(self.running) < SEATS:
                self.fetch()
            cut = self.running.pop(0)
            self.tell(Returned(batch_id=cut.batch_id, at_ns=self.now_ns))
            self.tell(
                Finished(batch_id=cut.batch_id, dead_letters=(), at_ns=self.now_ns, epoch_ms=0)
            )
            if number % (BATCHES_PER_S // TICKS_PER_S) == 0:
                self.tell(Ticked(at_ns=self.now_ns))


def tick_ns(make: type[Engine], seconds: int) -> float:
    """Return what it costs to tell an engine of a tick."""
    best = float("inf")
    for _ in range(ROUNDS):
        worker = Worker(make)
        worker.work(seconds)
        best = min(best, worker.spent_ns / worker.ticks)
    return best


def ended_ns() -> float:
    """Return what it costs to hand a batch that ended to the loops."""
    best, calls = float("inf"), 2_000
    for _ in range(5 * ROUNDS):
        worker = Worker(Engine)
        worker.work(1)
        view = worker.engine.views["agent"]
        flight = view.flights[worker.running[0].batch_id]
        begun_ns = time.process_time_ns()
        for _ in range(calls):
            view._ended(flight, "ok", worker.now_ns)
        best = min(best, (time.process_time_ns() - begun_ns) / calls)
    return best


def algorithm_costs(name: str) -> tuple[float, float]:
    """Return what a sample and a window of 250 batches cost, in ns."""
    samples, windows = [], []
    for _ in range(ROUNDS):
        limiter = Limiter(ALGORITHMS[name](), limit_min=1, limit_max=64)
        now_ns, sampled_ns, ticked_ns, closed = 0, 0, 0, 0
        for number in range(250 * 40):
            now_ns += MILLISECOND
            begun_ns = time.process_time_ns()
            limiter.sample(
                records=RECORDS, service_ns=(20 + number % 7) * MILLISECOND, outcome="ok",
                in_flight=limiter.seats, at_ns=now_ns,
            )  # fmt: skip
            sampled_ns += time.process_time_ns() - begun_ns
            if number % 100 == 0:
                begun_ns = time.process_time_ns()
                closed += limiter.tick(now_ns, in_flight=1) is not None
                ticked_ns += time.process_time_ns() - begun_ns
        samples.append(sampled_ns / (250 * 40))
        windows.append(ticked_ns / max(1, closed))
    return min(samples), min(windows)


def clock_cost_ns() -> float:
    """Return what looking at the clock twice costs, which every figure contains."""
    begun_ns = time.process_time_ns()
    for _ in range(100_000):
        time.process_time_ns()
    return (time.process_time_ns() - begun_ns) / 100_000


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="virtual seconds a round")
    seconds = parser.parse_args().seconds
    clock_ns = clock_cost_ns()
    print(f"{'algorithm':12}{'ns a sample':>14}{'us a window':>14}")
    for name in ALGORITHMS:
        sample_ns, window_ns = algorithm_costs(name)
        print(f"{name:12}{sample_ns - clock_ns:14.0f}{window_ns / 1e3:14.0f}")
    with_loops, without, ended = (
        tick_ns(Engine, seconds),
        tick_ns(WithoutLoops, seconds),
        ended_ns(),
    )
    print(f"\nus a tick: {with_loops / 1e3:.0f} with loops, {without / 1e3:.0f} without")
    print(f"us a batch that ended: {ended / 1e3:.2f}")
    share = ((with_loops - without) * TICKS_PER_S + ended * BATCHES_PER_S) / SECOND
    verdict = "ok" if share <= SHARE_MAX else "TOO MUCH"
    print(
        f"\n{BATCHES_PER_S} batches and {TICKS_PER_S} ticks a second: {share:.2%} of a core "
        f"({verdict}, at most {SHARE_MAX:.0%})"
    )
    return 0 if share <= SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
