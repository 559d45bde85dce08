"""A worker's spill directory: what speaks against one, and what it was of."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowguard import spill_service
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.slot import take_slot
from flowguard.spill_service import doubts, filesystem_of
from flowguard.units import MIB


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "tmpfs /dev/shm tmpfs rw 0 0\n"
        "server:/home /home nfs4 rw 0 0\n"
        "broken\n"
    )
    return str(table)


def test_the_file_system_of_a_directory_is_that_of_the_nearest_mount(mounts: str):
    assert filesystem_of("/var/spill", mounts) == "ext4"
    assert filesystem_of("/dev/shm/spill", mounts) == "tmpfs"
    assert filesystem_of("/dev/shm-not/spill", mounts) == "ext4"
    assert filesystem_of("/home/me/spill", mounts) == "nfs4"
    assert filesystem_of("/anywhere", f"{mounts}-missing") == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [("tmpfs", "takes memory again"), ("nfs4", "its locks may not hold"), ("ext4", None)],
)
def test_a_directory_that_is_no_local_disk_is_said(
    kind: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spill_service, "filesystem_of", lambda _: kind)
    slot = take_slot(RealFileSystem(), str(tmp_path), "app")

    found = doubts(slot, MIB)

    slot.release()
    assert (said is None and found == []) or (said is not None and said in found[0])


def test_a_quota_that_the_disk_has_no_room_for_is_said(tmp_path: Path):
    slot = take_slot(RealFileSystem(), str(tmp_path), "app")

    found = doubts(slot, 1 << 60)

    slot.release()
    assert "lanes may have" in found[0]
    assert "Lower fg.Spill" in found[0]
