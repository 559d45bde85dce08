"""Segments that cannot be read, kept for whoever wants to know what happened to the disk."""

from __future__ import annotations

from typing import Final

from flowguard.spill.ports import Entry, FileSystem

__all__ = ["QUARANTINE_NAME", "Quarantine"]

QUARANTINE_NAME: Final = "quarantine"


class Quarantine:
    """A subdirectory with a limit; what is oldest goes first.

    Args:
        directory: The slot's.
        max_bytes: Most bytes in it.
    """

    def __init__(self, filesystem: FileSystem, directory: str, max_bytes: int) -> None:
        self._filesystem = filesystem
        self._slot = directory
        self._directory = f"{directory}/{QUARANTINE_NAME}"
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def measure(self) -> None:
        """Count what is in it, and delete what is too much.

        Raises:
            OSError: The disk failed.
        """
        entries = self._entries()
        self.num_bytes = sum(entry.num_bytes for entry in entries)
        while entries and self.num_bytes > self._max_bytes:
            self._delete(entries.pop(0))

    def put(self, name: str) -> None:
        """Move a file of the slot here.

        Raises:
            OSError: The disk failed; the file is where it was.
        """
        self._filesystem.make_directory(self._directory)
        self._filesystem.rename(f"{self._slot}/{name}", f"{self._directory}/{name}")
        self.measure()

    def give_way(self) -> bool:
        """Delete the oldest file; return False if there is none.

        Raises:
            OSError: The disk failed.
        """
        entries = self._entries() if self.num_bytes else []
        if entries:
            self._delete(entries[0])
        return bool(entries)

    def _delete(self, entry: Entry) -> None:
        self._filesystem.unlink(f"{self._directory}/{entry.name}")
        self.num_bytes = max(0, self.num_bytes - entry.num_bytes)

    def _entries(self) -> list[Entry]:
        """Return its files, the oldest first."""
        try:
            entries = self._filesystem.list_directory(self._directory)
        except FileNotFoundError:
            return []
        return sorted((e for e in entries if e.is_file), key=lambda e: (e.modified_ms, e.name))
