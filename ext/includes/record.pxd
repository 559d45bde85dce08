"""One record of the Kafka record format v2, and its headers.

    record  = length varint | attributes i8 | timestamp_delta varlong | offset_delta varint
            | key | value | headers
    headers = count varint | count x (name | value)
    key, value, name = length varint (-1: null; a name never is) | so many bytes

Header-only: inlined into the module that cimports it, no .so of its own.
Readers return where they stopped, or NULL if a length or a number runs past `end`.

Source: apache/kafka clients/.../common/record/DefaultRecord.java
"""
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcmp

from includes.varint cimport read_varint, read_varlong

cdef enum:
    RECORD_BYTES_MIN = 7        # seven fields, each of at least one byte


cdef struct Span:               # bytes inside a buffer that someone else holds
    const uint8_t* data
    int32_t size                # -1: null


cdef struct Header:
    Span name
    Span value


# The headers follow the value directly, so they need no pointer of their own.
cdef struct Record:
    int64_t offset
    int64_t timestamp
    const uint8_t* key
    const uint8_t* value
    int32_t key_size            # -1: null
    int32_t value_size          # -1: null
    int32_t headers_size
    int32_t lane


cdef inline const uint8_t* headers_of(const Record* record) noexcept nogil:
    return record.value + (record.value_size if record.value_size > 0 else 0)


cdef inline const uint8_t* read_span(
    const uint8_t* at, const uint8_t* end, Span* span
) noexcept nogil:
    """Read a length and skip over so many bytes."""
    at = read_varint(at, end, &span.size)
    if at == NULL or span.size < -1 or span.size > end - at:
        return NULL
    span.data = at
    return at + span.size if span.size > 0 else at


cdef inline const uint8_t* read_header(
    const uint8_t* at, const uint8_t* end, Header* header
) noexcept nogil:
    at = read_span(at, end, &header.name)
    if at == NULL or header.name.size < 0:
        return NULL
    return read_span(at, end, &header.value)


cdef inline const uint8_t* read_header_count(
    const uint8_t* at, const uint8_t* end, int32_t* count
) noexcept nogil:
    at = read_varint(at, end, count)
    if at == NULL or count[0] < 0:
        return NULL
    return at


cdef inline const uint8_t* skip_headers(
    const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """Prove that the headers are well formed, and return where they stop."""
    cdef Header header
    cdef int32_t left
    at = read_header_count(at, end, &left)
    while at != NULL and left > 0:
        at = read_header(at, end, &header)
        left -= 1
    return at


cdef inline const uint8_t* find_header(
    const uint8_t* at, const uint8_t* end, Span name, Span* value
) noexcept nogil:
    """Set `value` to that of the last header of this name, to null if there is none."""
    cdef Header header
    cdef int32_t left
    value.size = -1
    at = read_header_count(at, end, &left)
    while at != NULL and left > 0:
        at = read_header(at, end, &header)
        left -= 1
        if at != NULL and same_bytes(header.name, name):
            value[0] = header.value
    return at


cdef inline bint same_bytes(Span one, Span other) noexcept nogil:
    return one.size == other.size and memcmp(one.data, other.data, one.size) == 0


cdef inline const uint8_t* read_record(
    const uint8_t* at, const uint8_t* end, Record* record
) noexcept nogil:
    """Read a record whose offset and timestamp stay deltas to those of its batch."""
    cdef Span key, value
    cdef int32_t size, offset_delta
    at = read_varint(at, end, &size)
    if at == NULL or size < RECORD_BYTES_MIN - 1 or size > end - at:
        return NULL
    end = at + size
    at = read_varlong(at + 1, end, &record.timestamp)   # the attributes have no meaning yet
    at = read_varint(at, end, &offset_delta)
    at = read_span(at, end, &key)
    at = read_span(at, end, &value)
    if at == NULL or skip_headers(at, end) != end:
        return NULL
    record.offset = offset_delta
    record.key, record.key_size = key.data, key.size
    record.value, record.value_size = value.data, value.size
    record.headers_size = <int32_t>(end - at)
    return end
