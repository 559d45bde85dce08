"""What a store does while nothing is wrong: append, read, finish, park, adopt, start again."""

from __future__ import annotations

import logging

import pytest

from flowguard._native import wire
from flowguard.chunk import TopicPartition
from flowguard.errors import SpillRefused
from flowguard.spill.layout import NO_DEADLINE
from flowguard.spill.manifest import FrameQueue, Probe
from flowguard.spill.options import LaneSpill, StoreLimits
from flowguard.spill.payload import probe_crc
from flowguard.spill.quota import SpillState
from flowguard.spill.store import SpillStore
from tests.builders import EPOCH_MS, columns_of
from tests.spill.builders import (
    APP,
    DIRECTORY,
    LIMITS,
    QUOTA,
    ROOMY,
    A,
    B,
    StoppedClock,
    assert_reads,
    fresh_disk,
    records,
    slot_on,
    spill,
    store_on,
    value_at,
)
from tests.spill.crash_disk import CrashDisk

FULL_FRAME = 2000  # bytes of a value, so that ten records are more than a segment


def restarted(disk: CrashDisk, **options: object) -> tuple[CrashDisk, SpillStore]:
    after = disk.after_kill()
    return after, store_on(after, **options)  # type: ignore[arg-type]


# Writing and reading.


def test_a_frame_says_what_must_be_known_before_it_is_read() -> None:
    store = store_on(fresh_disk())
    batch = records(A, [5, 7, 8])

    frame = store.append("bulk", A, [batch], scan_lo=3, scan_hi=12, deadline_ms=42)

    assert (frame.lane, frame.partition, frame.records) == ("bulk", A, 3)
    assert (frame.scan_lo, frame.scan_hi, frame.deadline_ms) == (3, 12, 42)
    assert (frame.min_timestamp_ms, frame.max_timestamp_ms) == (EPOCH_MS + 5, EPOCH_MS + 8)
    assert frame.raw_bytes == frame.stored_bytes > batch.nbytes
    assert store.read(frame) == [batch]


def test_several_batches_are_one_frame_and_come_back_as_they_were() -> None:
    store = store_on(fresh_disk())
    batches = [records(A, range(10)), records(A, []), records(A, range(20, 30)).slice(3)]

    frame = store.append("bulk", A, batches, scan_lo=0, scan_hi=40)

    assert frame.records == 17 and frame.deadline_ms == NO_DEADLINE
    assert store.read(frame) == [batches[0], batches[2]]


@pytest.mark.parametrize("packing", ["lz4", "zstd", "auto"])
def test_packed_frames_say_what_they_take_in_memory(packing: str) -> None:
    lane = LaneSpill(max_bytes=QUOTA, compression=packing)  # type: ignore[arg-type]
    store = store_on(fresh_disk(), lanes={"bulk": lane})

    frame = spill(store, 0, 100, size=200)

    assert packing == "auto" or frame.stored_bytes < frame.raw_bytes / 2
    assert frame.raw_bytes >= records(A, range(100), size=200).nbytes
    assert_reads(store, frame, size=200)


@pytest.mark.parametrize(("scan_lo", "scan_hi"), [(1, 10), (0, 9), (10, 0)])
def test_records_outside_the_range_are_a_mistake(scan_lo: int, scan_hi: int) -> None:
    store = store_on(fresh_disk())

    with pytest.raises(ValueError, match="not in the range"):
        store.append("bulk", A, [records(A, range(10))], scan_lo=scan_lo, scan_hi=scan_hi)


@pytest.mark.parametrize("batches", [[], [columns_of([])]])
def test_no_records_are_a_mistake(batches: list[object]) -> None:
    store = store_on(fresh_disk())

    with pytest.raises(ValueError, match="no records"):
        store.append("bulk", A, batches, scan_lo=0, scan_hi=1)  # type: ignore[arg-type]


