"""CRC-32C of bytes; crc32c.h says how.

Header-only: compiled into the module that cimports it, which calls `crc32c_prepare` once.
"""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "includes/crc32c.h" nogil:
    void crc32c_prepare()
    uint32_t crc32c_of(const uint8_t* at, size_t size)
    uint32_t crc32c_extend(uint32_t crc, const uint8_t* at, size_t size)
    uint32_t crc32c_of_portable(const uint8_t* at, size_t size)
