"""Columns become Kafka record batches (format v2), sorted by partition while they are written.

    batch  = base offset i64 | length i32 | leader epoch i32 | magic i8 | crc u32     21 bytes
           | attributes i16 | last offset delta i32 | first timestamp i64
           | max timestamp i64 | producer id i64 | producer epoch i16
           | base sequence i32 | records i32 | record …                               61 bytes
    record = length varint | attributes i8 | timestamp delta varlong | offset delta varint
           | key | value | headers

The checksum covers all that follows it, and so the producer's sequence, which is known only
when a batch is sent: `seal` writes the header and the checksum last, and may do so again.

Budget: 40 ns a record of 200 bytes; 50 us a MB for the checksum.
Thread-safety: `Rows` never change; a `RecordBatch` belongs to one thread at a time. The GIL
    is released while records are written and checksums are taken.
Bound: the batches, and 4 bytes a row for their order.
Source: apache/kafka clients/.../common/record/DefaultRecordBatch.java and DefaultRecord.java
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport (
    INT32_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
    uintptr_t,
)
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from includes.bigendian cimport write_uint16, write_uint32, write_uint64
from includes.crc32c cimport crc32c_of, crc32c_prepare
from includes.varint cimport put_varlong, varlong_size

import pyarrow as pa

cdef enum:
    AT_LENGTH = 8
    AT_LEADER_EPOCH = AT_LENGTH + 4
    AT_MAGIC = AT_LEADER_EPOCH + 4
    AT_CRC = AT_MAGIC + 1
    AT_ATTRIBUTES = AT_CRC + 4
    AT_LAST_DELTA = AT_ATTRIBUTES + 2
    AT_FIRST_TIMESTAMP = AT_LAST_DELTA + 4
    AT_MAX_TIMESTAMP = AT_FIRST_TIMESTAMP + 8
    AT_PRODUCER_ID = AT_MAX_TIMESTAMP + 8
    AT_PRODUCER_EPOCH = AT_PRODUCER_ID + 8
    AT_SEQUENCE = AT_PRODUCER_EPOCH + 2
    AT_COUNT = AT_SEQUENCE + 4
    AT_RECORDS = AT_COUNT + 4

cdef enum:
    MAGIC = 2
    CAPACITY_MIN = 1024
    CODEC_MAX = 4                   # zstd
    FRAMING_BYTES = 24              # a guess of what is around a key and a value

cdef enum:
    NO_MEMORY = -1
    TOO_LARGE = -2

crc32c_prepare()


cdef struct Column:                 # a BinaryArray that someone else holds
    const uint8_t* valid            # one bit a row, NULL: no row is null
    const int32_t* ends
    const uint8_t* data
    int64_t first                   # where it begins in `valid`


cdef struct Source:
    Column keys
    Column values
    Column headers                  # each row's own, if it has any
    const int64_t* timestamps       # NULL: all rows have the common one
    int64_t common_timestamp
    const uint8_t* common           # the headers of all rows, NULL: each has its own
    int32_t common_size
    const int32_t* order            # rows by partition, in their order within each


cdef struct Target:
    uint8_t* data
    int64_t size
    int64_t capacity
    int64_t limit
    int64_t first_timestamp
    int64_t max_timestamp
    int32_t count


cdef inline int32_t size_at(const Column* column, int64_t row) noexcept nogil:
    """Return the size of a row's bytes, -1 for null."""
    cdef int64_t bit = column.first + row
    if column.valid != NULL and not (column.valid[bit >> 3] >> (bit & 7)) & 1:
        return -1
    return column.ends[row + 1] - column.ends[row]


cdef inline int64_t timestamp_at(const Source* source, int64_t row) noexcept nogil:
    return source.common_timestamp if source.timestamps == NULL else source.timestamps[row]


cdef inline uint8_t* put_bytes(
    uint8_t* at, const Column* column, int64_t row, int32_t size
) noexcept nogil:
    at = put_varlong(at, size)
    if size <= 0:
        return at
    memcpy(at, column.data + column.ends[row], size)
    return at + size


cdef inline int64_t bytes_with_length(int32_t size) noexcept nogil:
    return varlong_size(size) + (size if size > 0 else 0)


cdef int reserve(Target* target, int64_t needed) noexcept nogil:
    """Make room for so many bytes in all; NO_MEMORY if there is none."""
    cdef int64_t capacity = target.capacity
    if needed <= capacity:
        return 0
    while capacity < needed:
        capacity *= 2
    cdef uint8_t* data = <uint8_t*>realloc(target.data, capacity)
    if data == NULL:
        return NO_MEMORY
    target.data, target.capacity = data, capacity
    return 0


