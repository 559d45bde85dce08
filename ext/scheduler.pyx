"""Choose the records that go next to one agent.

    lane 0   ─ sub-queue 7: slice, slice, slice    strict priority under a cap,
             └ sub-queue 9: slice                  floors and weights below it
    lane 1   ─ sub-queue 7: slice, slice           inside a lane: deficit round robin
             └ ...                                 or earliest deadline first
    demoted  ─ lane 1, sub-queue 4: slice          too old for their lane: oldest first

    ready in a lane: 1 2 3 4 5 6 7, three free seats, and batches that close what they take:
    seat a  ─ takes 3 of 7: 1 2 3    then 4 5 for seat b, and 6 7 for seat c

**Between lanes.**  The contenders of a decision are the ready lanes of its mask;
the highest is the *top*.  Each contender j below it is entitled to a share of
all that is served, and after each batch of cost c keeps account of it:

    share_j   = max(floor, (1 - cap) * weight_j / sum of weights below the top)
    credit_j += share_j * c            minus c if the batch was its own
    due_j     : credit_j >= the cost of the batch it would get now

The top is served unless a lane below is due.  Of several that are due, the one
that would first fall a second batch behind goes first (earliest deadline).
From this follows, while all contenders stay ready:

- served_j = share_j * total - credit_j: a lane's error is its credit, which is
  less than two of its batches and what it earns from one (one batch if a single
  lane is below the top).  The top gets the rest: `cap`, unless floors need more.
- Strict priority inside the cap: all credits together are what the top got beyond
  its share.  Once read, a record of a higher lane waits for at most one batch of a
  lower lane a seat (the one that runs) while its lane is within its cap; beyond
  it, also for those that are due: one a lane if batches cost alike, several small
  ones after a costly batch of the top.
- No banked credit.  A lane without ready records, or served as the top, starts
  again at zero; outside the mask it earns nothing; two full batches are the most.
- Work-conserving: without higher lanes, the highest one that is ready is the top.

**Inside a lane.**  Deficit round robin in cost, with new sub-queues first, once:
a turn takes records until its deficit is used up and may overdraw it by its last
record.  A sub-queue that is the only ready one is neither limited nor charged.  Two
sub-queues that stay ready differ by at most one quantum and one overdraft, beside
what was corrected: a record, or where batches are bound (below) one batch.

- New ones do not starve old ones: after those that were new together, an old one
  is served, whatever came in the meantime.
- Costs are estimates until a batch has ended.  `correct` charges the difference,
  until one quantum is owed, or gives it back, until one is gained beside that of
  the turn: nobody banks or owes without bound.
- A debt is not escaped by leaving.  A sub-queue that is empty or closed keeps its
  place in the round until the quantum of each turn has paid its debt; only then
  it is forgotten, and new when it comes back.  What it was given back is forgotten
  with it.

A lane with *deadlines* has no turns: its sub-queue whose first slice has the least
stamp goes first.  Of equal stamps, the slice that was first in line first.

**Several seats.**  An exclusive batch closes what it takes from, so with n sub-queues
ready and s seats free it takes from at most ceil(n / s): every free seat gets some.
(A batch from a single sub-queue is one among endless seats.)  So that batches are not
smaller for it, a batch that has its sub-queues, after the turn of the last or when the
next in order would be one too many, is filled up from them, a quantum each one after
the other.  In a lane with turns this overdraws, by the batch at most: they pay in
later rounds.

**Demoted.**  A sub-queue of a lane with `demote_after_ns` is demoted while its first
slice was born longer ago.  All that are demoted contend as one more lane below the
lowest, of weight 1, with a floor like any other: the oldest goes first, with the
sub-queues of its lane.  They are counted, masked and returned as of their own lane,
and come back to the end of its round with a first slice that is young enough.
Time is what `take` was told last; it never goes back.

**Not served.**  `extract` takes records from the head of a sub-queue, `put_back` gives them
back to it: for what is shed, expires or goes elsewhere.  No share, turn or debt changes.

Bound: 72 bytes a waiting slice; 64 a sub-queue that waits, owes or is closed, 32 to
64 for finding it by number, 24 in a lane with deadlines, 48 in one that demotes; in
pools that double and are kept.
Thread-safety: one owner thread, no locks.
Cost: O(lanes) to choose a lane, O(1) if only one is ready; then amortised O(slices +
cost / quantum) a batch, whatever the number of sub-queues; O(log sub-queues) a slice
where deadlines or ages count.
Budget: admit + take <= 250 ns a slice in batches of one and 170 ns in batches of 16, of
which about 65 ns are spent here and the rest on the calls and the objects they return;
within 1.5 times from 2 to 1000 sub-queues (benchmarks/bench_scheduler.py).
Source: Shreedhar and Varghese 1996, section 3 (deficit round robin); RFC 8290,
section 4.2 (new queues first); Liu and Layland 1973, section 7 (deadlines); Kubernetes
API priority and fairness, `boundNextDispatch` (corrections that are bounded).
"""
cimport cython
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int32_t, int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from includes.heap cimport Heap, HeapEntry, heap_before, heap_push, heap_remove, heap_reserve
from includes.int_map cimport (
    MAP_BITS_MIN, MAP_VACANT, Cell, IntMap, map_allocate, map_get, map_put, map_remove, map_reserve
)

cdef extern from *:
    int __builtin_ctzll(unsigned long long lanes) noexcept nogil

cdef enum:
    NONE = -1                       # no slot, no sub-queue, no lane, no limit
    LANES_MAX = 64                  # one bit a lane in a mask; the demoted need one, too
    QUANTUM_COST = 65536            # 64 KiB: one turn is a few hundred small records
    # Shares and credits are whole millionths, so that results are equal on every
    # processor.  The limits below keep two full batches of them within 63 bits.
    SHARE_ONE = 1000000
    RECORD_COST_MAX = 1 << 16
    BATCH_RECORDS_MAX = 1 << 24
    POOL_START = 64                 # slots or sub-queues of the first allocation
    ENDLESS = 0x7FFFFFFF            # seats: more than there can be sub-queues


cdef struct Slot:                   # a slice that waits, linked to the next of its sub-queue
    int64_t handle
    int64_t stamp_ns
    int64_t born_ns
    int64_t owner
    int32_t records                 # of the slice as admitted
    int32_t num_bytes               # of the slice as admitted
    int32_t start                   # the first record that still waits
    int32_t bytes_taken             # of the records before it
    int32_t cut                     # where the batch may have it: see note_cut
    int32_t next


cdef struct SubQueue:
    int64_t number
    int64_t records                 # waiting
    int64_t num_bytes
    int64_t deficit                 # cost it may still take in its turn; below 0: a debt
    int32_t head                    # slots
    int32_t tail
    int32_t next                    # sub-queue, in a ring or in the free list
    int32_t next_in_batch
    unsigned char lane
    unsigned char closed
    unsigned char linked            # in a ring
    unsigned char demoted           # since it became ready or its first slice changed
    unsigned char in_batch          # which may close it, and ends before it is forgotten


cdef struct Ring:                   # sub-queues that wait for their turn
    int32_t head
    int32_t tail
    int32_t count


