"""Choose the records that go next to one agent.

    lane 0  ─ sub-queue 7: slice, slice, slice     strict priority under a cap,
            └ sub-queue 9: slice                   floors and weights below it
    lane 1  ─ sub-queue 7: slice, slice            inside a lane: deficit round
            └ ...                                  robin, first in first out

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
record (by the batch, if the batch has to come from one sub-queue).  A sub-queue
that is the only ready one is neither limited nor charged.  Two sub-queues that
stay ready differ by at most one quantum and one such overdraft.

Bound: 96 bytes a waiting slice, about 100 a sub-queue that waits or is closed, in
pools that double and are kept.
Thread-safety: one owner thread, no locks.
Cost: O(lanes) to choose a lane, then amortised O(slices + cost / quantum) a batch,
whatever the number of sub-queues.
Budget: admit + take <= 300 ns, flat to 1000 sub-queues (benchmarks/bench_scheduler.py).
Source: Shreedhar and Varghese 1996, section 3 (deficit round robin); RFC 8290,
section 4.2 (new queues first); Liu and Layland 1973, section 7 (deadlines).
"""
cimport cython
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from includes.int_map cimport (
    MAP_BITS_MIN, IntMap, map_allocate, map_get, map_put, map_remove, map_reserve
)

cdef enum:
    NONE = -1                       # no slot, no sub-queue
    LANES_MAX = 64                  # one bit a lane in a mask
    QUANTUM_COST = 65536            # 64 KiB: one turn is a few hundred small records
    # Shares and credits are whole millionths, so that results are equal on every
    # processor.  The limits below keep two full batches of them within 63 bits.
    SHARE_ONE = 1000000
    RECORD_COST_MAX = 1 << 16
    BATCH_RECORDS_MAX = 1 << 24
    POOL_START = 64                 # slots or sub-queues of the first allocation


cdef struct Slot:                   # a slice that waits, linked to the next of its sub-queue
    int64_t handle
    int64_t records                 # of the slice as admitted
    int64_t num_bytes               # of the slice as admitted
    int64_t start                   # the first record that still waits
    int64_t bytes_taken             # of the records before it
    int64_t batch                   # number of the batch that cut it last ...
    int32_t cut                     # ... and the cut in it
    int32_t next


cdef struct SubQueue:
    int64_t number
    int64_t records                 # waiting
    int64_t num_bytes
    int64_t deficit                 # cost it may still take in its turn
    int32_t head                    # slots
    int32_t tail
    int32_t next                    # sub-queue, in a ring or in the free list
    bint closed
    bint linked                     # in a ring


cdef struct Ring:                   # sub-queues that wait for their turn
    int32_t head
    int32_t tail


cdef struct Lane:
    int64_t weight
    int64_t share                   # in SHARE_ONE of the service, among `shared_by`
    int64_t credit                  # in cost * SHARE_ONE
    int64_t queued_records
    int64_t queued_bytes
    int64_t ready_records           # in open sub-queues
    int64_t ready_bytes
    int64_t ready_queues            # open and not empty
    Ring fresh                      # first turn since they became non-empty
    Ring old
    IntMap by_number


cdef struct Cut:                    # one entry of a batch
    int64_t queue
    int64_t handle
    int64_t start
    int64_t count
    int32_t at                      # index of the sub-queue


cdef struct Batch:
    int64_t number
    int64_t records_max
    int64_t bytes_max
    int64_t records
    int64_t num_bytes
    int64_t cost
    int32_t cuts
    bint single_queue


cdef inline uint64_t bit(int lane) noexcept nogil:
    return <uint64_t>1 << lane


