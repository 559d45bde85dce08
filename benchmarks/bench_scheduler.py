"""Time one decision: admit a slice, take a batch of one slice.

    python benchmarks/bench_scheduler.py [--pairs 100000]

Each row keeps one slice waiting in every sub-queue (half of them in each of two
lanes), admits one more and takes one.  The peers order (lane, number, queue,
handle) tuples: strict priority and first in first out, without shares, fairness,
cuts, byte counts or closing.  A figure is the best of five rounds, all in one
run, so that ratios hold on any machine; the last column is at 1000 sub-queues.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import time
from collections.abc import Callable

from flowguard._native.scheduler import Scheduler

LANES = 2
QUEUE_COUNTS = (2, 64, 1000)
# A slice costs 64 KiB, a turn of the round robin, and a batch is one slice.
RECORDS, BYTES = 100, 65_536 - 100 * 256
ROUNDS = 5

Run = Callable[[int], None]


def scheduler_pairs(queue_count: int, *, exclusive: bool) -> Run:
    scheduler = Scheduler(LANES)
    places = [(index % LANES, index // LANES) for index in range(queue_count)]
    for number, (lane, queue) in enumerate(places):
        scheduler.admit(lane, queue, number, RECORDS, BYTES)

    def run(pairs: int) -> None:
        admit, take, reopen = scheduler.admit, scheduler.take, scheduler.open
        lane = queue = 0
        for number in range(pairs):
            # A slice for the sub-queue that was just served: every one stays busy.
            admit(lane, queue, number, RECORDS, BYTES)
            taken = take(3, RECORDS, BYTES, exclusive=exclusive)
            assert taken is not None
            lane, [(queue, _, _, _)] = taken
            if exclusive:
                reopen(lane, queue)

    return run


def heapq_pairs(queue_count: int) -> Run:
    heap = [(index % LANES, index, index // LANES, index) for index in range(queue_count)]
    heapq.heapify(heap)

    def run(pairs: int) -> None:
        push, pop = heapq.heappush, heapq.heappop
        lane = queue = 0
        for number in range(queue_count, queue_count + pairs):
            push(heap, (lane, number, queue, number))
            lane, _, queue, _ = pop(heap)

    return run


def asyncio_pairs(queue_count: int) -> Run:
    waiting: asyncio.PriorityQueue[tuple[int, int, int, int]] = asyncio.PriorityQueue()
    for index in range(queue_count):
        waiting.put_nowait((index % LANES, index, index // LANES, index))

    def run(pairs: int) -> None:
        put, get = waiting.put_nowait, waiting.get_nowait
        lane = queue = 0
        for number in range(queue_count, queue_count + pairs):
            put((lane, number, queue, number))
            lane, _, queue, _ = get()

    return run


def empty_pairs(_queue_count: int) -> Run:
    """Two calls that find nothing to do: the price of calling."""
    scheduler = Scheduler(LANES)

    def run(pairs: int) -> None:
        ready, nothing = scheduler.ready_records, scheduler.take
        for _ in range(pairs):
            ready(0)
            nothing(3, RECORDS, BYTES, exclusive=False)

    return run


def best_ns(run: Run, pairs: int) -> float:
    run(pairs // 10)
    times = []
    for _ in range(ROUNDS):
        started_ns = time.perf_counter_ns()
        run(pairs)
        times.append(time.perf_counter_ns() - started_ns)
    return min(times) / pairs


SUBJECTS: dict[str, Callable[[int], Run]] = {
    "flowguard": lambda count: scheduler_pairs(count, exclusive=False),
    "flowguard, exclusive + open": lambda count: scheduler_pairs(count, exclusive=True),
    "heapq of tuples": heapq_pairs,
    "asyncio.PriorityQueue": asyncio_pairs,
    "two calls that do nothing": empty_pairs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="decisions a round")
    pairs = parser.parse_args().pairs

    counts = "".join(f"{count:>8}" for count in QUEUE_COUNTS)
    print(f"{'ns per admit + take':28}{counts}{'max / min':>12}{'to flowguard':>14}")
    base_ns = 0.0
    for name, make in SUBJECTS.items():
        times_ns = [best_ns(make(count), pairs) for count in QUEUE_COUNTS]
        base_ns = base_ns or times_ns[-1]
        columns = "".join(f"{time_ns:8.0f}" for time_ns in times_ns)
        spread, ratio = max(times_ns) / min(times_ns), times_ns[-1] / base_ns
        print(f"{name:28}{columns}{spread:12.2f}{ratio:14.2f}")


if __name__ == "__main__":
    main()
