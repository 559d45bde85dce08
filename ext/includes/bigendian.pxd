"""Big-endian integers, as the Kafka protocol writes them.

Header-only: inlined into the module that cimports it, no .so of its own.
The callers check the length; compilers turn each function into one move and a swap.
"""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef inline int16_t read_int16(const uint8_t* at) noexcept nogil:
    return <int16_t>((<uint16_t>at[0] << 8) | at[1])


cdef inline uint32_t read_uint32(const uint8_t* at) noexcept nogil:
    return (
        (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16)
        | (<uint32_t>at[2] << 8) | <uint32_t>at[3]
    )


cdef inline int32_t read_int32(const uint8_t* at) noexcept nogil:
    return <int32_t>read_uint32(at)


cdef inline int64_t read_int64(const uint8_t* at) noexcept nogil:
    return <int64_t>((<uint64_t>read_uint32(at) << 32) | read_uint32(at + 4))


cdef inline void write_uint16(uint8_t* at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void write_uint32(uint8_t* at, uint32_t value) noexcept nogil:
    write_uint16(at, <uint16_t>(value >> 16))
    write_uint16(at + 2, <uint16_t>value)


cdef inline void write_uint64(uint8_t* at, uint64_t value) noexcept nogil:
    write_uint32(at, <uint32_t>(value >> 32))
    write_uint32(at + 4, <uint32_t>value)
