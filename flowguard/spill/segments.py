"""The segments of a directory: which there are, and when one goes.

Thread-safety: one thread changes them; `get` and `of_lane` may be called from any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flowguard.spill.manifest import Frame
from flowguard.spill.ports import FileSystem
from flowguard.spill.quota import LaneQuota
from flowguard.spill.segment import Segment

__all__ = ["Segments"]


class Segments:
    """Segments by number; a file in which nothing is wanted is deleted.

    Args:
        quotas: By lane, where the bytes of segments are counted.
    """

    def __init__(
        self, filesystem: FileSystem, directory: str, quotas: dict[str, LaneQuota]
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._quotas = quotas
        self._segments: dict[int, Segment] = {}
        self._undeleted: list[Segment] = []  # the disk did not let them go; they still count

    def path(self, segment: Segment) -> str:
        """Return where a segment's file is."""
        return f"{self._directory}/{segment.name}"

    def get(self, number: int) -> Segment | None:
        """Return a segment, None if it is gone."""
        return self._segments.get(number)

    def of_lane(self, lane: str) -> list[Segment]:
        """Return the segments of a lane."""
        return [segment for segment in list(self._segments.values()) if segment.lane == lane]

    def add(self, segment: Segment) -> None:
        """Take in a segment; its bytes are counted already."""
        self._segments[segment.header.number] = segment

    def finish(self, frame: Frame) -> None:
        """Note that nobody wants a frame any more.

        Raises:
            OSError: The file could be deleted, but the disk failed.
        """
        segment = self._segments.get(frame.segment)
        if segment is None or not segment.finish(frame.number, frame.stored_bytes):
            return
        if not segment.live_frames and not segment.active:
            self.delete(segment)

    def retire(self, segment: Segment) -> None:
        """Take in that nothing is appended to a segment any more."""
        if not segment.live_frames:
            self.clear([segment])

    def delete(self, segment: Segment) -> None:
        """Delete a segment's file; what was wanted of it is missing from now on.

        Raises:
            OSError: The disk failed; `delete_rest` tries again.
        """
        self._segments.pop(segment.header.number, None)
        try:
            self._filesystem.unlink(self.path(segment))
        except FileNotFoundError:
            pass
        except OSError:
            if segment not in self._undeleted:
                self._undeleted.append(segment)
            raise
        self._gone(segment)

    def delete_rest(self) -> None:
        """Delete what could not be deleted before.

        Raises:
            OSError: The disk failed again.
        """
        for segment in list(self._undeleted):
            self.delete(segment)

    def forget_missing(self, names: Collection[str]) -> list[Segment]:
        """Forget the segments whose files somebody else has deleted, and return them."""
        every = [*self._segments.values(), *self._undeleted]
        missing = [segment for segment in every if segment.name not in names]
        for segment in missing:
            self._segments.pop(segment.header.number, None)
            self._gone(segment)
        return missing

    def clear(self, which: Iterable[Segment]) -> None:
        """Delete segments, as many as the disk lets go."""
        for segment in list(which):
            try:
                self.delete(segment)
            except OSError:
                continue

    def _gone(self, segment: Segment) -> None:
        if segment in self._undeleted:
            self._undeleted.remove(segment)
        if not segment.gone:
            segment.gone = True
            self._quotas[segment.lane].charge(-segment.num_bytes)
