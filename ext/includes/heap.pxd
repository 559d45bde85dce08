"""A binary heap of small integers, least key first, from which any can be removed.

Header-only: inlined into the module that cimports it, no .so of its own.
Equal keys leave by `order`, which the caller counts up, so that the result never
depends on the shape of the heap.  Where an item sits is kept in `places`, an array
of the caller's with one entry an item; several heaps may share it as long as an
item is in one of them at most.

Source: Knuth, The Art of Computer Programming 3, section 5.2.3.
"""
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc

cdef enum:
    HEAP_START = 16         # entries of the first allocation


cdef struct HeapEntry:
    int64_t key
    int64_t order
    int32_t item


cdef struct Heap:
    HeapEntry* entries
    int64_t count
    int64_t capacity


cdef inline bint heap_before(const HeapEntry* a, const HeapEntry* b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.order < b.order)


cdef inline int heap_reserve(Heap* heap, int64_t count) except -1:
    """Make sure that `count` items fit; the only call that can fail."""
    cdef int64_t wanted = max(<int64_t>HEAP_START, heap.capacity)
    if count <= heap.capacity:
        return 0
    while wanted < count:
        wanted *= 2
    cdef void* bigger = realloc(heap.entries, wanted * sizeof(HeapEntry))
    if bigger == NULL:
        raise MemoryError(f"no memory for a heap of {wanted} sub-queues")
    heap.entries = <HeapEntry*>bigger
    heap.capacity = wanted
    return 0


cdef inline void heap_put(
    Heap* heap, int32_t* places, int64_t at, HeapEntry entry
) noexcept nogil:
    heap.entries[at] = entry
    places[entry.item] = <int32_t>at


cdef inline void heap_rise(
    Heap* heap, int32_t* places, int64_t at, HeapEntry entry
) noexcept nogil:
    """Put an entry at a free place or, instead of what comes after it, above."""
    cdef int64_t parent
    while at > 0:
        parent = (at - 1) // 2
        if not heap_before(&entry, &heap.entries[parent]):
            break
        heap_put(heap, places, at, heap.entries[parent])
        at = parent
    heap_put(heap, places, at, entry)


cdef inline void heap_sink(
    Heap* heap, int32_t* places, int64_t at, HeapEntry entry
) noexcept nogil:
    """Put an entry at a free place or, instead of what comes before it, below."""
    cdef int64_t child = 2 * at + 1
    while child < heap.count:
        if child + 1 < heap.count and heap_before(
            &heap.entries[child + 1], &heap.entries[child]
        ):
            child += 1
        if not heap_before(&heap.entries[child], &entry):
            break
        heap_put(heap, places, at, heap.entries[child])
        at = child
        child = 2 * at + 1
    heap_put(heap, places, at, entry)


cdef inline void heap_push(
    Heap* heap, int32_t* places, int32_t item, int64_t key, int64_t order
) noexcept nogil:
    """Add an item that is in no heap; `heap_reserve` made room for it."""
    cdef HeapEntry entry
    entry.key = key
    entry.order = order
    entry.item = item
    heap.count += 1
    heap_rise(heap, places, heap.count - 1, entry)


cdef inline void heap_remove(Heap* heap, int32_t* places, int32_t item) noexcept nogil:
    """Remove an item that is in this heap."""
    cdef int64_t at = places[item]
    cdef HeapEntry last = heap.entries[heap.count - 1]
    heap.count -= 1
    if at == heap.count:
        return
    if at > 0 and heap_before(&last, &heap.entries[(at - 1) // 2]):
        heap_rise(heap, places, at, last)
    else:
        heap_sink(heap, places, at, last)
