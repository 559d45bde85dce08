"""Spill frames: checksums over scattered buffers, and the way back into step.

    0        4                8          16          24                444      448
    ├─ FGFR ─┼─ kinds, sizes ─┼─ position ┼─ segment ─┼─ … ────────────┼─ CRC ──┤ payload …
                                └── where the frame itself is, and in which file

`flowguard.spill.layout` draws all of a header. Here is what has to be fast: the CRC of a
payload that lies in many buffers, and the search for the next header behind damage. A header
counts only where its own CRC holds and it says the very place it was found at, so neither old
blocks of a deleted file nor a frame that was written elsewhere is ever taken for one.

Budget: 60 µs a MiB for checksums (50 where it is in cache); 20 µs a MiB for the search.
Thread-safety: pure; the GIL is released for all that is more than 16 KiB.
Bound: no memory but the result.
Source: vectordotdev/vector lib/vector-buffers/src/variants/disk_v2 (frames that stand alone);
    tigerbeetle docs/concepts/safety.md (misdirected writes).
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from includes.crc32c cimport crc32c_extend, crc32c_of, crc32c_prepare

cdef enum:
    AT_MAGIC = 0
    AT_POSITION = 8
    AT_SEGMENT = AT_POSITION + 8
    AT_HEADER_CRC = 444
    HEADER = AT_HEADER_CRC + 4
    ALIGNED_TO = 64
    SMALL = 16384                   # less is done before the GIL could be had again

cdef uint32_t MAGIC = 0x52464746    # "FGFR", little-endian as all of it

HEADER_BYTES = HEADER
ALIGNMENT = ALIGNED_TO

crc32c_prepare()


cdef inline uint32_t word_at(const uint8_t* at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, sizeof(word))
    return word


cdef inline uint64_t long_at(const uint8_t* at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, sizeof(word))
    return word


cdef inline bint header_is_at(
    const uint8_t* at, uint64_t position, uint64_t segment
) noexcept nogil:
    """Tell whether a header begins here; HEADER bytes must be there."""
    return (
        word_at(at + AT_MAGIC) == MAGIC
        and long_at(at + AT_POSITION) == position
        and long_at(at + AT_SEGMENT) == segment
        and word_at(at + AT_HEADER_CRC) == crc32c_of(at, AT_HEADER_CRC)
    )


cdef Py_ssize_t search(
    const uint8_t* data, Py_ssize_t size, Py_ssize_t start, uint64_t position, uint64_t segment
) noexcept nogil:
    cdef Py_ssize_t at = start
    while at <= size - HEADER:
        if header_is_at(data + at, position + <uint64_t>at, segment):
            return at
        at += ALIGNED_TO
    return -1


def crc32c(parts) -> int:
    """Return the CRC-32C of buffers one behind the other.

    Args:
        parts: Objects with contiguous bytes.

    Raises:
        TypeError: One has none.
        BufferError: One is not contiguous.
    """
    cdef uint32_t crc = 0
    cdef Py_buffer held
    for part in parts:
        PyObject_GetBuffer(part, &held, PyBUF_SIMPLE)
        try:
            if held.len > SMALL:
                with nogil:
                    crc = crc32c_extend(crc, <const uint8_t*>held.buf, held.len)
            elif held.len:          # an empty one may have no address
                crc = crc32c_extend(crc, <const uint8_t*>held.buf, held.len)
        finally:
            PyBuffer_Release(&held)
    return crc


def find_header(data, Py_ssize_t start, *, uint64_t position, uint64_t segment) -> int:
    """Return where the next header of a segment is whole, -1 if there is none.

    Args:
        data: Bytes of the segment's file.
        start: First place to look at; then every 64 bytes.
        position: Offset in the file of the first byte of `data`, a multiple of 64.
        segment: The segment's id, as its frames carry it.

    Raises:
        ValueError: A place is negative, or not one where a header may be.
    """
    cdef Py_buffer held
    cdef Py_ssize_t found
    if start < 0 or (position + <uint64_t>start) % ALIGNED_TO:
        raise ValueError(f"no header begins at {position} + {start}; use multiples of 64")
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        if held.len - start > SMALL:
            with nogil:
                found = search(<const uint8_t*>held.buf, held.len, start, position, segment)
        else:
            found = search(<const uint8_t*>held.buf, held.len, start, position, segment)
        return found
    finally:
        PyBuffer_Release(&held)


def header_holds(data, *, uint64_t position, uint64_t segment) -> bool:
    """Tell whether bytes begin with the whole header of the frame at this position."""
    cdef Py_buffer held
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        return held.len >= HEADER and header_is_at(<const uint8_t*>held.buf, position, segment)
    finally:
        PyBuffer_Release(&held)
