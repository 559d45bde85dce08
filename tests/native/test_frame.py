"""Checksums over many buffers, and the search for the next header."""

from __future__ import annotations

import threading
from array import array
from random import Random

import pyarrow as pa
import pytest

from flowguard._native import frame
from flowguard._native.frame import ALIGNMENT, HEADER_BYTES, crc32c, find_header, header_holds
from flowguard._native.wire import crc32c_portable
from flowguard.spill.layout import RECORDS, FrameHeader, encode_frame


def header_at(position: int, segment: int = 7) -> bytes:
    return encode_frame(
        FrameHeader(
            RECORDS, 0, position, segment, 0, 0, 1, 1, 10, 10, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16),
            b"\0\0\0\0t",
        )
    )  # fmt: skip


def test_the_published_check_value_comes_out_however_the_bytes_are_cut() -> None:
    for cut in range(10):
        assert crc32c([b"123456789"[:cut], b"", memoryview(b"123456789"[cut:])]) == 0xE3069283
    assert crc32c([]) == crc32c([b""]) == 0


def test_parts_have_the_checksum_of_the_whole() -> None:
    random = Random(1)
    for _ in range(200):
        whole = random.randbytes(random.choice([0, 1, 63, 300, 7000, 40_000]))
        parts, at = [], 0
        while at < len(whole):
            size = random.choice([1, 7, 8, 255, 256, 768, 6144, 20_000])
            parts.append(pa.py_buffer(whole[at : at + size]))
            at += size
        assert crc32c(parts) == crc32c_portable(whole)


def test_what_has_no_contiguous_bytes_has_no_checksum() -> None:
    with pytest.raises(TypeError):
        crc32c(["text"])
    with pytest.raises(TypeError):
        crc32c(5)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        crc32c([memoryview(b"12345678")[::2]])


def test_a_header_is_found_at_the_place_that_it_names() -> None:
    data = bytes(640) + header_at(4096 + 640) + bytes(100)

    assert find_header(data, 0, position=4096, segment=7) == 640
    assert find_header(data, 640, position=4096, segment=7) == 640
    assert find_header(data, 704, position=4096, segment=7) == -1
    assert find_header(data, 0, position=4160, segment=7) == -1
    assert find_header(data, 0, position=4096, segment=8) == -1


def test_a_header_that_does_not_begin_at_a_multiple_of_64_is_none() -> None:
    data = bytes(8) + header_at(8) + bytes(100)

    assert find_header(data, 0, position=0, segment=7) == -1
    with pytest.raises(ValueError, match="multiples of 64"):
        find_header(data, 8, position=0, segment=7)
    with pytest.raises(ValueError, match="multiples of 64"):
        find_header(data, -64, position=0, segment=7)


def test_a_header_that_is_cut_off_is_none() -> None:
    data = header_at(0)

    for size in range(HEADER_BYTES):
        assert find_header(data[:size], 0, position=0, segment=7) == -1
        assert not header_holds(data[:size], position=0, segment=7)
    assert header_holds(data, position=0, segment=7)


def test_a_magic_that_is_no_header_is_passed_over() -> None:
    data = (b"FGFR".ljust(ALIGNMENT, b"x")) * 20 + header_at(20 * ALIGNMENT)

    assert find_header(data, 0, position=0, segment=7) == 20 * ALIGNMENT


def test_the_search_goes_over_large_files_without_the_interpreter() -> None:
    size = 1 << 22
    data = bytes(size) + header_at(size)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(find_header(data, 0, position=0, segment=7)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [size] * 4


def test_places_beyond_what_64_bits_hold_are_refused() -> None:
    with pytest.raises(OverflowError):
        header_holds(bytes(448), position=2**64, segment=0)
    with pytest.raises(OverflowError):
        find_header(bytes(448), 0, position=0, segment=-1)
    assert find_header(bytes(448), 2**62, position=0, segment=1) == -1
    assert find_header(array("B", bytes(448)), 0, position=2**64 - 64, segment=1) == -1


def test_sizes_are_those_of_the_format() -> None:
    assert (frame.HEADER_BYTES, frame.ALIGNMENT) == (448, 64)
