"""The directory of one worker: `<spill directory>/<app>/<slot>`.

    orders/0/LOCK    held by a worker as long as it lives
    orders/1/LOCK    held by the second worker of this machine

The lock is the system's, so it is free when its process ends, however that ends; what is
written in the file is for people. A worker that comes back takes the first slot that is free,
and finds what was spilled there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from flowguard.errors import SpillError
from flowguard.spill.ports import FileSystem, Lock

__all__ = ["LOCK_NAME", "PROBE_NAME", "Slot", "app_directory", "take_slot"]

LOCK_NAME: Final = "LOCK"
PROBE_NAME: Final = "probe.tmp"  # with which a disk that failed is tried
SLOTS_MAX: Final = 1024


@dataclass(slots=True, eq=False)
class Slot:
    """A directory that belongs to this process.

    Args:
        number: From 0 on; the same for everything of this worker that has a slot.
    """

    number: int
    directory: str
    filesystem: FileSystem
    lock: Lock

    def hold(self) -> bool:
        """Make sure that the slot is still ours, although the directory may be deleted.

        Returns:
            False if it was deleted and another worker has it now.

        Raises:
            OSError: The disk failed.
        """
        if self.lock.linked:
            return True
        self.filesystem.make_directory(self.directory)
        lock = self.filesystem.lock(f"{self.directory}/{LOCK_NAME}")
        if lock is None:
            return False
        self.lock.release()
        self.lock = lock
        return True

    def release(self) -> None:
        """Let another worker have it."""
        self.lock.release()


def app_directory(spill_directory: str, app: str) -> str:
    """Return where the slots of an app are."""
    name = quote(app, safe="")
    return f"{spill_directory}/{'%2E' + name[1:] if name.startswith('.') else name}"


def take_slot(
    filesystem: FileSystem, spill_directory: str, app: str, *, preferred: int | None = None
) -> Slot:
    """Take the preferred slot or, without one or if it is taken, the first that is free.

    Raises:
        SpillError: There is none, or the directory cannot be used.
    """
    place = app_directory(spill_directory, app)
    try:
        for number in [*([] if preferred is None else [preferred]), *range(SLOTS_MAX)]:
            directory = f"{place}/{number}"
            filesystem.make_directory(directory)
            lock = filesystem.lock(f"{directory}/{LOCK_NAME}")
            if lock is not None:
                return Slot(number, directory, filesystem, lock)
    except OSError as error:
        raise SpillError(
            f"{place} cannot be used for spilling: {error.strerror or error}; name a directory "
            "of this user on a local disk"
        ) from error
    raise SpillError(f"all {SLOTS_MAX} slots in {place} are taken; end workers that hang")
