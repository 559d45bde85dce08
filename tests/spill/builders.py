"""Small stores on disks in memory, and records whose bytes follow from their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from random import Random
from typing import Any

import pyarrow as pa

from flowguard.chunk import TopicPartition
from flowguard.errors import FrameLost, SpillRefused
from flowguard.spill.cipher import Key
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.spill.options import Identity, LaneSpill, StoreLimits
from flowguard.spill.slot import Slot, take_slot
from flowguard.spill.store import SpillStore
from flowguard.units import SECOND
from tests.builders import EPOCH_MS, columns_of
from tests.spill.crash_disk import CrashDisk

ROOT = "/spill"
APP = "orders-app"
DIRECTORY = f"{ROOT}/{APP}/0"

A = TopicPartition("orders", 0)
B = TopicPartition("orders", 1)

QUOTA = 1 << 20
FINISHED = 3  # frames that `work` finishes
WIDE = 300  # bytes of a value: six frames are a segment
LIMITS = StoreLimits(segment_bytes=16 * 1024, frame_bytes_max=64 * 1024, min_free_bytes=0)


#: One segment for all that a test writes.
ROOMY: Any = {
    "lanes": {"bulk": LaneSpill(max_bytes=1 << 30)},
    "limits": StoreLimits(min_free_bytes=0),
}


class StoppedClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns

    def epoch_ms(self) -> int:
        return EPOCH_MS + self.ns // 1_000_000

    def move(self, seconds: float) -> None:
        self.ns += int(seconds * SECOND)


def identity(**changes: Any) -> Identity:
    fields = {"app": APP, "group": APP, "cluster": "kafka-1", "rules": {"orders": "by header"}}
    return Identity(**{**fields, **changes})


def slot_on(disk: Any, *, root: str = ROOT) -> Slot:
    return take_slot(disk, root, APP)


def store_on(
    disk: Any,
    *,
    slot: Slot | None = None,
    lanes: Mapping[str, LaneSpill] | None = None,
    limits: StoreLimits = LIMITS,
    clock: StoppedClock | None = None,
    entropy: Callable[[int], bytes] | None = None,
    **changes: Any,
) -> SpillStore:
    """Open a store, in the first free slot by default."""
    random = getattr(disk, "random", None) or Random(0)
    return SpillStore(
        slot or slot_on(disk),
        identity(**changes),
        lanes or {"bulk": LaneSpill(max_bytes=QUOTA), "slow": LaneSpill(max_bytes=QUOTA)},
        limits=limits,
        clock=clock or StoppedClock(),
        entropy=entropy or random.randbytes,
    )


def value_at(partition: TopicPartition, offset: int, size: int = 20) -> bytes:
    """Return the value that the log has at an offset."""
    stem = f"{partition.topic}/{partition.partition}/{offset}/".encode()
    return (stem * (size // len(stem) + 1))[:size] if size > len(stem) else stem


def records(partition: TopicPartition, offsets: Iterable[int], *, size: int = 20) -> pa.RecordBatch:
    """Return the records of the log at these offsets."""
    return _records(partition, tuple(offsets), size)


@lru_cache(maxsize=1024)
def _records(partition: TopicPartition, at: tuple[int, ...], size: int) -> pa.RecordBatch:
    return columns_of(
        at,
        timestamps=[EPOCH_MS + offset + size - 20 for offset in at],
        keys=[None if offset % 5 == 0 else b"k%d" % offset for offset in at],
        values=[None if offset % 7 == 3 else value_at(partition, offset, size) for offset in at],
        headers=[[(b"n", b"%d" % offset)] if offset % 2 else [] for offset in at],
    )


def spill(
    store: SpillStore,
    start: int,
    stop: int,
    *,
    lane: str = "bulk",
    partition: TopicPartition = A,
    size: int = 20,
    **options: Any,
) -> Frame:
    """Append the records of a range of offsets as a frame."""
    batch = records(partition, range(start, stop), size=size)
    return store.append(lane, partition, [batch], scan_lo=start, scan_hi=stop, **options)


def assert_reads(store: SpillStore, frame: Frame, *, size: int = 20) -> None:
    """Read a frame, and compare it with the log."""
    (batch,) = store.read(frame)
    offsets = batch.column(0).to_pylist()
    assert offsets == list(range(frame.scan_lo, frame.scan_hi))
    assert batch.equals(records(frame.partition, offsets, size=size))


def fresh_disk(seed: int = 0, **options: Any) -> CrashDisk:
    return CrashDisk(Random(seed), **options)


def all_frames(store: SpillStore) -> list[Frame]:
    return [frame for run in store.recovered for frame in run.frames]


def survivors(store: SpillStore) -> list[Frame]:
    """Return the frames that can be read, each of them as it was; the others are named."""
    return [frame for frame in all_frames(store) if reads(store, frame)]


def reads(store: SpillStore, frame: Frame, *, size: int = 20) -> bool:
    """Tell whether a frame can be read; if so it is what was written, if not it is named."""
    lost = []
    try:
        assert_reads(store, frame, size=size)
    except FrameLost as error:
        lost.append((error.scan_lo, error.scan_hi))
    assert lost in ([], [(frame.scan_lo, frame.scan_hi)])
    return not lost


def work(store: SpillStore, written: list[Frame]) -> None:
    """Write, read, finish, park, adopt, and write again; what is written is noted."""
    for step in range(30):
        lane = ("bulk", "slow")[step % 2]
        partition = (A, B)[step % 3 == 0]
        start = 10 * step
        try:
            written.append(
                spill(store, start, start + 8, lane=lane, partition=partition, size=WIDE)
            )
        except SpillRefused:
            continue
        if step == 5:
            store.finish(*written[:FINISHED])
        if step == 8:
            parked = [f for f in written[FINISHED:] if (f.lane, f.partition) == ("bulk", A)]
            store.park(FrameQueue("bulk", A, parked))
            for run in store.parked(A):
                store.adopt(run)
        store.upkeep()
    store.close()


class Keys:
    """A provider; the last key is the current one."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)

    def current(self) -> Key:
        return self.keys[-1]

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)


KEYS = [Key(name, Random(name).randbytes(32)) for name in ("2025", "2026")]


def encrypted(keys: Any) -> dict[str, LaneSpill]:
    return {"bulk": LaneSpill(max_bytes=QUOTA, keys=keys)}
