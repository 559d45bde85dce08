"""Zigzag varints of the Kafka record format.

Header-only: inlined into the module that cimports it, no .so of its own.
Readers return where they stopped, or NULL if the number is cut or too long.
They pass a NULL on, so a chain of readers is checked once, at its end.

Source: apache/kafka clients/.../common/utils/ByteUtils.java
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef enum:
    VARINT_BYTES_MAX = 5        # 32 bits, seven a byte
    VARLONG_LAST_SHIFT = 63     # the tenth byte of a varlong has room for one bit


cdef inline const uint8_t* read_long_varlong(
    const uint8_t* at, const uint8_t* end, int64_t* value
) noexcept nogil:
    """Read a varlong of any length; the way for the few that exceed one byte."""
    cdef uint64_t raw = 0
    cdef int shift = 0
    while at < end and shift <= VARLONG_LAST_SHIFT:
        if shift == VARLONG_LAST_SHIFT and at[0] > 1:
            return NULL
        raw |= <uint64_t>(at[0] & 0x7F) << shift
        if at[0] < 0x80:
            value[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef inline const uint8_t* read_varlong(
    const uint8_t* at, const uint8_t* end, int64_t* value
) noexcept nogil:
    """Read 64 bits."""
    if at == NULL or at >= end:
        return NULL
    if at[0] < 0x80:
        value[0] = (at[0] >> 1) ^ -(at[0] & 1)
        return at + 1
    return read_long_varlong(at, end, value)


cdef inline const uint8_t* read_varint(
    const uint8_t* at, const uint8_t* end, int32_t* value
) noexcept nogil:
    """Read 32 bits; a number that needs more is refused, not cut off."""
    cdef int64_t wide = 0
    if at == NULL:
        return NULL
    if end - at > VARINT_BYTES_MAX:
        end = at + VARINT_BYTES_MAX
    at = read_varlong(at, end, &wide)
    value[0] = <int32_t>wide
    return at if value[0] == wide else NULL


cdef inline int write_varint(bytearray out, int32_t value) except -1:
    """Append 32 bits."""
    cdef uint64_t raw = <uint64_t>(<int64_t>value << 1 ^ <int64_t>value >> 31) & 0xFFFFFFFF
    while raw >= 0x80:
        out.append(<uint8_t>(raw & 0x7F | 0x80))
        raw >>= 7
    out.append(<uint8_t>raw)
    return 0


cdef inline uint64_t zigzag(int64_t value) noexcept nogil:
    """Return a number with its sign in the lowest bit, so that small ones stay short."""
    return (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)


cdef inline int32_t varlong_size(int64_t value) noexcept nogil:
    """Return how many bytes `put_varlong` writes; a varint is as long as its varlong."""
    cdef uint64_t raw = zigzag(value)
    cdef int32_t size = 1
    while raw >= 0x80:
        raw >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varlong(uint8_t* at, int64_t value) noexcept nogil:
    """Write 64 bits, or 32 as a varint, where there is room; return where they stop."""
    cdef uint64_t raw = zigzag(value)
    while raw >= 0x80:
        at[0] = <uint8_t>(raw | 0x80)
        raw >>= 7
        at += 1
    at[0] = <uint8_t>raw
    return at + 1
