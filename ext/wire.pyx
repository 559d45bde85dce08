"""Turn the bytes of a Kafka fetch response into Arrow columns, split by lane.

    response = throttle_time_ms i32 | error_code i16 | session_id i32 | [topic]
    topic    = name string | [partition]
    partition = partition i32 | error_code i16 | high_watermark i64 | last_stable_offset i64
              | log_start_offset i64 | [aborted] | preferred_read_replica i32 | records bytes
    aborted  = producer_id i64 | first_offset i64
    [x]      = count i32 (-1: null) | count x x         string, bytes = length | so many bytes

    records  = wire batches, the last of which may be cut
    batch    = base_offset i64 | length i32 | leader_epoch i32 | magic i8 | crc u32
             | attributes i16 | last_offset_delta i32 | base_timestamp i64 | max_timestamp i64
             | producer_id i64 | producer_epoch i16 | base_sequence i32 | record_count i32
             | records (includes/record.pxd), compressed as one if the attributes say so

Two passes: the first finds and checks every record and its lane, the second copies
them into Arrow buffers of exactly the right size. A wire batch is all or nothing.

Bound: `max_bytes` of columns a call, and 1.7 times that while it runs; unpacked bytes come on top.
Thread-safety: functions share no state; columns and rules never change.
Budget: <= 60 ns a record of 185 B, with its checksum; the GIL is released.
Source: Kafka protocol guide (Fetch v11); apache/kafka DefaultRecordBatch.java, and
    CompletedFetch.java for aborted transactions.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport (
    INT32_MAX,
    INT64_MAX,
    int8_t,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint32_t,
    uint64_t,
    uintptr_t,
)
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from includes.bigendian cimport read_int16, read_int32, read_int64, read_uint32
from includes.binary_sink cimport BinarySink, append, measure
from includes.crc32c cimport crc32c_of, crc32c_of_portable, crc32c_prepare
from includes.record cimport (
    RECORD_BYTES_MIN,
    Header,
    Record,
    Span,
    find_header,
    headers_of,
    read_header,
    read_header_count,
    read_record,
)
from includes.varint cimport read_varint, write_varint

import pyarrow as pa

from flowguard.errors import WireError

crc32c_prepare()

cdef enum:
    AT_BASE_OFFSET = 0
    AT_LENGTH = AT_BASE_OFFSET + 8
    AT_LEADER_EPOCH = AT_LENGTH + 4             # the length counts from here to the end
    AT_MAGIC = AT_LEADER_EPOCH + 4
    AT_CRC = AT_MAGIC + 1
    AT_ATTRIBUTES = AT_CRC + 4                  # the CRC covers from here to the end
    AT_LAST_OFFSET_DELTA = AT_ATTRIBUTES + 2
    AT_BASE_TIMESTAMP = AT_LAST_OFFSET_DELTA + 4
    AT_MAX_TIMESTAMP = AT_BASE_TIMESTAMP + 8
    AT_PRODUCER_ID = AT_MAX_TIMESTAMP + 8
    AT_PRODUCER_EPOCH = AT_PRODUCER_ID + 8
    AT_BASE_SEQUENCE = AT_PRODUCER_EPOCH + 2
    AT_RECORD_COUNT = AT_BASE_SEQUENCE + 4
    AT_RECORDS = AT_RECORD_COUNT + 4

cdef enum:
    CODEC_MASK = 0b111
    LOG_APPEND_TIME = 1 << 3
    TRANSACTIONAL = 1 << 4
    CONTROL = 1 << 5

cdef enum:
    MAGIC = 2                                   # wire batches since Kafka 0.11
    CODEC_COUNT = 5                             # none, gzip, snappy, lz4, zstd
    MARKER_ABORT = 0                            # type of a control record
    MARKER_BYTES_MIN = 4                        # its key: version i16 | type i16
    # Offset, timestamp, the ends of key, value and headers, and (rounded up) two null bits.
    COLUMNS_BYTES_A_RECORD = 8 + 8 + 3 * 4 + 1
    # Each of the three binary columns has one end more than rows.
    COLUMNS_BYTES_A_LANE = 3 * 4
    LANES_MAX = 1 << 16
    RECORDS_MIN = 1024                          # first size of the scratch array
    # Parsing this takes less time than getting the GIL back from a thread that is busy.
    HOLD_BYTES_MAX = 64 * 1024


# Why reading the wire batches paused or stopped.
cdef enum Step:
    NEXT
    OPENED                  # the current batch is known, its records are next
    PACKED                  # the same, and they must be unpacked first
    ALL_READ
    FULL
    NO_MEMORY
    BAD_LENGTH              # from here on the batch cannot be read
    BAD_MAGIC
    BAD_CRC
    BAD_OFFSETS
    BAD_CODEC
    BAD_MARKER
    BAD_COUNT
    BAD_RECORD
    BAD_ORDER
    TOO_LARGE


REASONS = {
    BAD_LENGTH: "its length field is impossible",
    BAD_CRC: "its checksum does not match",
    BAD_OFFSETS: "its offsets are impossible",
    BAD_MARKER: "its control record is malformed",
    BAD_COUNT: "its record count does not match its bytes",
    BAD_RECORD: "a length or a number of one record runs past its end",
    BAD_ORDER: "the offsets of its records do not ascend",
}
WHAT_NOW = (
    "this partition stops here, others go on. Look at it with kafka-dump-log,"
    " or commit a later offset to go past it"
)

BINARY = pa.binary()
INT64 = pa.int64()
HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", BINARY)]))
SCHEMA = pa.schema([
    pa.field("offset", INT64, nullable=False),
    pa.field("timestamp", INT64, nullable=False),
    pa.field("key", BINARY),
    pa.field("value", BINARY),
    pa.field("headers", BINARY, nullable=False),
])


cdef struct Batch:                      # the header of a wire batch
    int64_t base_offset
    int64_t last_offset
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t producer_id
    int32_t record_count
    int16_t attributes
    int8_t magic
    uint32_t crc
    const uint8_t* start
    const uint8_t* end


cdef struct Aborted:
    int64_t producer_id
    int64_t first_offset


cdef struct LaneState:
    # Measured by the first pass.
    int64_t num_records
    int64_t first_offset
    int64_t last_offset
    int64_t first_timestamp
    # Filled by the second.
    int64_t row
    int64_t* offsets
    int64_t* timestamps
    # Both.
    BinarySink key
    BinarySink value
    BinarySink headers


# --- Which lane a record belongs to -------------------------------------------------------

cdef enum RuleKind:
    CONSTANT
    BY_HEADER
    BY_KEY_PREFIX


cdef struct LaneEntry:
    Span text
    int32_t lane


cdef struct Rule:
    RuleKind kind
    Span header
    LaneEntry* entries
    Py_ssize_t entry_count
    int32_t default_lane


cdef inline bint starts_with(Span text, Span prefix) noexcept nogil:
    return text.size >= prefix.size and memcmp(text.data, prefix.data, prefix.size) == 0


cdef inline int32_t lane_of_value(const Rule* rule, Span value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rule.entry_count):
        if rule.entries[i].text.size == value.size and starts_with(value, rule.entries[i].text):
            return rule.entries[i].lane
    return rule.default_lane


cdef inline int32_t lane_of_key(const Rule* rule, Span key) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rule.entry_count):
        if starts_with(key, rule.entries[i].text):
            return rule.entries[i].lane
    return rule.default_lane


cdef inline int32_t lane_of(const Rule* rule, const Record* record) noexcept nogil:
    cdef Span span
    cdef const uint8_t* headers
    if rule.kind == CONSTANT:
        return rule.default_lane
    if rule.kind == BY_HEADER:
        headers = headers_of(record)
        find_header(headers, headers + record.headers_size, rule.header, &span)
        return lane_of_value(rule, span)
    span.data, span.size = record.key, record.key_size
    return lane_of_key(rule, span)


@cython.final
cdef class LaneRule:
    """Which lane a record belongs to, decided on its bytes while parsing.

    A pure function of the record, so that every worker decides the same. Entries are
    tried one after the other: fine for the few lanes and tenants a table has.
    """

    cdef Rule rule
    cdef object texts           # holds the bytes that the entries point into
    cdef int32_t highest_lane

    def __init__(self):
        raise TypeError("use LaneRule.constant, .by_header or .by_key_prefix")

    def __dealloc__(self):
        free(self.rule.entries)

    @staticmethod
    def constant(lane: int) -> LaneRule:
        """Put every record into one lane."""
        return make_rule(CONSTANT, b"", {}, lane)

    @staticmethod
    def by_header(name: bytes, table, default: int) -> LaneRule:
        """Look up the value of a header; if it is repeated, the last one counts.

        Args:
            name: Name of the header.
            table: Lane of each value.
            default: Lane when the header is missing, null or not in the table.
        """
        return make_rule(BY_HEADER, name, table, default)

    @staticmethod
    def by_key_prefix(table, default: int) -> LaneRule:
        """Look up how the key starts; the longest prefix in the table wins.

        Args:
            table: Lane of each prefix.
            default: Lane when no prefix fits or the key is null.
        """
        return make_rule(BY_KEY_PREFIX, b"", table, default)


cdef Span span_of(bytes text):
    cdef Span span
    span.data, span.size = <const uint8_t*><char*>text, <int32_t>len(text)
    return span


cdef LaneRule make_rule(RuleKind kind, bytes header, table, int default_lane):
    cdef LaneRule self = LaneRule.__new__(LaneRule)
    # Longest first, so that the first prefix to fit is the longest one.
    entries = sorted(table.items(), key=lambda entry: -len(entry[0]))
    lanes = [default_lane, *(lane for _, lane in entries)]
    if min(lanes) < 0 or max(lanes) >= LANES_MAX:
        raise ValueError(f"lanes are numbered from 0 to {LANES_MAX - 1}")
    self.texts = (header, entries)
    self.highest_lane = max(lanes)
    self.rule.kind = kind
    self.rule.header = span_of(header)
    self.rule.default_lane = default_lane
    self.rule.entries = <LaneEntry*>calloc(len(entries) + 1, sizeof(LaneEntry))
    if self.rule.entries == NULL:
        raise MemoryError
    for text, lane in entries:
        self.rule.entries[self.rule.entry_count].text = span_of(text)
        self.rule.entries[self.rule.entry_count].lane = lane
        self.rule.entry_count += 1
    return self


# --- Buffers ------------------------------------------------------------------------------

@cython.final
cdef class Held:
    """The bytes of another object, which cannot go away meanwhile."""

    cdef object source
    cdef Py_buffer buffer
    cdef const uint8_t* data
    cdef Py_ssize_t size

    def __cinit__(self, source):
        PyObject_GetBuffer(source, &self.buffer, PyBUF_SIMPLE)
        self.source = source
        self.data = <const uint8_t*>self.buffer.buf
        self.size = self.buffer.len

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


cdef uint8_t* address_of(buffer) except? NULL:
    """Return where an Arrow buffer starts, NULL for an absent one."""
    return NULL if buffer is None else <uint8_t*><uintptr_t>buffer.address


cdef list open_sink(BinarySink* sink, Py_ssize_t rows):
    """Allocate the buffers of a measured column: null bits or None, ends, bytes."""
    bits = None
    if sink.num_nulls > 0:
        bits = pa.allocate_buffer((rows + 7) // 8)
        sink.bits = address_of(bits)
        memset(sink.bits, 0xFF, (rows + 7) // 8)
    ends = pa.allocate_buffer((rows + 1) * sizeof(int32_t))
    data = pa.allocate_buffer(sink.num_bytes)
    sink.ends = <int32_t*>address_of(ends)
    sink.ends[0] = 0
    sink.data = address_of(data)
    sink.filled = 0
    return [bits, ends, data]


cdef close_sink(const BinarySink* sink, Py_ssize_t rows, list buffers):
    return pa.Array.from_buffers(BINARY, rows, buffers, sink.num_nulls)


# --- A fetch response ---------------------------------------------------------------------

@cython.final
cdef class PartitionSection:
    """What a fetch response says of one partition, and where its records lie.

    Args:
        topic: Name of the topic.
        partition: Number of the partition.
        start: Index in the frame where its wire batches begin.
        size: Bytes of its wire batches.
        error_code: Kafka error code, 0 is none.
        high_watermark: Next offset that is not yet replicated.
        last_stable_offset: First offset of the oldest open transaction.
        log_start_offset: First offset that still exists.
        aborted: (producer_id, first_offset) of aborted transactions in these bytes.
    """

    cdef readonly:
        str topic
        int partition
        int error_code
        int64_t high_watermark
        int64_t last_stable_offset
        int64_t log_start_offset
        list aborted
        Py_ssize_t start
        Py_ssize_t size

    def __init__(
        self,
        *,
        str topic,
        int partition,
        Py_ssize_t start,
        Py_ssize_t size,
        int error_code=0,
        int64_t high_watermark=-1,
        int64_t last_stable_offset=-1,
        int64_t log_start_offset=-1,
        aborted=(),
    ):
        self.topic = topic
        self.partition = partition
        self.start = start
        self.size = size
        self.error_code = error_code
        self.high_watermark = high_watermark
        self.last_stable_offset = last_stable_offset
        self.log_start_offset = log_start_offset
        self.aborted = list(aborted)

    def __repr__(self) -> str:
        return (
            f"PartitionSection({self.topic}[{self.partition}], error_code={self.error_code},"
            f" high_watermark={self.high_watermark}, start={self.start}, size={self.size})"
        )


@cython.final
cdef class FrameReader:
    """Reads a frame field by field, and never past its end."""

    cdef Held frame
    cdef Py_ssize_t position

    def __cinit__(self, frame):
        self.frame = Held(frame)

    cdef const uint8_t* take(self, Py_ssize_t size) except? NULL:
        """Return the next `size` bytes and step over them."""
        cdef const uint8_t* at = self.frame.data + self.position
        if size < 0 or size > self.frame.size - self.position:
            raise WireError(
                f"a fetch response of {self.frame.size} bytes is cut or malformed: at"
                f" {self.position} it wants {size} more; the connection is closed and"
                " fetched anew. Make sure that the broker speaks Fetch v11"
            )
        self.position += size
        return at

    cdef int16_t int16(self) except? -1:
        return read_int16(self.take(sizeof(int16_t)))

    cdef int32_t int32(self) except? -1:
        return read_int32(self.take(sizeof(int32_t)))

    cdef int64_t int64(self) except? -1:
        return read_int64(self.take(sizeof(int64_t)))

    cdef Py_ssize_t count(self, bint nullable) except -1:
        """Read the length of an array or of bytes; null counts as empty."""
        cdef Py_ssize_t count = self.int32()
        if count == -1 and nullable:
            return 0
        if count < 0:
            self.take(count)
        return count

    cdef str string(self):
        cdef Py_ssize_t size = self.int16()
        cdef const uint8_t* text = self.take(size)
        try:
            return text[:size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError("the name of a topic in a fetch response is not UTF-8") from error

    cdef list aborted(self):
        return [(self.int64(), self.int64()) for _ in range(self.count(nullable=True))]

    cdef PartitionSection section(self, str topic):
        partition = self.int32()
        error_code = self.int16()
        high_watermark = self.int64()
        last_stable_offset = self.int64()
        log_start_offset = self.int64()
        aborted = self.aborted()
        self.int32()    # preferred_read_replica: fetching goes to the leader
        size = self.count(nullable=True)
        start = self.position
        self.take(size)
        return PartitionSection(
            topic=topic,
            partition=partition,
            start=start,
            size=size,
            error_code=error_code,
            high_watermark=high_watermark,
            last_stable_offset=last_stable_offset,
            log_start_offset=log_start_offset,
            aborted=aborted,
        )

    cdef list topic_sections(self):
        name = self.string()
        return [self.section(name) for _ in range(self.count(nullable=False))]


def read_fetch_response(frame):
    """Find the partitions in a fetch response; their records are only located.

    Args:
        frame: A Fetch v11 response, from after its correlation id.

    Returns:
        Throttle time in ms, error code, and a section for each partition.

    Raises:
        WireError: The frame is cut or malformed; fetch again on a new connection.
    """
    cdef FrameReader reader = FrameReader(frame)
    throttle_ms = reader.int32()
    error_code = reader.int16()
    reader.int32()      # session_id: every request is a full one
    sections = []
    for _ in range(reader.count(nullable=False)):
        sections += reader.topic_sections()
    return throttle_ms, error_code, sections


# --- Wire batches -------------------------------------------------------------------------

cdef inline int read_batch(const uint8_t* at, const uint8_t* end, Batch* batch) noexcept nogil:
    """Read the header of the wire batch at `at`; ALL_READ if it is cut."""
    cdef int64_t length, last_offset_delta
    batch.base_offset = -1
    if end - at < AT_LEADER_EPOCH:
        return ALL_READ
    length = read_int32(at + AT_LENGTH)
    if length < AT_CRC - AT_LEADER_EPOCH:
        return BAD_LENGTH
    if end - at < AT_LEADER_EPOCH + length:
        return ALL_READ
    batch.base_offset = read_int64(at + AT_BASE_OFFSET)
    batch.magic = at[AT_MAGIC]
    if batch.magic != MAGIC:
        return BAD_MAGIC
    if length < AT_RECORDS - AT_LEADER_EPOCH:
        return BAD_LENGTH
    batch.start = at
    batch.end = at + AT_LEADER_EPOCH + length
    batch.crc = read_uint32(at + AT_CRC)
    batch.attributes = read_int16(at + AT_ATTRIBUTES)
    batch.base_timestamp = read_int64(at + AT_BASE_TIMESTAMP)
    batch.max_timestamp = read_int64(at + AT_MAX_TIMESTAMP)
    batch.producer_id = read_int64(at + AT_PRODUCER_ID)
    batch.record_count = read_int32(at + AT_RECORD_COUNT)
    last_offset_delta = read_int32(at + AT_LAST_OFFSET_DELTA)
    if (
        batch.base_offset < 0
        or last_offset_delta < 0
        or batch.base_offset >= INT64_MAX - last_offset_delta
    ):
        return BAD_OFFSETS
    batch.last_offset = batch.base_offset + last_offset_delta
    return OPENED


cdef inline bint crc_matches(const Batch* batch) noexcept nogil:
    cdef const uint8_t* covered = batch.start + AT_ATTRIBUTES
    return crc32c_of(covered, batch.end - covered) == batch.crc


cdef inline int64_t timestamp_of(const Batch* batch, int64_t delta) noexcept nogil:
    if batch.attributes & LOG_APPEND_TIME:
        return batch.max_timestamp
    # Unsigned, because a malformed delta may overflow, which must wrap.
    return <int64_t>(<uint64_t>batch.base_timestamp + <uint64_t>delta)


@cython.final
cdef class BatchReader:
    """The first pass: finds, checks and classifies the records of one partition.

    Runs without the GIL until a wire batch must be unpacked: a small batch takes less
    time than another thread may make it wait to get the GIL back.
    """

    cdef:
        # Where reading stands.
        const uint8_t* at
        const uint8_t* end
        int64_t position                # next offset that is wanted
        Batch batch
        # What to do with it.
        LaneRule rule
        bint check_crc
        int64_t bytes_max
        int64_t batch_bytes_max
        # Transactions: those to come, by first offset, and the producers within one.
        Aborted* aborted
        Py_ssize_t aborted_count
        Py_ssize_t aborted_started
        int64_t* aborting
        Py_ssize_t aborting_count
        # What it found.
        Record* records
        Py_ssize_t record_count
        Py_ssize_t record_capacity
        LaneState* lanes
        int lane_count
        int64_t num_bytes               # an upper bound of what the columns take
        int64_t needed_bytes
        list unpacked                   # what records of compressed batches point into

    def __cinit__(
        self,
        Held frame,
        PartitionSection section,
        int64_t asked_offset,
        LaneRule rule,
        int lane_count,
        int64_t max_bytes,
        int64_t batch_bytes_max,
        bint check_crc,
    ):
        self.at = frame.data + section.start
        self.end = self.at + section.size
        self.position = asked_offset
        self.rule = rule
        self.check_crc = check_crc
        # Arrow's ends are 32 bits wide.
        self.bytes_max = min(max_bytes, <int64_t>INT32_MAX)
        self.batch_bytes_max = min(batch_bytes_max, <int64_t>INT32_MAX)
        self.lane_count = lane_count
        self.num_bytes = lane_count * COLUMNS_BYTES_A_LANE
        self.unpacked = []
        self.lanes = <LaneState*>calloc(lane_count, sizeof(LaneState))
        if self.lanes == NULL:
            raise MemoryError
        self.expect_aborted(section.aborted)

    def __dealloc__(self):
        free(self.lanes)
        free(self.records)
        free(self.aborted)
        free(self.aborting)

    cdef int expect_aborted(self, list transactions) except -1:
        if not transactions:
            return 0
        self.aborted = <Aborted*>malloc(len(transactions) * sizeof(Aborted))
        self.aborting = <int64_t*>malloc(len(transactions) * sizeof(int64_t))
        if self.aborted == NULL or self.aborting == NULL:
            raise MemoryError
        for producer_id, first_offset in sorted(transactions, key=lambda aborted: aborted[1]):
            self.aborted[self.aborted_count].producer_id = producer_id
            self.aborted[self.aborted_count].first_offset = first_offset
            self.aborted_count += 1
        return 0

    cdef int read_batches(self) noexcept nogil:
        """Read until all is read, a batch must be unpacked, or something stops it."""
        cdef int step = NEXT
        while step == NEXT:
            step = self.open_batch()
            if step == OPENED:
                step = self.take_records(self.batch.start + AT_RECORDS, self.batch.end)
        return step

    cdef int open_batch(self) noexcept nogil:
        """Read the header of the next batch; NEXT if there is nothing to take from it."""
        cdef int step = read_batch(self.at, self.end, &self.batch)
        cdef bint control
        cdef int codec
        if step != OPENED:
            return step
        control = self.batch.attributes & CONTROL
        codec = self.batch.attributes & CODEC_MASK
        # Older than wanted. A marker counts even so: its transaction ends there.
        if self.batch.last_offset < self.position and not control:
            return self.skip_batch()
        if self.check_crc and not crc_matches(&self.batch):
            return BAD_CRC
        self.start_transactions()
        if not control and self.is_aborted():
            return self.skip_batch()
        if self.batch.record_count == 0 and self.batch.end - self.batch.start == AT_RECORDS:
            return self.skip_batch()    # compaction leaves such empty batches
        if codec >= CODEC_COUNT:
            return BAD_CODEC
        return PACKED if codec else OPENED

    cdef int skip_batch(self) noexcept nogil:
        """Go on behind the current batch."""
        self.at = self.batch.end
        self.position = max(self.position, self.batch.last_offset + 1)
        return NEXT

    cdef int take_records(self, const uint8_t* at, const uint8_t* end) noexcept nogil:
        """Read the plain records of the current batch, then go on behind it."""
        cdef int step
        if self.batch.attributes & CONTROL:
            step = self.read_marker(at, end)
        else:
            step = self.make_room(end - at)
            if step == NEXT:
                step = self.read_records(at, end)
        return self.skip_batch() if step == NEXT else step

    # Transactions.

    cdef void start_transactions(self) noexcept nogil:
        """Note the producers whose aborted transaction starts before the batch ends."""
        while (
            self.aborted_started < self.aborted_count
            and self.aborted[self.aborted_started].first_offset <= self.batch.last_offset
        ):
            self.aborting[self.aborting_count] = self.aborted[self.aborted_started].producer_id
            self.aborting_count += 1
            self.aborted_started += 1

    cdef bint is_aborted(self) noexcept nogil:
        cdef Py_ssize_t i
        if not self.batch.attributes & TRANSACTIONAL:
            return False
        for i in range(self.aborting_count):
            if self.aborting[i] == self.batch.producer_id:
                return True
        return False

    cdef void end_transaction(self) noexcept nogil:
        """Forget the producer of the current batch."""
        cdef Py_ssize_t i, kept = 0
        for i in range(self.aborting_count):
            if self.aborting[i] != self.batch.producer_id:
                self.aborting[kept] = self.aborting[i]
                kept += 1
        self.aborting_count = kept

    cdef int read_marker(self, const uint8_t* at, const uint8_t* end) noexcept nogil:
        cdef Record marker
        if self.batch.producer_id < 0:
            return NEXT                 # about the log itself, not about a transaction
        if read_record(at, end, &marker) == NULL or marker.key_size < MARKER_BYTES_MIN:
            return BAD_MARKER
        if read_int16(marker.key + sizeof(int16_t)) == MARKER_ABORT:
            self.end_transaction()
        return NEXT

    # Records.

    cdef int make_room(self, int64_t size) noexcept nogil:
        """Prove that the columns of the current batch fit, and get scratch for its records."""
        cdef int64_t count = self.batch.record_count
        cdef int64_t columns_bytes = count * COLUMNS_BYTES_A_RECORD + size
        if size > self.batch_bytes_max:
            self.needed_bytes = size
            return TOO_LARGE
        if count < 0 or count * RECORD_BYTES_MIN > size:
            return BAD_COUNT
        if self.num_bytes + columns_bytes > self.bytes_max:
            self.needed_bytes = self.lane_count * COLUMNS_BYTES_A_LANE + columns_bytes
            return FULL if self.needed_bytes <= INT32_MAX else TOO_LARGE
        self.num_bytes += columns_bytes
        return self.grow(self.record_count + count)

    cdef int grow(self, Py_ssize_t capacity) noexcept nogil:
        cdef Record* records
        if capacity <= self.record_capacity:
            return NEXT
        capacity = max(capacity, 2 * self.record_capacity, <Py_ssize_t>RECORDS_MIN)
        records = <Record*>realloc(self.records, capacity * sizeof(Record))
        if records == NULL:
            return NO_MEMORY
        self.records, self.record_capacity = records, capacity
        return NEXT

    cdef int read_records(self, const uint8_t* at, const uint8_t* end) noexcept nogil:
        """Append the records of a batch to the scratch array: all of them, or none."""
        cdef Py_ssize_t count = self.record_count
        cdef int64_t previous = self.batch.base_offset - 1
        cdef Record* record
        cdef int32_t _
        for _ in range(self.batch.record_count):
            record = &self.records[count]
            at = read_record(at, end, record)
            if at == NULL:
                return BAD_RECORD
            record.offset += self.batch.base_offset
            if record.offset <= previous or record.offset > self.batch.last_offset:
                return BAD_ORDER
            previous = record.offset
            record.timestamp = timestamp_of(&self.batch, record.timestamp)
            record.lane = lane_of(&self.rule.rule, record)
            # A batch may begin before the position: it is stored and sent as a whole.
            count += record.offset >= self.position
        if at != end:
            return BAD_COUNT
        self.measure_records(count)
        return NEXT

    cdef void measure_records(self, Py_ssize_t count) noexcept nogil:
        """Keep the records up to `count`, and add them to what their lanes need."""
        cdef LaneState* lane
        cdef Record* record
        while self.record_count < count:
            record = &self.records[self.record_count]
            lane = &self.lanes[record.lane]
            if lane.num_records == 0:
                lane.first_offset = record.offset
                lane.first_timestamp = record.timestamp
            lane.num_records += 1
            lane.last_offset = record.offset
            lane.first_timestamp = min(lane.first_timestamp, record.timestamp)
            measure(&lane.key, record.key_size)
            measure(&lane.value, record.value_size)
            measure(&lane.headers, record.headers_size)
            self.record_count += 1

    # Between the passes, with the GIL.

    cdef int read(self, Held frame, decompress) except -1:
        """Read all that can be read, and return why it stopped."""
        cdef int step
        cdef Held unpacked
        while True:
            if self.end - self.at < HOLD_BYTES_MAX:
                step = self.read_batches()
            else:
                with nogil:
                    step = self.read_batches()
            if step != PACKED:
                return step
            unpacked = self.unpack(frame, decompress)
            with nogil:
                step = self.take_records(unpacked.data, unpacked.data + unpacked.size)
            if step != NEXT:
                return step

    cdef Held unpack(self, Held frame, decompress):
        """Return the unpacked records of the current batch.

        The libraries are bounded: they stop at `batch_bytes_max` and say how much it was.
        """
        packed = batch_bytes(frame, &self.batch)
        codec = self.batch.attributes & CODEC_MASK
        cdef Held unpacked = Held(decompress(codec, packed, self.batch_bytes_max))
        self.unpacked.append(unpacked)
        return unpacked


cdef batch_bytes(Held frame, const Batch* batch):
    """Return a view of the records of a batch, without a copy."""
    start = batch.start + AT_RECORDS - frame.data
    return memoryview(frame.source).cast("B")[start : batch.end - frame.data]


# --- Columns ------------------------------------------------------------------------------

@cython.final
cdef class LaneColumns:
    """The records of one lane out of one partition, as Arrow columns.

    Shape: `columns` has offset and timestamp (int64, ms), key and value (binary, nullable),
        and headers (binary: as on the wire, from their count on).
    """

    cdef readonly:
        int lane
        int64_t num_records
        int64_t first_offset
        int64_t last_offset
        int64_t first_timestamp         # the earliest, in ms
        int64_t num_bytes               # of all buffers
        object columns

    def __init__(self):
        raise TypeError("made by parse_records")

    def __repr__(self) -> str:
        return (
            f"LaneColumns(lane={self.lane}, num_records={self.num_records},"
            f" offsets {self.first_offset}..{self.last_offset}, num_bytes={self.num_bytes})"
        )


@cython.final
cdef class Parsed:
    """What `parse_records` read, where to go on, and why it stopped."""

    cdef readonly:
        list lanes
        int64_t next_offset
        int64_t num_records
        int64_t needed_bytes
        object error

    def __init__(self):
        raise TypeError("made by parse_records")

    def __repr__(self) -> str:
        return (
            f"Parsed(num_records={self.num_records}, next_offset={self.next_offset},"
            f" needed_bytes={self.needed_bytes}, error={self.error!r}, lanes={self.lanes})"
        )


cdef list open_lane(LaneState* lane):
    """Allocate the buffers of a lane's five columns, a list for each."""
    cdef Py_ssize_t rows = lane.num_records
    offsets = pa.allocate_buffer(rows * sizeof(int64_t))
    timestamps = pa.allocate_buffer(rows * sizeof(int64_t))
    lane.offsets = <int64_t*>address_of(offsets)
    lane.timestamps = <int64_t*>address_of(timestamps)
    return [
        [None, offsets],
        [None, timestamps],
        open_sink(&lane.key, rows),
        open_sink(&lane.value, rows),
        open_sink(&lane.headers, rows),
    ]


