"""The append stream of one lane: its segments, one behind the other.

    frame = header, buffers of the columns, padding ── one vectored write ──▶ active segment

All partitions of a lane share its stream, so that a worker with a thousand of them writes a
few files from front to back, and frees them in about the order in which it wrote them.

- A frame is there when all of it was written. Nothing is synced: the log is the truth, a
  killed process leaves its pages to the system, and what a power cut tears the checksums find.
- After an error the segment gets no further frame and no footer.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native import frame as native
from flowguard.chunk import TopicPartition
from flowguard.clock import Clock
from flowguard.spill.cipher import TAG_BYTES, SegmentCipher, new_segment_key
from flowguard.spill.compression import CompressionChoice
from flowguard.spill.layout import (
    FOOTER,
    FRAME_HEADER_BYTES,
    FRAME_NUMBERS,
    RECORDS,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    SegmentHeader,
    aligned,
    authenticated,
    encode_frame,
    encode_segment,
    encode_trailer,
    pack_hidden,
    segment_name,
)
from flowguard.spill.options import Identity, LaneSpill, StoreLimits
from flowguard.spill.payload import COMPRESSIONS, Compression, Encoder, probe_crc
from flowguard.spill.ports import File, FileSystem
from flowguard.spill.quota import LaneQuota, SpillState
from flowguard.spill.segment import Segment

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Draft", "LaneStream"]

SEGMENTS_MIN: Final = 8  # of a quota, so that finished frames give room back before all are
SEGMENT_BYTES_MIN: Final = SEGMENT_HEADER_BYTES + 4096
ZEROS: Final = bytes(64)


@dataclass(frozen=True, slots=True)
class Draft:
    """A frame before it is known where it goes.

    Args:
        header: Position, segment, number and checksum are missing.
        hidden: What is hidden in the header, in the clear.
        parts: The payload.
    """

    header: FrameHeader
    hidden: bytes
    parts: Sequence[Buffer]
    compression: Compression

    @property
    def num_bytes(self) -> int:
        """Return what it takes on disk at most."""
        return FRAME_HEADER_BYTES + aligned(self.header.stored_bytes + TAG_BYTES)


@dataclass(slots=True, eq=False, kw_only=True)
class LaneStream:
    """Writes what one lane spills.

    Args:
        directory: Where segments go.
        take_number: Returns the number of the next segment of the directory.
        retire: Is told of each segment to which nothing is appended any more.
        active: The segment that frames are appended to, None if none is open.
    """

    lane: str
    options: LaneSpill
    quota: LaneQuota
    limits: StoreLimits
    identity: Identity
    filesystem: FileSystem
    directory: str
    clock: Clock
    entropy: Callable[[int], bytes]
    take_number: Callable[[], int]
    retire: Callable[[Segment], None]
    active: Segment | None = None
    choice: CompressionChoice = field(init=False)
    _file: File | None = None
    _headers: list[bytes] = field(default_factory=list, repr=False)
    _encoders: dict[Compression, Encoder] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.choice = CompressionChoice(self.options.compression)

    @property
    def segment_bytes(self) -> int:
        """Return how large a segment becomes."""
        share = max(SEGMENT_BYTES_MIN, self.options.max_bytes // SEGMENTS_MIN)
        return min(self.limits.segment_bytes, share)

    def draft(
        self,
        partition: TopicPartition,
        batches: Sequence[pa.RecordBatch],
        *,
        scan: tuple[int, int],
        deadline_ms: int,
        run: int,
        state: SpillState,
    ) -> Draft:
        """Encode records; nothing is written.

        Raises:
            ValueError: There are none, or they do not fit the range.
        """
        batches = [batch for batch in batches if batch.num_rows]
        if not batches:
            raise ValueError("there are no records to spill")
        compression = self.choice.choose(state)
        if compression not in self._encoders:
            self._encoders[compression] = Encoder(compression)
        parts = self._encoders[compression].encode(batches)
        stored_bytes = sum(len(memoryview(part)) for part in parts)
        packed = compression != "none"
        ranges = [pc.min_max(batch.column(1)) for batch in batches]
        header = FrameHeader(
            kind=RECORDS,
            compression=COMPRESSIONS.index(compression),
            position=0,
            segment=0,
            number=0,
            partition=partition.partition,
            batches=len(batches),
            records=sum(batch.num_rows for batch in batches),
            stored_bytes=stored_bytes,
            raw_bytes=sum(batch.nbytes for batch in batches) if packed else stored_bytes,
            scan_lo=scan[0],
            scan_hi=scan[1],
            first_offset=batches[0].column(0)[0].as_py(),
            last_offset=batches[-1].column(0)[-1].as_py(),
            min_timestamp_ms=min(each["min"].as_py() for each in ranges),
            max_timestamp_ms=max(each["max"].as_py() for each in ranges),
            deadline_ms=deadline_ms,
            run=run,
            rule=self.identity.rule(partition.topic),
            hidden=b"",
        )
        if not scan[0] <= header.first_offset <= header.last_offset < scan[1]:
            raise ValueError(
                f"offsets {header.first_offset} to {header.last_offset} are not in the range "
                f"{scan[0]} to {scan[1] - 1} that was scanned"
            )
        return Draft(header, _hidden_of(batches[-1], partition.topic), parts, compression)

    def write(self, draft: Draft) -> tuple[FrameHeader, Segment]:
        """Append a frame, to a new segment if it has to be; return when it is written.

        Raises:
            OSError: Nobody knows how much was written; the caller calls `give_up`.
        """
        segment, file = self._room_for(draft)
        header, parts = self._finished(draft, segment)
        began_ns = self.clock.now_ns()
        encoded = encode_frame(header)
        padding = header.end - header.payload_at - header.stored_bytes
        write_all(file, [encoded, *parts, ZEROS[:padding]], header.position)
        self.choice.wrote(
            draft.compression,
            stored_bytes=header.stored_bytes,
            raw_bytes=header.raw_bytes,
            took_ns=self.clock.now_ns() - began_ns,
        )
        self._headers.append(encoded)
        segment.add(header.number, header.stored_bytes)
        segment.num_bytes = header.end
        self.quota.charge(header.end - header.position)
        return header, segment

    def _finished(self, draft: Draft, segment: Segment) -> tuple[FrameHeader, Sequence[Buffer]]:
        """Return the header with all that depends on the place, and the payload as it is stored."""
        parts = draft.parts
        header = draft.header._replace(
            position=segment.num_bytes,
            segment=segment.header.id,
            number=segment.next_number,
            hidden=draft.hidden,
        )
        if segment.cipher is not None:
            header, parts = _encrypted(header, draft, segment.cipher)
        padding = header.end - header.payload_at - header.stored_bytes
        return header._replace(payload_crc=native.crc32c([*parts, ZEROS[:padding]])), parts

    # Segments.

    def _room_for(self, draft: Draft) -> tuple[Segment, File]:
        """Return the segment that the frame goes to."""
        if self.active is not None and self._file is not None:
            end = self.active.num_bytes + draft.num_bytes
            numbered = self.active.next_number < FRAME_NUMBERS
            if (
                self._file.linked()
                and numbered
                and (end <= self.segment_bytes or not self._headers)
            ):
                return self.active, self._file
            self.seal()
        return self._open(draft)

    def _open(self, draft: Draft) -> tuple[Segment, File]:
        number = self.take_number()
        key, wrapped_key, cipher = "", b"", None
        if self.options.keys is not None:
            key, wrapped_key, cipher = new_segment_key(self.options.keys, self.entropy)
        header = SegmentHeader(
            uuid=self.entropy(16),
            number=number,
            created_ms=self.clock.epoch_ms(),
            app=self.identity.app,
            group=self.identity.group,
            cluster=self.identity.cluster,
            lane=self.lane,
            key=key,
            wrapped_key=wrapped_key,
        )
        name = segment_name(self.lane, number)
        file = self._create(f"{self.directory}/{name}")
        self._file, self._headers = file, []
        self.active = Segment(header, name, 0, cipher, active=True)
        file.reserve(max(self.segment_bytes, SEGMENT_HEADER_BYTES + draft.num_bytes))
        write_all(file, [encode_segment(header)], 0)
        self.active.num_bytes = SEGMENT_HEADER_BYTES
        self.quota.charge(SEGMENT_HEADER_BYTES)
        return self.active, file

    def _create(self, path: str) -> File:
        try:
            return self.filesystem.create(path)
        except FileNotFoundError:  # the directory was deleted, which it may be
            self.filesystem.make_directory(self.directory)
            return self.filesystem.create(path)

    def seal(self) -> None:
        """Write the footer of the active segment and close it; without one it still counts."""
        segment, file = self.active, self._file
        if segment is None or file is None:
            return
        try:
            if self._headers and file.linked():
                self._write_footer(segment, file)
                file.truncate(segment.num_bytes)
        except OSError:
            pass  # the footer is only there to save a scan
        self._close(segment, file)

    def _write_footer(self, segment: Segment, file: File) -> None:
        payload = b"".join(self._headers)
        padding = ZEROS[: aligned(len(payload)) - len(payload)]
        header = FrameHeader(
            FOOTER, 0, segment.num_bytes, segment.header.id, segment.next_number, 0, 0, 0,
            len(payload), len(payload), 0, 0, 0, 0, 0, 0, 0, 0, bytes(16), b"",
            native.crc32c([payload, padding]),
        )  # fmt: skip
        trailer = encode_trailer(header.position)
        write_all(file, [encode_frame(header), payload, padding, trailer], header.position)
        self.quota.charge(header.end + TRAILER_BYTES - segment.num_bytes)
        segment.num_bytes = header.end + TRAILER_BYTES

    def give_up(self, *, cut: bool) -> None:
        """Leave the active segment as it is, after an error or because it is gone.

        Args:
            cut: Cut off what was written of the last frame; the disk is full, not broken.
        """
        segment, file = self.active, self._file
        if segment is None or file is None:
            return
        try:
            file.truncate(segment.num_bytes if cut else file.size())  # what is reserved is free
            rest_bytes = file.size() - segment.num_bytes
            self.quota.charge(rest_bytes)
            segment.num_bytes += rest_bytes
        except OSError:
            pass  # what a broken disk says about sizes is not needed
        self._close(segment, file)

    def _close(self, segment: Segment, file: File) -> None:
        self.active, self._file, self._headers = None, None, []
        try:
            file.close()
        except OSError:
            pass  # nothing is synced, so nothing is promised
        segment.active = False
        self.retire(segment)


def write_all(file: File, parts: Sequence[Buffer], position: int) -> None:
    """Write buffers one behind the other, however little is taken at a time.

    Raises:
        OSError: Nobody knows how much was written.
    """
    rest: list[Any] = [view for view in map(_bytes_of, parts) if len(view)]
    while rest:
        count = file.write_at(rest, position)
        if count <= 0:
            raise OSError(errno.EIO, "the disk takes no more bytes and does not say why")
        position += count
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if count:
            rest[0] = rest[0][count:]


def _bytes_of(part: Buffer) -> memoryview:
    return memoryview(part).cast("B")


def _hidden_of(batch: pa.RecordBatch, topic: str) -> bytes:
    """Return topic and probe of a frame that ends with these records."""
    _, *record = (column[-1].as_py() for column in batch.columns)
    return pack_hidden(probe_crc(*record), topic)


def _encrypted(
    header: FrameHeader, draft: Draft, cipher: SegmentCipher
) -> tuple[FrameHeader, Sequence[Buffer]]:
    """Return header and payload of a frame as they are stored."""
    size = header.stored_bytes
    header = header._replace(
        stored_bytes=size + TAG_BYTES, hidden=bytes(len(draft.hidden) + TAG_BYTES)
    )
    bound_to, _ = authenticated(encode_frame(header))
    header = header._replace(hidden=cipher.hide(header.number, draft.hidden, bound_to))
    _, bound_to = authenticated(encode_frame(header))
    return header, [cipher.encrypt(header.number, draft.parts, size, bound_to)]