cdef int64_t append(
    Target* target, const Source* source, int64_t start, int64_t stop
) noexcept nogil:
    """Append rows in their order until the batch is full; return where it stopped.

    The first record of a batch is taken whatever its size. Negative: an error.
    """
    cdef int64_t place, row, body, whole, timestamp, delta
    cdef int32_t key_size, value_size, headers_size
    cdef uint8_t* at
    for place in range(start, stop):
        row = source.order[place]
        key_size = size_at(&source.keys, row)
        value_size = size_at(&source.values, row)
        if source.common != NULL:
            headers_size = source.common_size
        else:
            headers_size = size_at(&source.headers, row)
        timestamp = timestamp_at(source, row)
        if target.count == 0:
            target.first_timestamp = target.max_timestamp = timestamp
        # As unsigned numbers, so that what is beyond 64 bits wraps, as it does for readers.
        delta = <int64_t>(<uint64_t>timestamp - <uint64_t>target.first_timestamp)
        body = (
            1 + varlong_size(delta) + varlong_size(target.count) + bytes_with_length(key_size)
            + bytes_with_length(value_size) + headers_size
        )
        whole = varlong_size(body) + body
        if target.size + whole > target.limit and target.count > 0:
            return place
        if target.size + whole > INT32_MAX:
            return TOO_LARGE
        if reserve(target, target.size + whole):
            return NO_MEMORY
        at = put_varlong(target.data + target.size, body)
        at[0] = 0                                       # attributes, of no meaning yet
        at = put_varlong(at + 1, delta)
        at = put_varlong(at, target.count)
        at = put_bytes(at, &source.keys, row, key_size)
        at = put_bytes(at, &source.values, row, value_size)
        if source.common != NULL:
            memcpy(at, source.common, headers_size)
        else:
            memcpy(at, source.headers.data + source.headers.ends[row], headers_size)
        target.size += whole
        target.count += 1
        if timestamp > target.max_timestamp:
            target.max_timestamp = timestamp
    return stop


cdef int64_t sort_by_partition(
    const int32_t* partitions, int64_t rows, int32_t count, int32_t* order, int64_t* bounds
) noexcept nogil:
    """Fill `order`, and `bounds` with where each partition begins; both start out as zeros.

    Return the first row whose partition does not exist, or -1.
    """
    cdef int64_t row, sum = 0, size
    cdef int32_t partition
    for row in range(rows):
        if not 0 <= partitions[row] < count:
            return row
        bounds[partitions[row]] += 1
    for partition in range(count + 1):
        size = bounds[partition]
        bounds[partition] = sum
        sum += size
    for row in range(rows):
        order[bounds[partitions[row]]] = <int32_t>row
        bounds[partitions[row]] += 1
    for partition in range(count, 0, -1):               # each has moved on to the next one
        bounds[partition] = bounds[partition - 1]
    bounds[0] = 0
    return -1


