"""Two threads of one store, on real files: one writes and deletes, the other one reads."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from random import Random
from threading import Thread

import pytest

from flowguard.errors import FrameLost
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.manifest import Frame
from flowguard.spill.slot import take_slot
from flowguard.spill.store import SpillStore
from tests.spill.builders import WIDE, A, B, assert_reads, spill, store_on

FRAMES = 400


def store_in(path: Path) -> SpillStore:
    real = RealFileSystem()
    return store_on(real, slot=take_slot(real, str(path), "app"))


def test_what_one_thread_writes_another_one_reads_at_the_same_time(tmp_path: Path) -> None:
    store, random = store_in(tmp_path), Random(1)
    written: SimpleQueue[Frame | None] = SimpleQueue()
    done: SimpleQueue[Frame] = SimpleQueue()
    read: list[Frame] = []

    def write() -> None:
        for n in range(FRAMES):
            lane, place = random.choice(("bulk", "slow")), random.choice((A, B))
            written.put(spill(store, 8 * n, 8 * n + 8, lane=lane, partition=place, size=WIDE))
            while not done.empty():
                store.finish(done.get())
            if n % 20 == 0:
                store.upkeep()
        written.put(None)

    writer = Thread(target=write)
    writer.start()
    while (frame := written.get()) is not None:
        assert_reads(store, frame, size=WIDE)
        read.append(frame)
        done.put(frame)
    writer.join()

    assert len(read) == FRAMES
    store.finish(*read)
    store.close()
    assert not list(tmp_path.rglob("*.fgs"))


def test_what_is_deleted_while_it_is_read_is_read_or_missing_never_wrong(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    frames = [spill(store, 8 * n, 8 * n + 8, size=WIDE) for n in range(200)]

    deleter = Thread(target=lambda: [store.finish(frame) for frame in frames])
    deleter.start()
    reasons = set()
    for frame in reversed(frames):
        try:
            assert_reads(store, frame, size=WIDE)
        except FrameLost as lost:
            reasons.add(lost.reason)
    deleter.join()

    assert reasons <= {"missing"}
    with pytest.raises(FrameLost, match="missing"):
        store.read(frames[0])
