"""Small stores on disks in memory, and records whose bytes follow from their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from random import Random
from typing import Any

import pyarrow as pa

from flowguard.chunk import TopicPartition
from flowguard.spill.manifest import Frame
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