cdef void copy_records(
    const Record* records, Py_ssize_t count, LaneState* lanes
) noexcept nogil:
    """The second pass: copy each record to the end of its lane's columns."""
    cdef const Record* record
    cdef LaneState* lane
    cdef Py_ssize_t i
    for i in range(count):
        record = &records[i]
        lane = &lanes[record.lane]
        lane.offsets[lane.row] = record.offset
        lane.timestamps[lane.row] = record.timestamp
        append(&lane.key, lane.row, record.key, record.key_size)
        append(&lane.value, lane.row, record.value, record.value_size)
        append(&lane.headers, lane.row, headers_of(record), record.headers_size)
        lane.row += 1


cdef LaneColumns close_lane(int number, const LaneState* lane, list buffers):
    cdef LaneColumns self = LaneColumns.__new__(LaneColumns)
    cdef Py_ssize_t rows = lane.num_records
    offsets, timestamps, key, value, headers = buffers
    self.lane = number
    self.num_records = rows
    self.first_offset = lane.first_offset
    self.last_offset = lane.last_offset
    self.first_timestamp = lane.first_timestamp
    self.num_bytes = sum([
        buffer.size for column in buffers for buffer in column if buffer is not None
    ])
    self.columns = pa.RecordBatch.from_arrays(
        [
            pa.Array.from_buffers(INT64, rows, offsets, 0),
            pa.Array.from_buffers(INT64, rows, timestamps, 0),
            close_sink(&lane.key, rows, key),
            close_sink(&lane.value, rows, value),
            close_sink(&lane.headers, rows, headers),
        ],
        schema=SCHEMA,
    )
    return self


