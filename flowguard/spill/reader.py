"""Frames back from disk, for the thread that reads.

A file is opened for each frame: that takes a hundredth of what reading 4 MiB does, and leaves
no descriptor that would keep the blocks of a deleted file.
"""

from __future__ import annotations

import pyarrow as pa

from flowguard.errors import FrameLost
from flowguard.spill.layout import FRAME_HEADER_BYTES, decode_frame
from flowguard.spill.manifest import Frame, Probe, Run
from flowguard.spill.ports import FileSystem
from flowguard.spill.reading import Broken, FileSource, read_batches, read_payload, reveal
from flowguard.spill.segments import Segments

__all__ = ["FrameReader", "lost"]


class FrameReader:
    """Reads frames of segments that another thread writes and deletes."""

    def __init__(self, filesystem: FileSystem, segments: Segments) -> None:
        self._filesystem = filesystem
        self._segments = segments

    def read(self, frame: Frame) -> list[pa.RecordBatch]:
        """Return the records of a frame, whose checksum agreed.

        Raises:
            FrameLost: They cannot be had.
        """
        segment = self._segments.get(frame.segment)
        if segment is None:
            raise lost(frame, "missing", "its file is gone")
        try:
            file = self._filesystem.open(self._segments.path(segment))
            try:
                header, payload = read_payload(
                    file, frame.position, frame.stored_bytes, segment.header
                )
            finally:
                file.close()
            return read_batches(header, payload, segment.cipher)
        except Broken as error:
            raise lost(frame, "corrupt", str(error)) from error
        except FileNotFoundError as error:
            raise lost(frame, "missing", "its file is gone") from error
        except OSError as error:
            raise lost(frame, "unreadable", error.strerror or str(error)) from error

    def probe(self, run: Run) -> Probe | None:
        """Return by which record of the log a run is recognised, None if it has none left.

        It is the newest one of the newest frame whose header can be read.
        """
        for index in range(len(run.frames) - 1, -1, -1):
            found = self._probe_of(run.frames[index])
            if found is not None:
                return found
        return None

    def _probe_of(self, frame: Frame) -> Probe | None:
        segment = self._segments.get(frame.segment)
        if segment is None:
            return None
        try:
            file = self._filesystem.open(self._segments.path(segment))
            try:
                encoded = FileSource(file).read(frame.position, FRAME_HEADER_BYTES)
            finally:
                file.close()
            header = decode_frame(encoded, position=frame.position, segment=segment.header.id)
            if header is None:
                return None
            crc, _ = reveal(header, segment.cipher)
        except (OSError, Broken):
            return None
        return Probe(header.last_offset, crc)


def lost(frame: Frame, reason: str, detail: str) -> FrameLost:
    """Return the error of a frame that cannot be read."""
    return FrameLost(
        reason,
        topic=frame.partition.topic,
        partition=frame.partition.partition,
        lane=frame.lane,
        scan_lo=frame.scan_lo,
        scan_hi=frame.scan_hi,
        detail=detail,
    )
