"""Time one decision: admit a slice, take a batch of one slice.

    python benchmarks/bench_scheduler.py [--pairs 100000]

Each row keeps one slice waiting in every sub-queue (half of them in each of two
lanes), admits one more and takes one.  The peers order (lane, number, queue,
handle) tuples: strict priority and first in first out, without shares, fairness,
cuts, byte counts or closing.

Two comparisons, because they are two questions.  A *decision* is one slice against
one put and get: what the bookkeeping costs.  A *record*: a priority queue of records
has to put and get every record, the scheduler only the slice of columns they are in.

A figure is the best of five rounds of processor time, all in one run, so that ratios
hold on any machine; the last column is at 1000 sub-queues.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import time
from collections.abc import Callable

from flowguard._native.scheduler import Scheduler

LANES = 2
QUEUE_COUNTS = (2, 64, 1000, 10_000)
COMPARED = QUEUE_COUNTS.index(1000)
# A slice costs 64 KiB, a turn of the round robin, and a batch is one slice.
RECORDS, BYTES = 100, 65_536 - 100 * 256
BATCH = 16  # slices of a large batch
SLICE_RECORDS = (100, 1000)
ROUNDS = 5

Run = Callable[[int], None]


def waiting_scheduler(queue_count: int, **options: list[bool]) -> Scheduler:
    scheduler = Scheduler(LANES, **options)  # type: ignore[arg-type]
    for number in range(queue_count):
        scheduler.admit(number % LANES, number // LANES, number, RECORDS, BYTES, number)
    return scheduler


def scheduler_pairs(queue_count: int, *, exclusive: bool, deadlines: bool = False) -> Run:
    scheduler = waiting_scheduler(queue_count, deadlines=[deadlines] * LANES)

    def run(pairs: int) -> None:
        admit, take, reopen = scheduler.admit, scheduler.take, scheduler.open
        lane = queue = 0
        for number in range(queue_count, queue_count + pairs):
            # A slice for the sub-queue that was just served: every one stays busy.
            admit(lane, queue, number, RECORDS, BYTES, number)
            taken = take(3, RECORDS, BYTES, exclusive=exclusive, single_queue=False)
            assert taken is not None
            lane, [(queue, _, _, _)] = taken
            if exclusive:
                reopen(lane, queue)

    return run


def batch_pairs(queue_count: int) -> Run:
    """Take as many slices as were admitted in one batch; the time is for each of them."""
    scheduler = waiting_scheduler(queue_count)

    def run(pairs: int) -> None:
        admit, take = scheduler.admit, scheduler.take
        places = [(index % LANES, index // LANES) for index in range(queue_count)]
        number = 0
        for _ in range(pairs // BATCH):
            for _ in range(BATCH):
                lane, queue = places[number % queue_count]
                admit(lane, queue, number, RECORDS, BYTES, number)
                number += 1
            taken = take(3, BATCH * RECORDS, BATCH * BYTES, exclusive=False, single_queue=False)
            assert taken is not None

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
            nothing(3, RECORDS, BYTES, exclusive=False, single_queue=False)

    return run


def best_ns(run: Run, pairs: int) -> float:
    run(pairs // 10)
    times = []
    for _ in range(ROUNDS):
        started_ns = time.process_time_ns()
        run(pairs)
        times.append(time.process_time_ns() - started_ns)
    return min(times) / pairs


FLOWGUARD = "flowguard"
PEERS: dict[str, Callable[[int], Run]] = {
    "heapq of tuples": heapq_pairs,
    "asyncio.PriorityQueue": asyncio_pairs,
}
SUBJECTS: dict[str, Callable[[int], Run]] = {
    FLOWGUARD: lambda count: scheduler_pairs(count, exclusive=False),
    "flowguard, exclusive + open": lambda count: scheduler_pairs(count, exclusive=True),
    "flowguard, deadlines": lambda count: scheduler_pairs(count, exclusive=False, deadlines=True),
    f"flowguard, {BATCH} slices a batch": batch_pairs,
    **PEERS,
    "two calls that do nothing": empty_pairs,
}


def print_decisions(pairs: int) -> dict[str, float]:
    """Print a row a subject; return their times at 1000 sub-queues."""
    counts = "".join(f"{count:>8}" for count in QUEUE_COUNTS)
    print(f"{'ns per admit + take of a slice':32}{counts}{'max / min':>12}{'to flowguard':>14}")
    compared = {}
    for name, make in SUBJECTS.items():
        times_ns = [best_ns(make(count), pairs) for count in QUEUE_COUNTS]
        compared[name] = times_ns[COMPARED]
        columns = "".join(f"{time_ns:8.0f}" for time_ns in times_ns)
        spread = max(times_ns[: COMPARED + 1]) / min(times_ns[: COMPARED + 1])
        ratio = compared[name] / compared[FLOWGUARD]
        print(f"{name:32}{columns}{spread:12.2f}{ratio:14.2f}")
    return compared


def print_records(compared: dict[str, float]) -> None:
    print(f"\n{'ns per record':32}" + "".join(f"{count:>8} a slice" for count in SLICE_RECORDS))
    columns = "".join(f"{compared[FLOWGUARD] / count:16.2f}" for count in SLICE_RECORDS)
    print(f"{FLOWGUARD:32}{columns}")
    for name in PEERS:
        columns = "".join(f"{compared[name]:16.2f}" for _ in SLICE_RECORDS)
        ratios = (compared[name] * count / compared[FLOWGUARD] for count in SLICE_RECORDS)
        print(f"{name:32}{columns}   {', '.join(f'{ratio:.0f} times' for ratio in ratios)}")


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="decisions a round")
    compared = print_decisions(parser.parse_args().pairs)
    print_records(compared)


if __name__ == "__main__":
    main()
