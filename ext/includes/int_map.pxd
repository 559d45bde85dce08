"""A hash table from integers >= 0 to small integers.

Header-only: inlined into the module that cimports it, no .so of its own.
Linear probing, at most half full.  A removal moves later entries back instead
of leaving tombstones, so a table that churns for months stays as fast as new.

Source: Knuth, The Art of Computer Programming 3, section 6.4, algorithm R.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc

cdef enum:
    MAP_BITS_MIN = 4
    MAP_VACANT = -1         # key of a cell that holds nothing


cdef struct Cell:
    int64_t key
    int32_t value


cdef struct IntMap:
    Cell* cells
    int bits                # there are 2**bits cells
    int64_t used


cdef inline int64_t map_home(const IntMap* table, int64_t key) noexcept nogil:
    """Return the cell where the search for a key begins (Fibonacci hashing)."""
    return <int64_t>((<uint64_t>key * <uint64_t>0x9E3779B97F4A7C15) >> (64 - table.bits))


cdef inline int64_t map_cell(const IntMap* table, int64_t key) noexcept nogil:
    """Return the cell of a key, or the vacant one where it belongs."""
    cdef int64_t last = (<int64_t>1 << table.bits) - 1
    cdef int64_t at = map_home(table, key)
    while table.cells[at].key != key and table.cells[at].key != MAP_VACANT:
        at = (at + 1) & last
    return at


cdef inline int map_allocate(IntMap* table, int bits) except -1:
    """Give the table 2**bits vacant cells; the old ones are the caller's."""
    cdef int64_t count = <int64_t>1 << bits
    cdef int64_t at
    cdef Cell* cells = <Cell*>malloc(count * sizeof(Cell))
    if cells == NULL:
        raise MemoryError("no memory for the table of sub-queues")
    for at in range(count):
        cells[at].key = MAP_VACANT
    table.cells = cells
    table.bits = bits
    return 0


cdef inline int map_grow(IntMap* table) except -1:
    """Double the table."""
    cdef Cell* old = table.cells
    cdef int64_t count = <int64_t>1 << table.bits
    cdef int64_t at
    map_allocate(table, table.bits + 1)
    for at in range(count):
        if old[at].key != MAP_VACANT:
            table.cells[map_cell(table, old[at].key)] = old[at]
    free(old)
    return 0


cdef inline int32_t map_get(const IntMap* table, int64_t key) noexcept nogil:
    """Return the value of a key, or -1."""
    cdef int64_t at = map_cell(table, key)
    return table.cells[at].value if table.cells[at].key == key else -1


cdef inline int map_reserve(IntMap* table) except -1:
    """Make sure that one more key fits; the only call that can fail."""
    if 2 * (table.used + 1) > (<int64_t>1 << table.bits):
        map_grow(table)
    return 0


cdef inline void map_put(IntMap* table, int64_t key, int32_t value) noexcept nogil:
    """Add a key that is not in the table; `map_reserve` made room for it."""
    cdef int64_t at = map_cell(table, key)
    table.cells[at].key = key
    table.cells[at].value = value
    table.used += 1


cdef inline void map_remove(IntMap* table, int64_t key) noexcept nogil:
    """Remove a key that is in the table and close the gap it leaves."""
    cdef int64_t last = (<int64_t>1 << table.bits) - 1
    cdef int64_t gap = map_cell(table, key)
    cdef int64_t at = gap
    while True:
        at = (at + 1) & last
        if table.cells[at].key == MAP_VACANT:
            break
        # An entry may move back only as far as the cell its search begins at.
        if ((at - map_home(table, table.cells[at].key)) & last) >= ((at - gap) & last):
            table.cells[gap] = table.cells[at]
            gap = at
    table.cells[gap].key = MAP_VACANT
    table.used -= 1