cdef struct Ready:                  # in open sub-queues that are not empty
    int64_t records
    int64_t num_bytes
    int64_t queues


cdef struct Lane:
    int64_t weight
    int64_t share                   # in SHARE_ONE of the service, among `shared_by`
    int64_t credit                  # in cost * SHARE_ONE
    int64_t batch_records           # most of a batch
    int64_t queued_records
    int64_t queued_bytes
    Ready ready[2]                  # [0] those in their place, [1] those demoted
    Ring fresh                      # first turn since they became non-empty
    Ring old
    int32_t fresh_left              # fresh ones that go before the next old one ...
    bint owes_old                   # ... which has to come after them
    bint has_deadlines
    int64_t demote_after_ns         # NONE: never
    int64_t young_since_ns          # demoted if its first slice was born before
    Heap due                        # by stamp: the ready ones of a lane with deadlines
    Heap young                      # by birth: the ready ones that may get too old
    Heap demoted                    # by birth: the ready ones that did
    IntMap by_number


cdef struct Cut:                    # one entry of a batch
    int32_t slot
    int32_t at                      # index of the sub-queue
    int32_t start
    int32_t count


cdef struct Batch:
    int64_t records_max             # as asked for
    int64_t bytes_max
    int64_t lane_records_max        # also for its lane
    int64_t records
    int64_t num_bytes
    int64_t cost
    int32_t cuts
    int32_t queues                  # that it takes from, in the order of their first cuts
    int32_t queues_head
    int32_t queues_tail
    int64_t queues_max              # see most_queues
    int64_t seats                   # that share what is ready; ENDLESS: one sub-queue each
    int32_t demoted_lane            # which one the demoted would be served of
    bint demoted                    # it takes of the demoted ...
    bint in_order                   # ... or by deadline: not by turns
    bint exclusive


cdef inline uint64_t bit(int lane) noexcept nogil:
    return <uint64_t>1 << lane


cdef inline int highest(uint64_t lanes) noexcept nogil:
    """Return the first lane of a mask that is not empty."""
    return __builtin_ctzll(lanes)


cdef inline int64_t bytes_before(const Slot* slot, int64_t record) noexcept nogil:
    """Estimate the bytes of a slice before one of its records."""
    if record == slot.records:
        return slot.num_bytes
    return slot.num_bytes * record // slot.records


cdef inline int64_t records_within_bytes(const Slot* slot, int64_t limit) noexcept nogil:
    """Return how many waiting records have at most `limit` bytes."""
    cdef int64_t end
    if slot.num_bytes - slot.bytes_taken <= limit:
        return slot.records - slot.start
    if limit < 0:       # the batch is one record larger than its limit
        return 0
    # The last `end` with bytes_before(end) <= bytes_taken + limit.
    end = ((slot.bytes_taken + limit + 1) * slot.records - 1) // slot.num_bytes
    return end - slot.start


cdef inline int64_t records_within_cost(
    const Slot* slot, int64_t limit, int64_t record_cost
) noexcept nogil:
    """Return about how many waiting records cost `limit`, at least one."""
    cdef int64_t left = slot.records - slot.start
    if slot.num_bytes - slot.bytes_taken + record_cost * left <= limit:
        return left
    left = limit * slot.records // (slot.num_bytes + record_cost * slot.records)
    return max(left, 1)


