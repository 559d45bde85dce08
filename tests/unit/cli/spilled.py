"""Spill directories on this machine to point the command line at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import Result

from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.layout import FRAME_HEADER_BYTES, segment_name
from flowguard.spill.manifest import Frame
from flowguard.spill.slot import Slot
from flowguard.spill.store import SpillStore
from tests.spill.builders import slot_on, store_on

SEGMENT = segment_name("bulk", 0)


class Spilled:
    """A spill directory on this machine, with a store that has its slot."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = str(root)
        self.slot: Slot = slot_on(RealFileSystem(), root=self.root)
        self.store: SpillStore = store_on(RealFileSystem(), slot=self.slot, **options)
        self.inside = Path(self.slot.directory)

    def leave(self) -> None:
        self.store.close()
        self.slot.release()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.inside.rglob("*.fgs"))

    def damage(self, frame: Frame) -> None:
        with (self.inside / SEGMENT).open("r+b") as file:
            file.seek(frame.position + FRAME_HEADER_BYTES + 5)
            file.write(b"?")


def document(result: Result) -> dict[str, Any]:
    """Return what a command has printed for programs."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found
