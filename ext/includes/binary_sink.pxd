"""A binary Arrow column, filled in two passes: measure, then append.

    sink.ends = int32 x (rows + 1); row i is data[ends[i] : ends[i + 1]]
    sink.bits = one bit a row, 0: null; NULL when no row is null

Header-only: inlined into the module that cimports it, which allocates in between.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy


cdef struct BinarySink:
    # Measured by the first pass.
    int64_t num_bytes
    int64_t num_nulls
    # Filled by the second.
    uint8_t* bits
    int32_t* ends
    uint8_t* data
    int32_t filled


cdef inline void measure(BinarySink* sink, int32_t size) noexcept nogil:
    if size >= 0:
        sink.num_bytes += size
    else:
        sink.num_nulls += 1


cdef inline void append(
    BinarySink* sink, int64_t row, const uint8_t* data, int32_t size
) noexcept nogil:
    if size > 0:
        memcpy(sink.data + sink.filled, data, size)
        sink.filled += size
    elif size < 0:
        sink.bits[row >> 3] &= <uint8_t>~(1 << (row & 7))
    sink.ends[row + 1] = sink.filled
