"""What is where in a segment, byte by byte; everything little-endian.

    file     = header 4096 | frame … | footer frame | trailer 16
    frame    = header 448 | payload | zeros up to a multiple of 64

    segment header   0  magic "FGSPILL1"     8  major u16     10  minor u16
                    12  header bytes u32    16  uuid 16       32  number u64
                    40  created i64, ms     48  JSON bytes u32
                    52  JSON: app, group, cluster, lane, key, wrapped_key
                  4092  CRC of all before it

    frame header     0  magic "FGFR"         4  kind u8        5  compression u8
                     6  hidden bytes u16     8  position u64  16  segment u64
                    24  number u32          28  partition i32 32  batches u32
                    36  records u32         40  stored bytes u32
                    44  raw bytes u32       48  scan_lo i64   56  scan_hi i64
                    64  first offset i64    72  last offset i64
                    80  min timestamp i64   88  max timestamp i64
                    96  deadline i64       104  run u64      112  rule 16
                   128  hidden: probe u32, topic; sealed in an encrypted segment
                   440  CRC of the payload and its padding   444  CRC of all before it

    trailer          0  position of the footer u64            8  magic "FGSE"
                    12  CRC of all before it

- `position` and `segment` (the first eight bytes of the uuid) say where a frame belongs, so
  blocks of deleted files and frames that were written elsewhere are told from true ones.
- Records of the frame's lane with offsets in [scan_lo, scan_hi) are all in it.
- A footer's payload is the headers of the segment's frames. It saves a scan, nothing more.
- Magic, major, header bytes and the header's CRC stay where they are in every version.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

from flowguard._native import frame

__all__ = [
    "ALIGNMENT",
    "FOOTER",
    "FRAME_HEADER_BYTES",
    "FRAME_NUMBERS",
    "NO_DEADLINE",
    "RECORDS",
    "SEGMENT_HEADER_BYTES",
    "TRAILER_BYTES",
    "BadSegment",
    "FrameHeader",
    "NewerSegment",
    "SegmentHeader",
    "aligned",
    "authenticated",
    "decode_footer",
    "decode_frame",
    "decode_segment",
    "decode_trailer",
    "encode_frame",
    "encode_segment",
    "encode_trailer",
    "lane_in_name",
    "pack_hidden",
    "segment_name",
    "segment_number",
    "unpack_hidden",
]

SEGMENT_MAGIC: Final = b"FGSPILL1"
FRAME_MAGIC: Final = b"FGFR"
TRAILER_MAGIC: Final = b"FGSE"
MAJOR: Final = 1
MINOR: Final = 0

SEGMENT_HEADER_BYTES: Final = 4096  # a page, so that frames begin on one
FRAME_HEADER_BYTES: Final = frame.HEADER_BYTES
TRAILER_BYTES: Final = 16
ALIGNMENT: Final = frame.ALIGNMENT  # what Arrow recommends for buffers

#: Kinds of frames.
RECORDS: Final = 1
FOOTER: Final = 3

#: Frames of a segment at most, so that a footer is never larger than 15 MB.
FRAME_NUMBERS: Final = 32_768
PAYLOAD_BYTES_MAX: Final = 1 << 30

NO_DEADLINE: Final = 2**63 - 1

#: No segment has this number or a higher one; at one a second that is 68 years away.
SEGMENT_NUMBERS: Final = 1 << 31

#: As many letters of a lane's name as a file's name has of it.
NAMED_LETTERS: Final = 64
SEGMENT_NAME: Final = re.compile(r"[a-z0-9_-]+-([0-9a-f]{16})\.fgs")

SEGMENT: Final = Struct("<8sHHI16sQqI")
FRAME: Final = Struct("<4sBBHQQIiIIIIqqqqqqqQ16s312sII")
TRAILER: Final = Struct("<Q4sI")
CRC: Final = Struct("<I")

AT_CRC: Final = SEGMENT_HEADER_BYTES - CRC.size
AT_HIDDEN: Final = 128
AT_PAYLOAD_CRC: Final = FRAME_HEADER_BYTES - 2 * CRC.size
HIDDEN_BYTES_MAX: Final = AT_PAYLOAD_CRC - AT_HIDDEN


class BadSegment(Exception):
    """This is no segment, or one whose header is damaged."""


class NewerSegment(Exception):
    """A segment of a version that this one cannot read; to be left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """Who wrote a segment, for whom.

    Args:
        uuid: 16 bytes that no other segment has.
        number: Segments of a directory are numbered as they are opened.
        created_ms: Wall clock; for people.
        key: Id of the key that wraps the segment's own; empty if nothing is encrypted.
        wrapped_key: The segment's own key, wrapped.
    """

    uuid: bytes
    number: int
    created_ms: int
    app: str
    group: str
    cluster: str
    lane: str
    key: str = ""
    wrapped_key: bytes = b""

    @property
    def id(self) -> int:
        """Return what frames carry of the uuid."""
        return int.from_bytes(self.uuid[:8], "little")

    @property
    def encrypted(self) -> bool:
        """Tell whether payloads are encrypted."""
        return bool(self.wrapped_key)


