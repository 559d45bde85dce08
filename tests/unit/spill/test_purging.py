"""Deleting from spill directories: what is meant goes, and nothing else ever does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flowguard.errors import FrameLost
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.findings import Unread
from flowguard.spill.inspection import inspect_slot, survey
from flowguard.spill.layout import segment_name
from flowguard.spill.options import LaneSpill
from flowguard.spill.purging import Choice, Plan, plan_purge, purge
from flowguard.spill.store import SpillStore
from tests.spill.builders import (
    APP,
    DIRECTORY,
    QUOTA,
    ROOT,
    B,
    assert_reads,
    fresh_disk,
    slot_on,
    spill,
    store_on,
)
from tests.spill.crash_disk import CrashDisk, Inode
from tests.unit.spill.test_inspection import ENCRYPTED, later_format

NOW_MS = 10_000_000


def plan_on(disk: CrashDisk, **choice: object) -> Plan:
    found = survey(disk, ROOT, inspect_slot)
    return plan_purge(found.slots, Choice(**choice), epoch_ms=NOW_MS)  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [each.name for each in plan.doomed]


@pytest.fixture
def disk() -> CrashDisk:
    """Two lanes: bulk has a segment with both partitions and one with B; slow has A."""
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 10)
    spill(store, 0, 10, partition=B)
    spill(store, 10, 20, partition=B, size=1500)
    spill(store, 0, 10, lane="slow")
    return disk


BULK_BOTH, BULK_B, SLOW_A = (
    segment_name(*each) for each in [("bulk", 0), ("bulk", 1), ("slow", 2)]
)
QUARANTINED = f"quarantine/{segment_name('bulk', 9)}"


def quarantine(disk: CrashDisk) -> None:
    disk.make_directory(f"{DIRECTORY}/quarantine")
    disk.files[f"{DIRECTORY}/{QUARANTINED}"] = Inode(bytearray(50), modified_ms=0)


# What is chosen.


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({}, [BULK_BOTH, BULK_B, SLOW_A, QUARANTINED]),
        ({"lanes": ("bulk",)}, [BULK_BOTH, BULK_B, QUARANTINED]),
        ({"lanes": ("slow",)}, [SLOW_A]),
        ({"lanes": ("slow", "bulk")}, [BULK_BOTH, BULK_B, SLOW_A, QUARANTINED]),
        ({"lanes": ("bul",)}, []),
        ({"topics": (("orders", None),)}, [BULK_BOTH, BULK_B, SLOW_A]),
        ({"topics": (("orders", 0),)}, [BULK_BOTH, SLOW_A]),
        ({"topics": (("orders", 7), ("others", None))}, []),
        ({"topics": (("orders", 0),), "lanes": ("bulk",)}, [BULK_BOTH]),
        ({"apps": (APP,)}, [BULK_BOTH, BULK_B, SLOW_A, QUARANTINED]),
        ({"apps": ("0", "other")}, []),
    ],
)
def test_what_agrees_with_every_option_is_chosen(
    disk: CrashDisk, choice: dict[str, object], chosen: list[str]
) -> None:
    quarantine(disk)

    assert names(plan_on(disk, **choice)) == chosen


def test_age_counts_from_the_last_write(disk: CrashDisk) -> None:
    quarantine(disk)
    for name, age_ms in ((BULK_BOTH, 5_000), (BULK_B, 4_999), (SLOW_A, -60_000)):
        disk.files[f"{DIRECTORY}/{name}"].modified_ms = NOW_MS - age_ms

    assert names(plan_on(disk, older_than_ms=5_000)) == [BULK_BOTH, QUARANTINED]


def test_an_app_is_found_by_its_name_however_that_is_written_on_disk() -> None:
    disk = fresh_disk()
    disk.make_directory(f"{ROOT}/%2Ea%2Fb/0")
    disk.files[f"{ROOT}/%2Ea%2Fb/0/{segment_name('bulk', 1)}"] = Inode(bytearray(9))

    assert len(plan_on(disk, apps=(".a/b",)).doomed) == 1


def test_what_cannot_be_told_stays_and_is_named(disk: CrashDisk) -> None:
    quarantine(disk)
    garbage, later = segment_name("bulk", 5), segment_name("bulk", 6)
    disk.files[f"{DIRECTORY}/{garbage}"] = Inode(bytearray(b"x" * 5000))
    disk.files[f"{DIRECTORY}/{later}"] = Inode(bytearray(later_format()))

    plan = plan_on(disk, topics=(("orders", 0),))

    assert names(plan) == [BULK_BOTH, SLOW_A]
    assert [each.path.removeprefix(f"{DIRECTORY}/") for each in plan.kept] == [
        garbage, later, QUARANTINED,
    ]  # fmt: skip
    assert [each.why.split(";")[0] for each in plan.kept] == [
        "its topics cannot be read", "it is of a later format", "its topics cannot be read",
    ]  # fmt: skip
    everything = plan_on(disk)
    assert garbage in names(everything) and later not in names(everything)


def test_of_encrypted_segments_the_lane_is_known_and_topics_are_not() -> None:
    disk = fresh_disk()
    spill(store_on(disk, lanes=ENCRYPTED), 0, 10)

    by_topic, by_lane = plan_on(disk, topics=(("orders", 0),)), plan_on(disk, lanes=("bulk",))

    assert not by_topic.doomed and "encrypted" in by_topic.kept[0].why
    assert len(by_lane.doomed) == 1


def test_a_damaged_part_may_be_of_the_topic_that_is_meant() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    spill(store, 0, 10)
    frame = spill(store, 0, 10, partition=B)
    (path,) = disk.names(".fgs")
    disk.files[path].data[frame.position + 9] ^= 1

    plan = plan_on(disk, topics=(("orders", 1),))

    assert not plan.doomed and "a part of it is damaged or just written" in plan.kept[0].why


# What goes.


def test_only_what_is_planned_is_deleted(disk: CrashDisk) -> None:
    quarantine(disk)
    disk.files[f"{DIRECTORY}/notes.txt"] = Inode()
    disk.files[f"{DIRECTORY}/quarantine/core"] = Inode()
    before = set(disk.files)

    deleted, failed = purge(disk, plan_on(disk))

    assert [each.name for each in deleted] == [BULK_BOTH, BULK_B, SLOW_A, QUARANTINED]
    assert failed == []
    assert before - set(disk.files) == {each.path for each in deleted}
    assert disk.names("notes") and disk.names("core") and disk.names("LOCK")


def test_what_vanished_meanwhile_is_no_failure_and_not_counted(disk: CrashDisk) -> None:
    plan = plan_on(disk)
    disk.unlink(f"{DIRECTORY}/{BULK_B}")

    deleted, failed = purge(disk, plan)

    assert [each.name for each in deleted] == [BULK_BOTH, SLOW_A] and failed == []


def test_what_cannot_be_deleted_is_named_and_the_rest_goes(disk: CrashDisk) -> None:
    disk.fail("unlink", errno.EROFS, path=BULK_B)

    deleted, failed = purge(disk, plan_on(disk))

    assert [each.name for each in deleted] == [BULK_BOTH, SLOW_A]
    assert failed == [Unread(f"{DIRECTORY}/{BULK_B}", "Read-only file system")]


def test_links_are_not_followed(tmp_path: Path) -> None:
    real = RealFileSystem()
    outside = tmp_path / "outside" / "app" / "0"
    outside.mkdir(parents=True)
    (outside / segment_name("bulk", 1)).write_bytes(b"not to be deleted")
    slot = slot_on(real, root=str(tmp_path / "spill"))
    inside = Path(slot.directory)
    (inside / segment_name("bulk", 1)).symlink_to(outside / segment_name("bulk", 1))
    (inside / "quarantine").symlink_to(outside)
    (inside.parent / "1").symlink_to(outside)
    (inside.parent.parent / "app").symlink_to(outside.parent)

    found = survey(real, str(tmp_path / "spill"), inspect_slot)
    plan = plan_purge(found.slots, Choice(), epoch_ms=NOW_MS)

    assert [each.directory for each in found.slots] == [slot.directory]
    assert plan.doomed == [] and purge(real, plan) == ([], [])
    assert (outside / segment_name("bulk", 1)).exists()
    slot.release()


# Under a worker.


def test_a_worker_goes_on_when_its_segments_are_deleted() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    gone = spill(store, 0, 10)

    purge(disk, plan_on(disk))

    kept = spill(store, 10, 20)
    store.upkeep()
    with pytest.raises(FrameLost, match="its file is gone"):
        store.read(gone)
    assert_reads(store, kept)
    store.finish(gone, kept)
    store.upkeep()
    assert store.usage("bulk").stored_bytes == 0


def test_a_worker_has_its_whole_quota_again_when_its_quarantine_is_deleted() -> None:
    disk = fresh_disk()
    disk.make_directory(f"{DIRECTORY}/quarantine")
    disk.files[f"{DIRECTORY}/{QUARANTINED}"] = Inode(bytearray(QUOTA // 25))
    store: SpillStore = store_on(disk, lanes={"bulk": LaneSpill(max_bytes=QUOTA)})
    assert store.usage("bulk").max_bytes < QUOTA

    purge(disk, plan_on(disk))
    store.upkeep()

    assert store.usage("bulk").max_bytes == QUOTA
    assert store.usage("bulk").stored_bytes == 0
