"""What the store asks of a file system; so little that a test can break each call of it.

    make_directory  list_directory  create  open  rename  unlink  space  lock
    file: size  linked  reserve  write_at  read_into  truncate  sync  close

- Every call may raise `OSError`; nothing is repeated behind the store's back.
- Writes and reads may be short, as those of the system are.
- Paths are text with `/`; `filesystem.py` has the real one, the tests one that crashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Entry", "File", "FileSystem", "Lock", "Space"]


class Entry(NamedTuple):
    """A name in a directory.

    Args:
        num_bytes: Size of a file, 0 of anything else.
        modified_ms: When it last changed, wall clock.
    """

    name: str
    is_file: bool
    is_directory: bool
    num_bytes: int
    modified_ms: int


class Space(NamedTuple):
    """What is free on the disk of a directory."""

    free_bytes: int
    total_bytes: int


class Lock(Protocol):
    """A lock that the system frees when the process ends, however it ends."""

    @property
    def linked(self) -> bool:
        """Tell whether the file that carries it is still where it was locked."""
        ...

    def release(self) -> None:
        """Free it."""
        ...


class File(Protocol):
    """An open file."""

    def size(self) -> int:
        """Return how many bytes it has."""
        ...

    def linked(self) -> bool:
        """Tell whether it still has a name; without one nobody can read it later."""
        ...

    def reserve(self, num_bytes: int) -> None:
        """Ask for room up to a size without changing the size; may do nothing."""
        ...

    def write_at(self, parts: Sequence[Buffer], position: int) -> int:
        """Write buffers one behind the other; return how many bytes were written."""
        ...

    def read_into(self, buffer: Buffer, position: int) -> int:
        """Fill a buffer; return how many bytes were read, 0 at the end of the file."""
        ...

    def truncate(self, num_bytes: int) -> None:
        """Cut it off, and give back the room that was reserved behind."""
        ...

    def sync(self) -> None:
        """Return when its bytes are on the disk itself."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FileSystem(Protocol):
    """Files of one machine."""

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, for nobody but this user; it may exist."""
        ...

    def list_directory(self, path: str) -> list[Entry]:
        """Return what is in a directory, by name."""
        ...

    def create(self, path: str) -> File:
        """Make a file for writing, for nobody but this user; it must not exist."""
        ...

    def open(self, path: str, *, writable: bool = False) -> File:
        """Open a file that exists, for reading or for both."""
        ...

    def rename(self, path: str, new_path: str) -> None:
        """Give a file another name; one that had it is gone."""
        ...

    def unlink(self, path: str) -> None:
        """Take a file's name away."""
        ...

    def space(self, path: str) -> Space:
        """Return what is free where a directory is."""
        ...

    def lock(self, path: str) -> Lock | None:
        """Make a file and lock it for this process; None if another one has it."""
        ...

    def locked_by(self, path: str) -> int | None:
        """Return the id of the process that has a lock, None if nobody has."""
        ...
