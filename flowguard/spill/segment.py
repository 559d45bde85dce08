"""One segment as memory knows it: which of its frames are still wanted.

    opened ──▶ appended to ──▶ sealed, or poisoned ──▶ no frame is wanted ──▶ deleted

- A segment is written by one process, once, from the front to the back.
- After an error nothing is ever written to it again, because nobody knows what is there;
  what was written before stays as good as its checksums say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowguard.spill.cipher import SegmentCipher
from flowguard.spill.layout import SegmentHeader

__all__ = ["Segment"]


@dataclass(slots=True, eq=False)
class Segment:
    """A file of frames.

    Args:
        name: Of the file.
        num_bytes: Size of the file.
        cipher: What encrypts its frames, None if nothing does.
        active: Frames may still be appended.
        gone: Its file is deleted, and its bytes are not counted any more.
    """

    header: SegmentHeader
    name: str
    num_bytes: int
    cipher: SegmentCipher | None = None
    active: bool = False
    gone: bool = False
    live_frames: int = 0
    live_bytes: int = 0
    _live: bytearray = field(default_factory=bytearray, repr=False)  # one byte a frame

    @property
    def lane(self) -> str:
        """Return the name of the lane."""
        return self.header.lane

    @property
    def next_number(self) -> int:
        """Return the number of the next frame."""
        return len(self._live)

    def add(self, number: int, stored_bytes: int) -> None:
        """Note a frame that is wanted; those between it and the last one are not."""
        self._live.extend(bytes(max(0, number + 1 - len(self._live))))
        self._live[number] = 1
        self.live_frames += 1
        self.live_bytes += stored_bytes

    def is_live(self, number: int) -> bool:
        """Tell whether a frame is wanted."""
        return number < len(self._live) and bool(self._live[number])

    def finish(self, number: int, stored_bytes: int) -> bool:
        """Note that a frame is not wanted any more; return False if it was not before."""
        if not self.is_live(number):
            return False
        self._live[number] = 0
        self.live_frames -= 1
        self.live_bytes -= stored_bytes
        return True
