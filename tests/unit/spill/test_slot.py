"""Each worker of a machine has a directory of its own."""

from __future__ import annotations

import errno

import pytest

from flowguard.errors import SpillError
from flowguard.spill.slot import app_directory, take_slot
from tests.spill.builders import APP, DIRECTORY, ROOT, fresh_disk, slot_on


def test_the_second_worker_takes_the_next_slot() -> None:
    disk = fresh_disk()

    slots = [slot_on(disk) for _ in range(3)]

    assert [slot.number for slot in slots] == [0, 1, 2]
    assert slots[1].directory == f"{ROOT}/{APP}/1"
    slots[0].release()
    assert slot_on(disk).number == 0


def test_a_killed_worker_leaves_its_slot_free() -> None:
    disk = fresh_disk()
    slot_on(disk)

    assert slot_on(disk.after_kill()).number == 0


@pytest.mark.parametrize(
    ("app", "name"),
    [("fraud", "fraud"), ("a/b", "a%2Fb"), ("..", "%2E."), (".x", "%2Ex"), ("ä", "%C3%A4")],
)
def test_no_app_leaves_the_directory(app: str, name: str) -> None:
    assert app_directory("/spill", app) == f"/spill/{name}"


def test_a_directory_that_cannot_be_used_is_said_in_one_line() -> None:
    disk = fresh_disk()
    disk.fail("make_directory", errno.EACCES)

    with pytest.raises(SpillError, match="Permission denied; name a directory of this user"):
        slot_on(disk)


def test_a_slot_that_was_deleted_is_taken_again() -> None:
    disk = fresh_disk()
    slot = slot_on(disk)

    disk.remove_tree(ROOT)

    assert slot.hold() and slot.hold()
    assert slot_on(disk).number == 1


def test_a_slot_that_was_deleted_may_be_another_workers_by_now() -> None:
    disk = fresh_disk()
    slot = slot_on(disk)
    disk.remove_tree(ROOT)

    other = take_slot(disk, ROOT, APP)

    assert other.directory == DIRECTORY and not slot.hold()


def test_there_is_an_end_to_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowguard.spill.slot.SLOTS_MAX", 2)
    disk = fresh_disk()
    slot_on(disk)
    slot_on(disk)

    with pytest.raises(SpillError, match="all 2 slots"):
        slot_on(disk)


def test_a_worker_with_a_number_has_the_slot_of_this_number_unless_it_is_taken() -> None:
    disk = fresh_disk()

    first = take_slot(disk, ROOT, APP, preferred=3)
    second = take_slot(disk, ROOT, APP, preferred=3)

    assert [first.number, second.number] == [3, 0]
