"""Fault 12: workers on real files that are killed wherever they are.

Against what they owed: nothing is lost, nothing that is not the log's is delivered (the worker
compares), what comes twice was delivered and not committed when it was killed.

pytest tests/spill/test_kill.py                 # 6 seeds, 180 kills
pytest tests/spill/test_kill.py -m slow         # 60 seeds, 3,600 kills
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.inspection import verify_slot
from flowguard.spill.layout import SEGMENT_HEADER_BYTES
from tests.spill.builders import APP
from tests.spill.killed_worker import Order
from tests.spill.ledger import PLACES, Committed, Log

DISK = RealFileSystem()


@dataclass
class Seen:
    """What happened, so that it is known that something did."""

    found: int = 0  # frames when a worker started
    reused: int = 0
    torn: int = 0
    repeated: int = 0


@pytest.fixture(scope="module")
def workers() -> Iterator[subprocess.Popen[str]]:
    """A process that has one worker after the other."""
    command = [sys.executable, "-m", "tests.spill.killed_worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Life:
    """Kafka and the spill directory, and one worker after the other.

    Where nobody deletes the directory, every frame that was written whole has to be read.

    Args:
        root: The spill directory.
    """

    def __init__(self, root: Path, seed: int, process: subprocess.Popen[str]) -> None:
        self.root, self.random, self.process = root, Random(seed), process
        self.harmed = seed % 2 == 1  # its directory is deleted now and then
        self.log, self.seen = Log(), Seen()

    def order(self, **options: float) -> Order:
        kept = [self.log.committed.get(place) for place in PLACES]
        return Order(
            root=str(self.root),
            seed=self.random.randrange(1 << 30),
            ends=[self.log.ends[place] for place in PLACES],
            harmed=self.harmed,
            committed=[None if each is None else (each.offset, each.watermarks) for each in kept],
            **options,  # type: ignore[arg-type]
        )

    def run(self, order: Order) -> int:
        """Let a worker live; return how it ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(order.line())
        self.process.stdin.flush()
        for line in self.process.stdout:
            event, *rest = line.split(" ", 3)
            if event == "ended":
                for place in PLACES:
                    self.log.forget(place)
                return int(rest[0])
            self.take_in(event, rest)
        raise AssertionError("the process that has the workers is gone")

    def take_in(self, event: str, rest: list[str]) -> None:
        match event:
            case "delivered":
                self.log.deliver(PLACES[int(rest[0])], int(rest[1]))
            case "committed":
                committed = Committed(int(rest[1]), json.loads(rest[2]))
                self.log.commit(PLACES[int(rest[0])], committed)
            case "forgotten":
                self.log.forget(PLACES[int(rest[0])])
            case "produced":
                self.log.ends[PLACES[int(rest[0])]] += int(rest[1])
            case "opened":
                self.seen.found += int(rest[0])
            case "adopted":
                self.seen.reused += int(rest[0])

    def killed(self) -> Order:
        """Return an order that ends in a kill: from outside, or at an operation of the disk."""
        random = self.random
        match random.randrange(5 if self.harmed else 4):
            case 0 | 1:
                return self.order(kill_after_s=random.uniform(0.005, 0.08))
            case 2 | 3:
                return self.order(kill_at=random.randrange(1, 18) ** 2)
            case _:
                return self.order(
                    wipe_after_s=random.uniform(0.01, 0.05),
                    kill_after_s=random.uniform(0.001, 0.03),
                )

    def look(self) -> None:
        """Make sure that a kill leaves nothing but an end that is not whole."""
        try:
            report = verify_slot(DISK, f"{self.root}/{APP}/0", time.sleep)
        except FileNotFoundError:
            return
        assert report.worker is None
        for segment in report.segments:
            for problem in segment.problems:
                self.seen.torn += 1
                never_begun = problem.kind == "header" and segment.num_bytes < SEGMENT_HEADER_BYTES
                assert never_begun or problem.kind in ("torn", "footer"), problem

    def settle(self) -> None:
        """Let the last worker deliver everything."""
        assert self.run(self.order(to_end=True)) == 0
        assert self.log.lost() == []
        self.seen.repeated = self.log.repeated
        assert self.seen.repeated <= self.log.may_repeat
        assert not list(self.root.glob(f"{APP}/0/*.fgs"))


def check(life: Life, lives: int) -> Seen:
    for _ in range(lives):
        assert life.run(life.killed()) == -signal.SIGKILL
        life.look()
    life.settle()
    return life.seen


@pytest.mark.parametrize("seed", range(6))
def test_workers_that_are_killed_wherever_they_are_lose_nothing(
    tmp_path: Path, workers: subprocess.Popen[str], seed: int
) -> None:
    seen = check(Life(tmp_path, seed, workers), 30)

    assert seen.found > 100 and seen.reused > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_workers_that_are_killed_lose_nothing(
    tmp_path: Path, workers: subprocess.Popen[str], seed: int
) -> None:
    check(Life(tmp_path, seed, workers), 60)
