"""The files of this machine.

Every call that moves bytes or may wait for the disk releases the GIL.

Thread-safety: calls on different files may run side by side; one file belongs to one thread
at a time. Locks belong to the process, not to a thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowguard.spill.ports import Entry, Space

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["RealFile", "RealFileSystem", "filesystem_of"]

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
BUFFERS_MAX: Final = 1024  # IOV_MAX of Linux

#: fallocate(2): reserve blocks and leave the size as it is. On ext4 it makes sequential writes
#: a third faster, because room is found once a segment and not page by page.
KEEP_SIZE: Final = 1
CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
RELOCKS_MAX: Final = 10

_fallocate: Any = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]

#: Locks of this process by device and inode. The system lets a process lock again what it has
#: locked, and frees the lock when *any* descriptor of the file is closed: so neither is done.
_held: Final[set[tuple[int, int]]] = set()
_held_guard: Final = threading.Lock()


class RealFile:
    """An open file of this machine."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self) -> int:
        """Return how many bytes it has."""
        return os.fstat(self._descriptor).st_size

    def linked(self) -> bool:
        """Tell whether it still has a name."""
        return os.fstat(self._descriptor).st_nlink > 0

    def reserve(self, num_bytes: int) -> None:
        """Reserve blocks up to a size, where the file system can."""
        if _fallocate is None or _fallocate(self._descriptor, KEEP_SIZE, 0, num_bytes) == 0:
            return
        number = ctypes.get_errno()
        if number not in CANNOT_RESERVE:
            raise OSError(number, os.strerror(number))

    def write_at(self, parts: Sequence[Buffer], position: int) -> int:
        """Write buffers one behind the other; return how many bytes were written."""
        return os.pwritev(self._descriptor, parts[:BUFFERS_MAX], position)

    def read_into(self, buffer: Buffer, position: int) -> int:
        """Fill a buffer; return how many bytes were read."""
        return os.preadv(self._descriptor, [buffer], position)

    def truncate(self, num_bytes: int) -> None:
        """Cut it off; blocks that were reserved behind are free again."""
        os.ftruncate(self._descriptor, num_bytes)

    def sync(self) -> None:
        """Return when its bytes are on the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close it; twice is once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class RealLock:
    """A lock on a whole file; the process has it until it is released or the process ends."""

    def __init__(self, descriptor: int, path: str, identity: tuple[int, int]) -> None:
        self._descriptor = descriptor
        self._path = path
        self._identity = identity

    @property
    def linked(self) -> bool:
        """Tell whether the file is still where it was locked."""
        return _identity_of(self._path) == self._identity

    def release(self) -> None:
        """Free it; twice is once."""
        with _held_guard:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
                _held.discard(self._identity)


class RealFileSystem:
    """The file systems of this machine."""

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, mode 0700; it may exist."""
        previous = os.path.dirname(path)
        if previous and not os.path.isdir(previous):
            self.make_directory(previous)
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def list_directory(self, path: str) -> list[Entry]:
        """Return what is in a directory, by name; what vanishes meanwhile is left out."""
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                is_file = stat.S_ISREG(status.st_mode)
                found.append(
                    Entry(
                        entry.name,
                        is_file,
                        stat.S_ISDIR(status.st_mode),
                        status.st_size if is_file else 0,
                        status.st_mtime_ns // 1_000_000,
                    )
                )
        return sorted(found)

    def create(self, path: str) -> RealFile:
        """Make a file for writing, mode 0600; it must not exist."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        return RealFile(os.open(path, flags, FILE_MODE))

    def open(self, path: str, *, writable: bool = False) -> RealFile:
        """Open a file that exists; a link is not followed."""
        access = os.O_RDWR if writable else os.O_RDONLY
        return RealFile(os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW))

    def rename(self, path: str, new_path: str) -> None:
        """Give a file another name; one that had it is gone."""
        os.replace(path, new_path)

    def unlink(self, path: str) -> None:
        """Take a file's name away."""
        os.unlink(path)

    def space(self, path: str) -> Space:
        """Return what this user may still write where a directory is."""
        found = os.statvfs(path)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def lock(self, path: str) -> RealLock | None:
        """Lock a file, which is made if there is none; None if someone has locked it."""
        with _held_guard:
            for _ in range(RELOCKS_MAX):
                if _identity_of(path) in _held:
                    return None
                descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    os.close(descriptor)
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        return None
                    raise
                status = os.fstat(descriptor)
                identity = (status.st_dev, status.st_ino)
                if _identity_of(path) == identity:
                    _held.add(identity)
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                    return RealLock(descriptor, path, identity)
                os.close(descriptor)  # someone deleted the file before it was locked
        raise OSError(errno.EBUSY, "the lock file is deleted again and again", path)

    def locked_by(self, path: str) -> int | None:
        """Return the id of the process that has a lock, None if nobody has."""
        with _held_guard:
            identity = _identity_of(path)
            if identity is None:
                return None
            if identity in _held:
                return os.getpid()
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
            finally:
                os.close(descriptor)
        return None if answer[0] == fcntl.F_UNLCK else int(answer[-1])


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def filesystem_of(directory: str, mounts: str = "/proc/self/mounts") -> str:
    """Return the type of the file system that a directory is on, empty if nobody tells."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = os.path.realpath(directory)
    fields = [line.split(" ") for line in lines if line.count(" ") >= 2]
    holding = [
        (len(mounted), kind)
        for _, mounted, kind, *_ in fields
        if place == mounted or place.startswith(mounted.rstrip("/") + "/")
    ]
    return max(holding, default=(0, ""))[1]