cdef inline int highest(uint64_t lanes) noexcept nogil:
    """Return the first lane of a mask that is not empty."""
    cdef int index = 0
    while not lanes & bit(index):
        index += 1
    return index


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
    int64_t records, int64_t num_bytes, const Batch* batch, int64_t record_cost
) noexcept nogil:
    """Estimate the cost of the batch that these waiting records would give."""
    cdef int64_t mean_bytes = num_bytes // records
    cdef int64_t count = min(records, batch.records_max)
    if mean_bytes * count > batch.bytes_max:
        count = max(batch.bytes_max // mean_bytes, 1)
    return count * (mean_bytes + record_cost)


cdef inline void push(Ring* ring, SubQueue* queues, int32_t at) noexcept nogil:
    queues[at].next = NONE
    if ring.head == NONE:
        ring.head = at
    else:
        queues[ring.tail].next = at
    ring.tail = at


cdef inline int32_t pop(Ring* ring, const SubQueue* queues) noexcept nogil:
    cdef int32_t at = ring.head
    ring.head = queues[at].next
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
        lane_count: 1 to 64.
        weights: One whole number from 1 to 65536 a lane; all equal if None.
        cap: Share of the service up to which the top lane is strictly first, 0..1.
            1 with floor 0 is strict priority without an end.
        floor: Share that every ready lane gets at least.
        record_cost: Cost of a record beside its bytes, 1 to 65536.

    Raises:
        ValueError: A number is out of its range, or the floors do not fit.
    """

    cdef:
        # Fixed by the constructor.
        Lane lanes[LANES_MAX]
        int lane_count
        int64_t cap
        int64_t floor
        int64_t record_cost
        # Bit i is set while lane i has ready records.
        uint64_t ready
        # The contenders that the lanes' shares were computed for.
        uint64_t shared_by
        int64_t batch_number
        # Pools: `used` entries were handed out once, the free ones are linked.
        # A slice is at most once in a batch, so there is one cut a slot.
        Slot* slots
        Cut* cuts
        int32_t slots_capacity
        int32_t slots_used
        int32_t slots_free
        SubQueue* queues
        int32_t queues_capacity
        int32_t queues_used
        int32_t queues_free

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
    ):
        if self.lane_count:
            raise ValueError("a scheduler is constructed once; make a new one")
        weights = [1] * max(lane_count, 0) if weights is None else list(weights)
        check_options(lane_count, weights, cap, floor, record_cost)
        self.cap = round(cap * SHARE_ONE)
        self.floor = round(floor * SHARE_ONE)
        self.record_cost = record_cost
        for index in range(lane_count):
            self.prepare_lane(&self.lanes[index], weights[index])
        self.lane_count = lane_count

    def __dealloc__(self):
        cdef int index
        for index in range(LANES_MAX):
            free(self.lanes[index].by_number.cells)
        free(self.slots)
        free(self.cuts)
        free(self.queues)

    # -- Pools ---------------------------------------------------------------

    cdef int prepare_lane(self, Lane* lane, int64_t weight) except -1:
        lane.weight = weight
        lane.fresh.head = lane.old.head = NONE
        return map_allocate(&lane.by_number, MAP_BITS_MIN)

    cdef int reserve_slot(self) except -1:
        """Make sure that one more slice fits; nothing after it can fail."""
        if self.slots_free != NONE or self.slots_used < self.slots_capacity:
            return 0
        cdef int64_t wanted = max(POOL_START, <int64_t>self.slots_capacity * 2)
        if wanted > INT32_MAX:
            raise MemoryError("more than 2**30 slices wait; pause the intake")
        grow(<void**>&self.slots, wanted, sizeof(Slot))
        grow(<void**>&self.cuts, wanted, sizeof(Cut))
        self.slots_capacity = <int32_t>wanted
        return 0

    cdef int reserve_queue(self) except -1:
        """Make sure that one more sub-queue fits."""
        if self.queues_free != NONE or self.queues_used < self.queues_capacity:
            return 0
        cdef int64_t wanted = max(POOL_START, <int64_t>self.queues_capacity * 2)
        if wanted > INT32_MAX:
            raise MemoryError("more than 2**30 sub-queues wait; use fewer keys")
        grow(<void**>&self.queues, wanted, sizeof(SubQueue))
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
        self.reserve_queue()
        map_reserve(&lane.by_number)
        at = self.queues_free
        if at != NONE:
            self.queues_free = self.queues[at].next
        else:
            at = self.queues_used
            self.queues_used += 1
        memset(&self.queues[at], 0, sizeof(SubQueue))
        self.queues[at].number = number
        self.queues[at].head = NONE
        map_put(&lane.by_number, number, at)
        return at

    cdef inline void release_if_unused(self, Lane* lane, int32_t at) noexcept nogil:
        """Forget a sub-queue that says nothing: open, empty and without a turn."""
        cdef SubQueue* queue = &self.queues[at]
        if queue.closed or queue.linked or queue.records:
            return
        map_remove(&lane.by_number, queue.number)
        queue.next = self.queues_free
        self.queues_free = at

    # -- What is ready -------------------------------------------------------

    cdef inline void count_ready(self, Lane* lane, const SubQueue* queue, int sign) noexcept nogil:
        """Add an open sub-queue with records to what is ready, or take it away."""
        lane.ready_records += sign * queue.records
        lane.ready_bytes += sign * queue.num_bytes
        lane.ready_queues += sign

    cdef inline void note_ready(self, int index) noexcept nogil:
        """Renew the lane's bit; a lane without ready records loses its credit."""
        if self.lanes[index].ready_queues:
            self.ready |= bit(index)
        else:
            self.ready &= ~bit(index)
            self.lanes[index].credit = 0

    cdef inline void close_queue(self, Lane* lane, SubQueue* queue) noexcept nogil:
        if queue.records and not queue.closed:
            self.count_ready(lane, queue, -1)
        queue.closed = True

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

    cdef int32_t next_turn(self, Lane* lane) noexcept nogil:
        """Return the sub-queue whose turn it is; the lane has a ready one.

        Those that closed or ran empty leave here, not when it happened, so that
        no list has to be searched.  A new one goes once through the old ring
        first: it would be new again too soon if it came back at once.
        """
        cdef Ring* ring
        cdef SubQueue* queue
        cdef int32_t at
        while True:
            ring = &lane.fresh if lane.fresh.head != NONE else &lane.old
            at = ring.head
            queue = &self.queues[at]
            if queue.records and not queue.closed:
                if queue.deficit > 0:
                    return at
                queue.deficit += QUANTUM_COST
            elif ring == &lane.old:
                pop(ring, self.queues)
                queue.linked = False
                self.release_if_unused(lane, at)
                continue
            push(&lane.old, self.queues, pop(ring, self.queues))

    cdef void fill(self, Lane* lane, Batch* batch) noexcept nogil:
        """Take turns until the batch is full or nothing is ready."""
        cdef int32_t at
        cdef int64_t limit, cost
        cdef bint alone
        while lane.ready_queues and batch.records < batch.records_max:
            at = self.next_turn(lane)
            alone = lane.ready_queues == 1
            limit = INT64_MAX if alone or batch.single_queue else self.queues[at].deficit
            cost = self.take_turn(lane, at, batch, limit)
            if not alone:
                self.queues[at].deficit -= cost
            if cost == 0 or batch.single_queue:
                return

    cdef int64_t take_turn(
        self, Lane* lane, int32_t at, Batch* batch, int64_t limit
    ) noexcept nogil:
        """Cut records worth `limit` off one sub-queue and return their cost."""
        cdef SubQueue* queue = &self.queues[at]
        cdef int64_t count, cost = 0
        while queue.records and cost < limit:
            count = self.cut_size(&self.slots[queue.head], batch, limit - cost)
            if count == 0:
                break
            cost += self.cut(lane, at, batch, count)
        return cost

    cdef inline int64_t cut_size(
        self, const Slot* slot, const Batch* batch, int64_t limit
    ) noexcept nogil:
        """Return how many records of a slice come next; 0 if the batch is full."""
        cdef int64_t count = records_within_bytes(slot, batch.bytes_max - batch.num_bytes)
        if batch.records == 0:
            count = max(count, 1)
        count = min(count, records_within_cost(slot, limit, self.record_cost))
        return min(count, batch.records_max - batch.records)

    cdef int64_t cut(self, Lane* lane, int32_t at, Batch* batch, int64_t count) noexcept nogil:
        """Move the first waiting records of a sub-queue to the batch."""
        cdef SubQueue* queue = &self.queues[at]
        cdef Slot* slot = &self.slots[queue.head]
        cdef int64_t num_bytes = bytes_before(slot, slot.start + count) - slot.bytes_taken
        cdef int64_t cost = num_bytes + self.record_cost * count
        self.note_cut(at, slot, batch, count)
        slot.start += count
        slot.bytes_taken += num_bytes
        batch.records += count
        batch.num_bytes += num_bytes
        batch.cost += cost
        queue.records -= count
        queue.num_bytes -= num_bytes
        lane.queued_records -= count
        lane.queued_bytes -= num_bytes
        lane.ready_records -= count
        lane.ready_bytes -= num_bytes
        if queue.records == 0:
            lane.ready_queues -= 1
        if slot.start == slot.records:
            self.pop_slot(queue)
        return cost

    cdef inline void note_cut(
        self, int32_t at, Slot* slot, Batch* batch, int64_t count
    ) noexcept nogil:
        """Write the cut down, or lengthen the one of an earlier turn."""
        cdef Cut* cut
        if slot.batch == batch.number:
            self.cuts[slot.cut].count += count
            return
        slot.batch = batch.number
        slot.cut = batch.cuts
        cut = &self.cuts[batch.cuts]
        cut.queue = self.queues[at].number
        cut.handle = slot.handle
        cut.start = slot.start
        cut.count = count
        cut.at = at
        batch.cuts += 1

    cdef inline void pop_slot(self, SubQueue* queue) noexcept nogil:
        cdef int32_t at = queue.head
        queue.head = self.slots[at].next
        self.free_slot(at)

    # -- Between lanes -------------------------------------------------------

    cdef void share_out(self, uint64_t contenders, int top) noexcept nogil:
        """Compute the shares below the top; only when the contenders changed."""
        cdef int64_t weights = 0
        cdef int index
        if contenders == self.shared_by:
            return
        self.shared_by = contenders
        for index in range(top + 1, self.lane_count):
            if contenders & bit(index):
                weights += self.lanes[index].weight
        for index in range(top + 1, self.lane_count):
            if contenders & bit(index):
                self.lanes[index].share = max(
                    self.floor, (SHARE_ONE - self.cap) * self.lanes[index].weight // weights
                )

    cdef int choose_lane(self, uint64_t contenders, int top, const Batch* batch) noexcept nogil:
        """Return the lane that is due and would first be a second batch behind."""
        cdef Lane* lane
        cdef int index, chosen = top
        cdef int64_t wanted, slack, slack_min = INT64_MAX
        for index in range(top + 1, self.lane_count):
            lane = &self.lanes[index]
            if not contenders & bit(index) or lane.credit <= 0:
                continue
            wanted = self.next_cost(lane, batch) * SHARE_ONE
            if lane.credit < wanted:
                continue
            # A tiny weight among heavy ones can have a share of 0 and still be due.
            slack = max(2 * wanted - lane.credit, 0) // max(lane.share, 1)
            if slack < slack_min:
                chosen = index
                slack_min = slack
        return chosen

    cdef inline int64_t next_cost(self, Lane* lane, const Batch* batch) noexcept nogil:
        """Estimate the cost of the batch that a lane would get now."""
        cdef SubQueue* queue
        if not batch.single_queue:
            return expected_cost(lane.ready_records, lane.ready_bytes, batch, self.record_cost)
        queue = &self.queues[self.next_turn(lane)]
        return expected_cost(queue.records, queue.num_bytes, batch, self.record_cost)

    cdef void settle_credit(
        self, uint64_t contenders, int top, int served, const Batch* batch
    ) noexcept nogil:
        """Let every lane below the top earn its share, and the served one pay."""
        cdef int64_t full = batch.bytes_max + self.record_cost * batch.records_max
        cdef Lane* lane
        cdef int index
        for index in range(top + 1, self.lane_count):
            if contenders & bit(index):
                lane = &self.lanes[index]
                lane.credit = min(
                    lane.credit + lane.share * batch.cost, 2 * full * SHARE_ONE
                )
        if served == top:
            self.lanes[top].credit = 0
        else:
            self.lanes[served].credit -= batch.cost * SHARE_ONE

    cdef int serve(self, uint64_t contenders, Batch* batch, bint exclusive) noexcept nogil:
        """Fill the batch and return its lane; there is at least one contender."""
        cdef int top = highest(contenders)
        cdef int served = top
        cdef int32_t index
        if contenders != bit(top):
            self.share_out(contenders, top)
            served = self.choose_lane(contenders, top, batch)
        cdef Lane* lane = &self.lanes[served]
        self.fill(lane, batch)
        self.settle_credit(contenders, top, served, batch)
        if exclusive:
            for index in range(batch.cuts):
                self.close_queue(lane, &self.queues[self.cuts[index].at])
        self.note_ready(served)
        return served

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

    def admit(self, int lane, int64_t queue, int64_t handle, int64_t records, int64_t num_bytes):
        """Append a slice at the tail of a sub-queue, which is made on demand.

        Args:
            lane: 0 is the highest.
            queue: Number of the sub-queue, >= 0, for example its partition.
            handle: Number, >= 0, by which results name this slice.
            records: 1 to 2**31 - 1.
            num_bytes: 0 to 2**31 - 1.

        Raises:
            ValueError: A number is out of its range; nothing was admitted.
        """
        self.check_place(lane, queue)
        check_slice(handle, records, num_bytes)
        cdef Lane* to = &self.lanes[lane]
        self.reserve_slot()
        cdef int32_t at = map_get(&to.by_number, queue)
        if at == NONE:
            at = self.make_queue(to, queue)
        self.append(&self.queues[at], handle, records, num_bytes)
        to.queued_records += records
        to.queued_bytes += num_bytes
        if not self.queues[at].closed:
            to.ready_records += records
            to.ready_bytes += num_bytes
            to.ready_queues += self.queues[at].records == records
            self.join(to, at, is_new=True)
            self.note_ready(lane)

    cdef inline void append(
        self, SubQueue* queue, int64_t handle, int64_t records, int64_t num_bytes
    ) noexcept nogil:
        cdef int32_t at = self.new_slot()
        cdef Slot* slot = &self.slots[at]
        memset(slot, 0, sizeof(Slot))
        slot.handle = handle
        slot.records = records
        slot.num_bytes = num_bytes
        slot.next = NONE
        if queue.head == NONE:
            queue.head = at
        else:
            self.slots[queue.tail].next = at
        queue.tail = at
        queue.records += records
        queue.num_bytes += num_bytes

    def take(
        self,
        uint64_t lane_mask,
        int64_t records_max,
        int64_t bytes_max,
        *,
        bint exclusive=True,
        bint single_queue=False,
    ):
        """Choose a lane and cut one batch of its ready records.

        Args:
            lane_mask: Bit i is set if lane i may be served.
            records_max: Most records of the batch, >= 1.
            bytes_max: Most bytes, >= 0.  A part of a slice is taken to have its
                proportional part of the bytes; one record is always taken.
            exclusive: Close the sub-queues of the batch until `open`.
            single_queue: Take all records from one sub-queue.

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
        cdef uint64_t contenders = lane_mask & self.ready
        if contenders == 0:
            return None
        cdef Batch batch
        memset(&batch, 0, sizeof(Batch))
        self.batch_number += 1
        batch.number = self.batch_number
        batch.records_max = min(records_max, <int64_t>BATCH_RECORDS_MAX)
        batch.bytes_max = min(bytes_max, <int64_t>INT32_MAX)
        batch.single_queue = single_queue
        cdef int lane = self.serve(contenders, &batch, exclusive)
        return lane, self.cut_list(batch.cuts)

    cdef list cut_list(self, int32_t count):
        cdef list result = []
        cdef Cut* cut
        cdef int32_t index
        for index in range(count):
            cut = &self.cuts[index]
            result.append((cut.queue, cut.handle, cut.start, cut.count))
        return result

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
            self.count_ready(its, &self.queues[at], 1)
            self.join(its, at, is_new=False)
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
        self.close_queue(its, &self.queues[at])
        self.note_ready(lane)

    def drop_queue(self, int64_t queue):
        """Forget a queue number in every lane, and that it was closed.

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
                self.empty_queue(&self.lanes[lane], at, handles)
                self.note_ready(lane)
        return handles

    cdef int empty_queue(self, Lane* lane, int32_t at, list handles) except -1:
        """Add the waiting handles to a list; the sub-queue is open and empty then."""
        cdef SubQueue* queue = &self.queues[at]
        self.close_queue(lane, queue)
        while queue.head != NONE:
            handles.append(self.slots[queue.head].handle)
            self.pop_slot(queue)
        lane.queued_records -= queue.records
        lane.queued_bytes -= queue.num_bytes
        queue.records = queue.num_bytes = 0
        queue.closed = False
        self.release_if_unused(lane, at)
        return 0

    def ready_records(self, int lane):
        """Return the records of a lane that wait in open sub-queues."""
        self.check_lane(lane)
        return self.lanes[lane].ready_records

    def queued_records(self, int lane):
        """Return all records of a lane that wait, also in closed sub-queues."""
        self.check_lane(lane)
        return self.lanes[lane].queued_records

    def queued_bytes(self, int lane):
        """Return the bytes of all records of a lane that wait."""
        self.check_lane(lane)
        return self.lanes[lane].queued_bytes

    def head(self, int lane, int64_t queue):
        """Return (handle, start) of the first record that waits, or None."""
        self.check_place(lane, queue)
        cdef int32_t at = map_get(&self.lanes[lane].by_number, queue)
        if at == NONE or self.queues[at].head == NONE:
            return None
        cdef Slot* slot = &self.slots[self.queues[at].head]
        return slot.handle, slot.start

    def ready_lanes(self):
        """Return a mask: bit i is set while lane i has ready records."""
        return self.ready


cdef inline int check_slice(int64_t handle, int64_t records, int64_t num_bytes) except -1:
    if handle < 0:
        raise ValueError(f"handle is {handle}; it must be >= 0")
    if not 1 <= records <= INT32_MAX:
        raise ValueError(f"a slice of {records} records; it must have 1 to 2**31 - 1")
    if not 0 <= num_bytes <= INT32_MAX:
        raise ValueError(f"a slice of {num_bytes} bytes; it must have 0 to 2**31 - 1")
    return 0


cdef int check_options(
    int lane_count, list weights, double cap, double floor, int64_t record_cost
) except -1:
    if not 1 <= lane_count <= LANES_MAX:
        raise ValueError(f"lane_count is {lane_count}; it must be 1 to {LANES_MAX}")
    if len(weights) != lane_count:
        raise ValueError(f"{len(weights)} weights for {lane_count} lanes; give one a lane")
    for weight in weights:
        if not 1 <= weight <= 65536:
            raise ValueError(f"a weight is {weight}; weights are whole numbers, 1 to 65536")
    if not 0.0 <= cap <= 1.0 or not 0.0 <= floor <= 1.0:
        raise ValueError(f"cap is {cap} and floor {floor}; both must be 0 to 1")
    if not 1 <= record_cost <= RECORD_COST_MAX:
        raise ValueError(f"record_cost is {record_cost}; it must be 1 to {RECORD_COST_MAX}")
    # All lanes below the top may be at the floor or above, and the top keeps its own.
    cdef double room = min(cap, 1.0 - floor)
    if (lane_count - 1) * floor > room + 1.0 / SHARE_ONE:
        raise ValueError(
            f"floors of {floor} for {lane_count} lanes do not fit beside a cap of {cap};"
            f" with this many lanes floor may be at most {room / (lane_count - 1):.3f}"
        )
    return 0
