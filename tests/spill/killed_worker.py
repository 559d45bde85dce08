"""A process that has workers on real files, and ends each of them without a word.

    test ── an order, one line ──▶ this process ── fork ──▶ worker ── SIGKILL
         ◀── what it delivered and committed, line by line ──────┘

It forks, because importing takes longer than most workers live. A line of the journal is one
write to a pipe: what was written is there, however the writer ends, as with a broker.

python -m tests.spill.killed_worker          # orders on standard input, see `Order`
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from flowguard.chunk import TopicPartition
from flowguard.spill.filesystem import RealFileSystem
from tests.spill.builders import APP, A, StoppedClock
from tests.spill.ledger import LANES, PLACES, Committed, Log
from tests.spill.worker import Worker, World

STEPS_MAX = 100_000  # of a worker that nobody kills


@dataclass
class Order:
    """How a worker is to live.

    Args:
        root: The spill directory.
        seed: What it does follows from it.
        ends: The offset after the last one of each partition.
        committed: By partition, offset and watermarks.
        kill_after_s: It is killed then, wherever it is; 0: it is not.
        kill_at: It kills itself in the middle of this operation of the file system; 0: no.
        wipe_after_s: The spill directory is deleted then, while it lives; 0: it is not.
        to_end: It delivers everything, and ends in peace.
        harmed: The directory was deleted at some time; if not, every frame has to be read.
    """

    root: str
    seed: int
    ends: list[int]
    committed: list[tuple[int, dict[str, int]] | None] = field(default_factory=list)
    kill_after_s: float = 0.0
    kill_at: int = 0
    wipe_after_s: float = 0.0
    to_end: bool = False
    harmed: bool = True

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def tell(*words: object) -> None:
    """Write a line of the journal at once, or none of it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class JournaledLog(Log):
    """Kafka, from which nothing is lost by the end of a worker."""

    def deliver(self, place: TopicPartition, offset: int) -> None:
        tell("delivered", PLACES.index(place), offset)

    def commit(self, place: TopicPartition, committed: Committed) -> None:
        super().commit(place, committed)
        tell("committed", PLACES.index(place), committed.offset, json.dumps(committed.watermarks))

    def forget(self, place: TopicPartition) -> None:
        tell("forgotten", PLACES.index(place))

    def produce(self, place: TopicPartition, count: int) -> None:
        self.ends[place] += count
        tell("produced", PLACES.index(place), count)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


class DeadlyDisk:
    """The files of this machine; one operation is the last one, and may be done in part.

    Args:
        last: How many there are at most, 0: without an end; every other disk ends at a write.
    """

    def __init__(self, inner: Any, random: Random, last: int, harmed: bool) -> None:
        self.inner, self.random, self.last = inner, random, last
        self.harms, self.faults = 0, harmed
        self.at_write = random.random() < 0.5
        self.operations = 0

    def __getattr__(self, name: str) -> Any:
        return partial(self.call, self.inner, name)

    def call(self, target: Any, name: str, *arguments: Any, **options: Any) -> Any:
        self.operations += 1
        due = 0 < self.last <= self.operations
        fatal = due and (name == "write_at" or not self.at_write)
        if fatal and name == "write_at":
            data = b"".join(map(bytes, arguments[0]))[: self.random.randrange(6_000)]
            target.write_at([data], arguments[1])
        if fatal and self.random.random() < 0.5:
            die()
        found = getattr(target, name)(*arguments, **options)
        if fatal:
            die()
        return DeadlyFile(self, found) if name in ("create", "open") else found


class DeadlyFile:
    """An open file of such a disk."""

    def __init__(self, disk: DeadlyDisk, inner: Any) -> None:
        self.disk, self.inner = disk, inner

    def __getattr__(self, name: str) -> Any:
        return partial(self.disk.call, self.inner, name)


def live(order: Order) -> None:
    """Be a worker until the end."""
    random = Random(order.seed)
    log = JournaledLog(Counter(dict(zip(PLACES, order.ends, strict=True))))
    for place, kept in zip(PLACES, order.committed, strict=True):
        if kept is not None:
            log.committed[place] = Committed(*kept)
    disk = DeadlyDisk(RealFileSystem(), random, order.kill_at, order.harmed)
    worker = Worker(log, disk, random, StoppedClock(), root=order.root)
    tell("opened", worker.store.usage("bulk").frames + worker.store.usage("slow").frames)
    for place in PLACES:
        worker.assign(place)
    tell("adopted", worker.reused)
    if order.to_end:
        worker.drain()
        worker.store.close()
        tell("refetched", worker.refetched)
        return
    for _ in range(STEPS_MAX):
        step(worker, log, random)
        worker.check()


def step(worker: Worker, log: JournaledLog, random: Random) -> None:
    """Do one thing."""
    place, lane = random.choice(PLACES), random.choice(LANES)
    if place not in worker.positions:
        worker.assign(place)
    match random.randrange(17):
        case 0 | 1:
            log.produce(place, random.randrange(20, 120))
        case 2 | 3 | 4:
            worker.fetch(place, random.randrange(10, 60))
        case 5 | 6 | 7 | 8 | 9:
            worker.spill(place, random.choice(LANES[1:]))
            worker.spill(place, random.choice(LANES[1:]))
        case 10 | 11:
            worker.load(place, lane)
        case 12 | 13:
            worker.deliver(place, lane, random.randrange(1, 20))
        case 14:
            worker.commit(place)
        case 15 if random.random() < 0.3:
            worker.revoke(place, commit=random.random() < 0.7)
        case 16:
            worker.clock.move(random.choice([0.1, 1, 11]))
            worker.store.upkeep()


def attend(pid: int, order: Order) -> int:
    """Let a worker live as ordered; return how it ended."""
    if order.wipe_after_s:
        time.sleep(order.wipe_after_s)
        shutil.rmtree(Path(order.root) / APP, ignore_errors=True)
    if order.kill_after_s:
        time.sleep(order.kill_after_s)
        os.kill(pid, signal.SIGKILL)  # it is there until it is waited for
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def warm_up() -> None:
    """Import now what a worker imports when it first needs it."""
    world = World(0)
    world.produce(A, 100)
    world.worker.fetch(A, 100)
    for lane in LANES[1:]:
        world.worker.spill(A, lane)
    world.end()


def main(lines: Iterable[str]) -> None:
    warm_up()
    for line in lines:
        order = Order(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            try:
                live(order)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        tell("ended", attend(pid, order))


if __name__ == "__main__":
    main(sys.stdin)
