"""A file system in memory that does to its files whatever a disk can do.

    disk = CrashDisk(Random(seed))
    disk.crash_at = 17               # the process ends in the middle of that operation
    disk.fail("write_at", errno.EIO) # the next write fails
    disk.capacity_bytes = 10_000     # what does not fit is written in part, then ENOSPC
    disk = disk.after_power_cut()    # what was not synced is there, or not, or garbage

A process that is killed leaves all that it wrote to the system: `after_kill`. A power cut
takes each unsynced write by itself: kept, left out, or some of its sectors garbage; a name that
was never synced may be missing, and one that was deleted may be back.

Source: sqlite test6.c (crash tests by write list), FoundationDB AsyncFileNonDurable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from threading import Event
from typing import Any

from flowguard.spill.ports import Entry, Space

SECTOR_BYTES = 64  # small files have small sectors
NEVER = 1 << 62


class Crash(BaseException):
    """The process has ended here."""


@dataclass(eq=False)
class Inode:
    """A file: what processes see, and what the platter has."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # writes since the last sync
    links: int = 1
    modified_ms: int = 0
    synced: bool = False


@dataclass
class Fault:
    """An error that some operations get.

    Args:
        after: How many that match work before.
        times: How many fail then.
        effect: A write does a part of its work before it fails.
    """

    op: str
    number: int
    path: str
    after: int
    times: int
    effect: bool


class CrashDisk:
    """Files in memory.

    Args:
        random: What chance decides.
        short: Writes and reads take only some of their bytes at a time.
    """

    def __init__(self, random: Random, *, short: bool = False) -> None:
        self.random = random
        self.short = short
        self.files: dict[str, Inode] = {}
        self.directories: set[str] = {""}
        self.durable_names: dict[str, Inode] = {}
        self.locks: dict[int, int] = {}
        self.pid = 1
        self.ops = 0
        self.crash_at = NEVER
        self.capacity_bytes = NEVER
        self.total_bytes = 1 << 40
        self.faults: list[Fault] = []
        self.gates: dict[str, Event] = {}
        self.log: list[tuple[str, str]] = []
        self.harms = 0  # what may have cost records that were written whole
        self.torn = ""  # the file in whose middle of a write the process ended

    # Faults.

    def fail(
        self, op: str, number: int, *, path: str = "", after: int = 0, times: int = 1,
        effect: bool = False,
    ) -> None:  # fmt: skip
        """Let operations of a kind fail; `*` is any."""
        self.harms += 1
        self.faults.append(Fault(op, number, path, after, times, effect))

    def heal(self) -> None:
        """Take all faults away."""
        self.faults.clear()
        self.capacity_bytes = NEVER
        self.crash_at = NEVER

    def step(self, op: str, path: str) -> None:
        """Count an operation, and let it fail if it has to."""
        self.ops += 1
        self.log.append((op, path))
        if op in self.gates:
            self.gates[op].wait(30)
        if self.ops >= self.crash_at:
            raise Crash(f"operation {self.ops}: {op} {path}")
        for fault in self.faults:
            if fault.op in ("*", op) and fault.path in path:
                if fault.after:
                    fault.after -= 1
                elif fault.times:
                    fault.times -= 1
                    error = OSError(fault.number, os.strerror(fault.number), path)
                    error.effect = fault.effect  # type: ignore[attr-defined]
                    raise error

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.data) for inode in self.files.values())

    # What a new process finds.

    def after_kill(self) -> CrashDisk:
        """Return the disk as the next process finds it after a kill."""
        return self._reborn(self.files)

    def after_power_cut(self) -> CrashDisk:
        """Return the disk as the next process finds it after a power cut."""
        names: dict[str, Inode] = {}
        for path in sorted({*self.files, *self.durable_names}):
            now, then = self.files.get(path), self.durable_names.get(path)
            survivor = now if now is then else self.random.choice([now, then])
            if survivor is not None:
                names[path] = survivor
        for inode in {id(each): each for each in names.values()}.values():
            inode.data = self._torn(inode)
        self.harms += 1
        return self._reborn(names)

    def _torn(self, inode: Inode) -> bytearray:
        data = bytearray(inode.durable)
        for position, written in inode.pending:
            match self.random.randrange(4):
                case 0:
                    continue
                case 1:
                    kept = bytearray(written)
                    for start in range(0, len(kept), SECTOR_BYTES):
                        if self.random.random() < 0.2:
                            sector = kept[start : start + SECTOR_BYTES]
                            zeros = self.random.random() < 0.5
                            garbage = self.random.randbytes(len(sector))
                            kept[start : start + SECTOR_BYTES] = (
                                bytes(len(sector)) if zeros else garbage
                            )
                    written = bytes(kept)
                case 2:
                    written = written[: self.random.randrange(len(written) + 1)]
            if len(data) < position:
                data.extend(bytes(position - len(data)))
            data[position : position + len(written)] = written
        return data

    def _reborn(self, names: dict[str, Inode]) -> CrashDisk:
        disk = CrashDisk(self.random, short=self.short)
        disk.directories = set(self.directories)
        disk.pid = self.pid + 1
        disk.harms = self.harms
        for path, old in names.items():
            inode = Inode(bytearray(old.data), bytes(old.data), modified_ms=old.modified_ms)
            disk.files[path] = disk.durable_names[path] = inode
            disk.add_directories(path.rpartition("/")[0])  # they may have been deleted, too
        return disk

    def copy(self, only: str = "") -> CrashDisk:
        """Return the same files, or those of one name, on another disk."""
        return self._reborn({path: self.files[path] for path in self.files if only in path})

    # FileSystem.

    def make_directory(self, path: str) -> None:
        self.step("make_directory", path)
        if path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.add_directories(path)

    def add_directories(self, path: str) -> None:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            self.directories.add("/".join(parts[:count]))

    def list_directory(self, path: str) -> list[Entry]:
        self.step("list_directory", path)
        self._require_directory(path)
        found = [
            Entry(each.rpartition("/")[2], True, False, len(inode.data), inode.modified_ms)
            for each, inode in self.files.items()
            if each.rpartition("/")[0] == path
        ]
        found += [
            Entry(each.rpartition("/")[2], False, True, 0, 0)
            for each in self.directories
            if each.rpartition("/")[0] == path and each != path
        ]
        return sorted(found)

    def create(self, path: str) -> CrashFile:
        self.step("create", path)
        self._require_directory(path.rpartition("/")[0])
        if path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode = Inode(modified_ms=self.ops)
        self.files[path] = inode
        return CrashFile(self, path, inode, writable=True)

    def open(self, path: str, *, writable: bool = False) -> CrashFile:
        self.step("open", path)
        return CrashFile(self, path, self._inode(path), writable=writable)

    def rename(self, path: str, new_path: str) -> None:
        self.step("rename", path)
        inode = self._inode(path)
        self._require_directory(new_path.rpartition("/")[0])
        del self.files[path]
        self.files[new_path] = inode

    def unlink(self, path: str) -> None:
        self.step("unlink", path)
        self._inode(path).links = 0
        del self.files[path]

    def space(self, path: str) -> Space:
        self.step("space", path)
        self._require_directory(path)
        most = min(self.capacity_bytes, self.total_bytes)
        return Space(max(0, most - self.used_bytes), self.total_bytes)

    def lock(self, path: str) -> CrashLock | None:
        self.step("lock", path)
        self._require_directory(path.rpartition("/")[0])
        inode = self.files.setdefault(path, Inode())
        if id(inode) in self.locks:
            return None
        self.locks[id(inode)] = self.pid
        return CrashLock(self, path, inode)

    def locked_by(self, path: str) -> int | None:
        inode = self.files.get(path)
        return None if inode is None else self.locks.get(id(inode))

    # For tests.

    def remove_tree(self, path: str) -> None:
        """Delete a directory as `rm -rf` does."""
        self.harms += 1
        for each in [each for each in self.files if each.startswith(f"{path}/")]:
            self.files.pop(each).links = 0
        self.directories -= {
            each for each in self.directories if each == path or each.startswith(f"{path}/")
        }

    def names(self, part: str = "") -> list[str]:
        """Return the names of files."""
        return sorted(path for path in self.files if part in path)

    def _require_directory(self, path: str) -> None:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _inode(self, path: str) -> Inode:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]