cdef list make_columns(BatchReader reader):
    """Return the columns of every lane that got records."""
    cdef int lane
    cdef dict buffers = {}
    for lane in range(reader.lane_count):
        if reader.lanes[lane].num_records > 0:
            buffers[lane] = open_lane(&reader.lanes[lane])
    if reader.num_bytes < HOLD_BYTES_MAX:
        copy_records(reader.records, reader.record_count, reader.lanes)
    else:
        with nogil:
            copy_records(reader.records, reader.record_count, reader.lanes)
    return [close_lane(lane, &reader.lanes[lane], held) for lane, held in buffers.items()]


cdef reason_to_stop(BatchReader reader, int step):
    """Say what is wrong with the current batch."""
    size = reader.batch.end - reader.batch.start
    if step == BAD_MAGIC:
        return (
            f"a wire batch has message format v{reader.batch.magic}, flowguard reads v2 only;"
            " this partition stops here, others go on. Raise log.message.format.version and"
            " let the old segments expire, or copy the topic"
        )
    if step == BAD_CODEC:
        codec = reader.batch.attributes & CODEC_MASK
        return f"a wire batch has the unknown compression codec {codec}; {WHAT_NOW}"
    if step == TOO_LARGE:
        return too_large(size, f"{reader.needed_bytes}", reader.needed_bytes)
    return f"a wire batch cannot be read: {REASONS[step]}; {WHAT_NOW}"


