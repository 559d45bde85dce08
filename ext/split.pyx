"""Split the records of a chunk into groups: lanes, and the sub-queues inside them.

    rows    a b c d e f  ── one counting pass ─▶  group 0: b e
    groups  5 0 5 2 0 5                           group 2: d
                                                  group 5: a c f   (rows in their order)

Rows are sorted by counting, then each column is gathered once. Groups of one lane share
buffers, because a slice costs a tenth of what a set of buffers does and a lane's records are
done at about the same time; lanes do not, because a waiting lane would keep the memory of
all others.

Budget: 15 ns to hash a key of 16 bytes; 60 ns a row of five columns and 200 B, and 1 µs a part.
Bound: the batch once more, and 12 bytes a row while it runs.
Thread-safety: pure; the GIL is released for all passes.
Source: Knuth, The Art of Computer Programming 3, section 5.2, algorithm D (distribution
    counting).
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from includes.hash cimport hash_bytes

import pyarrow as pa

cdef enum:
    GROUPS_MAX = 1 << 20


# --- Hash ---------------------------------------------------------------------------------

cdef void hash_all(
    const uint8_t* data, const int32_t* ends, const uint8_t* bits, int64_t first, int64_t rows,
    uint64_t groups, int32_t* out,
) noexcept nogil:
    cdef int64_t row, at
    for row in range(rows):
        at = first + row
        if bits != NULL and not bits[at >> 3] >> (at & 7) & 1:
            out[row] = 0
        else:
            out[row] = <int32_t>(hash_bytes(data + ends[at], ends[at + 1] - ends[at], 0) % groups)


# --- Sort ---------------------------------------------------------------------------------

cdef int64_t sort_rows(
    const int32_t* groups, int64_t rows, int64_t count, int64_t* starts, int32_t* order
) noexcept nogil:
    """Order the rows by group, and note where each group starts; -1: a group is out of range.

    `starts` has `count + 1` zeros.
    """
    cdef int64_t row, group, start = 0, here
    for row in range(rows):
        if not 0 <= groups[row] < count:
            return -1
        starts[groups[row]] += 1
    for group in range(count + 1):
        here = starts[group]
        starts[group] = start
        start += here
    for row in range(rows):
        group = groups[row]
        order[starts[group]] = <int32_t>row
        starts[group] += 1
    for group in range(count, 0, -1):       # each start has become the start of the next
        starts[group] = starts[group - 1]
    starts[0] = 0
    return 0


# --- Gather -------------------------------------------------------------------------------

cdef void gather_fixed(
    const int64_t* source, const int32_t* order, int64_t rows, int64_t* out
) noexcept nogil:
    cdef int64_t row
    for row in range(rows):
        out[row] = source[order[row]]


cdef int64_t gather_ends(
    const int32_t* ends, const uint8_t* bits, int64_t first, const int32_t* order, int64_t rows,
    int32_t* out_ends, uint8_t* out_bits,
) noexcept nogil:
    """Fill in ends and null bits, and return how many rows are null."""
    cdef int64_t row, at, nulls = 0
    cdef int32_t end = 0
    out_ends[0] = 0
    for row in range(rows):
        at = first + order[row]
        if bits != NULL and not bits[at >> 3] >> (at & 7) & 1:
            nulls += 1
        else:
            end += ends[at + 1] - ends[at]
            out_bits[row >> 3] |= <uint8_t>(1 << (row & 7))
        out_ends[row + 1] = end
    return nulls


cdef void gather_bytes(
    const uint8_t* data, const int32_t* ends, int64_t first, const int32_t* order, int64_t rows,
    const int32_t* out_ends, uint8_t* out,
) noexcept nogil:
    cdef int64_t row
    cdef int32_t size
    for row in range(rows):
        size = out_ends[row + 1] - out_ends[row]
        if size:
            memcpy(out + out_ends[row], data + ends[first + order[row]], size)


# --- Buffers ------------------------------------------------------------------------------

cdef uintptr_t address_of(buffer):
    """Return where an Arrow buffer starts, 0 for an absent one."""
    return 0 if buffer is None else buffer.address


@cython.final
cdef class Source:
    """Where a column's cells are; looked up once for all groups."""

    cdef object kind
    cdef list buffers               # keeps what the addresses point to
    cdef uintptr_t bits, ends, content
    cdef int64_t first
    cdef bint is_binary

    def __cinit__(self, column):
        self.kind, self.first = column.type, column.offset
        self.is_binary = pa.types.is_binary(self.kind)
        if not self.is_binary and (self.kind != pa.int64() or column.null_count):
            raise ValueError(f"columns are binary or int64 without nulls, not {self.kind}")
        self.buffers = column.buffers()
        self.content = address_of(self.buffers[2 if self.is_binary else 1])
        if self.is_binary:
            self.bits = address_of(self.buffers[0]) if column.null_count else 0
            self.ends = address_of(self.buffers[1])

    cdef gathered(self, const int32_t* order, int64_t rows):
        """Return rows in buffers of their own."""
        return self.binary(order, rows) if self.is_binary else self.fixed(order, rows)

    cdef fixed(self, const int32_t* order, int64_t rows):
        out = pa.allocate_buffer(rows * sizeof(int64_t))
        cdef uintptr_t target = out.address
        with nogil:
            gather_fixed(<const int64_t*>self.content + self.first, order, rows, <int64_t*>target)
        return pa.Array.from_buffers(self.kind, rows, [None, out], 0)

    cdef binary(self, const int32_t* order, int64_t rows):
        out_ends = pa.allocate_buffer((rows + 1) * sizeof(int32_t))
        out_bits = pa.allocate_buffer((rows + 7) // 8)
        cdef uintptr_t ends_at = out_ends.address, bits_at = out_bits.address
        cdef int64_t nulls
        memset(<void*>bits_at, 0, (rows + 7) // 8)
        with nogil:
            nulls = gather_ends(
                <const int32_t*>self.ends, <const uint8_t*>self.bits, self.first, order, rows,
                <int32_t*>ends_at, <uint8_t*>bits_at,
            )
        out = pa.allocate_buffer((<const int32_t*>ends_at)[rows])
        cdef uintptr_t out_at = out.address
        with nogil:
            gather_bytes(
                <const uint8_t*>self.content, <const int32_t*>self.ends, self.first, order, rows,
                <const int32_t*>ends_at, <uint8_t*>out_at,
            )
        return pa.Array.from_buffers(
            self.kind, rows, [out_bits if nulls else None, out_ends, out], nulls
        )


# --- For Python ---------------------------------------------------------------------------

def hash_groups(values, int32_t groups):
    """Return the group of each value: its hash modulo `groups`, the same in every process.

    Args:
        values: pa.BinaryArray, any slice of one; nulls are in group 0.
        groups: How many there are, >= 1.

    Returns:
        pa.Int32Array, one row a value.
    """
    if not pa.types.is_binary(values.type):
        raise TypeError(f"values must be a BinaryArray, not {values.type}")
    if groups < 1:
        raise ValueError(f"there is 1 group or more, not {groups}")
    cdef int64_t rows = len(values), first = values.offset
    bits, ends, content = values.buffers()
    out = pa.allocate_buffer(rows * sizeof(int32_t))
    cdef uintptr_t bits_at = address_of(bits), ends_at = address_of(ends)
    cdef uintptr_t data_at = address_of(content), out_at = out.address
    if rows:
        with nogil:
            hash_all(
                <const uint8_t*>data_at, <const int32_t*>ends_at, <const uint8_t*>bits_at,
                first, rows, groups, <int32_t*>out_at,
            )
    return pa.Array.from_buffers(pa.int32(), rows, [None, out], 0)


def split_rows(batch, groups, int32_t count, int32_t stride=1):
    """Return the rows of each group that has some, groups ascending, rows in their order.

    Args:
        batch: pa.RecordBatch; columns are binary, or int64 without nulls.
        groups: pa.Int32Array without nulls, one row a row of the batch.
        count: Groups are 0 .. count - 1.
        stride: Groups with the same `group // stride` share buffers.

    Returns:
        [(group, pa.RecordBatch)]; the batch itself if all of it is one group.

    Raises:
        ValueError: A group is out of range, or sizes differ.
    """
    cdef int64_t rows = batch.num_rows, row, begin, end, group, last, base
    cdef int64_t* starts
    cdef int64_t found
    if groups.type != pa.int32() or groups.null_count or len(groups) != rows:
        raise ValueError(f"groups must be {rows} int32 without nulls")
    if not 1 <= count <= GROUPS_MAX or stride < 1:
        raise ValueError(f"{count} groups in strides of {stride} cannot be")
    cdef list sources = [Source(column) for column in batch.columns]
    if not rows:
        return []
    schema = batch.schema
    cdef uintptr_t groups_at = address_of(groups.buffers()[1])
    groups_at += <uintptr_t>groups.offset * sizeof(int32_t)
    cdef const int32_t* numbers = <const int32_t*>groups_at
    starts = <int64_t*>calloc(count + 1, sizeof(int64_t))
    cdef int32_t* order = <int32_t*>malloc(rows * sizeof(int32_t))
    try:
        if starts == NULL or order == NULL:
            raise MemoryError
        with nogil:
            found = sort_rows(numbers, rows, count, starts, order)
        if found < 0:
            raise ValueError(f"a group is not in 0 .. {count - 1}")
        if starts[numbers[0] + 1] - starts[numbers[0]] == rows:
            return [(numbers[0], batch)]
        parts = []
        base = 0
        while base < count:
            last = min(base + stride, <int64_t>count)
            begin, end = starts[base], starts[last]
            if end > begin:
                whole = pa.RecordBatch.from_arrays(
                    [(<Source>each).gathered(order + begin, end - begin) for each in sources],
                    schema=schema,
                )
                for group in range(base, last):
                    if starts[group + 1] - starts[group] == end - begin:
                        parts.append((group, whole))
                    elif starts[group + 1] > starts[group]:
                        parts.append((
                            group,
                            whole.slice(starts[group] - begin, starts[group + 1] - starts[group]),
                        ))
            base = last
        return parts
    finally:
        free(starts)
        free(order)