@dataclass(eq=False)
class CrashLock:
    """A lock of this disk."""

    disk: CrashDisk
    path: str
    inode: Inode

    @property
    def linked(self) -> bool:
        return self.disk.files.get(self.path) is self.inode

    def release(self) -> None:
        self.disk.locks.pop(id(self.inode), None)


@dataclass(eq=False)
class CrashFile:
    """An open file of this disk."""

    disk: CrashDisk
    path: str
    inode: Inode
    writable: bool

    def size(self) -> int:
        self.disk.step("size", self.path)
        return len(self.inode.data)

    def linked(self) -> bool:
        return self.inode.links > 0

    def reserve(self, num_bytes: int) -> None:
        self.disk.step("reserve", self.path)

    def write_at(self, parts: Sequence[Any], position: int) -> int:
        data = b"".join(bytes(part) for part in parts)
        assert data and self.writable
        random = self.disk.random
        try:
            self.disk.step("write_at", self.path)
        except (Crash, OSError) as error:
            if isinstance(error, Crash) or getattr(error, "effect", False):
                count = random.randrange(len(data) + 1)
                self._put(data[:count], position)
                if isinstance(error, Crash) and 0 < count < len(data) and ".fgs" in self.path:
                    self.disk.torn = self.path
            raise
        if self.disk.short and len(data) > 1:
            data = data[: random.randrange(1, len(data) + 1)]
        room = self.disk.capacity_bytes - self.disk.used_bytes
        grows = max(0, position + len(data) - len(self.inode.data))
        if grows > room:
            data = data[: max(0, len(data) - (grows - max(0, room)))]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        self._put(data, position)
        return len(data)

    def _put(self, data: bytes, position: int) -> None:
        inode = self.inode
        if len(inode.data) < position:
            inode.data.extend(bytes(position - len(inode.data)))
        inode.data[position : position + len(data)] = data
        inode.pending.append((position, bytes(data)))
        inode.modified_ms = self.disk.ops

    def read_into(self, buffer: Any, position: int) -> int:
        self.disk.step("read_into", self.path)
        view = memoryview(buffer).cast("B")
        count = len(view)
        if self.disk.short and count > 1:
            count = self.disk.random.randrange(1, count + 1)
        data = self.inode.data[position : position + count]
        view[: len(data)] = data
        return len(data)

    def truncate(self, num_bytes: int) -> None:
        self.disk.step("truncate", self.path)
        assert self.writable
        del self.inode.data[num_bytes:]
        cut = [(at, data[: max(0, num_bytes - at)]) for at, data in self.inode.pending]
        self.inode.pending = [(at, data) for at, data in cut if data]
        self.inode.durable = self.inode.durable[:num_bytes]

    def sync(self) -> None:
        self.disk.step("sync", self.path)
        self.inode.durable = bytes(self.inode.data)
        self.inode.pending.clear()
        if self.inode.links:
            self.disk.durable_names[self.path] = self.inode

    def close(self) -> None:
        self.disk.step("close", self.path)