def test_lanes_and_their_partitions_share_one_stream_each() -> None:
    disk = fresh_disk()
    store = store_on(disk)

    frames = [spill(store, 0, 5), spill(store, 0, 5, partition=B), spill(store, 5, 9),
              spill(store, 0, 5, lane="slow")]  # fmt: skip

    assert [frame.segment for frame in frames] == [0, 0, 0, 1]
    assert disk.names(".fgs") == [
        f"{DIRECTORY}/bulk-0000000000000000.fgs", f"{DIRECTORY}/slow-0000000000000001.fgs",
    ]  # fmt: skip
    for frame in frames:
        assert_reads(store, frame)


def test_a_segment_that_is_full_is_sealed_and_the_next_one_is_opened() -> None:
    disk = fresh_disk()
    store = store_on(disk)

    frames = [spill(store, 10 * n, 10 * n + 10, size=500) for n in range(8)]

    assert len({frame.segment for frame in frames}) > 1
    sizes = [len(disk.files[path].data) for path in disk.names(".fgs")]
    assert max(sizes) < LIMITS.segment_bytes + 2000  # frames, and a footer of few of them
    for frame in frames:
        assert_reads(store, frame, size=500)


def test_a_frame_larger_than_a_segment_has_one_to_itself() -> None:
    store = store_on(fresh_disk())

    frames = [spill(store, 0, 1), spill(store, 1, 11, size=FULL_FRAME), spill(store, 11, 12)]

    assert [frame.segment for frame in frames] == [0, 1, 2]
    assert_reads(store, frames[1], size=FULL_FRAME)


def test_what_is_too_large_for_a_frame_stays_in_memory() -> None:
    store = store_on(fresh_disk())

    with pytest.raises(SpillRefused, match="too much for a frame") as refused:
        spill(store, 0, 1, size=LIMITS.frame_bytes_max)

    assert refused.value.too_large and store.state("bulk") is SpillState.OK
    assert_reads(store, spill(store, 0, 1))


def test_disks_that_take_and_give_a_little_at_a_time_are_good_enough() -> None:
    disk = fresh_disk(short=True)
    store = store_on(disk)

    frame = spill(store, 0, 50)

    assert_reads(store, frame)
    store.close()
    _, after = restarted(disk)
    assert [list(run.frames) for run in after.recovered] == [[frame]]


# Finishing.


def test_a_segment_goes_when_all_its_frames_are_finished_in_any_order() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, n, n + 1, size=FULL_FRAME) for n in range(8)]
    first = [frame for frame in frames if frame.segment == frames[0].segment]
    assert len(first) > 1 and len(first) < len(frames)

    store.finish(*reversed(first[1:]))
    assert len(disk.names("bulk-0000000000000000")) == 1
    store.finish(first[0])

    assert not disk.names("bulk-0000000000000000")
    assert_reads(store, frames[-1], size=FULL_FRAME)


def test_finishing_twice_is_finishing_once() -> None:
    store = store_on(fresh_disk())
    frames = [spill(store, 0, 5), spill(store, 5, 9)]

    for _ in range(3):
        store.finish(frames[0])

    assert store.usage("bulk").frames == 1
    assert_reads(store, frames[1])


def test_a_drained_lane_leaves_nothing_on_disk() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, n, n + 1, size=FULL_FRAME) for n in range(30)]
    assert store.usage("bulk").stored_bytes > 30 * FULL_FRAME

    store.finish(*frames)
    store.upkeep()

    assert not disk.names(".fgs") and store.usage("bulk").stored_bytes == 0


def test_usage_counts_files_and_what_is_wanted_of_them() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 10 * n, 10 * n + 10, size=500) for n in range(8)]
    store.finish(frames[0])

    usage = store.usage("bulk")

    files = sum(len(disk.files[path].data) for path in disk.names(".fgs"))
    assert usage.stored_bytes == files
    assert usage.live_bytes == sum(frame.stored_bytes for frame in frames[1:])
    assert (usage.frames, usage.max_bytes, usage.parked_bytes) == (7, QUOTA, 0)
    assert usage.segments == len(disk.names(".fgs"))


