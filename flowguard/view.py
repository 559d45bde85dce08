"""One agent's view of its feed: what waits for it, what it has, and what it may get next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from flowguard._native.scheduler import Scheduler
from flowguard.backlog import FLOW_QUEUES, Backlog
from flowguard.chunk import NO_FLOW, Chunk, Slice
from flowguard.closures import Closures
from flowguard.commands import Cut
from flowguard.control.decision import Decision, DecisionLog
from flowguard.control.limit import Outcome
from flowguard.control.rate import RateLimit
from flowguard.dispatch.batch_sizes import BatchSizes
from flowguard.dispatch.concurrency import Adaptive
from flowguard.holdings import Flight, Part, Partition
from flowguard.lanes.lane_set import LaneSet
from flowguard.parting import divide, pick
from flowguard.precedence import Precedence
from flowguard.queue_waits import QueueWaits
from flowguard.seats import Seats
from flowguard.serving import Serving
from flowguard.settle.ledger import LaneLedger
from flowguard.settle.letter_limit import DeadLetters, LetterLimit
from flowguard.settle.retry import Retry, RetryQueue

__all__ = ["SKEW_RECORDS", "AgentPlan", "View"]

#: The highest ready lane gets this share of the work of an agent that has no time left,
#: and every other at least this floor; the floors of many lanes shrink to fit beside it.
CAP: Final = 0.8
FLOOR: Final = 0.05

#: Where both a retry that is due and new records could be started, the one that would wait
#: for the other gets every so manieth start: the same share that `CAP` leaves to lower lanes.
PASSED_OVER_MAX: Final = round(1 / (1 - CAP)) - 1

#: Batches of one lane that wait for acknowledgement, for each seat of the agent. Dead letters
#: are gathered for 50 ms, in which an agent can be done with dozens of batches; what output they
#: may hold is bounded by memory.
UNSETTLED_PER_SEAT: Final = 64

#: The loop that decides how large batches are.
BATCH_SIZE: Final = "batch-size"

#: How far a lane of a partition may run ahead of its own oldest unfinished record, where
#: order allows it: what a crash may repeat.
SKEW_RECORDS: Final = 65_536

#: What a record costs in the scheduler beside its bytes.
RECORD_COST: Final = 256

#: Weight of the last batch in what a unit of cost takes on average.
MEAN_SHARE: Final = 1 / 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """What the engine must know of an agent.

    Args:
        name: Unique in the app.
        topics: The topics of its feed.
        seats: Most batches at once, >= 1.
        adaptive: How many of them may be under way is learnt; None if it is fixed.
        records_max: Most records a batch.
        linger_ns: Longest wait of a lane without a target for a batch to fill.
        by_partition: A batch has records of one partition only.
        order: What may not be reordered inside a lane. Unless it is none, a sub-queue goes
            on only when its last batch came back; if that failed, when it is settled.
        fallback_on: On which occasions its fallback serves a batch: `brownout`, `failure`,
            `deadline`. Empty if it has none.
        retries: How often a record that fails is tried.
        dead_letters: How many dead letters there may be.
    """

    name: str
    topics: frozenset[str]
    seats: int = 1
    adaptive: Adaptive | None = None
    records_max: int = 4096
    linger_ns: int = 0
    by_partition: bool = False
    order: Literal["partition", "key", "none"] = "partition"
    fallback_on: frozenset[str] = frozenset()
    retries: Retry = field(default_factory=Retry)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)


class View:
    """The records of one agent, and its seats.

    Args:
        rates: By lane, the worker's limit or None; shared by the views of all agents.
        bytes_max: Where a batch of large records is cut.
        skew_records: How far a lane of a partition may run ahead of its own oldest record.
        decisions: Where the steps of control loops are kept.
        shadow: Control loops that only say what they would do.
        chance: Returns a number, 0..1, for the jitter of probes.
    """

    def __init__(
        self,
        plan: AgentPlan,
        lanes: LaneSet,
        *,
        rates: Sequence[RateLimit | None],
        bytes_max: int,
        skew_records: int = SKEW_RECORDS,
        decisions: DecisionLog | None = None,
        shadow: frozenset[str] = frozenset(),
        chance: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.plan = plan
        self.lanes = lanes
        self.scheduler = Scheduler(
            len(lanes),
            weights=[lane.weight for lane in lanes],
            floor=min(FLOOR, (1 - CAP) / max(1, len(lanes) - 1)),
            cap=CAP,
            record_cost=RECORD_COST,
            deadlines=[lane.target_ns is not None and lane.fair_by is None for lane in lanes],
            demote_after_ns=[lane.demote_after_ns for lane in lanes],
        )
        self.decisions = DecisionLog() if decisions is None else decisions
        self.shadow = shadow
        self.seats = Seats(plan, lanes, decisions=self.decisions, shadow=shadow)
        self.sizes = BatchSizes(plan.records_max, lanes, self.seats.always_reserved)
        self.retries = RetryQueue()
        self.letters = LetterLimit(plan.dead_letters.max_ratio)
        self.served = 0  # batches that were settled
        self.failed_in_row = 0  # since then
        self._unburied: set[Flight] = set()  # whose dead letters were not acknowledged
        self.flights: dict[int, Flight] = {}
        self.backlog = Backlog(
            self.scheduler,
            lanes,
            queue_of=self._queue_of,
            in_order=plan.order == "partition",
            skew_records=skew_records,
        )
        self.diversions: list[Flight] = []  # on their way to another topic
        self.seats_by_lane = [0] * len(lanes)
        self.waiting_since_ns: list[int | None] = [None] * len(lanes)
        self.service_ns = 0.0
        self._ns_per_cost = 0.0
        self._ordered = plan.order != "none"
        self._rates = rates
        self._size_batches(self.sizes.of_lanes)
        self._bytes_max = bytes_max
        self._unsettled_by_lane = [0] * len(lanes)
        self._closures = Closures(self.scheduler, self.flights, ordered=self._ordered)
        self.precedence = Precedence(
            self.flights, self.retries, self._closures, ordered=self._ordered
        )
        self._revoking: set[Partition] = set()
        self._has_target = False  # it has had records of a lane with a target
        self.waits = QueueWaits(lanes, self.backlog.waiting, self._closures.counts)
        self.serving = Serving(
            plan.fallback_on,
            [lane.target_ns for lane in lanes],
            retries=plan.retries,
            chance=chance,
        )
        self._flow_lanes = 0  # bits of lanes that queue by flow
        self._passed_over = 0
        self._fair = any(lane.fair_by is not None for lane in lanes)

    # What comes in.

    def admit(
        self, partition: Partition, ledger: LaneLedger, chunks: Iterable[Chunk], ordinal: int,
        now_ns: int,
    ) -> None:  # fmt: skip
        """Take in one block of a lane's records; several chunks of it differ in their flow.

        Args:
            ordinal: How many records of the lane were read before it.
        """
        chunks = tuple(chunks)
        lane = chunks[0].lane
        if self.lanes[lane].target_ns is not None and not self._has_target:
            self._has_target = True
            self.sizes.common.bulk_factor = 1.0
        if self.waiting_since_ns[lane] is None:
            self.waiting_since_ns[lane] = now_ns
        self.backlog.admit(partition, ledger, chunks, ordinal)

    def _queue_of(self, chunk: Chunk, partition: Partition) -> int:
        if chunk.flow == NO_FLOW or self.plan.by_partition:
            return partition.number
        self._flow_lanes |= 1 << chunk.lane
        return FLOW_QUEUES + chunk.flow

    # What may be started.

    @property
    def seats_free(self) -> int:
        """Return how many batches may be started now."""
        return self.seats.limit - sum(self.seats_by_lane)

    def next_flight(self, now_ns: int) -> Flight | None:
        """Return what is started next: of a retry and new records the higher lane, in turn.

        While something is missing the retry is first, in turn as well: what fails may be to
        blame itself, and then only something else can show that nothing is missing.
        """
        if (passing := self._next_passing(now_ns)) is not None:
            return passing
        if not self.serving.is_open(now_ns):
            return None
        mask = self._lane_mask(now_ns)
        retry = self._next_retry(now_ns)
        if retry is None:
            return self._next_cut(mask, now_ns)
        if mask == 0:
            return self._retry(retry)
        higher_is_new = not self.serving.is_shut and mask & ((1 << retry.lane) - 1) != 0
        self._passed_over += 1
        if self._passed_over > PASSED_OVER_MAX:
            self._passed_over = 0
            higher_is_new = not higher_is_new
        return self._next_cut(mask, now_ns) if higher_is_new else self._retry(retry)

    def _next_passing(self, now_ns: int) -> Flight | None:
        """Return what is tried right behind a record that has failed as often as it may.

        It is part of the same probe, if something is taken to be missing.
        """
        if not self.precedence.exhausted:
            return None
        for cut in self.retries.due(now_ns):
            if self.flights[cut.batch_id].passing and self._may_retry(cut):
                return self._retry(cut)
        if self.precedence.new_may_pass():
            return self._next_cut(self._lane_mask(now_ns), now_ns)
        return None

    def _lane_mask(self, now_ns: int) -> int:
        """Return the lanes that may have a seat now, as bits."""
        mask = 0
        ready = self._ready_lanes()
        for rank in range(len(self.lanes)):
            if not ready >> rank & 1:
                self.waiting_since_ns[rank] = None
            elif (
                self._may_sit(rank)
                and not self._lingers(rank, now_ns)
                and self._rate_allows(rank, now_ns)
            ):
                mask |= 1 << rank
        return mask

    def _ready_lanes(self) -> int:
        """Return the lanes with records that may be started.

        Flows hold records of many partitions; while one of those may go away, nothing of
        them is started.
        """
        ready = self.scheduler.ready_lanes()
        return ready & ~self._flow_lanes if self._revoking else ready

    def _may_sit(self, rank: int) -> bool:
        """Tell whether a seat is left that no other lane has reserved.

        A seat is free as soon as the agent came back, but what it sent may not be
        acknowledged yet; the bound on such batches bounds the output held in memory.
        """
        if self._unsettled_by_lane[rank] >= UNSETTLED_PER_SEAT * self.seats.limit:
            return False
        kept = sum(
            max(0, self.seats.reserved[other] - self.seats_by_lane[other])
            for other in range(len(self.lanes))
            if other != rank
        )
        return self.seats_free > kept

    def _lingers(self, rank: int, now_ns: int) -> bool:
        """Tell whether the lane waits for its batch to fill."""
        if self.lanes[rank].target_ns is not None or self.plan.linger_ns == 0:
            return False
        if self.scheduler.ready_records(rank) >= self._batch_records[rank]:
            return False
        since_ns = self.waiting_since_ns[rank]
        if since_ns is None:
            since_ns = self.waiting_since_ns[rank] = now_ns
        return now_ns - since_ns < self.plan.linger_ns

    def _rate_allows(self, rank: int, now_ns: int) -> bool:
        rate = self._rates[rank]
        return rate is None or rate.allows(now_ns)

    def _next_cut(self, mask: int, now_ns: int) -> Flight | None:
        if (records := self.sizes.of_lanes) != self._batch_records:
            self._size_batches(records)
        taken = mask and self.scheduler.take(
            mask,
            max(records),
            self._bytes_max,
            exclusive=self._ordered,
            single_queue=self.plan.by_partition,
            now_ns=now_ns,
            seats=self.seats_free,
        )
        if not taken:
            return None
        lane, cuts = taken
        if not self._ready_lanes() >> lane & 1:
            self.waiting_since_ns[lane] = None  # what is left has lingered already
        parts = [self.backlog.hand_out(lane, *cut) for _, *cut in cuts]
        return Flight(Cut(0, self.plan.name, lane, tuple(part.piece for part in parts)), parts)

    def _size_batches(self, records: list[int]) -> None:
        """Let the scheduler cut no batch larger than its lane and its rate permit."""
        self._batch_records = records
        for rank, (most, rate) in enumerate(zip(records, self._rates, strict=True)):
            most = most if rate is None else min(most, rate.burst_records)
            self.scheduler.set_batch_records(rank, most)

    def _retry(self, cut: Cut) -> Flight:
        self.retries.remove(cut)
        flight = self.flights[cut.batch_id]
        cut.again = True
        cut.attempt = flight.failures + 1
        return flight

    def _next_retry(self, now_ns: int) -> Cut | None:
        """Return a batch that may be tried again now: of the highest lane, the first due.

        While something is unavailable they take turns: one that is refused for a reason of
        its own would otherwise be the only one that ever asks.
        """
        if self.serving.is_shut:
            due = [cut for cut in self.retries.due(now_ns) if self._may_retry(cut)]
            return min(due, key=lambda cut: self.flights[cut.batch_id].refusals, default=None)
        best: Cut | None = None
        for cut in self.retries.due(now_ns):
            if (best is None or cut.lane < best.lane) and self._may_retry(cut):
                best = cut
                if cut.lane == 0:
                    break
        return best

    def _may_retry(self, cut: Cut) -> bool:
        """Tell whether nothing but time keeps a failed batch from being tried again."""
        flight = self.flights[cut.batch_id]
        return (
            not flight.doomed
            and not self._is_led(flight)
            and self._may_sit(cut.lane)
            and not flight.revoking
            and not self.precedence.holds_back(flight)
        )

    def _is_led(self, flight: Flight) -> bool:
        """Tell whether a batch waits for what comes of the records before it."""
        return flight.leader is not None and self.rest_of(flight.leader) is flight

    def is_only(self, flight: Flight) -> bool:
        """Tell whether no other record waits for the agent or is with it."""
        nothing = all(self.backlog.is_empty(rank) for rank in range(len(self.lanes)))
        return nothing and not any(
            other.parts for other in self.flights.values() if other is not flight
        )

    @property
    def due_ns(self) -> int | None:
        """Return the next instant at which waiting alone changes what may be started."""
        gate_ns = self.serving.gate_ns
        due = self._burials_due_ns()
        if self.seats_free <= 0 or gate_ns is None:
            return min(due, default=None)
        ready = self._ready_lanes()
        for due_ns, cut in self.retries.items():
            if self._may_retry(cut):
                due.append(max(due_ns, gate_ns))
                break
        for rank in range(len(self.lanes)):
            if ready >> rank & 1 and self._may_sit(rank):
                lane_due = self._lane_due_ns(rank) or ([gate_ns] if gate_ns else [])
                due += [max(each, gate_ns) for each in lane_due]
        return min(due, default=None)

    def _lane_due_ns(self, rank: int) -> list[int]:
        since_ns, rate = self.waiting_since_ns[rank], self._rates[rank]
        due = [] if since_ns is None else [since_ns + self.plan.linger_ns]
        if rate is not None:
            due = [max([rate.due_ns, *due])]
        return due

    # Seats.

    def start(self, flight: Flight, now_ns: int) -> None:
        """Give a batch its seat."""
        cut = flight.cut
        self.serving.assign(flight, now_ns)
        if not flight.failed:
            flight.place = (cut.batch_id,)
            flight.served_before = self.served
        else:
            self._closures.close_for(flight)  # another one was let pass
        self.precedence.started(flight)
        cut.started_ns = now_ns
        self.flights[cut.batch_id] = flight
        flight.seated = True
        self.seats_by_lane[cut.lane] += 1
        self._unsettled_by_lane[cut.lane] += 1
        if (rate := self._rates[cut.lane]) is not None:
            rate.spend(cut.num_records)

    def steer(self, now_ns: int) -> None:
        """Let the loops of this agent look at what its batches took."""
        self.seats.steer(now_ns, in_flight=sum(self.seats_by_lane))
        self._review_size(now_ns)

    def _review_size(self, now_ns: int) -> None:
        """Let batches become larger or smaller as what they cost says, now and then."""
        limiter = self.seats.limiter
        shadow = BATCH_SIZE in self.shadow
        in_use = self.sizes.of_lanes
        review = self.sizes.common.review(
            now_ns,
            fixed_ns=limiter.cost.fixed_ns,
            record_ns=limiter.cost.record_ns if limiter.cost.known else None,
            service_ns=self.service_ns,
            window_ns=limiter.window_ns,
            enforce=not shadow,
        )
        if review is None or (not shadow and self.sizes.of_lanes == in_use):
            return  # a target keeps batches smaller than that anyway
        before, after, why = review
        if not shadow:
            self.invalidate("the batch size changed")
        self.decisions.add(
            Decision(
                at_ns=now_ns, loop=BATCH_SIZE, subject=self.plan.name,
                action="up" if after > before else "down", before=before, after=after, why=why,
                shadow=shadow,
            )
        )  # fmt: skip

    def invalidate(self, why: str) -> None:
        """Learn nothing from the batches under way: another loop has moved something."""
        self.seats.invalidate(why)

    def let_bulk_grow(self, factor: float) -> None:
        """Let batches be so many times as large, where no lane with a target shares the agent.

        Args:
            factor: 1 for what they normally are; what the agent allows is never exceeded.
        """
        if factor != self.sizes.common.bulk_factor and not self._has_target:
            self.sizes.common.bulk_factor = factor
            self.invalidate("the batch size changed")

    def _ended(self, flight: Flight, outcome: Outcome, now_ns: int) -> None:
        """Let loops learn from a batch that gives its seat back."""
        if flight.seated:
            in_flight = sum(self.seats_by_lane)
            self.seats.ended(flight.cut, outcome, in_flight=in_flight, now_ns=now_ns)

    def stand_up(self, flight: Flight, now_ns: int, held_ns: int | None) -> None:
        """Free the seat of a batch whose agent came back, and let its sub-queues go on.

        Args:
            held_ns: The longest time for which it held the event loop, None if nobody looked.
        """
        self._ended(flight, "ok", now_ns)
        self._free_seat(flight)
        if flight.nacked:
            self._closures.close_for(flight)
        elif not flight.failed:
            self._closures.open(flight, flight.parts)
        if flight.cut.degraded:
            return  # what a fallback takes says nothing of the function that it stands in for
        service_ns = now_ns - flight.cut.started_ns
        self.serving.times.add(service_ns, now_ns)
        self.sizes.sample(
            records=flight.cut.num_records, service_ns=service_ns, held_ns=held_ns, now_ns=now_ns
        )
        self.service_ns += (service_ns - self.service_ns) / (8 if self.service_ns else 1)
        self._correct(flight, service_ns)

    def _correct(self, flight: Flight, service_ns: int) -> None:
        """Charge a fair lane's flows for what their records really took.

        What a record costs is estimated by its bytes. Where that was wrong for a batch as a
        whole, each of its flows is charged in proportion.
        """
        if not self._fair:
            return
        lane = flight.cut.lane
        costs: Counter[int] = Counter()
        for part in flight.parts:
            costs[part.queue] += part.piece.num_bytes + RECORD_COST * part.piece.count
        cost = costs.total()
        self._ns_per_cost += (service_ns / cost - self._ns_per_cost) * (
            MEAN_SHARE if self._ns_per_cost else 1.0
        )
        if self.lanes[lane].fair_by is None or not self._ns_per_cost:
            return
        factor = service_ns / cost / self._ns_per_cost - 1.0
        for queue, estimated in costs.items():
            self.scheduler.correct(lane, queue, round(estimated * factor))

    def land(self, flight: Flight) -> None:
        """End a flight that is settled."""
        self._forget(flight)
        self._free_seat(flight)
        self._unsettled_by_lane[flight.cut.lane] -= 1
        if flight.failed or flight.nacked:
            self._closures.end(flight)

    # What fails.

    def set_back(self, flight: Flight, now_ns: int, *, outcome: Outcome = "failed") -> None:
        """Take a failed batch from its agent; its sub-queues stay closed until it is settled."""
        self._ended(flight, outcome, now_ns)
        self._free_seat(flight)
        self._unsettled_by_lane[flight.cut.lane] -= 1
        flight.failed_ns = now_ns
        gone = flight.let_go()
        self._closures.close_for(flight)
        self._closures.open_without(flight, gone)

    def retry(self, flight: Flight, due_ns: int) -> None:
        """Let a batch that was set back be tried again."""
        self.retries.add(flight.cut, due_ns=due_ns)
        if flight.doomed:
            self._unburied.add(flight)
        elif flight.exhausted:
            self.precedence.let_next_pass(flight, seats_taken=any(self.seats_by_lane))

    def split(self, flight: Flight, count: int, batch_id: int) -> Flight:
        """Let a batch that was set back go on with its first records; return that of the rest.

        Args:
            count: How many records it keeps; fewer than it has.
            batch_id: Of the rest.
        """
        kept, rest = divide(flight.parts, count)
        other = self._like(flight, rest, batch_id, place=(*flight.place, 1))
        flight.place = (*flight.place, 0)
        flight.keep(kept)
        self._closures.renew(flight)
        self._closures.close_for(other)
        return other

    def rest_of(self, flight: Flight) -> Flight | None:
        """Return what waits for this batch, which is still there; None if nothing does."""
        here = self.flights.get(flight.cut.batch_id) is flight
        rest = flight.rest
        return rest if here and rest is not None and rest.cut in self.retries else None

    def hand_back(self, flight: Flight, count: int, rest: Flight) -> None:
        """Let a batch that was set back go on with its first records, and its rest have the others.

        Args:
            count: How many it keeps; fewer than it has.
        """
        kept, others = divide(flight.parts, count)
        for each, parts in ((flight, kept), (rest, others + rest.parts)):
            each.keep(parts)
            self._closures.renew(each)

    def _like(
        self, flight: Flight, parts: list[Part], batch_id: int, place: tuple[int, ...]
    ) -> Flight:
        """Return a failed batch of its own, of some records of another."""
        cut = flight.cut
        part_of = Cut(
            batch_id, cut.agent, cut.lane, tuple(part.piece for part in parts),
            attempt=cut.attempt, started_ns=cut.started_ns, degraded=cut.degraded, again=True,
        )  # fmt: skip
        other = Flight(
            part_of, parts, why=flight.why, kind=flight.kind, place=place,
            verdict=flight.verdict, failures=flight.failures,
            served_before=flight.served_before,
        )  # fmt: skip
        self.flights[batch_id] = other
        return other

    def carve(
        self, flight: Flight, groups: Sequence[Sequence[int]], batch_ids: Iterator[int]
    ) -> list[Flight]:
        """Take records out of a batch that is about to be settled; a batch for each group.

        Args:
            groups: Rows, counted through all its records; ascending, one group behind the other.
        """
        picked, kept = pick(flight.parts, groups)
        self._closures.release(flight, flight.closed)
        others = [
            self._like(flight, parts, next(batch_ids), place=(*flight.place, number))
            for number, parts in enumerate(picked)
        ]
        for other in others:
            self._closures.close_for(other)
        flight.keep(kept)
        return others

    def count_unsettled(self, flight: Flight) -> None:
        """Count a batch as one whose output is not acknowledged."""
        self._unsettled_by_lane[flight.cut.lane] += 1

    def forget(self, flight: Flight) -> None:
        """Let go of a batch that was set back and has no records any more."""
        self._closures.release(flight, flight.closed)
        self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        del self.flights[flight.cut.batch_id]
        self.precedence.forget(flight)
        self._unburied.discard(flight)

    def due_burials(self, now_ns: int) -> list[Flight]:
        """Return the batches whose dead letters are to be written again now."""
        if not self._unburied:
            return []
        due = (self.flights[cut.batch_id] for cut in self.retries.due(now_ns))
        return [flight for flight in due if flight.doomed]

    def _burials_due_ns(self) -> list[int]:
        if not self._unburied:
            return []
        waiting = self.retries.items()
        return [due_ns for due_ns, cut in waiting if self.flights[cut.batch_id].doomed]

    def bury(self, flight: Flight) -> None:
        """Note that a batch that was set back is on its way to the dead letters.

        What is behind it may go on; only where the letter was refused it waits, so that not ever
        more is done that cannot be committed.
        """
        flight.doomed = True
        self.retries.remove(flight.cut)
        self._unburied.discard(flight)
        self.precedence.forget(flight)
        self._unsettled_by_lane[flight.cut.lane] += 1
        if flight.aside:
            self._closures.end(flight)
        else:
            self._closures.close_for(flight)

    def _free_seat(self, flight: Flight) -> None:
        """Free the seat of a batch, once."""
        if flight.seated:
            flight.seated = False
            self.seats_by_lane[flight.cut.lane] -= 1

    # What leaves without a seat.

    def may_leave(self, queue: int) -> bool:
        """Tell whether what waits in a sub-queue may leave: no partition of it may go away."""
        if queue >= FLOW_QUEUES:
            return not self._revoking
        return all(partition.number != queue for partition in self._revoking)

    def give_up(self, flight: Flight, gone: Sequence[Part]) -> None:
        """Let the sub-queues go on of records that a batch has no longer; it was not started."""
        if flight.failed:
            self._closures.open_without(flight, gone)
            if not flight.parts:
                self._forget(flight)
        else:
            still = flight.queues
            self._closures.open(flight, [part for part in gone if part.queue not in still])

    def divert(self, flight: Flight) -> None:
        """Keep the sub-queues closed of records that are on their way to another topic."""
        self.diversions.append(flight)
        self._closures.close_for(flight)

    def end_diversion(self, flight: Flight) -> None:
        """Let the sub-queues go on, unless the agent has a batch of theirs."""
        self.diversions.remove(flight)
        self._closures.end(flight)

    # Rebalance.

    def revoking(self, partition: Partition) -> None:
        """Start nothing more of a partition that may go away."""
        self.invalidate("partitions were rebalanced")
        self._revoking.add(partition)
        for lane in range(len(self.lanes)):
            self.scheduler.close(lane, partition.number)

    def take_up_again(self, partition: Partition) -> None:
        """Start a partition's batches again after a rebalance gave it back."""
        self.invalidate("partitions were rebalanced")
        self._revoking.discard(partition)
        number = partition.number
        busy = {
            flight.cut.lane
            for flight in self.flights.values()
            if flight.seated and flight.holds(partition)
        }
        for lane in range(len(self.lanes)):
            if not self._ordered or not (lane in busy or self._closures.counts[lane, number]):
                self.scheduler.open(lane, number)

    def drop(self, partition: Partition) -> None:
        """Let go of everything of a partition that is gone."""
        self.invalidate("partitions were rebalanced")
        self._revoking.discard(partition)
        self.backlog.drop(partition)
        for flight in [*self.flights.values(), *self.diversions]:
            self._closures.release(flight, flight.closed & {partition.number})
            if flight.cut in self.retries:
                self._drop_from(flight)
        for lane in range(len(self.lanes)):
            self.scheduler.open(lane, partition.number)

    def _drop_from(self, flight: Flight) -> None:
        """Take the records of a partition that is gone out of a batch that waits for its retry."""
        self._closures.open_without(flight, flight.let_go())
        if not flight.parts:
            self.retries.remove(flight.cut)
            self._forget(flight)

    def drop_lane(self, partition: Partition, lane: int) -> list[int]:
        """Let go of everything of a lane of a partition that does not go on.

        Returns:
            The batches that are left without records.
        """
        before = set(self.flights)
        waiting = self.backlog.of_partition(lane, partition)
        for each in waiting:
            each.piece = Slice(each.piece.chunk, each.piece.start, 0)
        self.backlog.renew(lane, waiting)
        for flight in [*self.flights.values()]:
            if flight.cut.lane == lane and flight.cut in self.retries and flight.holds(partition):
                self._drop_from(flight)
        return list(before - self.flights.keys())
