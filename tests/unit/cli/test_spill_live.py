"""`flowguard spill` beside a worker that writes and deletes meanwhile."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from threading import Condition, Thread

import pytest

from flowguard.cli import spill_verify
from flowguard.cli.exit_codes import OK
from flowguard.errors import FrameLost
from flowguard.spill.manifest import Frame
from flowguard.spill.store import SpillStore
from tests.spill.builders import spill
from tests.unit.cli.conftest import Run
from tests.unit.cli.spilled import Spilled, document


class Writer(Thread):
    """A worker that spills, reads back and finishes, as fast as it can, until it is stopped."""

    KEPT = 12

    def __init__(self, store: SpillStore) -> None:
        super().__init__()
        self.store = store
        self.steps = 0
        self.missing = 0
        self.error: BaseException | None = None
        self._stopping = False
        self._moved = Condition()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # for the test to see
            self.error = error

    def _work(self) -> None:
        frames: deque[Frame] = deque()
        while not self._stopping:
            start = 10 * self.steps
            frames.append(spill(self.store, start, start + 10, size=200))
            if len(frames) > self.KEPT:
                oldest = frames.popleft()
                try:
                    self.store.read(oldest)
                except FrameLost as error:
                    if error.reason != "missing":
                        raise
                    self.missing += 1
                self.store.finish(oldest)
            self.store.upkeep()
            with self._moved:
                self.steps += 1
                self._moved.notify_all()

    def go_on(self, _: float = 0.0) -> None:
        """Return when it has done two more steps."""
        with self._moved:
            goal = self.steps + 2
            assert self._moved.wait_for(lambda: self.steps >= goal, timeout=30)

    def stop(self) -> None:
        self._stopping = True
        self.join()
        assert self.error is None, self.error


def test_all_commands_work_beside_a_worker_that_writes_and_deletes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spilled = Spilled(tmp_path)
    writer = Writer(spilled.store)
    monkeypatch.setattr(spill_verify, "pause", writer.go_on)
    writer.start()

    try:
        deleted = 0
        for turn in range(30):
            writer.go_on()
            shown = run("spill", "ls", spilled.root, "--json")
            checked = run("spill", "verify", spilled.root, "--deep")
            assert (shown.exit_code, checked.exit_code) == (OK, OK), checked.output
            assert document(shown)["slots"][0]["process"] == os.getpid()
            if turn % 3 == 2:
                purged = run("spill", "purge", spilled.root, "--yes", "--json")
                assert purged.exit_code == OK, purged.output
                deleted += document(purged)["deleted_files"]
    finally:
        writer.stop()

    assert deleted > 0 and writer.missing > 0 and writer.steps > 60
    spilled.leave()
