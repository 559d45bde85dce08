"""What a worker finds that comes back: its own, another version's, another log's.

The log of these tests is `ledger.Log`: it knows what is owed, and what may come twice.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from flowguard._native.frame import crc32c
from flowguard.chunk import TopicPartition
from flowguard.errors import SpillRefused
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.manifest import FrameQueue
from flowguard.spill.slot import LOCK_NAME, take_slot
from tests.spill.builders import (
    APP,
    DIRECTORY,
    A,
    B,
    StoppedClock,
    all_frames,
    assert_reads,
    fresh_disk,
    spill,
    store_on,
)
from tests.spill.ledger import LANES, Committed
from tests.spill.worker import World

# Fault 13. Partitions that go and come back, while records are spilled, read, in flight.


def spilling(seed: int = 0) -> World:
    """Return a worker that has records of partition A in memory, on disk, read and in flight."""
    world = World(seed)
    world.disk.short = False
    for _ in range(4):
        world.produce(A, 90)
        world.worker.fetch(A, 90)
        for lane in LANES[1:]:
            world.worker.spill(A, lane)
    for lane in LANES:
        world.worker.load(A, lane)
        world.worker.deliver(A, lane, 7)
    assert world.worker.store.usage("bulk").frames > 1
    return world


@pytest.mark.parametrize("commit", [True, False], ids=["revoked", "lost"])
def test_a_partition_that_comes_back_is_gone_on_with_and_its_frames_are_used(commit: bool) -> None:
    world = spilling()
    frames = world.worker.store.usage("bulk").frames

    world.worker.revoke(A, commit=commit)
    assert world.worker.store.usage("bulk").parked_bytes > 0
    world.worker.assign(A)

    assert world.worker.reused >= frames
    assert world.worker.store.recovered == []
    world.end()


@pytest.mark.parametrize("count", [1, 25, 400])
def test_a_partition_that_another_worker_had_meanwhile_is_gone_on_with_where_that_was(
    count: int,
) -> None:
    world = spilling()

    world.worker.revoke(A, commit=True)
    world.elsewhere(A, count)
    world.worker.assign(A)
    world.worker.check()

    world.end()
    assert world.log.repeated == 0


def test_what_is_parked_of_one_partition_is_no_other_ones() -> None:
    world = spilling()
    world.worker.revoke(A, commit=True)

    world.worker.revoke(B, commit=True)
    world.worker.assign(B)

    assert world.worker.reused == 0
    assert {run.partition for run in world.worker.store.recovered} == {A}
    world.end()


# Fault 14. A log that is not the one that was spilled.


def restarted(world: World) -> World:
    world.restart("kill")
    world.worker = world.start()
    return world


@pytest.mark.parametrize("offset", [0, 40, 150, 360])
def test_an_offset_that_somebody_moved_is_where_the_worker_goes_on(offset: int) -> None:
    world = spilling()
    world.worker.commit(A)

    world.log.move(A, offset)
    restarted(world).worker.check()

    world.end()


def test_a_topic_that_was_made_anew_has_nothing_of_the_old_one() -> None:
    world = spilling()

    world.log.recreate(A)
    restarted(world)

    assert world.worker.reused == 0 and not all_frames(world.worker.store)
    world.end()


def test_a_log_that_lost_its_end_is_another_log_for_what_was_spilled_of_that() -> None:
    world = spilling()

    world.log.ends[A] = 200  # an unclean election; the spilled records went further
    restarted(world)
    world.log.ends[A] = 360

    assert world.worker.reused == 0
    world.end()


def test_a_log_whose_newest_spilled_record_was_compacted_away_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = spilling()
    probes = [
        probe for run in found_on(world) if (probe := world.worker.store.probe(run)) is not None
    ]
    gone = {probe.offset for probe in probes}
    agrees = type(world.log).probe_agrees

    def compacted(log: Any, place: TopicPartition, probe: Any) -> bool:
        return probe.offset not in gone and agrees(log, place, probe)

    monkeypatch.setattr(type(world.log), "probe_agrees", compacted)
    restarted(world)

    assert gone and world.worker.reused == 0
    world.end()


def found_on(world: World) -> list[Any]:
    world.worker.revoke(A, commit=False)
    return world.worker.store.recovered


# Fault 15. Kafka has deleted what is spilled; what a worker has of it is the only copy.


def test_what_a_worker_has_or_has_pinned_never_makes_room() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    owned = [spill(store, n, n + 1, size=2_000) for n in range(4)]
    store.park(FrameQueue("bulk", B, [spill(store, 0, 1, size=2_000, partition=B)]))
    (pinned,) = store.recovered
    pinned.pinned = True

    with pytest.raises(SpillRefused):
        owned.extend(spill(store, n, n + 1, size=2_000) for n in range(100, 10_000))
    clock.move(100_000)
    store.upkeep()

    assert store.recovered == [pinned]
    for frame in [*owned, *pinned.frames]:
        assert_reads(store, frame, size=2_000)


# Fault 16. Another rule: unit/spill/test_store.py; metadata: unit/settle/test_watermarks.py.


@pytest.mark.parametrize("kept", ["rule", "watermarks"])
def test_without_a_rule_or_watermarks_that_agree_records_only_come_again(kept: str) -> None:
    world = spilling()
    world.worker.commit(A)
    if kept == "rule":  # another rule, so the watermarks are still those of the old one: ignored
        for run in found_on(world):
            world.worker.store.discard(run)
    offset = world.log.committed[A].offset
    delivered = sum(times for (place, _, at), times in world.log.delivered.items()
                    if place == A and at >= offset)  # fmt: skip

    world.log.committed[A] = Committed(offset)
    world.log.may_repeat += delivered
    restarted(world)

    world.end()


# Fault 17. Two workers of one machine; locks of the dead. More: unit/spill/test_slot.py.


def test_a_lock_file_that_names_a_living_process_keeps_nobody_out_unless_it_holds_it(
    tmp_path: Path,
) -> None:
    directory = tmp_path / APP / "0"
    directory.mkdir(parents=True)
    (directory / LOCK_NAME).write_text(f"{os.getppid()}\n")  # the number of a dead one, taken again

    first = take_slot(RealFileSystem(), str(tmp_path), APP)
    second = take_slot(RealFileSystem(), str(tmp_path), APP)

    assert (first.number, second.number) == (0, 1)
    assert (directory / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    first.release()
    second.release()


def test_two_workers_of_one_machine_neither_read_nor_delete_what_is_the_other_ones() -> None:
    disk = fresh_disk()
    first, second = store_on(disk), store_on(disk)
    frames = [spill(first, 0, 10), spill(second, 0, 20)]

    second.finish(frames[1])
    second.close()

    assert not second.recovered
    assert_reads(first, frames[0])
    assert disk.names(".fgs") == [f"{DIRECTORY}/bulk-0000000000000000.fgs"]


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


class Wall(StoppedClock):
    """A clock whose wall time is set by somebody; it goes on by itself all the same."""

    wall_ms = 0

    def epoch_ms(self) -> int:
        return super().epoch_ms() + self.wall_ms


@pytest.mark.parametrize("hours", [-24, 24])
def test_a_wall_clock_that_is_set_neither_expires_nor_keeps_what_is_parked(hours: int) -> None:
    clock = Wall()
    store = store_on(fresh_disk(), clock=clock)
    store.park(FrameQueue("bulk", A, [spill(store, 0, 10)]))

    clock.wall_ms = hours * 3_600_000
    clock.move(599)
    store.upkeep()
    assert len(store.recovered) == 1

    clock.move(2)
    store.upkeep()
    assert not store.recovered


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


def test_a_segment_of_a_later_minor_version_is_read() -> None:
    disk = fresh_disk()
    frame = spill(store_on(disk), 0, 10)
    (path,) = disk.names(".fgs")
    data = disk.files[path].data
    struct.pack_into("<H", data, 10, 7)
    struct.pack_into("<I", data, 4092, crc32c([bytes(data[:4092])]))

    store = store_on(disk.after_kill())

    assert all_frames(store) == [frame]
    assert_reads(store, frame)


def test_frames_of_a_kind_that_is_not_known_cost_themselves_only() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 10), spill(store, 10, 20), spill(store, 20, 30)]
    (path,) = disk.names(".fgs")
    data, at = disk.files[path].data, frames[1].position
    data[at + 4] = 9
    struct.pack_into("<I", data, at + 444, crc32c([bytes(data[at : at + 444])]))

    assert all_frames(store_on(disk.after_kill())) == [frames[0], frames[2]]


def test_files_of_others_are_neither_read_nor_counted_nor_deleted() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)
    strange = [
        "notes.txt",
        "bulk-1.fgs",
        "bulk-ffffffffffffffff.fgs",
        "bulk-0000000100000000.fgs",
        "bulk-0000000000000001.fgs.tmp",
        ".fgs",
    ]
    for name in strange:
        disk.files[f"{DIRECTORY}/{name}"] = type(disk.files[f"{DIRECTORY}/{LOCK_NAME}"])(
            bytearray(b"not ours" * 1000)
        )

    store = store_on(disk.after_kill())

    assert store.usage("bulk").segments == 1
    assert_reads(store, fresh := spill(store, 10, 20))
    FrameQueue("bulk", A).append(fresh)
    store.upkeep()
    store.close()
    assert all(store._filesystem.files.get(f"{DIRECTORY}/{name}") for name in strange)  # type: ignore[attr-defined]