cdef str too_large(Py_ssize_t size, str unpacked, needed_bytes):
    return (
        f"a wire batch of {size} bytes unpacks to {unpacked} bytes, more than a quarter of"
        " memory; this partition stops here, others go on. Give memory of at least"
        f" {4 * needed_bytes}, or lower batch.size of the producer"
    )


cdef stop_error(BatchReader reader, PartitionSection section, str message, needed_bytes):
    """Return the WireError of a batch that stopped the partition."""
    return WireError(
        message,
        topic=section.topic,
        partition=section.partition,
        offset=max(reader.position, reader.batch.base_offset),
        needed_bytes=needed_bytes,
    )


cdef unpack_error(BatchReader reader, PartitionSection section, error):
    """Add to what a decompressor complains about where that was."""
    if error.needed_bytes:
        size = reader.batch.end - reader.batch.start
        message = too_large(size, str(error), error.needed_bytes)
    else:
        message = f"a wire batch cannot be unpacked: {error}; {WHAT_NOW}"
    return stop_error(reader, section, message, error.needed_bytes)


cdef check_section(Held frame, Py_ssize_t start, Py_ssize_t size):
    if start < 0 or size < 0 or start > frame.size or size > frame.size - start:
        raise ValueError(f"no bytes {start} + {size} in a frame of {frame.size}")


