"""Read a frame back: nothing is decoded before its checksum agrees.

    one read ─▶ header holds? ─▶ checksum agrees? ─▶ seal agrees? ─▶ Arrow ─▶ structure holds?

- A frame is read into memory of its own, not mapped: a file that is cut off or a disk that
  fails would end the process otherwise.
- What was asked for and what is found are compared: the header has to be that of this very
  frame of this very segment.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from flowguard._native import frame as native
from flowguard.spill.cipher import SegmentCipher, Tampered
from flowguard.spill.layout import (
    FRAME_HEADER_BYTES,
    FrameHeader,
    SegmentHeader,
    aligned,
    authenticated,
    decode_frame,
    encode_frame,
    unpack_hidden,
)
from flowguard.spill.payload import Malformed, decode
from flowguard.spill.ports import File

__all__ = ["Broken", "FileSource", "read_batches", "read_payload", "reveal"]


class Broken(Exception):
    """A frame is not what was written."""


class FileSource:
    """A file as recovery reads it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.num_bytes = file.size()

    def read(self, position: int, count: int) -> bytes:
        """Return bytes, fewer where the file ends."""
        buffer = bytearray(max(0, min(count, self.num_bytes - position)))
        return bytes(buffer[: fill(self._file, buffer, position)])


def fill(file: File, buffer: Any, position: int) -> int:
    """Read until a buffer is full or the file ends; return how many bytes were read."""
    view = memoryview(buffer).cast("B")
    done = 0
    while done < len(view):
        count = file.read_into(view[done:], position + done)
        if count <= 0:
            break
        done += count
    return done


def read_payload(
    file: File, position: int, stored_bytes: int, segment: SegmentHeader
) -> tuple[FrameHeader, pa.Buffer]:
    """Return the header and the payload of a frame, as it lies on disk.

    Args:
        position: Where the frame is.
        stored_bytes: How long its payload was.

    Raises:
        Broken: It is not what was written.
        OSError: The disk failed.
    """
    size = FRAME_HEADER_BYTES + aligned(stored_bytes)
    buffer = pa.allocate_buffer(size)  # aligned to 64 bytes, as the header's size is
    count = fill(file, buffer, position)
    if count < size:
        raise Broken(f"{size - count} bytes are missing at the end of the file")
    encoded = buffer.slice(0, FRAME_HEADER_BYTES).to_pybytes()
    header = decode_frame(encoded, position=position, segment=segment.id)
    if header is None or header.stored_bytes != stored_bytes:
        raise Broken("its header does not hold")
    if native.crc32c([buffer.slice(FRAME_HEADER_BYTES)]) != header.payload_crc:
        raise Broken("its checksum does not agree")
    return header, buffer.slice(FRAME_HEADER_BYTES, stored_bytes)


def reveal(header: FrameHeader, cipher: SegmentCipher | None) -> tuple[int, str]:
    """Return the CRC of a frame's newest record, and its topic.

    Raises:
        Broken: They were not written with this key, or are no such thing.
    """
    hidden = header.hidden
    try:
        if cipher is not None:
            bound_to, _ = authenticated(encode_frame(header))
            hidden = cipher.reveal(header.number, hidden, bound_to)
        return unpack_hidden(hidden)
    except (Tampered, ValueError) as error:
        raise Broken(f"its topic cannot be read: {error}") from error


def read_batches(
    header: FrameHeader, payload: pa.Buffer, cipher: SegmentCipher | None
) -> list[pa.RecordBatch]:
    """Return the records of a payload whose checksum agreed.

    Raises:
        Broken: It was not written with this key, or is no such thing.
    """
    try:
        if cipher is not None:
            _, bound_to = authenticated(encode_frame(header))
            payload = cipher.decrypt(header.number, payload, bound_to)
        return decode(payload, batches=header.batches, records=header.records)
    except (Tampered, Malformed) as error:
        raise Broken(str(error)) from error
