"""The real file system and the one that crashes keep the same promises."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowguard.spill import filesystem as real
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.ports import FileSystem
from flowguard.spill.reading import fill
from flowguard.spill.stream import write_all
from tests.spill.crash_disk import CrashDisk


@pytest.fixture(params=["real", "crash", "short"])
def disk(request: pytest.FixtureRequest) -> FileSystem:
    if request.param == "real":
        return RealFileSystem()
    return CrashDisk(Random(1), short=request.param == "short")


@pytest.fixture
def root(disk: FileSystem, tmp_path: Path) -> str:
    disk.make_directory(f"{tmp_path}/a/b")
    return f"{tmp_path}/a/b"


def content(disk: FileSystem, path: str) -> bytes:
    file = disk.open(path)
    buffer = bytearray(file.size())
    assert fill(file, buffer, 0) == len(buffer)
    file.close()
    return bytes(buffer)


def test_what_is_written_is_read(disk: FileSystem, root: str) -> None:
    file = disk.create(f"{root}/x")
    write_all(file, [b"one", b"", memoryview(b"two"), b"!" * 5000], 0)
    write_all(file, [b"ONE"], 0)
    file.sync()
    file.close()

    assert content(disk, f"{root}/x") == b"ONEtwo" + b"!" * 5000


def test_reserved_room_is_no_content(disk: FileSystem, root: str) -> None:
    file = disk.create(f"{root}/x")

    file.reserve(1 << 20)
    assert file.size() == 0
    write_all(file, [b"abc"], 0)
    file.truncate(2)

    assert file.size() == 2
    file.close()


def test_a_file_that_was_deleted_is_readable_and_has_no_name(disk: FileSystem, root: str) -> None:
    file = disk.create(f"{root}/x")
    write_all(file, [b"abc"], 0)
    assert file.linked()

    disk.unlink(f"{root}/x")

    assert not file.linked()
    buffer = bytearray(3)
    assert fill(file, buffer, 0) == 3 and buffer == b"abc"
    file.close()


def test_directories_are_listed_by_name(disk: FileSystem, root: str) -> None:
    disk.make_directory(f"{root}/sub")
    disk.make_directory(f"{root}/sub")  # it may exist
    for name, size in (("b", 2), ("a", 1)):
        file = disk.create(f"{root}/{name}")
        write_all(file, [bytes(size)], 0)
        file.close()
    disk.rename(f"{root}/a", f"{root}/c")

    found = [(each.name, each.is_file, each.is_directory, each.num_bytes)
             for each in disk.list_directory(root)]  # fmt: skip

    assert found == [("b", True, False, 2), ("c", True, False, 1), ("sub", False, True, 0)]


@pytest.mark.parametrize("call", ["open", "unlink", "list_directory", "rename", "create", "lock"])
def test_what_is_not_there_says_so(disk: FileSystem, root: str, call: str) -> None:
    path = f"{root}/nowhere/x"
    arguments = (path, f"{root}/y") if call == "rename" else (path,)

    with pytest.raises(FileNotFoundError):
        getattr(disk, call)(*arguments)


def test_a_file_is_made_once(disk: FileSystem, root: str) -> None:
    disk.create(f"{root}/x").close()

    with pytest.raises(FileExistsError):
        disk.create(f"{root}/x")
    with pytest.raises(FileExistsError):
        disk.make_directory(f"{root}/x")


def test_free_room_is_told(disk: FileSystem, root: str) -> None:
    space = disk.space(root)

    assert 0 < space.free_bytes <= space.total_bytes


def test_a_lock_is_had_once_and_again_when_it_is_free(disk: FileSystem, root: str) -> None:
    path = f"{root}/LOCK"
    assert disk.locked_by(path) is None

    lock = disk.lock(path)

    assert lock is not None and lock.linked
    assert disk.lock(path) is None
    assert disk.locked_by(path) is not None
    lock.release()
    lock.release()
    assert disk.locked_by(path) is None
    again = disk.lock(path)
    assert again is not None
    again.release()


def test_a_lock_whose_file_was_deleted_keeps_nobody_out(disk: FileSystem, root: str) -> None:
    old = disk.lock(f"{root}/LOCK")
    assert old is not None

    disk.unlink(f"{root}/LOCK")

    assert not old.linked
    new = disk.lock(f"{root}/LOCK")
    assert new is not None
    old.release()
    assert disk.locked_by(f"{root}/LOCK") is not None
    new.release()


def test_a_lock_whose_file_was_moved_away_is_no_lock_of_its_place(
    disk: FileSystem, root: str
) -> None:
    old = disk.lock(f"{root}/LOCK")
    assert old is not None

    disk.rename(f"{root}/LOCK", f"{root}/moved")

    assert not old.linked
    new = disk.lock(f"{root}/LOCK")
    assert new is not None and new.linked
    old.release()
    new.release()


# The real one.


def test_files_and_directories_are_for_this_user_only(tmp_path: Path) -> None:
    disk = RealFileSystem()
    old = os.umask(0)
    try:
        disk.make_directory(f"{tmp_path}/a/b")
        disk.create(f"{tmp_path}/a/b/x").close()
        lock = disk.lock(f"{tmp_path}/a/b/LOCK")
    finally:
        os.umask(old)
    assert lock is not None
    lock.release()

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, "x": 0o600, "LOCK": 0o600}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")

    with pytest.raises(OSError, match="symbolic links"):
        RealFileSystem().open(f"{tmp_path}/link")


def test_more_buffers_than_the_system_takes_at_once_are_written(tmp_path: Path) -> None:
    file = RealFileSystem().create(f"{tmp_path}/x")

    write_all(file, [b"%04d" % number for number in range(3000)], 0)
    file.close()

    assert (tmp_path / "x").read_bytes() == b"".join(b"%04d" % number for number in range(3000))


def test_a_file_system_that_reserves_nothing_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [errno.EOPNOTSUPP, errno.ENOSPC]
    monkeypatch.setattr(real, "_fallocate", lambda *_: -1)
    monkeypatch.setattr(real.ctypes, "get_errno", lambda: numbers.pop(0))
    file = RealFileSystem().create(f"{tmp_path}/x")

    file.reserve(1000)
    with pytest.raises(OSError, match="No space left"):
        file.reserve(1000)
    file.close()


LOCK_AND_WAIT = """
import sys
from flowguard.spill.filesystem import RealFileSystem
lock = RealFileSystem().lock(sys.argv[1])
print("taken" if lock is None else "locked", flush=True)
sys.stdin.readline()
"""


def locking(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOCK_AND_WAIT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_of_another_process_ends_with_it_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    disk = RealFileSystem()
    with locking(path) as process:
        assert said(process) == "locked"
        assert disk.lock(str(path)) is None
        assert disk.locked_by(str(path)) == process.pid
        process.kill()
        process.wait()

    lock = disk.lock(str(path))  # what the file says of the dead process does not matter
    assert lock is not None and disk.locked_by(str(path)) == os.getpid()
    with locking(path) as process:
        assert said(process) == "taken"
        process.kill()
    lock.release()
    assert path.read_text() == f"{os.getpid()}\n"


def test_looking_at_a_lock_does_not_free_it(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    disk = RealFileSystem()
    lock = disk.lock(path)
    assert lock is not None

    assert disk.locked_by(path) == os.getpid() and disk.lock(path) is None

    with locking(tmp_path / "LOCK") as process:  # the system still has it
        assert said(process) == "taken"
        process.kill()
    lock.release()


def test_reading_a_directory_that_changes_meanwhile_leaves_out_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        name = "gone"

        def stat(self, **_: Any) -> os.stat_result:
            raise FileNotFoundError

    class Scan:
        def __enter__(self) -> list[Gone]:
            return [Gone()]

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(real.os, "scandir", lambda _: Scan())

    assert RealFileSystem().list_directory(str(tmp_path)) == []
