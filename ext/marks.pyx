"""What becomes of the rows of a chunk that several agents read.

    row          0  1  2  3
    flying       2  0  1  0      agents that have it now
    left         2  0  3  1      agents that are not done with it
    processed    0  1  0  1      an agent has settled it

A row is done when nobody is left. It was processed if one agent settled it, whatever the
others did with it.

An agent may go on with some rows only, in a chunk of their own (`moved`). Its marks are the
same ones: they say which rows they were in the chunk that was read.

Budget: 2 ns a row.
Thread-safety: one owner thread, no locks.
"""
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uintptr_t
from libc.string cimport memset

cimport cython

import pyarrow as pa


cdef uintptr_t address_of(buffer):
    """Return where an Arrow buffer starts, 0 for an absent one."""
    return 0 if buffer is None else buffer.address


@cython.final
cdef class Marks:
    """The marks of a chunk.

    Args:
        rows: How many rows it has.
        agents: How many agents read it, 1 to 255.
    """

    cdef bytearray flying, left, processed
    cdef object held                # the buffer of `index`
    cdef const int32_t* index       # of each row in the chunk that was read; NULL: the same
    cdef readonly int64_t rows

    def __init__(self, int64_t rows, int agents):
        if rows < 0 or not 1 <= agents <= 255:
            raise ValueError(f"{rows} rows cannot be marked for {agents} agents")
        self.flying = bytearray(rows)
        self.left = bytearray([agents]) * rows
        self.processed = bytearray(rows)
        self.rows = rows

    cdef inline uint8_t* at(self, bytearray marks) noexcept:
        return <uint8_t*>PyByteArray_AS_STRING(marks)

    cdef inline int64_t row(self, int64_t at) noexcept nogil:
        return at if self.index == NULL else self.index[at]

    cdef int check(self, int64_t start, int64_t count) except -1:
        if start < 0 or count < 0 or count > self.rows or start > self.rows - count:
            raise ValueError(f"{count} rows from {start} on are not among {self.rows}")
        return 0

    def start(self, int64_t start, int64_t count):
        """Note that an agent gets these rows; return how many of them nobody had."""
        self.check(start, count)
        cdef uint8_t* flying = self.at(self.flying)
        cdef int64_t at, row, found = 0
        for at in range(start, start + count):
            row = self.row(at)
            found += flying[row] == 0
            flying[row] += 1
        return found

    def land(self, int64_t start, int64_t count):
        """Note that an agent no longer has these rows; return how many of them nobody has."""
        self.check(start, count)
        cdef uint8_t* flying = self.at(self.flying)
        cdef int64_t at, row, found = 0
        for at in range(start, start + count):
            row = self.row(at)
            flying[row] -= 1
            found += flying[row] == 0
        return found

    def finish(self, int64_t start, int64_t count, *, bint processed, keep=None):
        """Note that an agent is done with these rows.

        Args:
            processed: It settled them.
            keep: Mask of those that it is not done with, or None.

        Returns:
            How many are done now, how many of these an agent has settled, and the mask of
            the rows that are done and that none has; None if there is none of them.
        """
        self.check(start, count)
        cdef uint8_t* left = self.at(self.left)
        cdef uint8_t* settled = self.at(self.processed)
        cdef int64_t at, row, first = 0, done = 0, done_settled = 0
        cdef uintptr_t keep_at = 0
        if keep is not None:
            if len(keep) != count:
                raise ValueError(f"a mask of {len(keep)} rows for {count}")
            first = keep.offset
            keep_at = address_of(keep.buffers()[1])
        cdef const uint8_t* stays = <const uint8_t*>keep_at
        out = pa.allocate_buffer((count + 7) // 8)
        cdef uintptr_t out_at = out.address
        cdef uint8_t* bits = <uint8_t*>out_at
        memset(bits, 0, (count + 7) // 8)
        for at in range(count):
            if stays != NULL and stays[(first + at) >> 3] >> ((first + at) & 7) & 1:
                continue
            row = self.row(start + at)
            left[row] -= 1
            settled[row] |= processed
            if left[row]:
                continue
            done += 1
            if settled[row]:
                done_settled += 1
            else:
                bits[at >> 3] |= <uint8_t>(1 << (at & 7))
        mask = None
        if done > done_settled:
            mask = pa.Array.from_buffers(pa.bool_(), count, [None, out])
        return done, done_settled, mask

    def done(self, int64_t start, int64_t count):
        """Return the mask of the rows that all agents are done with."""
        self.check(start, count)
        cdef const uint8_t* left = self.at(self.left)
        out = pa.allocate_buffer((count + 7) // 8)
        cdef uintptr_t out_at = out.address
        cdef uint8_t* bits = <uint8_t*>out_at
        cdef int64_t at
        memset(bits, 0, (count + 7) // 8)
        for at in range(count):
            if left[self.row(start + at)] == 0:
                bits[at >> 3] |= <uint8_t>(1 << (at & 7))
        return pa.Array.from_buffers(pa.bool_(), count, [None, out])

    def moved(self, int64_t start, int64_t count, keep):
        """Return the marks of the rows of a mask, which go on in a chunk of their own."""
        self.check(start, count)
        if len(keep) != count:
            raise ValueError(f"a mask of {len(keep)} rows for {count}")
        cdef Marks kept = Marks.__new__(Marks)
        cdef int64_t first = keep.offset, at
        cdef uintptr_t keep_at = address_of(keep.buffers()[1])
        cdef const uint8_t* stays = <const uint8_t*>keep_at
        kept.rows = keep.true_count
        kept.flying, kept.left, kept.processed = self.flying, self.left, self.processed
        kept.held = pa.allocate_buffer(kept.rows * sizeof(int32_t))
        cdef uintptr_t index_at = kept.held.address
        cdef int32_t* index = <int32_t*>index_at
        cdef int64_t found = 0
        for at in range(count):
            if stays[(first + at) >> 3] >> ((first + at) & 7) & 1:
                index[found] = <int32_t>self.row(start + at)
                found += 1
        kept.index = index
        return kept

    def let_go(self):
        """Forget the rows that are not done; return how many they are, and how many fly.

        Whoever has marks of the same rows finds them done.
        """
        cdef uint8_t* flying = self.at(self.flying)
        cdef uint8_t* left = self.at(self.left)
        cdef int64_t at, row, unfinished = 0, flew = 0
        for at in range(self.rows):
            row = self.row(at)
            unfinished += left[row] != 0
            flew += flying[row] != 0
            left[row] = flying[row] = 0
        return unfinished, flew