# Starting again.


def test_a_killed_worker_finds_all_that_it_wrote() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 10 * n, 10 * n + 10, size=500) for n in range(8)]
    other = spill(store, 3, 7, partition=B, lane="slow")

    _, after = restarted(disk)

    found = {(run.lane, run.partition): run for run in after.recovered}
    assert list(found["bulk", A].frames) == frames
    assert list(found["slow", B].frames) == [other]
    assert after.usage("bulk").parked_bytes == sum(frame.stored_bytes for frame in frames)
    for frame in frames:
        assert_reads(after, frame, size=500)


def test_a_worker_that_ended_in_peace_is_found_without_a_scan() -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    for n in range(50):
        spill(store, n, n + 1)
    store.close()

    after = disk.after_kill()
    store_on(after, **ROOMY)

    assert sum(op == "read_into" for op, _ in after.log) == 3  # header, trailer, footer


def test_what_a_start_has_found_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    disk = fresh_disk()
    store = store_on(disk, **ROOMY)
    spill(store, 0, 30)
    store.close()
    caplog.set_level(logging.INFO, logger="flowguard.spill")

    restarted(disk)

    (line,) = (each.getMessage() for each in caplog.records if "kept" in each.getMessage())
    assert line.endswith(": 30 records in 1 files kept for their partitions")


def test_what_was_finished_before_a_kill_may_be_found_and_is_told_by_the_watermark() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    frames = [spill(store, 0, 5), spill(store, 5, 9)]
    store.finish(frames[0])

    _, after = restarted(disk)

    (run,) = after.parked(A)
    assert list(run.frames) == frames  # W is 5: `usable` calls the first one outdated


def test_new_segments_never_have_the_number_of_old_ones() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)

    disk, after = restarted(disk)
    frame = spill(after, 5, 9, partition=B)

    assert frame.segment == 1 and len(disk.names(".fgs")) == 2


def test_what_others_put_into_the_directory_is_neither_read_nor_deleted() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)
    for name in ("notes.txt", "bulk-0000000000000000.fgs.bak", "core.1234", "x.fgs"):
        disk.create(f"{DIRECTORY}/{name}")

    disk, _ = restarted(disk)

    assert (
        len(disk.names(".txt") + disk.names(".bak") + disk.names("core") + disk.names("x.f")) == 4
    )


@pytest.mark.parametrize("change", [{"app": "other"}, {"group": "other"}, {"cluster": "kafka-2"}])
def test_what_was_spilled_for_somebody_else_is_deleted(change: dict[str, str]) -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)

    disk, after = restarted(disk, **change)

    assert not after.recovered and not disk.names(".fgs")


def test_what_a_lane_spilled_that_is_gone_is_deleted() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)

    disk, after = restarted(disk, lanes={"slow": LaneSpill(max_bytes=QUOTA)})

    assert not after.recovered and not disk.names(".fgs")


def test_what_another_rule_put_into_the_lane_is_not_used() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)

    disk, after = restarted(disk, rules={"orders": "by key"})

    assert len(after.recovered) == 1  # until it is asked for: rules may come later
    assert not after.parked(A) and not after.recovered
    assert not disk.names(".fgs")


def test_the_probe_is_the_newest_record() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 5)
    spill(store, 5, 9)

    _, after = restarted(disk)

    headers = wire.encode_headers([])
    expected = Probe(8, probe_crc(EPOCH_MS + 8, b"k8", value_at(A, 8, 20), headers))
    assert after.probe(after.recovered[0]) == expected


def test_a_run_is_probed_by_the_newest_frame_that_can_be_read() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 5)
    last = spill(store, 5, 9)
    disk, after = restarted(disk)
    (run,) = after.recovered
    (path,) = disk.names(".fgs")

    disk.files[path].data[last.position + 20] ^= 1
    probe = after.probe(run)
    disk.unlink(path)

    assert probe is not None and probe.offset == 4
    assert after.probe(run) is None


# Nobody's.