class FrameHeader(NamedTuple):
    """What is known of a frame without its payload.

    Args:
        kind: RECORDS or FOOTER.
        position: Offset of the header in its file.
        segment: `SegmentHeader.id`.
        number: Frames of a segment are numbered from 0.
        batches: Arrow messages in the payload.
        stored_bytes: Payload on disk, without padding.
        raw_bytes: Payload in memory, once it is read.
        scan_lo: First offset of the range of which the lane's records are all here.
        scan_hi: Offset after that range.
        deadline_ms: The earliest deadline among the records.
        run: What was read in one go of one log has one number.
        rule: Fingerprint of what decides the lane, 16 bytes.
        hidden: Probe and topic, sealed in an encrypted segment.
    """

    kind: int
    compression: int
    position: int
    segment: int
    number: int
    partition: int
    batches: int
    records: int
    stored_bytes: int
    raw_bytes: int
    scan_lo: int
    scan_hi: int
    first_offset: int
    last_offset: int
    min_timestamp_ms: int
    max_timestamp_ms: int
    deadline_ms: int
    run: int
    rule: bytes
    hidden: bytes
    payload_crc: int = 0

    @property
    def payload_at(self) -> int:
        """Return where the payload begins."""
        return self.position + FRAME_HEADER_BYTES

    @property
    def end(self) -> int:
        """Return where the next frame begins."""
        return self.payload_at + aligned(self.stored_bytes)


def aligned(size: int) -> int:
    """Return a size with its padding."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def segment_name(lane: str, number: int) -> str:
    """Return the name of a segment's file; the lane in it is for people."""
    return f"{lane[:NAMED_LETTERS]}-{number:016x}.fgs"


def segment_number(name: str) -> int | None:
    """Return the number in a file's name, None if it is no segment's name."""
    match = SEGMENT_NAME.fullmatch(name)
    number = SEGMENT_NUMBERS if match is None else int(match[1], 16)
    return number if number < SEGMENT_NUMBERS else None


def lane_in_name(name: str, lanes: Iterable[str]) -> bool:
    """Tell whether a file's name begins with the name of one of these lanes."""
    return name.rpartition("-")[0] in {lane[:NAMED_LETTERS] for lane in lanes}


# Segments.


def encode_segment(header: SegmentHeader) -> bytes:
    """Return the first page of a segment.

    Raises:
        ValueError: The names in it are too long for a page.
    """
    names = {
        "app": header.app, "group": header.group, "cluster": header.cluster,
        "lane": header.lane, "key": header.key,
        "wrapped_key": base64.b64encode(header.wrapped_key).decode(),
    }  # fmt: skip
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()
    fixed = SEGMENT.pack(
        SEGMENT_MAGIC, MAJOR, MINOR, SEGMENT_HEADER_BYTES,
        header.uuid, header.number, header.created_ms, len(text),
    )  # fmt: skip
    if len(fixed) + len(text) > AT_CRC:
        raise ValueError("the names of app, group, cluster and lane do not fit in a page")
    page = (fixed + text).ljust(AT_CRC, b"\0")
    return page + CRC.pack(frame.crc32c([page]))


def decode_segment(page: bytes) -> SegmentHeader:
    """Read the first page of a file.

    Raises:
        BadSegment: It is not a segment's, or damaged.
        NewerSegment: Its major version is above this one's.
    """
    if len(page) < SEGMENT_HEADER_BYTES:
        raise BadSegment(f"the file has {len(page)} bytes, less than a header")
    if CRC.unpack_from(page, AT_CRC)[0] != frame.crc32c([page[:AT_CRC]]):
        raise BadSegment("the header's checksum does not agree")
    magic, major, _, size, uuid, number, created_ms, text_bytes = SEGMENT.unpack_from(page)
    if magic != SEGMENT_MAGIC:
        raise BadSegment("the header's magic is another one")
    if major != MAJOR or size != SEGMENT_HEADER_BYTES:
        raise NewerSegment(f"format {major} is not format {MAJOR}")
    try:
        names: dict[str, Any] = json.loads(page[SEGMENT.size : SEGMENT.size + text_bytes])
        texts = {name: str(names[name]) for name in ("app", "group", "cluster", "lane", "key")}
        wrapped_key = base64.b64decode(str(names["wrapped_key"]), validate=True)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadSegment(f"the header's names cannot be read: {error}") from error
    return SegmentHeader(
        uuid=uuid, number=number, created_ms=created_ms, wrapped_key=wrapped_key, **texts
    )


