"""Which rows stay of what waits, and what to say of those that do not.

    rows     a1 b1 a2 c1 b2 a3        newest of each key        ranges that leave
    keep      0  0  0  1  1  1   ──▶  c1 b2 a3             ──▶  [a1 .. a2]

A mask has a bit a row, set where the row stays. No mask at all (None) says that all stay.

Budget: 60 ns a row to find the newest of keys of 16 bytes, 25 ns to draw a cohort, 5 ns to
    tell the ranges.
Bound: 24 bytes a row and 8 to 16 for the table of `newest`, while it runs.
Thread-safety: pure; the GIL is released for all passes over rows.
Source: Knuth, The Art of Computer Programming 3, section 6.4 (open addressing).
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memset

from cpython cimport array

from includes.hash cimport hash_bytes, mixed

import array as arrays
import os

import pyarrow as pa

cdef enum:
    VACANT = -1
    ROWS_MAX = 1 << 30
    WORD_CHARACTERS = 48                    # two numbers of 20 characters and a hyphen

cdef array.array FLAT = arrays.array("q")

cdef double HASHES = 4294967296.0           # of 32 bits

#: Which row is the newest does not depend on it, but nobody can choose keys that collide.
cdef uint64_t SECRET = int.from_bytes(os.urandom(8), "little")


cdef struct Binary:                         # a column of keys
    const uint8_t* bits                     # NULL: no row is null
    const int32_t* ends
    const uint8_t* content
    int64_t first                           # where the slice begins in the buffers


cdef struct Row:
    const uint8_t* key
    int64_t offset
    int32_t size
    uint32_t hashed


# --- Buffers ------------------------------------------------------------------------------

cdef uintptr_t address_of(buffer):
    """Return where an Arrow buffer starts, 0 for an absent one."""
    return 0 if buffer is None else buffer.address


cdef Binary binary_of(column) except *:
    cdef Binary found
    if not pa.types.is_binary(column.type):
        raise TypeError(f"keys must be a BinaryArray, not {column.type}")
    bits, ends, content = column.buffers()
    cdef uintptr_t bits_at = address_of(bits) if column.null_count else 0
    cdef uintptr_t ends_at = address_of(ends), content_at = address_of(content)
    found.bits = <const uint8_t*>bits_at
    found.ends = <const int32_t*>ends_at
    found.content = <const uint8_t*>content_at
    found.first = column.offset
    return found


cdef const int64_t* numbers_of(column, int64_t rows) except? NULL:
    if column.type != pa.int64() or column.null_count or len(column) != rows:
        raise TypeError(f"there must be {rows} int64 without nulls, not {len(column)} "
                        f"{column.type}")
    cdef uintptr_t at = address_of(column.buffers()[1])
    return <const int64_t*>at + <int64_t>column.offset


cdef const uint8_t* mask_of(keep, int64_t* first) except? NULL:
    if not pa.types.is_boolean(keep.type) or keep.null_count:
        raise TypeError(f"a mask must be a BooleanArray without nulls, not {keep.type}")
    first[0] = keep.offset
    cdef uintptr_t at = address_of(keep.buffers()[1])
    return <const uint8_t*>at


cdef inline bint is_set(const uint8_t* bits, int64_t at) noexcept nogil:
    return bits[at >> 3] >> (at & 7) & 1


cdef as_mask(const uint8_t* stays, int64_t rows):
    """Return one byte a row as a mask, None if all are set."""
    out = pa.allocate_buffer((rows + 7) // 8)
    cdef uintptr_t out_at = out.address
    cdef uint8_t* bits = <uint8_t*>out_at
    cdef int64_t row, kept = 0
    with nogil:
        memset(bits, 0, (rows + 7) // 8)
        for row in range(rows):
            bits[row >> 3] |= <uint8_t>(stays[row] << (row & 7))
            kept += stays[row]
    return None if kept == rows else pa.Array.from_buffers(pa.bool_(), rows, [None, out])


# --- The newest of each key ---------------------------------------------------------------

cdef void note_rows(
    const Binary* keys, const int64_t* offsets, int64_t rows, Row* out
) noexcept nogil:
    cdef int64_t row, at
    for row in range(rows):
        at = keys.first + row
        out[row].offset = offsets[row]
        if keys.bits != NULL and not is_set(keys.bits, at):
            out[row].size = -1
            continue
        out[row].key = keys.content + keys.ends[at]
        out[row].size = keys.ends[at + 1] - keys.ends[at]
        out[row].hashed = <uint32_t>(hash_bytes(out[row].key, out[row].size, SECRET) >> 32)


cdef inline bint same_key(const Row* one, const Row* other) noexcept nogil:
    return (
        one.hashed == other.hashed
        and one.size == other.size
        and (one.size == 0 or memcmp(one.key, other.key, one.size) == 0)
    )


cdef void keep_newest(
    const Row* rows, int64_t count, int32_t* table, uint32_t last, uint8_t* stays
) noexcept nogil:
    """Clear `stays` for each row that has one of its key with a higher offset.

    Args:
        table: last + 1 vacant cells, a power of two, more than there are rows.
    """
    cdef int64_t row
    cdef uint32_t at
    cdef int32_t other
    for row in range(count):
        stays[row] = 1
        if rows[row].size < 0:
            continue
        at = rows[row].hashed & last
        while table[at] != VACANT and not same_key(&rows[row], &rows[table[at]]):
            at = (at + 1) & last
        other = table[at]
        if other != VACANT and rows[other].offset > rows[row].offset:
            stays[row] = 0
            continue
        if other != VACANT:
            stays[other] = 0
        table[at] = <int32_t>row


def newest(offsets, keys):
    """Return masks of the rows that have the highest offset of their key.

    Args:
        offsets: Columns of offsets, pa.Int64Array; of one partition, in any order.
        keys: The keys to them, pa.BinaryArray; rows without a key stay.

    Returns:
        One mask for each pair of columns.
    """
    cdef int64_t total = sum(len(column) for column in keys)
    cdef int64_t done = 0, rows, index
    cdef uint32_t last = 1
    cdef Binary binary
    cdef const int64_t* numbers
    if len(offsets) != len(keys):
        raise ValueError(f"{len(offsets)} columns of offsets for {len(keys)} of keys")
    if total > ROWS_MAX:
        raise ValueError(f"{total} rows are too many; at most {ROWS_MAX}")
    while last < 2 * total:
        last = last * 2 + 1
    cdef Row* noted = <Row*>malloc(max(total, 1) * sizeof(Row))
    cdef int32_t* table = <int32_t*>malloc((<size_t>last + 1) * sizeof(int32_t))
    cdef uint8_t* stays = <uint8_t*>malloc(max(total, 1))
    try:
        if noted == NULL or table == NULL or stays == NULL:
            raise MemoryError(f"no memory to look at {total} rows")
        for index in range(len(keys)):
            rows = len(keys[index])
            binary = binary_of(keys[index])
            numbers = numbers_of(offsets[index], rows)
            with nogil:
                note_rows(&binary, numbers, rows, noted + done)
            done += rows
        with nogil:
            memset(table, 0xFF, (<size_t>last + 1) * sizeof(int32_t))
            keep_newest(noted, total, table, last, stays)
        masks = []
        done = 0
        for column in keys:
            masks.append(as_mask(stays + done, len(column)))
            done += len(column)
        return masks
    finally:
        free(noted)
        free(table)
        free(stays)


# --- Cohorts ------------------------------------------------------------------------------

cdef void draw(
    const Binary* keys, const int64_t* offsets, const int64_t* periods, int64_t rows,
    uint64_t threshold, uint8_t* stays,
) noexcept nogil:
    cdef int64_t row, at
    cdef uint64_t hashed
    for row in range(rows):
        at = keys.first + row
        if keys.bits != NULL and not is_set(keys.bits, at):
            hashed = mixed(<uint64_t>offsets[row])
        else:
            hashed = hash_bytes(keys.content + keys.ends[at], keys.ends[at + 1] - keys.ends[at], 0)
        stays[row] = (mixed(hashed ^ mixed(<uint64_t>periods[row])) >> 32) >= threshold


def outside_cohort(keys, offsets, periods, double ratio):
    """Return the mask of the rows that stay when a share of all keys leaves.

    A row leaves by its key and its period alone: in one period all rows of a key fare alike,
    on every worker, and a larger share has all keys of a smaller one. In the next period
    other keys leave. Rows without a key leave by their offset.

    Args:
        keys: pa.BinaryArray.
        offsets: pa.Int64Array.
        periods: pa.Int64Array: the number of the period of each row.
        ratio: Share of the keys that leave, 0..1.
    """
    cdef int64_t rows = len(keys)
    cdef Binary binary = binary_of(keys)
    cdef const int64_t* numbers = numbers_of(offsets, rows)
    cdef const int64_t* times = numbers_of(periods, rows)
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio is {ratio}; a share is 0 to 1")
    cdef uint64_t threshold = <uint64_t>(ratio * HASHES)
    cdef uint8_t* stays = <uint8_t*>malloc(max(rows, 1))
    if stays == NULL:
        raise MemoryError(f"no memory to look at {rows} rows")
    try:
        with nogil:
            draw(&binary, numbers, times, rows, threshold, stays)
        return as_mask(stays, rows)
    finally:
        free(stays)


# --- What is left, and what is not --------------------------------------------------------

def span(keep):
    """Return (first row that stays, row after the last one, how many stay)."""
    cdef int64_t rows = len(keep), first, row, start = 0, stop = 0, count = 0
    cdef const uint8_t* bits = mask_of(keep, &first)
    with nogil:
        for row in range(rows):
            if is_set(bits, first + row):
                if count == 0:
                    start = row
                stop = row + 1
                count += 1
    return start, stop, count


cdef int64_t runs_out(
    const int64_t* numbers, const uint8_t* bits, int64_t first, int64_t rows, bint whole_lane,
    int64_t* out,
) noexcept nogil:
    """Write the ranges of rows that leave, if there is where to, and return how many they are."""
    cdef int64_t row, end = 0, found = 0
    cdef bint is_open = False
    for row in range(rows):
        if bits != NULL and is_set(bits, first + row):
            is_open = False
            continue
        if not is_open or (numbers[row] != end and not whole_lane):
            if out != NULL:
                out[2 * found] = numbers[row]
            found += 1
            is_open = True
        end = numbers[row] + 1
        if out != NULL:
            out[2 * found - 1] = end
    return found


cdef array.array new_ranges(int64_t count):
    return array.clone(FLAT, 2 * count, zero=False)


def left_out(offsets, keep, bint whole_lane=True):
    """Return the ranges of offsets that leave, half-open and ascending.

    Args:
        offsets: pa.Int64Array, ascending.
        keep: Mask of those that stay, None if none does.
        whole_lane: No other record of the lane lies between two rows, so a range goes on
            where offsets are missing.

    Returns:
        array("q"): first, end, first, end, ...
    """
    cdef int64_t rows = len(offsets), first = 0, count
    cdef const int64_t* numbers = numbers_of(offsets, rows)
    cdef const uint8_t* bits = NULL
    if keep is not None:
        if len(keep) != rows:
            raise ValueError(f"a mask of {len(keep)} rows for {rows} offsets")
        bits = mask_of(keep, &first)
    with nogil:
        count = runs_out(numbers, bits, first, rows, whole_lane, NULL)
    cdef array.array ranges = new_ranges(count)
    cdef int64_t* out = <int64_t*>ranges.data.as_longlongs
    with nogil:
        runs_out(numbers, bits, first, rows, whole_lane, out)
    return ranges


cdef int by_first(const void* one, const void* other) noexcept nogil:
    cdef int64_t a = (<const int64_t*>one)[0], b = (<const int64_t*>other)[0]
    return (a > b) - (a < b)


cdef int64_t merge(int64_t* ranges, int64_t count) noexcept nogil:
    """Sort ranges, join those that touch, and return how many are left."""
    cdef int64_t at, last = 0
    if count == 0:
        return 0
    qsort(ranges, count, 2 * sizeof(int64_t), by_first)
    for at in range(1, count):
        if ranges[2 * at] <= ranges[2 * last + 1]:
            ranges[2 * last + 1] = max(ranges[2 * last + 1], ranges[2 * at + 1])
        else:
            last += 1
            ranges[2 * last] = ranges[2 * at]
            ranges[2 * last + 1] = ranges[2 * at + 1]
    return last + 1


def merged(array.array ranges not None):
    """Return the same offsets in as few ranges as can be, ascending; as `left_out` does."""
    if ranges.typecode != "q" or len(ranges) % 2:
        raise TypeError("ranges are pairs in an array of typecode q")
    cdef array.array found = array.copy(ranges)
    cdef int64_t* flat = <int64_t*>found.data.as_longlongs
    cdef int64_t count = len(found) // 2
    with nogil:
        count = merge(flat, count)
    array.resize(found, 2 * count)
    return found


def range_lines(array.array ranges not None, int64_t room):
    """Return ranges as people write them (`5,8-11`), in lines of so many characters.

    A single range that is longer has a line of its own.
    """
    cdef int64_t count = len(ranges) // 2, at
    cdef const int64_t* flat = <int64_t*>ranges.data.as_longlongs
    cdef char word[WORD_CHARACTERS]
    cdef bytearray line = bytearray()
    cdef int size
    lines = []
    for at in range(count):
        if flat[2 * at + 1] == flat[2 * at] + 1:
            size = snprintf(word, WORD_CHARACTERS, b"%lld", <long long>flat[2 * at])
        else:
            size = snprintf(
                word, WORD_CHARACTERS, b"%lld-%lld",
                <long long>flat[2 * at], <long long>(flat[2 * at + 1] - 1),
            )
        if line and len(line) + size + 1 > room:
            lines.append(line.decode("ascii"))
            line.clear()
        if line:
            line += b","
        line += word[:size]
    if line:
        lines.append(line.decode("ascii"))
    return lines