def test_a_revoked_partition_is_parked_and_taken_over_where_it_was() -> None:
    store = store_on(fresh_disk())
    queue = FrameQueue("bulk", A, [spill(store, 0, 5), spill(store, 5, 9)])
    reading = queue.popleft()

    queue.appendleft(reading)
    store.park(queue)
    (run,) = store.parked(A)
    adopted = store.adopt(run)
    adopted.append(spill(store, 9, 12))

    assert [frame.scan_lo for frame in adopted] == [0, 5, 9]
    assert not store.recovered and store.parked(B) == []


def test_what_is_appended_after_adoption_is_of_the_same_run_after_a_restart() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)
    disk, store = restarted(disk)
    store.adopt(store.parked(A)[0])
    spill(store, 5, 9)

    _, after = restarted(disk)

    (run,) = after.parked(A)
    assert [frame.scan_lo for frame in run.frames] == [0, 5]


def test_what_was_given_up_does_not_come_back_after_a_restart() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 5)
    spill(store, 0, 5, partition=B)  # keeps the file
    disk, store = restarted(disk)
    store.discard(store.parked(A)[0])  # its probe did not agree
    fresh = spill(store, 100, 105)

    disk, after = restarted(disk)

    assert [list(run.frames) for run in after.parked(A)] == [[fresh]]
    assert len(after.parked(B)) == 1


def test_a_run_is_adopted_once_and_before_anything_newer() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 5)
    _, store = restarted(disk)
    (run,) = store.parked(A)
    spill(store, 7, 9)

    with pytest.raises(ValueError, match="comes too late"):
        store.adopt(run)
    store.discard(run)
    with pytest.raises(ValueError, match="not in list"):
        store.discard(run)


def test_parked_runs_go_by_themselves_after_a_while() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    store.park(FrameQueue("bulk", A, [spill(store, 0, 5)]))

    clock.move(600)
    store.upkeep()
    assert store.recovered
    clock.move(1)
    store.upkeep()

    assert not store.recovered and not disk.names(".fgs")


def test_pinned_runs_stay() -> None:
    disk, clock = fresh_disk(), StoppedClock()
    store = store_on(disk, clock=clock)
    store.park(FrameQueue("bulk", A, [spill(store, 0, 5)]))
    store.recovered[0].pinned = True

    clock.move(10_000)
    store.upkeep()

    assert len(store.recovered) == 1


def test_an_empty_queue_is_not_parked() -> None:
    store = store_on(fresh_disk())
    store.park(FrameQueue("bulk", A))
    assert not store.recovered


def test_a_worker_with_few_bytes_has_small_segments() -> None:
    limits = StoreLimits(min_free_bytes=0)
    disk = fresh_disk()
    store = store_on(disk, lanes={"bulk": LaneSpill(max_bytes=120_000)}, limits=limits)

    frames = [spill(store, n, n + 1, size=FULL_FRAME) for n in range(20)]
    before = store.usage("bulk")
    store.finish(*frames[:10])

    assert before.segments >= 4
    assert store.usage("bulk").stored_bytes < before.stored_bytes * 0.8


def test_each_worker_of_a_machine_has_a_store_of_its_own() -> None:
    disk = fresh_disk()
    slots = [slot_on(disk), slot_on(disk)]

    stores = [store_on(disk, slot=slot) for slot in slots]
    frames = [spill(store, 0, 5) for store in stores]

    assert len(disk.names(f"{APP}/0/bulk")) == len(disk.names(f"{APP}/1/bulk")) == 1
    for store, frame in zip(stores, frames, strict=True):
        assert_reads(store, frame)


def test_offsets_and_partitions_of_any_size_come_back() -> None:
    store = store_on(fresh_disk())
    place = TopicPartition("t" * 249, 2**31 - 1)
    batch = columns_of([2**62], timestamps=[-(2**63)], values=[b""])

    frame = store.append("bulk", place, [batch], scan_lo=-(2**63), scan_hi=2**63 - 1)

    assert store.read(frame) == [batch]
