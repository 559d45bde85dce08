"""Find out what a directory still holds: after a crash, or for `flowguard spill`.

    footer whole? ── yes ──▶ the headers in it
        │ no
        ▼
    frame after frame ── a header that does not hold ──▶ the next one that does, 64 bytes on
                         nothing behind it that does ──▶ a torn tail, cut off

- A bad frame costs its own records and no others.
- Nothing of a payload is read here: its checksum is checked when it is loaded.
- Of each lane and partition the newest run counts; frames of earlier ones were given up by
  someone who knew more, and are not trusted again.
- The same file gives the same answer, however often recovery itself is interrupted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from flowguard._native import frame as native
from flowguard.chunk import TopicPartition
from flowguard.spill.layout import (
    ALIGNMENT,
    FOOTER,
    FRAME_HEADER_BYTES,
    FRAME_NUMBERS,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    SegmentHeader,
    aligned,
    decode_footer,
    decode_frame,
    decode_segment,
    decode_trailer,
)
from flowguard.spill.manifest import Frame

__all__ = [
    "Contents",
    "Damage",
    "Found",
    "Source",
    "frame_of",
    "newest_runs",
    "read_contents",
    "read_footer",
    "scan",
]

SEARCH_BYTES: Final = 1 << 20
FOOTER_BYTES_MAX: Final = (FRAME_NUMBERS + 1) * FRAME_HEADER_BYTES


class Source(Protocol):
    """A file that is read."""

    @property
    def num_bytes(self) -> int:
        """Return its size."""
        ...

    def read(self, position: int, count: int) -> bytes:
        """Return bytes, fewer where the file ends."""
        ...


class Damage(NamedTuple):
    """Bytes of a segment that are not what was written there.

    Args:
        kind: `gap`: between frames; `torn`: from here on there is no frame that is whole;
            `footer`: only the footer or the trailer.
    """

    kind: Literal["gap", "torn", "footer"]
    start: int
    end: int


@dataclass(slots=True)
class Contents:
    """What is in a segment.

    Args:
        frames: Headers of frames with records, by position.
        footer: The footer's own header, None if there is none that is whole.
        end: Where the last whole frame ends.
    """

    header: SegmentHeader
    frames: list[FrameHeader]
    footer: FrameHeader | None
    damage: list[Damage] = field(default_factory=list)
    end: int = SEGMENT_HEADER_BYTES


def read_contents(source: Source) -> Contents:
    """Return what is in a segment, by its footer if that is whole.

    Raises:
        BadSegment: Its header is damaged.
        NewerSegment: It is of a later version.
        OSError: It cannot be read.
    """
    header = decode_segment(source.read(0, SEGMENT_HEADER_BYTES))
    return _by_footer(source, header) or scan(source, header)


def _by_footer(source: Source, header: SegmentHeader) -> Contents | None:
    trailer_at = source.num_bytes - TRAILER_BYTES
    if trailer_at < SEGMENT_HEADER_BYTES:
        return None
    footer_at = decode_trailer(source.read(trailer_at, TRAILER_BYTES))
    found = None if footer_at is None else read_footer(source, header, footer_at)
    return None if found is None else Contents(header, found[1], found[0], [], found[0].position)


def read_footer(
    source: Source, header: SegmentHeader, footer_at: int
) -> tuple[FrameHeader, list[FrameHeader]] | None:
    """Return the header of a footer and those it lists, None if it is not whole.

    Raises:
        OSError: It cannot be read.
    """
    trailer_at = source.num_bytes - TRAILER_BYTES
    lowest = max(SEGMENT_HEADER_BYTES, trailer_at - FOOTER_BYTES_MAX)
    if not lowest <= footer_at < trailer_at:
        return None
    data = source.read(footer_at, source.num_bytes - footer_at)
    footer = decode_frame(data, position=footer_at, segment=header.id)
    if footer is None or footer.kind != FOOTER or footer.end != trailer_at:
        return None
    payload = data[FRAME_HEADER_BYTES:-TRAILER_BYTES]
    if native.crc32c([payload]) != footer.payload_crc:
        return None
    if decode_trailer(data[-TRAILER_BYTES:]) != footer_at:
        return None
    frames = decode_footer(payload[: footer.stored_bytes], segment=header.id, end=footer_at)
    return None if frames is None else (footer, frames)


def scan(source: Source, header: SegmentHeader) -> Contents:
    """Return what is in a segment, frame after frame, whatever its footer says.

    Raises:
        OSError: It cannot be read.
    """
    contents = Contents(header, [], None)
    position, size = SEGMENT_HEADER_BYTES, source.num_bytes
    while position < size:
        found = decode_frame(
            source.read(position, FRAME_HEADER_BYTES), position=position, segment=header.id
        )
        if found is None or found.end > size:
            further = _next_header(source, header, position + ALIGNMENT)
            if further is None:
                contents.damage.append(Damage("torn", position, size))
                break
            contents.damage.append(Damage("gap", position, further))
            position = further
            continue
        position = found.end
        if found.kind == FOOTER:
            contents.footer = found
            if read_footer(source, header, found.position) is None:
                contents.damage.append(Damage("footer", found.position, size))
            break
        contents.frames.append(found)
        contents.end = position
    return contents


def _next_header(source: Source, header: SegmentHeader, start: int) -> int | None:
    """Return where the next frame begins that is within the file."""
    position = start
    while position + FRAME_HEADER_BYTES <= source.num_bytes:
        data = source.read(position, SEARCH_BYTES)
        at = native.find_header(data, 0, position=position, segment=header.id)
        if at < 0:
            if len(data) < SEARCH_BYTES:
                return None
            position += SEARCH_BYTES - aligned(FRAME_HEADER_BYTES)
            continue
        encoded = data[at : at + FRAME_HEADER_BYTES]
        found = decode_frame(encoded, position=position + at, segment=header.id)
        if found is not None and found.end <= source.num_bytes:
            return position + at
        position += at + ALIGNMENT
    return None


# Runs.


class Found(NamedTuple):
    """A frame that was found, with what tells whether it may be used again.

    Args:
        run: Number of its run.
    """

    frame: Frame
    run: int
    rule: bytes

    @property
    def written(self) -> tuple[int, int]:
        """Return what orders frames by when they were written."""
        return self.frame.segment, self.frame.number


def frame_of(header: FrameHeader, lane: str, topic: str, segment: int) -> Frame:
    """Return what memory keeps of a frame's header."""
    return Frame(
        lane=lane,
        partition=TopicPartition(topic, header.partition),
        segment=segment,
        number=header.number,
        position=header.position,
        stored_bytes=header.stored_bytes,
        raw_bytes=header.raw_bytes,
        records=header.records,
        scan_lo=header.scan_lo,
        scan_hi=header.scan_hi,
        min_timestamp_ms=header.min_timestamp_ms,
        max_timestamp_ms=header.max_timestamp_ms,
        deadline_ms=header.deadline_ms,
    )


def newest_runs(found: Iterable[Found]) -> tuple[list[list[Found]], list[Frame]]:
    """Return the newest run of each lane and partition, by offset, and the frames left over.

    Where frames of a run overlap, the one that was written later counts: its records were
    fetched again because the other was lost.
    """
    groups: dict[tuple[str, TopicPartition], list[Found]] = defaultdict(list)
    for each in found:
        groups[each.frame.lane, each.frame.partition].append(each)
    runs, left = [], []
    for group in groups.values():
        newest = max(group, key=lambda each: each.written).run
        left += [each.frame for each in group if each.run != newest]
        kept: list[Found] = []
        for each in sorted(
            (each for each in group if each.run == newest),
            key=lambda each: (each.frame.scan_lo, each.written),
        ):
            left += _give_way(kept, each)
        runs.append(kept)
    return runs, left


def _give_way(kept: list[Found], each: Found) -> Iterator[Frame]:
    """Add a frame behind those before it; yield what has to go for that, itself perhaps."""
    while kept and kept[-1].frame.scan_hi > each.frame.scan_lo:
        if kept[-1].written > each.written:
            yield each.frame
            return
        yield kept.pop().frame
    kept.append(each)