cdef inline int64_t expected_cost(
    int64_t records, int64_t num_bytes, int64_t records_max, int64_t bytes_max, int64_t record_cost
) noexcept nogil:
    """Estimate the cost of the batch that these waiting records would give."""
    cdef int64_t mean_bytes = num_bytes // records
    cdef int64_t count = min(records, records_max)
    if mean_bytes * count > bytes_max:
        count = max(bytes_max // mean_bytes, 1)
    return count * (mean_bytes + record_cost)


cdef inline int64_t most_queues(int64_t ready, int64_t seats) noexcept nogil:
    """Return from how many ready sub-queues a batch may take, NONE if from all."""
    return NONE if seats == 1 else (ready + seats - 1) // seats


cdef inline void push(Ring* ring, SubQueue* queues, int32_t at) noexcept nogil:
    queues[at].next = NONE
    if ring.head == NONE:
        ring.head = at
    else:
        queues[ring.tail].next = at
    ring.tail = at
    ring.count += 1


cdef inline int32_t pop(Ring* ring, const SubQueue* queues) noexcept nogil:
    cdef int32_t at = ring.head
    ring.head = queues[at].next
    ring.count -= 1
    return at


cdef int grow(void** block, int64_t count, size_t item_bytes) except -1:
    """Resize a pool; on failure it stays as it was."""
    cdef void* bigger = realloc(block[0], count * item_bytes)
    if bigger == NULL:
        raise MemoryError(f"no memory for {count} slices or sub-queues")
    block[0] = bigger
    return 0


@cython.final
cdef class Scheduler:
    """Slices that wait for a seat, known by the caller's integers.

    Lane 0 is the highest.  A slice of `records` records and `bytes` bytes costs
    bytes + record_cost * records.

    Args:
        lane_count: 1 to 64; to 63 if a lane demotes.
        weights: One whole number from 1 to 65536 a lane; all equal if None.
        cap: Share of the service up to which the top lane is strictly first, 0..1.
            1 with floor 0 is strict priority without an end.
        floor: Share that every ready lane gets at least.
        record_cost: Cost of a record beside its bytes, 1 to 65536.
        deadlines: One bool a lane: whether its least stamp goes first; none if None.
        demote_after_ns: One age a lane, >= 0 or None, beyond which its records wait
            behind the lowest lane.

    Raises:
        ValueError: A number is out of its range, or the floors do not fit.
    """

    cdef:
        # Fixed by the constructor.
        int lane_count
        int64_t cap
        int64_t floor
        int64_t record_cost
        uint64_t demoting           # lanes with an age
        # Bit i is set while lane i has ready records in their place, or demoted ones.
        uint64_t ready
        uint64_t ready_demoted
        # The contenders that the lanes' shares were computed for.
        uint64_t shared_by
        int64_t last_order          # of a sub-queue that became ready
        # Pools: `used` entries were handed out once, the free ones are linked.
        # A slice is at most once in a batch, so there is one cut a slot.
        Slot* slots
        Cut* cuts
        int32_t slots_capacity
        int32_t slots_used
        int32_t slots_free
        SubQueue* queues
        int32_t* due_places         # in the heaps `due` and `demoted`: it is in one at most
        int32_t* young_places       # in the heap `young`
        int32_t queues_capacity
        int32_t queues_used
        int32_t queues_free
        # The one after the last stands for the demoted: weight, share and credit.
        Lane lanes[LANES_MAX]

    def __cinit__(self):
        memset(self.lanes, 0, sizeof(self.lanes))
        self.slots_free = self.queues_free = NONE

    def __init__(
        self,
        int lane_count,
        *,
        weights=None,
        double cap=0.8,
        double floor=0.05,
        int64_t record_cost=256,
        deadlines=None,
        demote_after_ns=None,
    ):
        if self.lane_count:
            raise ValueError("a scheduler is constructed once; make a new one")
        weights = one_a_lane("weights", weights, lane_count, 1)
        deadlines = one_a_lane("deadlines", deadlines, lane_count, False)
        demote_after_ns = one_a_lane("ages", demote_after_ns, lane_count, None)
        demotes = any(age is not None for age in demote_after_ns)
        check_options(lane_count, lane_count + demotes, weights, cap, floor, record_cost)
        self.cap = round(cap * SHARE_ONE)
        self.floor = round(floor * SHARE_ONE)
        self.record_cost = record_cost
        for index in range(lane_count):
            self.prepare_lane(index, weights[index], deadlines[index], demote_after_ns[index])
        if demotes:
            self.lanes[lane_count].weight = 1
            self.lanes[lane_count].batch_records = BATCH_RECORDS_MAX
        self.lane_count = lane_count

    def __dealloc__(self):
        cdef int index
        for index in range(LANES_MAX):
            free(self.lanes[index].by_number.cells)
            free(self.lanes[index].due.entries)
            free(self.lanes[index].young.entries)
            free(self.lanes[index].demoted.entries)
        free(self.slots)
        free(self.cuts)
        free(self.queues)
        free(self.due_places)
        free(self.young_places)

    cdef int prepare_lane(self, int index, int64_t weight, bint has_deadlines, age) except -1:
        cdef Lane* lane = &self.lanes[index]
        lane.weight = weight
        lane.batch_records = BATCH_RECORDS_MAX
        lane.has_deadlines = has_deadlines
        lane.fresh.head = lane.old.head = NONE
        lane.demote_after_ns = NONE
        lane.young_since_ns = INT64_MIN
        if age is not None:
            if age < 0:
                raise ValueError(f"demote_after_ns of lane {index} is {age}; it must be >= 0")
            lane.demote_after_ns = age
            self.demoting |= bit(index)
        return map_allocate(&lane.by_number, MAP_BITS_MIN)

    # -- Pools ---------------------------------------------------------------

    cdef int grow_slots(self) except -1:
        cdef int64_t wanted = max(POOL_START, <int64_t>self.slots_capacity * 2)
        if wanted > INT32_MAX:
            raise MemoryError("more than 2**30 slices wait; pause the intake")
        grow(<void**>&self.slots, wanted, sizeof(Slot))
        grow(<void**>&self.cuts, wanted, sizeof(Cut))
        self.slots_capacity = <int32_t>wanted
        return 0

    cdef inline int reserve_slot(self) except -1:
        """Make sure that one more slice fits; nothing after it can fail."""
        if self.slots_free == NONE and self.slots_used == self.slots_capacity:
            self.grow_slots()
        return 0

    cdef int reserve_queue(self, Lane* lane) except -1:
        """Make sure that one more sub-queue fits, also into the lane's heaps."""
        cdef int64_t wanted = max(POOL_START, <int64_t>self.queues_capacity * 2)
        map_reserve(&lane.by_number)
        if lane.has_deadlines:
            heap_reserve(&lane.due, lane.by_number.used + 1)
        if lane.demote_after_ns != NONE:
            heap_reserve(&lane.young, lane.by_number.used + 1)
            heap_reserve(&lane.demoted, lane.by_number.used + 1)
        if self.queues_free != NONE or self.queues_used < self.queues_capacity:
            return 0
        if wanted > INT32_MAX:
            raise MemoryError("more than 2**30 sub-queues wait; use fewer keys")
        grow(<void**>&self.queues, wanted, sizeof(SubQueue))
        grow(<void**>&self.due_places, wanted, sizeof(int32_t))
        grow(<void**>&self.young_places, wanted, sizeof(int32_t))
        self.queues_capacity = <int32_t>wanted
        return 0

    cdef inline int32_t new_slot(self) noexcept nogil:
        cdef int32_t at = self.slots_free
        if at != NONE:
            self.slots_free = self.slots[at].next
            return at
        self.slots_used += 1
        return self.slots_used - 1

    cdef inline void free_slot(self, int32_t at) noexcept nogil:
        self.slots[at].next = self.slots_free
        self.slots_free = at

    cdef int32_t make_queue(self, Lane* lane, int64_t number) except -1:
        """Return a new sub-queue: open, empty, waiting for nothing."""
        cdef int32_t at
        self.reserve_queue(lane)
        at = self.queues_free
        if at != NONE:
            self.queues_free = self.queues[at].next
        else:
            at = self.queues_used
            self.queues_used += 1
        memset(&self.queues[at], 0, sizeof(SubQueue))
        self.queues[at].number = number
        self.queues[at].head = NONE
        self.queues[at].lane = <unsigned char>(lane - self.lanes)
        map_put(&lane.by_number, number, at)
        return at

    cdef inline void release_if_unused(self, Lane* lane, int32_t at) noexcept nogil:
        """Forget a sub-queue that says nothing: open, empty and without a turn or debt."""
        cdef SubQueue* queue = &self.queues[at]
        if queue.closed or queue.linked or queue.records or queue.in_batch:
            return
        map_remove(&lane.by_number, queue.number)
        queue.next = self.queues_free
        self.queues_free = at

    # -- What is ready -------------------------------------------------------

    cdef void enter(self, Lane* lane, int32_t at, bint is_new) noexcept nogil:
        """Give a sub-queue that is ready now, open and with records, its place."""
        cdef SubQueue* queue = &self.queues[at]
        cdef const Slot* first = &self.slots[queue.head]
        cdef Ready* ready
        queue.demoted = first.born_ns < lane.young_since_ns
        if queue.demoted:       # at once: between two lanes' notes there may be no other
            self.ready_demoted |= bit(queue.lane)
        ready = &lane.ready[queue.demoted]
        ready.records += queue.records
        ready.num_bytes += queue.num_bytes
        ready.queues += 1
        if not lane.has_deadlines and not queue.demoted:
            self.join(lane, at, is_new)
        if lane.has_deadlines or lane.demote_after_ns != NONE:
            self.rank(lane, at, first)

    cdef void leave(self, Lane* lane, int32_t at) noexcept nogil:
        """Take back what `enter` did; a place in a ring is given up when its turn comes."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Ready* ready = &lane.ready[queue.demoted]
        ready.records -= queue.records
        ready.num_bytes -= queue.num_bytes
        ready.queues -= 1
        if queue.demoted:
            heap_remove(&lane.demoted, self.due_places, at)
            return
        if lane.has_deadlines:
            heap_remove(&lane.due, self.due_places, at)
        if lane.demote_after_ns != NONE:
            heap_remove(&lane.young, self.young_places, at)

    cdef void rank(self, Lane* lane, int32_t at, const Slot* first) noexcept nogil:
        """Put a ready sub-queue into the heaps by its first slice."""
        self.last_order += 1
        if self.queues[at].demoted:
            heap_push(&lane.demoted, self.due_places, at, first.born_ns, self.last_order)
            return
        if lane.has_deadlines:
            heap_push(&lane.due, self.due_places, at, first.stamp_ns, self.last_order)
        if lane.demote_after_ns != NONE:
            heap_push(&lane.young, self.young_places, at, first.born_ns, self.last_order)

    cdef inline void note_ready(self, int index) noexcept nogil:
        """Renew the lane's bits; without ready records the credit is lost."""
        cdef Lane* lane = &self.lanes[index]
        if lane.ready[0].queues:
            self.ready |= bit(index)
        else:
            self.ready &= ~bit(index)
            lane.credit = 0
        if not self.demoting:
            return
        if lane.ready[1].queues:
            self.ready_demoted |= bit(index)
        else:
            self.ready_demoted &= ~bit(index)
        if self.ready_demoted == 0:
            self.lanes[self.lane_count].credit = 0

    cdef inline void close_queue(self, Lane* lane, int32_t at) noexcept nogil:
        if self.queues[at].records and not self.queues[at].closed:
            self.leave(lane, at)
        self.queues[at].closed = True

    cdef void demote(self, int64_t now_ns) noexcept nogil:
        """Move the sub-queues whose first slice has become too old."""
        cdef uint64_t rest = self.demoting
        cdef Lane* lane
        cdef int32_t at
        while rest:
            lane = &self.lanes[highest(rest)]
            lane.young_since_ns = max(lane.young_since_ns, now_ns - lane.demote_after_ns)
            while lane.young.count and lane.young.entries[0].key < lane.young_since_ns:
                at = lane.young.entries[0].item
                self.leave(lane, at)
                self.enter(lane, at, is_new=False)
            self.note_ready(highest(rest))
            rest &= rest - 1

    # -- Inside a lane -------------------------------------------------------

    cdef inline void join(self, Lane* lane, int32_t at, bint is_new) noexcept nogil:
        """Give a ready sub-queue a place in the rings, unless it still has one."""
        cdef SubQueue* queue = &self.queues[at]
        if queue.linked:
            return
        queue.linked = True
        if is_new:
            queue.deficit = QUANTUM_COST
            push(&lane.fresh, self.queues, at)
        else:
            push(&lane.old, self.queues, at)

    cdef inline Ring* next_ring(self, Lane* lane) noexcept nogil:
        """Return the ring whose turn it is: the fresh ones go first, once, see above."""
        if lane.fresh.head == NONE:
            return &lane.old
        if lane.owes_old and lane.fresh_left == 0 and lane.old.head != NONE:
            return &lane.old
        return &lane.fresh

    cdef int32_t next_turn(self, Lane* lane) noexcept nogil:
        """Return the sub-queue whose turn it is; the lane has a ready one.

        Those that closed or ran empty leave here, not when it happened, so that
        no list has to be searched.  A new one goes once through the old ring
        first: it would be new again too soon if it came back at once.
        """
        cdef Ring* ring
        cdef SubQueue* queue
        cdef int32_t at
        cdef bint is_ready
        while True:
            ring = self.next_ring(lane)
            at = ring.head
            queue = &self.queues[at]
            is_ready = queue.records and not queue.closed and not queue.demoted
            if is_ready and queue.deficit > 0:
                return at
            pop(ring, self.queues)
            if ring == &lane.fresh:
                self.close_generation(lane)
            elif not is_ready and queue.deficit >= 0:
                queue.linked = False
                self.release_if_unused(lane, at)
                continue
            if is_ready or ring == &lane.old:
                queue.deficit += QUANTUM_COST
            push(&lane.old, self.queues, at)

    cdef inline void close_generation(self, Lane* lane) noexcept nogil:
        """Note that a fresh one had its turn: those that come now wait for an old one."""
        if lane.owes_old and lane.fresh_left:
            lane.fresh_left -= 1
        else:
            lane.fresh_left = lane.fresh.count
        lane.owes_old = True

    cdef void fill(self, Lane* lane, Batch* batch) noexcept nogil:
        """Take turns until the batch is full, nothing is ready or its sub-queues are enough."""
        cdef int32_t at
        cdef int64_t cost
        cdef bint alone, is_old
        while lane.ready[0].queues and batch.records < batch.lane_records_max:
            at = self.next_turn(lane)
            is_old = at == lane.old.head
            if is_old:
                lane.owes_old = False
            alone = lane.ready[0].queues == 1
            cost = self.take_turn(lane, at, batch, self.queues[at].deficit)
            if alone and is_old:
                # Its turn would never end, and those behind it would never leave.
                push(&lane.old, self.queues, pop(&lane.old, self.queues))
            if cost == 0:
                return
            if batch.queues == batch.queues_max:
                self.fill_up(lane, batch)
                return

    cdef void fill_in_order(self, Lane* lane, Heap* heap, Batch* batch) noexcept nogil:
        """Take from the first of a heap, which changes slice by slice, as `fill` does."""
        cdef int32_t at
        cdef int64_t count
        while heap.count and batch.records < batch.lane_records_max:
            at = heap.entries[0].item
            if batch.queues == batch.queues_max and not self.queues[at].in_batch:
                self.fill_up(lane, batch)
                return
            count = self.cut_size(&self.slots[self.queues[at].head], batch, INT64_MAX)
            if count == 0:
                return
            self.cut(lane, at, batch, count)

    cdef void fill_up(self, Lane* lane, Batch* batch) noexcept nogil:
        """Fill the batch from the sub-queues that it has, a quantum each, round by round."""
        cdef int64_t cost_before = NONE
        cdef int32_t at
        while batch.cost > cost_before:
            cost_before = batch.cost
            at = batch.queues_head
            while at != NONE:
                self.take_turn(lane, at, batch, QUANTUM_COST)
                at = self.queues[at].next_in_batch

    cdef int64_t take_turn(
        self, Lane* lane, int32_t at, Batch* batch, int64_t limit
    ) noexcept nogil:
        """Cut records worth `limit` off one sub-queue, charge it and return their cost.

        The only ready one is neither limited nor charged; without turns none is charged.
        """
        cdef SubQueue* queue = &self.queues[at]
        cdef bint alone = lane.ready[batch.demoted].queues == 1
        cdef int64_t count, cost = 0
        if alone:
            limit = INT64_MAX
        while queue.records and queue.demoted == batch.demoted and cost < limit:
            count = self.cut_size(&self.slots[queue.head], batch, limit - cost)
            if count == 0:
                break
            cost += self.cut(lane, at, batch, count)
        if not (alone or batch.in_order):
            queue.deficit -= cost
        return cost

    cdef inline int64_t cut_size(
        self, const Slot* slot, const Batch* batch, int64_t limit
    ) noexcept nogil:
        """Return how many records of a slice come next; 0 if the batch is full."""
        cdef int64_t count = records_within_bytes(slot, batch.bytes_max - batch.num_bytes)
        if batch.records == 0:
            count = max(count, 1)
        count = min(count, records_within_cost(slot, limit, self.record_cost))
        return min(count, batch.lane_records_max - batch.records)

    cdef int64_t cut(self, Lane* lane, int32_t at, Batch* batch, int64_t count) noexcept nogil:
        """Move the first waiting records of a sub-queue to the batch."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Ready* ready = &lane.ready[queue.demoted]
        cdef Slot* slot = &self.slots[queue.head]
        cdef int64_t num_bytes = bytes_before(slot, slot.start + count) - slot.bytes_taken
        cdef int64_t cost = num_bytes + self.record_cost * count
        self.note_cut(at, queue, batch, count)
        if not queue.in_batch:
            self.note_queue(at, batch)
        slot.start += <int32_t>count
        slot.bytes_taken += <int32_t>num_bytes
        batch.records += count
        batch.num_bytes += num_bytes
        batch.cost += cost
        queue.records -= count
        queue.num_bytes -= num_bytes
        lane.queued_records -= count
        lane.queued_bytes -= num_bytes
        ready.records -= count
        ready.num_bytes -= num_bytes
        if slot.start == slot.records:
            self.end_slot(lane, at)
        return cost

    cdef inline void note_cut(
        self, int32_t at, SubQueue* queue, Batch* batch, int64_t count
    ) noexcept nogil:
        """Write the cut down, or lengthen the one of an earlier turn."""
        cdef Slot* slot = &self.slots[queue.head]
        cdef Cut* cut = &self.cuts[slot.cut]
        # Where the slice was cut last may be of an earlier batch, or another's.
        if slot.cut < batch.cuts and cut.slot == queue.head:
            cut.count += <int32_t>count
            return
        slot.cut = batch.cuts
        cut = &self.cuts[batch.cuts]
        cut.slot = queue.head
        cut.at = at
        cut.start = slot.start
        cut.count = <int32_t>count
        batch.cuts += 1

    cdef inline void note_queue(self, int32_t at, Batch* batch) noexcept nogil:
        """Note that the batch takes from this sub-queue, too."""
        self.queues[at].in_batch = True
        self.queues[at].next_in_batch = NONE
        if batch.queues == 0:
            batch.queues_head = at
        else:
            self.queues[batch.queues_tail].next_in_batch = at
        batch.queues_tail = at
        batch.queues += 1

    cdef inline void end_slot(self, Lane* lane, int32_t at) noexcept nogil:
        """Free a slice that was taken; the next one may have another place."""
        cdef SubQueue* queue = &self.queues[at]
        self.pop_slot(queue)
        if queue.records == 0:
            self.leave(lane, at)
            self.release_if_unused(lane, at)
        elif lane.has_deadlines or lane.demote_after_ns != NONE:
            self.leave(lane, at)
            self.enter(lane, at, is_new=False)

    cdef inline void pop_slot(self, SubQueue* queue) noexcept nogil:
        cdef int32_t at = queue.head
        queue.head = self.slots[at].next
        self.free_slot(at)

    # -- Between lanes -------------------------------------------------------

    cdef void share_out(self, uint64_t below) noexcept nogil:
        """Compute the shares of those below the top; only when they changed."""
        cdef int64_t weights = 0
        cdef uint64_t rest = below
        cdef Lane* lane
        if below == self.shared_by:
            return
        self.shared_by = below
        while rest:
            weights += self.lanes[highest(rest)].weight
            rest &= rest - 1
        rest = below
        while rest:
            lane = &self.lanes[highest(rest)]
            lane.share = max(self.floor, (SHARE_ONE - self.cap) * lane.weight // weights)
            rest &= rest - 1

    cdef int choose_lane(self, uint64_t below, int top, const Batch* batch) noexcept nogil:
        """Return the lane that is due and would first be a second batch behind."""
        cdef const Lane* lane
        cdef int index, chosen = top
        cdef int64_t wanted, slack, slack_min = INT64_MAX
        while below:
            index = highest(below)
            below &= below - 1
            lane = &self.lanes[index]
            if lane.credit <= 0:
                continue
            wanted = self.next_cost(index, batch) * SHARE_ONE
            if lane.credit < wanted:
                continue
            # A tiny weight among heavy ones can have a share of 0 and still be due.
            slack = max(2 * wanted - lane.credit, 0) // max(lane.share, 1)
            if slack < slack_min:
                chosen = index
                slack_min = slack
        return chosen

    cdef inline int64_t next_cost(self, int index, const Batch* batch) noexcept nogil:
        """Estimate the cost of the batch that a contender would get now."""
        cdef bint demoted = index == self.lane_count
        cdef Lane* lane = &self.lanes[batch.demoted_lane if demoted else index]
        cdef const Ready* ready = &lane.ready[demoted]
        cdef const SubQueue* queue
        cdef int64_t queues_max = most_queues(ready.queues, batch.seats)
        cdef int64_t records = ready.records
        cdef int64_t num_bytes = ready.num_bytes
        if queues_max == 1:
            queue = &self.queues[self.next_queue(lane, demoted)]
            records = queue.records
            num_bytes = queue.num_bytes
        elif queues_max != NONE:        # so many that are like the mean
            records = records // ready.queues * queues_max
            num_bytes = num_bytes // ready.queues * queues_max
        return expected_cost(
            records,
            num_bytes,
            min(batch.records_max, lane.batch_records),
            batch.bytes_max,
            self.record_cost,
        )

    cdef inline int32_t next_queue(self, Lane* lane, bint demoted) noexcept nogil:
        """Return the sub-queue of which a batch from one of them would be."""
        if demoted:
            return lane.demoted.entries[0].item
        if lane.has_deadlines:
            return lane.due.entries[0].item
        return self.next_turn(lane)

    cdef inline int oldest_demoted(self, uint64_t lanes) noexcept nogil:
        """Return the lane of the oldest demoted slice, of a mask that is not empty."""
        cdef int chosen = highest(lanes)
        lanes &= lanes - 1
        while lanes:
            if heap_before(
                &self.lanes[highest(lanes)].demoted.entries[0],
                &self.lanes[chosen].demoted.entries[0],
            ):
                chosen = highest(lanes)
            lanes &= lanes - 1
        return chosen

    cdef void settle_credit(
        self, uint64_t below, int top, int served, const Batch* batch
    ) noexcept nogil:
        """Let every contender below the top earn its share, and the served one pay."""
        cdef Lane* lane
        cdef int64_t full
        while below:
            lane = &self.lanes[highest(below)]
            below &= below - 1
            full = batch.bytes_max + self.record_cost * min(batch.records_max, lane.batch_records)
            lane.credit = min(lane.credit + lane.share * batch.cost, 2 * full * SHARE_ONE)
        if served == top:
            self.lanes[top].credit = 0
        else:
            self.lanes[served].credit -= batch.cost * SHARE_ONE

    cdef int serve(self, uint64_t lane_mask, Batch* batch) noexcept nogil:
        """Fill the batch and return its lane, NONE if nothing is ready."""
        cdef uint64_t contenders = lane_mask & self.ready
        cdef uint64_t demoted = lane_mask & self.ready_demoted
        cdef int top, served
        if demoted:
            contenders |= bit(self.lane_count)
            batch.demoted_lane = self.oldest_demoted(demoted)
        if contenders == 0:
            return NONE
        top = served = highest(contenders)
        contenders &= contenders - 1
        if contenders:
            self.share_out(contenders)
            served = self.choose_lane(contenders, top, batch)
        cdef int source = self.fill_from(served, batch)
        self.settle_credit(contenders, top, served, batch)
        self.end_batch(&self.lanes[source], batch)
        self.note_ready(source)
        return source

    cdef inline int fill_from(self, int served, Batch* batch) noexcept nogil:
        """Fill the batch from a contender and return the lane of its records."""
        cdef bint demoted = served == self.lane_count
        cdef int source = batch.demoted_lane if demoted else served
        cdef Lane* lane = &self.lanes[source]
        batch.lane_records_max = min(batch.records_max, lane.batch_records)
        batch.queues_max = most_queues(lane.ready[demoted].queues, batch.seats)
        batch.demoted = demoted
        batch.in_order = demoted or lane.has_deadlines
        if demoted:
            self.fill_in_order(lane, &lane.demoted, batch)
        elif lane.has_deadlines:
            self.fill_in_order(lane, &lane.due, batch)
        else:
            self.fill(lane, batch)
        return source

    cdef void end_batch(self, Lane* lane, const Batch* batch) noexcept nogil:
        """Close the sub-queues of an exclusive batch, forget empty ones of another."""
        cdef int32_t at = batch.queues_head
        while at != NONE:
            self.queues[at].in_batch = False
            if batch.exclusive:
                self.close_queue(lane, at)
            else:
                self.release_if_unused(lane, at)
            at = self.queues[at].next_in_batch

    # -- What the caller sees ------------------------------------------------

    cdef inline int check_lane(self, int lane) except -1:
        if not 0 <= lane < self.lane_count:
            raise ValueError(f"lane {lane} does not exist; lanes are 0 to {self.lane_count - 1}")
        return 0

    cdef inline int check_place(self, int lane, int64_t queue) except -1:
        self.check_lane(lane)
        if queue < 0:
            raise ValueError(f"queue is {queue}; it must be >= 0")
        return 0

    # Not binding: a call of the two that are called for every slice is 10 ns cheaper.
    @cython.binding(False)
    def admit(
        self,
        int lane,
        int64_t queue,
        int64_t handle,
        int64_t records,
        int64_t num_bytes,
        int64_t stamp_ns=0,
        int64_t owner=NONE,
        int64_t born_ns=INT64_MAX,
    ):
        """Append a slice at the tail of a sub-queue, which is made on demand.

        Args:
            lane: 0 is the highest.
            queue: Number of the sub-queue, >= 0, for example its partition.
            handle: Number, >= 0, by which results name this slice.
            records: 1 to 2**31 - 1.
            num_bytes: 0 to 2**31 - 1.
            stamp_ns: Its deadline, where the lane has them.
            owner: Whom `drop_owner` knows it by, >= 0; the sub-queue if left out.
            born_ns: When its oldest record was made; never demoted if left out.

        Raises:
            ValueError: A number is out of its range; nothing was admitted.
        """
        self.check_place(lane, queue)
        check_slice(handle, records, num_bytes, owner)
        cdef Lane* to = &self.lanes[lane]
        self.reserve_slot()
        cdef int32_t at = map_get(&to.by_number, queue)
        if at == NONE:
            at = self.make_queue(to, queue)
        cdef Slot* slot = self.append(&self.queues[at], records, num_bytes)
        slot.handle = handle
        slot.stamp_ns = stamp_ns
        slot.born_ns = born_ns
        slot.owner = queue if owner == NONE else owner
        to.queued_records += records
        to.queued_bytes += num_bytes
        if self.queues[at].closed:
            return
        if self.queues[at].records == records:      # it was empty
            self.enter(to, at, is_new=True)
            self.note_ready(lane)
        else:
            to.ready[self.queues[at].demoted].records += records
            to.ready[self.queues[at].demoted].num_bytes += num_bytes

    cdef inline Slot* append(
        self, SubQueue* queue, int64_t records, int64_t num_bytes
    ) noexcept nogil:
        cdef int32_t at = self.fill_slot(queue, records, num_bytes)
        if queue.head == NONE:
            queue.head = at
        else:
            self.slots[queue.tail].next = at
        queue.tail = at
        return &self.slots[at]

    cdef inline int32_t fill_slot(
        self, SubQueue* queue, int64_t records, int64_t num_bytes
    ) noexcept nogil:
        """Return a new slice that nothing points to yet; the sub-queue has it already."""
        cdef int32_t at = self.new_slot()
        cdef Slot* slot = &self.slots[at]
        slot.records = <int32_t>records
        slot.num_bytes = <int32_t>num_bytes
        slot.start = slot.bytes_taken = slot.cut = 0
        slot.next = NONE
        queue.records += records
        queue.num_bytes += num_bytes
        return at

    def put_back(
        self,
        int lane,
        int64_t queue,
        int64_t handle,
        int64_t records,
        int64_t num_bytes,
        int64_t stamp_ns=0,
        int64_t owner=NONE,
        int64_t born_ns=INT64_MAX,
    ):
        """Put a slice before all others of a sub-queue: what `extract` took was not wanted.

        It is not new for that: unless it still has its place, the sub-queue goes to the end
        of the round.  Arguments and errors are those of `admit`.
        """
        self.check_place(lane, queue)
        check_slice(handle, records, num_bytes, owner)
        cdef Lane* to = &self.lanes[lane]
        self.reserve_slot()
        cdef int32_t at = map_get(&to.by_number, queue)
        if at == NONE:
            at = self.make_queue(to, queue)
        cdef SubQueue* its = &self.queues[at]
        if its.records and not its.closed:
            self.leave(to, at)
        cdef int32_t head = self.fill_slot(its, records, num_bytes)
        cdef Slot* slot = &self.slots[head]
        slot.handle = handle
        slot.stamp_ns = stamp_ns
        slot.born_ns = born_ns
        slot.owner = queue if owner == NONE else owner
        slot.next = its.head
        if its.head == NONE:
            its.tail = head
        its.head = head
        to.queued_records += records
        to.queued_bytes += num_bytes
        if not its.closed:
            self.enter(to, at, is_new=False)
            self.note_ready(lane)

    def extract(self, int lane, int64_t queue, int64_t records_max, int64_t bytes_max):
        """Take records from the head of a sub-queue, closed or not, without serving them.

        Nobody is charged for them, and the sub-queue keeps its place and its debt.

        Args:
            lane: 0 is the highest.
            queue: Number of the sub-queue; it may be unknown.
            records_max: Most records, >= 1.
            bytes_max: Most bytes, >= 0, as in `take`: one record is always taken.

        Returns:
            [(handle, start, count), ...], first in first out; empty if nothing waits.
        """
        self.check_place(lane, queue)
        if records_max < 1 or bytes_max < 0:
            raise ValueError(
                f"{records_max} records and {bytes_max} bytes at most cannot be taken out;"
                " records_max must be >= 1 and bytes_max >= 0"
            )
        cdef Lane* its = &self.lanes[lane]
        cdef int32_t at = map_get(&its.by_number, queue)
        cdef list taken = []
        if at == NONE or self.queues[at].records == 0:
            return taken
        cdef bint is_ready = not self.queues[at].closed
        if is_ready:
            self.leave(its, at)
        self.take_out(its, at, records_max, bytes_max, taken)
        if self.queues[at].records == 0:
            self.release_if_unused(its, at)
        elif is_ready:
            self.enter(its, at, is_new=False)
        self.note_ready(lane)
        return taken

    cdef int take_out(
        self, Lane* lane, int32_t at, int64_t records_max, int64_t bytes_max, list taken
    ) except -1:
        """Cut the first records off a sub-queue that is not ready."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Slot* slot
        cdef int64_t count, cut_bytes
        while queue.records and records_max > 0:
            slot = &self.slots[queue.head]
            count = min(records_within_bytes(slot, bytes_max), records_max)
            if not taken:
                count = max(count, 1)
            if count == 0:
                break
            taken.append((slot.handle, slot.start, count))
            cut_bytes = bytes_before(slot, slot.start + count) - slot.bytes_taken
            records_max -= count
            bytes_max -= cut_bytes
            slot.start += <int32_t>count
            slot.bytes_taken += <int32_t>cut_bytes
            queue.records -= count
            queue.num_bytes -= cut_bytes
            lane.queued_records -= count
            lane.queued_bytes -= cut_bytes
            if slot.start == slot.records:
                self.pop_slot(queue)
        return 0

    @cython.binding(False)
    def take(
        self,
        uint64_t lane_mask,
        int64_t records_max,
        int64_t bytes_max,
        *,
        bint exclusive=True,
        bint single_queue=False,
        int64_t now_ns=0,
        int64_t seats=1,
    ):
        """Choose a lane and cut one batch of its ready records.

        Args:
            lane_mask: Bit i is set if lane i may be served.
            records_max: Most records of the batch, >= 1.
            bytes_max: Most bytes, >= 0.  A part of a slice is taken to have its
                proportional part of the bytes; one record is always taken.
            exclusive: Close the sub-queues of the batch until `open`.
            single_queue: Take all records from one sub-queue.
            now_ns: The time that ages are measured to, >= 0.
            seats: How many batches could be started now, this one included, >= 1.  With
                `exclusive` they share the ready sub-queues of the lane: this one takes
                from at most ceil(ready / seats) of them.

        Returns:
            (lane, [(queue, handle, start, count), ...]), each slice once, where
            start counts from the first record of the slice as admitted; None if
            nothing is ready.
        """
        if records_max < 1 or bytes_max < 0:
            raise ValueError(
                f"a batch of {records_max} records and {bytes_max} bytes at most cannot be"
                " cut; records_max must be >= 1 and bytes_max >= 0"
            )
        if seats < 1:
            raise ValueError(f"seats is {seats}; it must be >= 1, this batch has one")
        cdef Batch batch
        memset(&batch, 0, sizeof(Batch))
        batch.records_max = min(records_max, <int64_t>BATCH_RECORDS_MAX)
        batch.bytes_max = min(bytes_max, <int64_t>INT32_MAX)
        batch.exclusive = exclusive
        if single_queue:
            batch.seats = ENDLESS
        else:
            batch.seats = min(seats, <int64_t>ENDLESS) if exclusive else 1
        if self.demoting:
            self.demote(max(now_ns, 0))
        cdef int lane = self.serve(lane_mask, &batch)
        if lane == NONE:
            return None
        return lane, self.cut_list(batch.cuts)

    cdef list cut_list(self, int32_t count):
        """Return the cuts; the slots they name were freed, but not used again yet."""
        cdef list result = PyList_New(count)
        cdef const Cut* cut
        cdef tuple entry
        cdef int32_t index
        for index in range(count):
            cut = &self.cuts[index]
            entry = self.queues[cut.at].number, self.slots[cut.slot].handle, cut.start, cut.count
            Py_INCREF(entry)        # the list takes one, and this function has its own
            PyList_SET_ITEM(result, index, entry)
        return result

    def correct(self, int lane, int64_t queue, int64_t delta_cost):
        """Charge a sub-queue what its records cost beyond the estimate, or give it back.

        It will owe one quantum at most, or gain one beside that of its turn.  If it
        is unknown by now, what it owes is kept and what it has to get is forgotten.
        Does nothing in a lane with deadlines, which has no turns.

        Args:
            lane: 0 is the highest.
            queue: Number of the sub-queue.
            delta_cost: Actual minus estimated cost, in bytes + record_cost * records.
        """
        self.check_place(lane, queue)
        cdef Lane* its = &self.lanes[lane]
        cdef int32_t at = map_get(&its.by_number, queue)
        cdef int64_t deficit
        if its.has_deadlines or delta_cost == 0 or (at == NONE and delta_cost < 0):
            return
        if at == NONE:
            at = self.make_queue(its, queue)
        deficit = self.queues[at].deficit
        if delta_cost > 0:
            # A batch from one sub-queue may have overdrawn it by more already.
            deficit -= min(delta_cost, max(deficit + QUANTUM_COST, 0))
        else:
            deficit += min(-max(delta_cost, -INT64_MAX), 2 * QUANTUM_COST - deficit)
        self.queues[at].deficit = deficit
        if deficit < 0:
            self.join(its, at, is_new=False)

    def set_batch_records(self, int lane, int64_t records_max):
        """Let batches of a lane have so many records at most, whatever `take` allows.

        Args:
            lane: 0 is the highest.
            records_max: >= 1; at first there is no such limit.
        """
        self.check_lane(lane)
        if records_max < 1:
            raise ValueError(f"records_max is {records_max}; it must be >= 1")
        self.lanes[lane].batch_records = min(records_max, <int64_t>BATCH_RECORDS_MAX)

    def open(self, int lane, int64_t queue):
        """Let a closed sub-queue be served again; it goes to the end of the round.

        Does nothing if the sub-queue is open or unknown.
        """
        self.check_place(lane, queue)
        cdef Lane* its = &self.lanes[lane]
        cdef int32_t at = map_get(&its.by_number, queue)
        if at == NONE or not self.queues[at].closed:
            return
        self.queues[at].closed = False
        if self.queues[at].records:
            self.enter(its, at, is_new=False)
            self.note_ready(lane)
        else:
            self.release_if_unused(its, at)

    def close(self, int lane, int64_t queue):
        """Serve nothing of a sub-queue until `open`; it may be unknown yet."""
        self.check_place(lane, queue)
        cdef Lane* its = &self.lanes[lane]
        cdef int32_t at = map_get(&its.by_number, queue)
        if at == NONE:
            at = self.make_queue(its, queue)
        self.close_queue(its, at)
        self.note_ready(lane)

    def drop_queue(self, int64_t queue):
        """Forget what waits under a queue number in every lane, and that it was closed.

        For a partition that was revoked.  Records that were taken before are
        the caller's: it must not `open` this queue for them any more.

        Returns:
            Handles of the slices that still waited, also partly: by lane, then
            first in first out.
        """
        self.check_place(0, queue)
        cdef list handles = []
        cdef int lane
        cdef int32_t at
        for lane in range(self.lane_count):
            at = map_get(&self.lanes[lane].by_number, queue)
            if at != NONE:
                self.close_queue(&self.lanes[lane], at)
                self.drop_slots(at, NONE, handles)
                self.queues[at].closed = False
                self.release_if_unused(&self.lanes[lane], at)
                self.note_ready(lane)
        return handles

    def drop_owner(self, int64_t owner):
        """Forget the waiting slices of one owner, wherever they are: O(all that wait).

        The others keep their order, and closed sub-queues stay closed.

        Returns:
            Handles of the slices that still waited, also partly: by lane, then
            by number of the sub-queue, then first in first out.
        """
        if owner < 0:
            raise ValueError(f"owner is {owner}; it must be >= 0")
        cdef list places = []
        cdef list handles = []
        cdef int lane
        cdef int32_t at
        for at in range(self.queues_used):
            if self.has_slice_of(&self.queues[at], owner):      # none of those free
                places.append((self.queues[at].lane, self.queues[at].number, at))
        for _, _, place in sorted(places):
            self.drop_from(place, owner, handles)
        for lane in range(self.lane_count):
            self.note_ready(lane)
        return handles

    cdef int drop_from(self, int32_t at, int64_t owner, list handles) except -1:
        """Drop an owner's slices from one sub-queue, and give it its place again."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Lane* lane = &self.lanes[queue.lane]
        cdef bint is_ready = not queue.closed
        if is_ready:
            self.leave(lane, at)
        self.drop_slots(at, owner, handles)
        if queue.records == 0:
            self.release_if_unused(lane, at)
        elif is_ready:
            self.enter(lane, at, is_new=False)
        return 0

    cdef inline bint has_slice_of(self, const SubQueue* queue, int64_t owner) noexcept nogil:
        cdef int32_t at = queue.head
        while at != NONE and self.slots[at].owner != owner:
            at = self.slots[at].next
        return at != NONE

    cdef int drop_slots(self, int32_t at, int64_t owner, list handles) except -1:
        """Free the slices of an owner, or all, in a sub-queue that is not ready."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Lane* lane = &self.lanes[queue.lane]
        cdef int32_t here = queue.head
        cdef int32_t next_slot
        cdef Slot* slot
        queue.head = NONE
        while here != NONE:
            slot = &self.slots[here]
            next_slot = slot.next
            if owner == NONE or slot.owner == owner:
                handles.append(slot.handle)
                queue.records -= slot.records - slot.start
                queue.num_bytes -= slot.num_bytes - slot.bytes_taken
                lane.queued_records -= slot.records - slot.start
                lane.queued_bytes -= slot.num_bytes - slot.bytes_taken
                self.free_slot(here)
            else:
                slot.next = NONE
                if queue.head == NONE:
                    queue.head = here
                else:
                    self.slots[queue.tail].next = here
                queue.tail = here
            here = next_slot
        return 0

    def ready_records(self, int lane):
        """Return the records of a lane that wait in open sub-queues, also demoted."""
        self.check_lane(lane)
        return self.lanes[lane].ready[0].records + self.lanes[lane].ready[1].records

    def demoted_records(self, int lane):
        """Return those of its ready records that wait behind the lowest lane."""
        self.check_lane(lane)
        return self.lanes[lane].ready[1].records

    def queued_records(self, int lane):
        """Return all records of a lane that wait, also in closed sub-queues."""
        self.check_lane(lane)
        return self.lanes[lane].queued_records

    def queued_bytes(self, int lane):
        """Return the bytes of all records of a lane that wait."""
        self.check_lane(lane)
        return self.lanes[lane].queued_bytes

    def sub_queues(self, int lane):
        """Return (queue, records, bytes) of each that has records, the costliest first.

        Of those that cost alike the lower number is first.  O(sub-queues of the lane).
        """
        self.check_lane(lane)
        cdef const IntMap* numbers = &self.lanes[lane].by_number
        cdef const SubQueue* queue
        cdef list ranked = []
        cdef int64_t cell
        for cell in range(<int64_t>1 << numbers.bits):
            if numbers.cells[cell].key == MAP_VACANT:
                continue
            queue = &self.queues[numbers.cells[cell].value]
            if queue.records:
                cost = queue.num_bytes + self.record_cost * queue.records
                ranked.append((-cost, queue.number, queue.records, queue.num_bytes))
        ranked.sort()
        return [entry[1:] for entry in ranked]

    def head(self, int lane, int64_t queue):
        """Return (handle, start) of the first record that waits, or None."""
        self.check_place(lane, queue)
        cdef int32_t at = map_get(&self.lanes[lane].by_number, queue)
        if at == NONE or self.queues[at].head == NONE:
            return None
        cdef Slot* slot = &self.slots[self.queues[at].head]
        return slot.handle, slot.start

    def __sizeof__(self):
        """Return all bytes held, also in pools that are not in use."""
        cdef int64_t num_bytes = sizeof(Lane) * LANES_MAX
        cdef const Lane* lane
        cdef int index
        for index in range(self.lane_count):
            lane = &self.lanes[index]
            num_bytes += (<int64_t>1 << lane.by_number.bits) * sizeof(Cell)
            num_bytes += lane.due.capacity * sizeof(HeapEntry)
            num_bytes += (lane.young.capacity + lane.demoted.capacity) * sizeof(HeapEntry)
        num_bytes += self.slots_capacity * (sizeof(Slot) + sizeof(Cut))
        return num_bytes + self.queues_capacity * (sizeof(SubQueue) + 2 * sizeof(int32_t))

    def ready_lanes(self):
        """Return a mask: bit i is set while lane i has ready records, also demoted."""
        return self.ready | self.ready_demoted


cdef inline int check_slice(
    int64_t handle, int64_t records, int64_t num_bytes, int64_t owner
) except -1:
    if handle < 0:
        raise ValueError(f"handle is {handle}; it must be >= 0")
    if not 1 <= records <= INT32_MAX:
        raise ValueError(f"a slice of {records} records; it must have 1 to 2**31 - 1")
    if not 0 <= num_bytes <= INT32_MAX:
        raise ValueError(f"a slice of {num_bytes} bytes; it must have 0 to 2**31 - 1")
    if owner < NONE:
        raise ValueError(f"owner is {owner}; it must be >= 0")
    return 0


cdef list one_a_lane(str name, values, int lane_count, default):
    """Return an option as a list with one value a lane."""
    if values is None:
        return [default] * max(lane_count, 0)
    values = list(values)
    if len(values) != lane_count:
        raise ValueError(f"{len(values)} {name} for {lane_count} lanes; give one a lane")
    return values


cdef int check_options(
    int lane_count, int contender_count, list weights, double cap, double floor, int64_t record_cost
) except -1:
    if not 1 <= lane_count or contender_count > LANES_MAX:
        raise ValueError(
            f"lane_count is {lane_count}; it must be 1 to {LANES_MAX}, one less if a lane demotes"
        )
    for weight in weights:
        if not 1 <= weight <= 65536:
            raise ValueError(f"a weight is {weight}; weights are whole numbers, 1 to 65536")
    if not 0.0 <= cap <= 1.0 or not 0.0 <= floor <= 1.0:
        raise ValueError(f"cap is {cap} and floor {floor}; both must be 0 to 1")
    if not 1 <= record_cost <= RECORD_COST_MAX:
        raise ValueError(f"record_cost is {record_cost}; it must be 1 to {RECORD_COST_MAX}")
    # All below the top may be at the floor or above, and the top keeps its own.
    cdef double room = min(cap, 1.0 - floor)
    if (contender_count - 1) * floor > room + 1.0 / SHARE_ONE:
        raise ValueError(
            f"floors of {floor} for {contender_count} lanes do not fit beside a cap of {cap};"
            f" with this many lanes floor may be at most {room / (contender_count - 1):.3f}"
        )
    return 0