@cython.final
cdef class RecordBatch:
    """A record batch on its way: rows are appended, then it is sealed and is a buffer.

    Args:
        limit_bytes: Most bytes of the batch; a larger record has a batch of its own.
        expected_bytes: Room to begin with.
    """
    cdef Target target
    cdef int16_t codec
    cdef Py_ssize_t views
    cdef readonly bint closed

    def __cinit__(self, int64_t limit_bytes, int64_t expected_bytes=0):
        cdef int64_t capacity = max(CAPACITY_MIN, min(limit_bytes, AT_RECORDS + expected_bytes))
        self.target.data = <uint8_t*>malloc(capacity)
        if self.target.data == NULL:
            raise MemoryError(f"no memory for a batch of {capacity} bytes")
        self.target.capacity = capacity
        self.target.limit = limit_bytes
        self.target.size = AT_RECORDS

    def __dealloc__(self):
        free(self.target.data)

    def __len__(self):
        return self.target.size

    @property
    def count(self):
        """Return how many records it has."""
        return self.target.count

    def close(self):
        """Take no more rows."""
        self.closed = True

    def compress(self, codec, compressor):
        """Close it, and pack its records if that makes them smaller.

        Args:
            codec: Number of the codec in Kafka's attributes, 1 to 4.
            compressor: Bytes → packed bytes.
        """
        if not 1 <= codec <= CODEC_MAX:
            raise ValueError(f"codec {codec} is none of 1 to {CODEC_MAX}")
        if self.codec or self.views:
            raise ValueError("a batch is compressed once, before it is sent")
        self.closed = True
        # As bytes, because lz4 takes nothing else.
        cdef const uint8_t[::1] packed = compressor(
            PyBytes_FromStringAndSize(
                <char*>self.target.data + AT_RECORDS, self.target.size - AT_RECORDS
            )
        )
        cdef Py_ssize_t size = packed.shape[0]
        if size == 0 or size >= self.target.size - AT_RECORDS:
            return
        memcpy(self.target.data + AT_RECORDS, &packed[0], size)
        self.target.size = AT_RECORDS + size
        self.codec = codec

    def seal(self, int64_t producer_id=-1, int16_t producer_epoch=-1, int32_t sequence=-1):
        """Close it, and write its header for a producer's sequence; may be done again.

        Args:
            producer_id: Of an idempotent producer, -1 for none.
            producer_epoch: Its epoch.
            sequence: Number of the first record in its partition.
        """
        if self.target.count == 0:
            raise ValueError("a batch has one record or more")
        self.closed = True
        with nogil:
            write_header(&self.target, self.codec, producer_id, producer_epoch, sequence)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if not self.closed:
            raise BufferError("a batch that may still grow has no fixed place; close it first")
        PyBuffer_FillInfo(buffer, self, self.target.data, self.target.size, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.views -= 1


cdef void write_header(
    Target* target, int16_t codec, int64_t producer_id, int16_t producer_epoch, int32_t sequence
) noexcept nogil:
    cdef uint8_t* data = target.data
    write_uint64(data, 0)                               # the broker gives offsets
    write_uint32(data + AT_LENGTH, <uint32_t>(target.size - AT_LEADER_EPOCH))
    write_uint32(data + AT_LEADER_EPOCH, <uint32_t>-1)
    data[AT_MAGIC] = MAGIC
    write_uint16(data + AT_ATTRIBUTES, <uint16_t>codec)
    write_uint32(data + AT_LAST_DELTA, <uint32_t>(target.count - 1))
    write_uint64(data + AT_FIRST_TIMESTAMP, <uint64_t>target.first_timestamp)
    write_uint64(data + AT_MAX_TIMESTAMP, <uint64_t>target.max_timestamp)
    write_uint64(data + AT_PRODUCER_ID, <uint64_t>producer_id)
    write_uint16(data + AT_PRODUCER_EPOCH, <uint16_t>producer_epoch)
    write_uint32(data + AT_SEQUENCE, <uint32_t>sequence)
    write_uint32(data + AT_COUNT, <uint32_t>target.count)
    write_uint32(
        data + AT_CRC, crc32c_of(data + AT_ATTRIBUTES, <size_t>(target.size - AT_ATTRIBUTES))
    )


@cython.final
cdef class Rows:
    """The rows of a frame by partition, in their order within each.

    Args:
        keys: pa.BinaryArray, nulls allowed.
        values: pa.BinaryArray, nulls are tombstones.
        partitions: pa.Int32Array without nulls.
        timestamps: pa.Int64Array without nulls, ms since 1970; an int is that of every row.
        headers: Encoded headers: bytes for all rows, or a pa.BinaryArray without nulls.
        partition_count: Partitions of the topic.

    Raises:
        TypeError: An array has another type.
        ValueError: Arrays differ in length, have nulls where none may be, or a partition
            does not exist.
    """
    cdef Source source
    cdef int32_t* order
    cdef int64_t* bounds
    cdef int64_t rows
    cdef int64_t num_bytes
    cdef int32_t partition_count
    cdef object held                # the arrays, whose buffers are read

    def __cinit__(self, keys, values, partitions, timestamps, headers, int32_t partition_count):
        cdef bytes common
        self.rows = len(values)
        self.partition_count = partition_count
        self.held = (keys, values, timestamps, headers)
        self.num_bytes = point_at(&self.source.keys, keys, "keys", self.rows)
        self.num_bytes += point_at(&self.source.values, values, "values", self.rows)
        if isinstance(headers, bytes):
            common = headers
            if len(common) > INT32_MAX:
                raise ValueError("headers of more than 2 GiB cannot be sent")
            self.source.common = common
            self.source.common_size = <int32_t>len(common)
            self.num_bytes += self.rows * len(common)
        else:
            self.num_bytes += point_at(&self.source.headers, headers, "headers", self.rows)
            check_full(headers, "headers")
        if isinstance(timestamps, int):
            self.source.common_timestamp = timestamps
        else:
            self.source.timestamps = <const int64_t*>numbers_of(
                timestamps, pa.int64(), "timestamps", self.rows, sizeof(int64_t)
            )
        self.sort(partitions)

    cdef int sort(self, partitions) except -1:
        cdef const int32_t* chosen = <const int32_t*>numbers_of(
            partitions, pa.int32(), "partitions", self.rows, sizeof(int32_t)
        )
        cdef int64_t wrong
        if self.rows > INT32_MAX or self.partition_count < 1:
            raise ValueError("a frame has at most 2**31 - 1 rows, a topic 1 partition or more")
        self.order = <int32_t*>malloc((self.rows + 1) * sizeof(int32_t))
        self.bounds = <int64_t*>calloc(self.partition_count + 1, sizeof(int64_t))
        if self.order == NULL or self.bounds == NULL:
            raise MemoryError(f"no memory to sort {self.rows} rows")
        with nogil:
            wrong = sort_by_partition(
                chosen, self.rows, self.partition_count, self.order, self.bounds
            )
        if wrong >= 0:
            raise ValueError(f"row {wrong} is for partition {chosen[wrong]}, which does not exist")
        self.source.order = self.order
        return 0

    def __dealloc__(self):
        free(self.order)
        free(self.bounds)

    def __len__(self):
        return self.rows

    def spans(self):
        """Return (partition, start, stop) of each partition that has rows."""
        cdef int32_t partition
        return [
            (partition, self.bounds[partition], self.bounds[partition + 1])
            for partition in range(self.partition_count)
            if self.bounds[partition] < self.bounds[partition + 1]
        ]

    def append_to(self, RecordBatch batch not None, int64_t start, int64_t stop):
        """Append rows of a span until the batch is full, and return where that was.

        Raises:
            ValueError: The batch is closed, or a record is beyond 2 GiB.
        """
        cdef int64_t stopped
        if batch.closed:
            raise ValueError("the batch is closed")
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} are not in the frame")
        with nogil:
            stopped = append(&batch.target, &self.source, start, stop)
        if stopped == NO_MEMORY:
            raise MemoryError("no memory for a record batch")
        if stopped == TOO_LARGE:
            raise ValueError("a record of 2 GiB or more cannot be sent")
        return stopped

    def encode(self, int64_t limit_bytes):
        """Return all rows as (partition, RecordBatch), by partition and in their order.

        Args:
            limit_bytes: Most bytes of a batch; a larger record has one of its own.
        """
        cdef int64_t start, stop
        batches = []
        for partition, start, stop in self.spans():
            while start < stop:
                expected = (self.num_bytes // self.rows + FRAMING_BYTES) * (stop - start)
                batch = RecordBatch(limit_bytes, expected)
                start = self.append_to(batch, start, stop)
                batch.close()
                batches.append((partition, batch))
        return batches


cdef int64_t point_at(Column* column, array, name, int64_t rows) except -1:
    """Let a column point at the buffers of an array; return its size in bytes."""
    if not isinstance(array, pa.BinaryArray):
        raise TypeError(f"{name} must be a BinaryArray, not {type(array).__name__}")
    check_length(array, name, rows)
    validity, ends, data = array.buffers()
    cdef uintptr_t valid_at = 0 if validity is None else validity.address
    cdef uintptr_t data_at = 0 if data is None else data.address
    cdef uintptr_t ends_at = 0 if ends is None else ends.address
    if ends is None and rows:
        raise ValueError(f"{name} have no offsets")
    column.first = array.offset
    column.valid = <const uint8_t*>valid_at
    column.ends = <const int32_t*>ends_at + column.first if ends_at else NULL
    column.data = <const uint8_t*>data_at
    return column.ends[rows] - column.ends[0] if rows else 0


cdef uintptr_t numbers_of(array, kind, name, int64_t rows, Py_ssize_t width) except? 0:
    """Return the address of the first number of an array."""
    if not isinstance(array, pa.Array) or array.type != kind:
        raise TypeError(f"{name} must be an array of {kind}")
    check_length(array, name, rows)
    check_full(array, name)
    data = array.buffers()[1]
    return 0 if data is None else <uintptr_t>data.address + <uintptr_t>(array.offset * width)


cdef int check_length(array, name, int64_t rows) except -1:
    if len(array) != rows:
        raise ValueError(f"{len(array)} {name} are not one for each of {rows} rows")
    return 0


cdef int check_full(array, name) except -1:
    if array.null_count:
        raise ValueError(f"{name} must not be null")
    return 0