def skim(frame, Py_ssize_t start, Py_ssize_t size):
    """Look at the headers of wire batches only, to know at once what to fetch next.

    Returns:
        The position after the last complete batch, -1 if there is none, and whether
        any of them is compressed. It ends before a malformed batch.
    """
    cdef Held held = Held(frame)
    cdef const uint8_t* at
    cdef const uint8_t* end
    cdef Batch batch
    cdef int64_t next_offset = -1
    cdef bint compressed = False
    check_section(held, start, size)
    at, end = held.data + start, held.data + start + size
    while read_batch(at, end, &batch) == OPENED:
        next_offset = batch.last_offset + 1
        compressed |= (batch.attributes & CODEC_MASK) != 0
        at = batch.end
    return next_offset, compressed


def parse_records(
    frame,
    PartitionSection section not None,
    *,
    int64_t asked_offset,
    LaneRule rule not None,
    int lane_count,
    int64_t max_bytes,
    int64_t batch_bytes_max,
    decompress,
    bint check_crc=True,
):
    """Read the wire batches of one partition into Arrow columns, a set for each lane.

    Control batches and aborted transactions are skipped, so are records before
    `asked_offset`. All bytes are copied: the frame may be reused afterwards.

    Args:
        frame: The fetch response that `section` is of.
        section: Where the wire batches lie, and which transactions were aborted.
        asked_offset: Position that was fetched from.
        rule: Which lane a record belongs to.
        lane_count: Lanes there are; the rule names none beyond.
        max_bytes: Stop before the wire batch whose columns would exceed this in total.
        batch_bytes_max: Refuse a wire batch that is larger than this when unpacked.
        decompress: `decompress(codec, packed, limit)` returns at most `limit` bytes, or
            raises a WireError, with `needed_bytes` if it would be more.
        check_crc: Verify the checksum of each wire batch.

    Returns:
        What was read up to the end, to the bound, or to a batch that cannot be read:
        then `error` is set. A wire batch is delivered as a whole or not at all.
    """
    cdef Held held = Held(frame)
    cdef BatchReader reader
    cdef Parsed parsed = Parsed.__new__(Parsed)
    cdef int step
    check_section(held, section.start, section.size)
    if not 0 < lane_count <= LANES_MAX or rule.highest_lane >= lane_count:
        raise ValueError(f"the rule names lane {rule.highest_lane} of {lane_count}")
    reader = BatchReader(
        held, section, asked_offset, rule, lane_count, max_bytes, batch_bytes_max, check_crc
    )
    try:
        step = reader.read(held, decompress)
        if step == NO_MEMORY:
            raise MemoryError
        if step >= BAD_LENGTH:
            message = reason_to_stop(reader, step)
            parsed.error = stop_error(reader, section, message, reader.needed_bytes)
        elif step == FULL:
            parsed.needed_bytes = reader.needed_bytes
    except WireError as error:
        parsed.error = unpack_error(reader, section, error)
    parsed.lanes = make_columns(reader)
    parsed.next_offset = reader.position
    parsed.num_records = reader.record_count
    return parsed


