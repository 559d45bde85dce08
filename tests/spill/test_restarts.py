"""What a worker finds that comes back: its own, another version's, another log's."""

from __future__ import annotations

import struct

from flowguard._native.frame import crc32c
from flowguard.spill.manifest import FrameQueue
from tests.spill.builders import (
    A,
    StoppedClock,
    fresh_disk,
    spill,
    store_on,
)

# Fault 18. Clocks.


def test_a_clock_that_jumps_expires_nothing_that_was_just_parked() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    store.park(FrameQueue("bulk", A, [spill(store, 0, 10)]))

    clock.move(-100_000)
    store.upkeep()
    assert len(store.recovered) == 1

    later = StoppedClock()
    later.move(10**8)  # another boot, years later
    after = store_on(disk.after_kill(), clock=later)
    after.upkeep()
    assert len(after.recovered) == 1


# Fault 19. Other versions.


def test_a_segment_of_a_later_format_is_left_alone() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)
    (path,) = disk.names(".fgs")
    data = disk.files[path].data
    struct.pack_into("<H", data, 8, 2)
    struct.pack_into("<I", data, 4092, crc32c([bytes(data[:4092])]))

    disk = disk.after_kill()
    store = store_on(disk)
    fresh = spill(store, 0, 10)

    assert not store.recovered and path in disk.files and fresh.segment == 1
