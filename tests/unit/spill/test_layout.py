"""Headers, footers, trailers: what is written is read, and nothing else is."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from flowguard._native.frame import crc32c
from flowguard.spill.layout import (
    ALIGNMENT,
    FRAME_HEADER_BYTES,
    NO_DEADLINE,
    RECORDS,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    BadSegment,
    FrameHeader,
    NewerSegment,
    SegmentHeader,
    aligned,
    decode_footer,
    decode_frame,
    decode_segment,
    decode_trailer,
    encode_frame,
    encode_segment,
    encode_trailer,
    pack_hidden,
    segment_name,
    segment_number,
    unpack_hidden,
)

SEGMENT = SegmentHeader(
    uuid=bytes(range(1, 17)), number=7, created_ms=1_700_000_000_123, app="fraud", group="fraud",
    cluster="abc", lane="bulk", key="k1", wrapped_key=b"\x00\xff" * 20,
)  # fmt: skip
FRAME = FrameHeader(
    kind=RECORDS, compression=1, position=4096, segment=SEGMENT.id, number=3, partition=11,
    batches=2, records=20_000, stored_bytes=1000, raw_bytes=4000, scan_lo=90, scan_hi=20_200,
    first_offset=100, last_offset=20_150, min_timestamp_ms=-1, max_timestamp_ms=2**62,
    deadline_ms=NO_DEADLINE, run=2**64 - 1, rule=b"r" * 16, hidden=pack_hidden(5, "orders"),
    payload_crc=0xDEADBEEF,
)  # fmt: skip


def resealed(page: bytearray) -> bytes:
    """Return a segment header with the checksum that it should have."""
    page[-4:] = struct.pack("<I", crc32c([bytes(page[:-4])]))
    return bytes(page)


def reads(page: bytes) -> bool:
    try:
        decode_segment(page)
    except BadSegment:
        return False
    return True


def test_a_segment_header_is_read_as_it_was_written() -> None:
    page = encode_segment(SEGMENT)

    assert len(page) == SEGMENT_HEADER_BYTES
    assert decode_segment(page) == SEGMENT


def test_every_flipped_bit_of_a_segment_header_is_noticed() -> None:
    page = encode_segment(SEGMENT)

    for bit in range(8 * len(page)):
        flipped = bytearray(page)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not reads(bytes(flipped)), f"bit {bit}"


@pytest.mark.parametrize("size", [0, 1, 4095])
def test_a_header_that_is_cut_off_is_no_header(size: int) -> None:
    with pytest.raises(BadSegment, match=f"{size} bytes"):
        decode_segment(encode_segment(SEGMENT)[:size])


def test_a_page_of_zeros_is_no_header() -> None:
    with pytest.raises(BadSegment):
        decode_segment(bytes(SEGMENT_HEADER_BYTES))


def test_a_later_major_version_is_told_from_damage() -> None:
    page = bytearray(encode_segment(SEGMENT))
    struct.pack_into("<H", page, 8, 2)

    with pytest.raises(NewerSegment, match="format 2"):
        decode_segment(resealed(page))


def test_a_later_minor_version_is_read() -> None:
    page = bytearray(encode_segment(SEGMENT))
    struct.pack_into("<H", page, 10, 9)

    assert decode_segment(resealed(page)) == SEGMENT


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"app":1,"group":"","cluster":""}']
)
def test_names_that_cannot_be_read_are_damage(text: bytes) -> None:
    page = bytearray(encode_segment(SEGMENT))
    struct.pack_into("<I", page, 48, len(text))
    page[52 : 52 + len(text)] = text

    with pytest.raises(BadSegment):
        decode_segment(resealed(page))


def test_names_that_fill_more_than_a_page_are_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        encode_segment(replace(SEGMENT, app="é" * 2100))


def test_a_frame_header_is_read_as_it_was_written() -> None:
    encoded = encode_frame(FRAME)

    assert len(encoded) == FRAME_HEADER_BYTES
    assert decode_frame(encoded, position=4096, segment=SEGMENT.id) == FRAME
    assert FRAME.payload_at % ALIGNMENT == 0 and FRAME.end % ALIGNMENT == 0


def test_every_flipped_bit_of_a_frame_header_is_noticed() -> None:
    encoded = encode_frame(FRAME)

    for bit in range(8 * len(encoded)):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_frame(bytes(flipped), position=4096, segment=SEGMENT.id) is None


def test_a_header_counts_only_where_it_was_written() -> None:
    encoded = encode_frame(FRAME)

    assert decode_frame(encoded, position=4160, segment=SEGMENT.id) is None
    assert decode_frame(encoded, position=4096, segment=SEGMENT.id + 1) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 9},
        {"stored_bytes": 2**32 - 1},
        {"number": 40_000},
        {"scan_lo": 101},
        {"scan_hi": 20_150},
        {"first_offset": 20_151},
    ],
)
def test_sizes_and_offsets_that_make_no_sense_are_no_header(changes: dict[str, int]) -> None:
    encoded = encode_frame(FRAME._replace(**changes))

    assert decode_frame(encoded, position=4096, segment=SEGMENT.id) is None


def test_a_topic_of_the_longest_name_fits_encrypted() -> None:
    hidden = pack_hidden(1, "t" * 249) + bytes(16)

    encode_frame(FRAME._replace(hidden=hidden))
    with pytest.raises(ValueError, match="fit"):
        encode_frame(FRAME._replace(hidden=bytes(313)))


def test_what_is_hidden_is_read_as_it_was_written() -> None:
    assert unpack_hidden(pack_hidden(2**32 - 1, "größe")) == (2**32 - 1, "größe")
    for nothing in (b"", b"\1\2\3\4", b"\0\0\0\0\xff"):
        with pytest.raises(ValueError):  # noqa: PT011 -- UnicodeDecodeError is one
            unpack_hidden(nothing)


def test_a_trailer_is_read_as_it_was_written_and_every_flip_is_noticed() -> None:
    trailer = encode_trailer(2**40)

    assert len(trailer) == TRAILER_BYTES
    assert decode_trailer(trailer) == 2**40
    assert decode_trailer(trailer[:-1]) is None
    for bit in range(8 * TRAILER_BYTES):
        flipped = bytearray(trailer)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_trailer(bytes(flipped)) is None


def test_a_footer_names_frames_that_follow_one_another() -> None:
    first = FRAME._replace(number=0)
    second = FRAME._replace(number=1, position=first.end)
    payload = encode_frame(first) + encode_frame(second)

    assert decode_footer(payload, segment=SEGMENT.id, end=second.end) == [first, second]
    assert decode_footer(payload, segment=SEGMENT.id, end=second.end + 64) is None
    assert decode_footer(payload[:-1], segment=SEGMENT.id, end=second.end) is None
    assert decode_footer(payload[FRAME_HEADER_BYTES:], segment=SEGMENT.id, end=second.end) is None


def test_names_of_files_have_the_lane_and_the_number() -> None:
    assert segment_name("bulk", 255) == "bulk-00000000000000ff.fgs"
    assert segment_number("bulk-00000000000000ff.fgs") == 255
    assert segment_number(segment_name("x" * 500, 1)) == 1
    assert len(segment_name("x" * 500, 1)) < 100
    for name in ("LOCK", "bulk-ff.fgs", "bulk-00000000000000ff.fgs.tmp", "-.fgs", "probe.tmp"):
        assert segment_number(name) is None


def test_sizes_are_padded_to_64() -> None:
    assert [aligned(size) for size in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]


def test_the_drawing_of_the_format_says_where_fields_are() -> None:
    encoded = encode_frame(FRAME)

    assert struct.unpack_from("<Q", encoded, 8)[0] == FRAME.position
    assert struct.unpack_from("<Q", encoded, 16)[0] == FRAME.segment
    assert struct.unpack_from("<I", encoded, 24)[0] == FRAME.number
    assert struct.unpack_from("<I", encoded, 40)[0] == FRAME.stored_bytes
    assert struct.unpack_from("<q", encoded, 96)[0] == FRAME.deadline_ms
    assert struct.unpack_from("<Q", encoded, 104)[0] == FRAME.run
    assert encoded[112:128] == FRAME.rule
    assert struct.unpack_from("<II", encoded, 440)[0] == FRAME.payload_crc