# --- Headers ------------------------------------------------------------------------------

@cython.final
cdef class BinaryColumn:
    """The buffers of a binary Arrow array; knows slices and nulls."""

    cdef:
        object array                    # keeps the buffers
        const uint8_t* bits
        const int32_t* ends
        const uint8_t* data
        Py_ssize_t start
        Py_ssize_t rows

    def __cinit__(self, array):
        if not isinstance(array, pa.BinaryArray):
            raise TypeError(f"needs a BinaryArray, not {type(array).__name__}")
        self.array = array
        bits, ends, data = array.buffers()
        self.bits = address_of(bits)
        self.ends = <const int32_t*>address_of(ends)
        self.data = address_of(data)
        self.start = array.offset
        self.rows = len(array)

    cdef inline Span row(self, Py_ssize_t row) noexcept nogil:
        cdef Span span
        cdef Py_ssize_t at = self.start + row
        span.data, span.size = NULL, -1
        if self.bits == NULL or self.bits[at >> 3] >> (at & 7) & 1:
            span.size = self.ends[at + 1] - self.ends[at]
            # An array of nothing but empty values may have no bytes to point to.
            span.data = self.data + self.ends[at] if self.data != NULL else <const uint8_t*>b""
        return span


@cython.final
cdef class HeaderColumns:
    """Names and values of all headers, in a flat column each, and where each row ends."""

    cdef BinarySink names
    cdef BinarySink values
    cdef int64_t count

    cdef Py_ssize_t measure(self, BinaryColumn column) noexcept nogil:
        """Return the first row that is malformed, or -1."""
        cdef Py_ssize_t row
        cdef Header header
        cdef const uint8_t* at
        cdef int32_t left
        cdef Span span
        for row in range(column.rows):
            span = column.row(row)
            if span.size < 0:
                continue
            at = read_header_count(span.data, span.data + span.size, &left)
            while at != NULL and left > 0:
                at = read_header(at, span.data + span.size, &header)
                if at == NULL:
                    return row
                measure(&self.names, header.name.size)
                measure(&self.values, header.value.size)
                self.count += 1
                left -= 1
            if at != span.data + span.size:
                return row
        return -1

    cdef void copy(self, BinaryColumn column, int32_t* ends) noexcept nogil:
        """Copy what `measure` found to be well formed."""
        cdef Py_ssize_t row
        cdef int64_t filled = 0
        cdef Header header
        cdef const uint8_t* at
        cdef int32_t left
        cdef Span span
        ends[0] = 0
        for row in range(column.rows):
            span = column.row(row)
            left = 0
            if span.size >= 0:
                at = read_header_count(span.data, span.data + span.size, &left)
            while left > 0:
                at = read_header(at, span.data + span.size, &header)
                if at == NULL:
                    break
                append(&self.names, filled, header.name.data, header.name.size)
                append(&self.values, filled, header.value.data, header.value.size)
                filled += 1
                left -= 1
            ends[row + 1] = <int32_t>filled


