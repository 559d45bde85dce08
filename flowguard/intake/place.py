"""The place of a worker among those of its app on this machine: a slot in the data directory.

    fraud-data/member/id               a random id, made once
    fraud-data/member/fraud/0/LOCK     held by a worker as long as it lives

A worker that is killed leaves its slot free; the one that takes it is the same member of the
group again. Without a directory that outlives the worker it would come back under another
name, and the group would wait for the old one: there it is a dynamic member.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flowguard.errors import SpillError
from flowguard.intake.member_id import member_name
from flowguard.spill.filesystem import RealFileSystem, filesystem_of
from flowguard.spill.slot import Slot, take_slot

__all__ = ["Place", "take_place"]

#: What is written there is gone with the machine or the container.
PASSING: Final = frozenset({"tmpfs", "ramfs", "overlay"})

ID_CHARACTERS: Final = 12  # of a random id: 48 bits


@dataclass(slots=True)
class Place:
    """Where a worker belongs.

    Args:
        name: What it is called in its group, without the digest of its subscription; None if
            it has no name that it could come back under.
        slot: Its slot in the data directory, if it needs one.
        why: Why it has no name.
    """

    name: str | None
    slot: Slot | None = None
    why: str = ""

    @property
    def number(self) -> int | None:
        """Return the number of its slot."""
        return None if self.slot is None else self.slot.number

    def leave(self) -> None:
        """Let another worker have it; twice is once."""
        if self.slot is not None:
            self.slot.release()


def take_place(data_directory: str | os.PathLike[str], app: str, *, given: str, host: str) -> Place:
    """Take a free place; one that cannot be had is no error.

    Args:
        given: The id that somebody chose for this worker; empty if nobody did.
        host: The name of this machine.
    """
    if given:
        return Place(member_name(app, given))
    directory = os.path.abspath(os.path.join(data_directory, "member"))
    filesystem = RealFileSystem()
    try:
        filesystem.make_directory(directory)
        kind = filesystem_of(directory)
        if kind in PASSING:
            return Place(None, why=f"{data_directory} is on {kind}, which does not outlive it")
        random_id = _random_id(Path(directory))
        slot = take_slot(filesystem, directory, app)
    except (OSError, SpillError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Place(None, why=f"{data_directory} cannot be used: {reason or error}")
    return Place(member_name(app, host, random_id, str(slot.number)), slot)


def _random_id(directory: Path) -> str:
    """Return the id of this data directory; of two workers that make it, one wins."""
    path = directory / "id"
    if not path.exists():
        draft = directory / f"id.{os.getpid()}"
        draft.write_text(uuid.uuid4().hex[:ID_CHARACTERS] + "\n", encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    found = path.read_text(encoding="ascii", errors="replace").strip()
    return found[:ID_CHARACTERS] or "0"