def encode_trailer(footer_at: int) -> bytes:
    """Return the end of a sealed segment."""
    fixed = TRAILER.pack(footer_at, TRAILER_MAGIC, 0)[: -CRC.size]
    return fixed + CRC.pack(frame.crc32c([fixed]))


def decode_trailer(data: bytes) -> int | None:
    """Return where the footer begins, None if this is no trailer."""
    if len(data) != TRAILER_BYTES:
        return None
    footer_at, magic, crc = TRAILER.unpack(data)
    whole = magic == TRAILER_MAGIC and crc == frame.crc32c([data[: -CRC.size]])
    return int(footer_at) if whole else None


# Frames.


def encode_frame(header: FrameHeader) -> bytes:
    """Return the bytes of a header.

    Raises:
        ValueError: What is hidden in it does not fit.
    """
    if len(header.hidden) > HIDDEN_BYTES_MAX:
        raise ValueError(f"{len(header.hidden)} bytes do not fit where the topic belongs")
    fixed = FRAME.pack(
        FRAME_MAGIC, header.kind, header.compression, len(header.hidden), header.position,
        header.segment, header.number, header.partition, header.batches, header.records,
        header.stored_bytes, header.raw_bytes, header.scan_lo, header.scan_hi,
        header.first_offset, header.last_offset, header.min_timestamp_ms,
        header.max_timestamp_ms, header.deadline_ms, header.run, header.rule, header.hidden,
        header.payload_crc, 0,
    )[: -CRC.size]  # fmt: skip
    return fixed + CRC.pack(frame.crc32c([fixed]))


def authenticated(encoded: bytes) -> tuple[bytes, bytes]:
    """Return what encryption protects of a header: for what is hidden, and for the payload.

    Checksums come after encryption and are left out.
    """
    return encoded[:AT_HIDDEN], encoded[:AT_PAYLOAD_CRC]


def decode_frame(data: bytes, *, position: int, segment: int) -> FrameHeader | None:
    """Return the header of the frame at a position, None if there is none that is whole.

    Its sizes are bounded; that the payload is within the file is for the caller to check.
    """
    if not frame.header_holds(data, position=position, segment=segment):
        return None
    _, kind, compression, hidden_bytes, *fields, hidden, crc, _ = FRAME.unpack_from(data)
    header = FrameHeader._make((kind, compression, *fields, hidden[:hidden_bytes], crc))
    sane = (
        hidden_bytes <= HIDDEN_BYTES_MAX
        and not hidden[hidden_bytes:].strip(b"\0")  # so that it encodes to the same bytes again
        and kind in (RECORDS, FOOTER)
        and header.stored_bytes <= PAYLOAD_BYTES_MAX
        and header.number <= FRAME_NUMBERS
        and header.scan_lo <= header.first_offset <= header.last_offset < header.scan_hi
    )
    return header if sane or kind == FOOTER else None


def pack_hidden(probe_crc: int, topic: str) -> bytes:
    """Return what is hidden in a header, before it is encrypted."""
    return CRC.pack(probe_crc) + topic.encode()


def unpack_hidden(hidden: bytes) -> tuple[int, str]:
    """Return the CRC of the newest record and the topic.

    Raises:
        ValueError: That is not what it is.
    """
    if len(hidden) <= CRC.size:
        raise ValueError("there is no topic")
    return CRC.unpack_from(hidden)[0], hidden[CRC.size :].decode()


def decode_footer(payload: bytes, *, segment: int, end: int) -> list[FrameHeader] | None:
    """Return the headers in a footer, None unless they follow one another without a gap.

    Args:
        payload: Whose checksum agreed.
        end: Where the footer frame begins.
    """
    headers: list[FrameHeader] = []
    position = SEGMENT_HEADER_BYTES
    for at in range(0, len(payload), FRAME_HEADER_BYTES):
        encoded = payload[at : at + FRAME_HEADER_BYTES]
        header = decode_frame(encoded, position=position, segment=segment)
        if header is None or header.kind != RECORDS or header.number != len(headers):
            return None
        headers.append(header)
        position = header.end
    return headers if position == end else None