cdef malformed_headers(Py_ssize_t row):
    return WireError(f"the headers of row {row} are malformed; they are not as on the wire")


cdef as_text(names):
    """Return a binary column as a string column; what is not UTF-8 is replaced."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:
        decoded = [name.decode("utf-8", "replace") for name in names.to_pylist()]
        return pa.array(decoded, pa.string())


def decode_headers(headers):
    """Decode the headers of each row.

    Args:
        headers: The headers column of `LaneColumns`.

    Returns:
        A column of list<struct<name: string, value: binary>>; bytes of a name that are
        no UTF-8 are replaced by U+FFFD.

    Raises:
        WireError: A row does not hold the headers of a record.
    """
    cdef BinaryColumn column = BinaryColumn(headers)
    cdef HeaderColumns flat = HeaderColumns()
    cdef Py_ssize_t malformed
    cdef int32_t* ends
    with nogil:
        malformed = flat.measure(column)
    if malformed >= 0:
        raise malformed_headers(malformed)
    name_buffers = open_sink(&flat.names, flat.count)
    value_buffers = open_sink(&flat.values, flat.count)
    ends_buffer = pa.allocate_buffer((column.rows + 1) * sizeof(int32_t))
    ends = <int32_t*>address_of(ends_buffer)
    with nogil:
        flat.copy(column, ends)
    names = as_text(close_sink(&flat.names, flat.count, name_buffers))
    values = close_sink(&flat.values, flat.count, value_buffers)
    pairs = pa.StructArray.from_arrays([names, values], names=["name", "value"])
    return pa.Array.from_buffers(HEADERS, column.rows, [None, ends_buffer], children=[pairs])


def header_values(headers, bytes name not None):
    """Return the value of one header for each row; the last one if it is repeated.

    Args:
        headers: The headers column of `LaneColumns`.
        name: Name of the header.

    Returns:
        A binary column, null where the header is missing or null.

    Raises:
        WireError: A row does not hold the headers of a record.
    """
    cdef BinaryColumn column = BinaryColumn(headers)
    cdef BinarySink sink
    cdef Span wanted = span_of(name)
    cdef Span value
    cdef Py_ssize_t row
    cdef Py_ssize_t malformed = -1
    memset(&sink, 0, sizeof(BinarySink))
    with nogil:
        for row in range(column.rows):
            if not value_in_row(column.row(row), wanted, &value):
                malformed = row
                break
            measure(&sink, value.size)
    if malformed >= 0:
        raise malformed_headers(malformed)
    buffers = open_sink(&sink, column.rows)
    with nogil:
        for row in range(column.rows):
            value_in_row(column.row(row), wanted, &value)
            append(&sink, row, value.data, value.size)
    return close_sink(&sink, column.rows, buffers)


cdef inline bint value_in_row(Span headers, Span name, Span* value) noexcept nogil:
    """Find a header in one row; False if the row is malformed."""
    cdef const uint8_t* end = headers.data + max(headers.size, 0)
    value.data, value.size = NULL, -1
    return headers.size < 0 or find_header(headers.data, end, name, value) == end


def encode_headers(pairs) -> bytes:
    """Return headers as they are on the wire: their count, then name and value of each."""
    cdef bytearray out = bytearray()
    write_varint(out, len(pairs))
    write_headers(out, pairs)
    return bytes(out)


def append_headers(bytes headers not None, pairs) -> bytes:
    """Return headers as they are on the wire, with others behind them.

    Raises:
        WireError: They do not begin with their count.
    """
    cdef const uint8_t* at = headers
    cdef int32_t count
    cdef const uint8_t* rest = read_varint(at, at + len(headers), &count)
    cdef bytearray out = bytearray()
    if rest == NULL:
        raise malformed_headers(0)
    write_varint(out, count + len(pairs))
    out += headers[rest - at :]
    write_headers(out, pairs)
    return bytes(out)


cdef int write_headers(bytearray out, pairs) except -1:
    for name, value in pairs:
        write_varint(out, len(name))
        out += name
        write_varint(out, -1 if value is None else len(value))
        out += value or b""
    return 0


# --- Lines --------------------------------------------------------------------------------

cdef inline bint is_blank(Span value) noexcept nogil:
    """Return whether a value is null or nothing but white space."""
    cdef int32_t i
    for i in range(value.size):
        # Space, and the run of tab, newline, vertical tab, form feed and return.
        if value.data[i] != 32 and not 9 <= value.data[i] <= 13:
            return False
    return True


cdef inline bint has_newline(Span value) noexcept nogil:
    return (
        memchr(value.data, 10, value.size) != NULL
        or memchr(value.data, 13, value.size) != NULL
    )


cdef Py_ssize_t measure_lines(BinaryColumn column) noexcept nogil:
    cdef Py_ssize_t row, size = 0
    cdef Span value
    for row in range(column.rows):
        value = column.row(row)
        size += (2 if is_blank(value) else value.size) + 1
    return size


cdef uint8_t* write_lines(BinaryColumn column, uint8_t* out, bint* one_each) noexcept nogil:
    """Write a line for each row, and return where to go on."""
    cdef Py_ssize_t row
    cdef Span value
    for row in range(column.rows):
        value = column.row(row)
        if is_blank(value):
            value.data, value.size = <const uint8_t*>b"{}", 2
        elif has_newline(value):
            one_each[0] = False
        memcpy(out, value.data, value.size)
        out[value.size] = 10
        out += value.size + 1
    return out


def join_lines(values):
    """Join values by newlines, for a reader of JSON lines.

    Line i must be row i. So a value that is null, empty or white space becomes `{}`, a
    row of nulls; one with a raw newline would be two lines, which the caller must know.

    Args:
        values: Binary columns, such as the value columns of several `LaneColumns`.

    Returns:
        One buffer, and whether each row is one line.
    """
    cdef list columns = [BinaryColumn(array) for array in values]
    cdef BinaryColumn column
    cdef Py_ssize_t size = 0
    cdef bint one_each = True
    cdef uint8_t* out
    for column in columns:
        with nogil:
            size += measure_lines(column)
    buffer = pa.allocate_buffer(size)
    out = address_of(buffer)
    for column in columns:
        with nogil:
            out = write_lines(column, out, &one_each)
    return buffer, one_each


# --- Checksums ----------------------------------------------------------------------------

def crc32c(data) -> int:
    """Return the CRC-32C of bytes."""
    cdef Held held = Held(data)
    cdef uint32_t crc
    with nogil:
        crc = crc32c_of(held.data, held.size)
    return crc


def crc32c_portable(data) -> int:
    """Return the CRC-32C of bytes as processors without an instruction for it compute it."""
    cdef Held held = Held(data)
    return crc32c_of_portable(held.data, held.size)
