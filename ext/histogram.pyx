"""Latencies of records, counted by the column.

A log-linear histogram as HdrHistogram's: a value of v milliseconds falls into one of 64
linear buckets of its power of two, so a percentile is at most 1/64 (1.6 %) too high.

    value   0 … 127 | 128 … 255 | 256 … 511 | …
    bucket  1 wide  | 2 wide    | 4 wide    | …

The kept libraries count one value a call; a batch has thousands.

Budget: 3 ns a record.
Thread-safety: one owner thread.
Source: HdrHistogram, Gil Tene, http://hdrhistogram.org
"""
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memset

cdef enum:
    LINEAR_BITS = 6
    LINEAR = 1 << LINEAR_BITS           # buckets a power of two
    OCTAVES = 34                        # up to 2^40 ms, 34 years
    BUCKETS = LINEAR * (OCTAVES + 2)


cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept nogil


cdef inline int bucket_of(int64_t value) noexcept nogil:
    """Return the bucket of a value >= 0."""
    cdef int octave
    if value < 2 * LINEAR:
        return <int>value
    octave = 63 - __builtin_clzll(<uint64_t>value) - LINEAR_BITS
    if octave > OCTAVES:
        return BUCKETS - 1
    return LINEAR * octave + <int>(value >> octave)


cdef inline int64_t highest_of(int bucket) noexcept nogil:
    """Return the largest value of a bucket."""
    cdef int octave
    if bucket < 2 * LINEAR:
        return bucket
    octave = bucket // LINEAR - 1
    return ((<int64_t>(bucket - LINEAR * octave) + 1) << octave) - 1


cdef void count_latencies(
    uint64_t* counts, const int64_t* timestamps, Py_ssize_t length, int64_t now_ms
) noexcept nogil:
    cdef Py_ssize_t row
    cdef int64_t age
    for row in range(length):
        age = now_ms - timestamps[row]
        counts[bucket_of(age if age > 0 else 0)] += 1


cdef class LatencyHistogram:
    """Counts of latencies in milliseconds."""

    cdef uint64_t counts[BUCKETS]
    cdef readonly uint64_t total

    def __init__(self):
        self.clear()

    def clear(self):
        """Forget everything."""
        memset(self.counts, 0, sizeof(self.counts))
        self.total = 0

    def record_since(self, timestamps, int64_t now_ms):
        """Count the age of each record; timestamps in the future count as now.

        Args:
            timestamps: pa.Int64Array without nulls, milliseconds since 1970.
            now_ms: The wall clock.
        """
        cdef Py_ssize_t length = len(timestamps)
        cdef Py_ssize_t offset = timestamps.offset
        cdef uintptr_t address = timestamps.buffers()[1].address
        if length:
            count_latencies(self.counts, <const int64_t*>address + offset, length, now_ms)
            self.total += length

    def record(self, int64_t value_ms, uint64_t count=1):
        """Count one value, `count` times."""
        self.counts[bucket_of(value_ms if value_ms > 0 else 0)] += count
        self.total += count

    def add(self, LatencyHistogram other):
        """Add what another histogram counted."""
        cdef int bucket
        for bucket in range(BUCKETS):
            self.counts[bucket] += other.counts[bucket]
        self.total += other.total

    def count_at_most(self, int64_t value_ms):
        """Return how many values were at most this, to the bucket."""
        cdef uint64_t seen = 0
        cdef int bucket
        for bucket in range(bucket_of(value_ms if value_ms > 0 else 0) + 1):
            seen += self.counts[bucket]
        return seen if value_ms >= 0 else 0

    def percentile(self, double percent):
        """Return the smallest value that `percent` of all values do not exceed, in ms.

        Returns:
            None if nothing was counted.
        """
        cdef uint64_t seen = 0
        cdef double wanted = percent / 100.0 * self.total
        cdef int bucket
        if self.total == 0:
            return None
        for bucket in range(BUCKETS):
            seen += self.counts[bucket]
            if seen >= wanted and seen > 0:
                return highest_of(bucket)
        return highest_of(BUCKETS - 1)
