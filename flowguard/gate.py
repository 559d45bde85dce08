"""When a lane of one agent is too full, and how much must leave then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flowguard.control.memory import MemoryBudget
from flowguard.control.queue_delay import QueueDelay
from flowguard.holdings import Flight, Partition
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.units import SECOND, format_duration, format_size
from flowguard.view import View

__all__ = ["CALM_NS", "LOW", "Gate", "Need", "share_bytes", "spill_share_bytes"]

#: A lane's share of the memory for columns: together the lanes leave a fifth free, so that
#: one of them acts before a partition has no room; and no lane, however alone, takes more
#: than a partition can have of its own and from the pool.
SHARE_MAX: Final = 0.4
SHARES_TOTAL: Final = 0.8

#: Lanes that spill have less together: the pool of memory must never be used up by what may
#: wait on disk, or a partition would not be read where urgent records are.
SPILL_SHARES_TOTAL: Final = 0.35

#: A lane that was above its share acts until it is back at so much of it.
LOW: Final = 0.8

#: It is over when nothing had to leave for so long.
CALM_NS: Final = SECOND


def share_bytes(lanes: LaneSet, memory: MemoryBudget) -> int:
    """Return how many bytes of one lane may wait for an agent before its policies act.

    The smaller of 40 % and 80 % divided by the number of lanes, of the memory for columns.
    """
    return round(memory.columns_bytes_max * min(SHARE_MAX, SHARES_TOTAL / len(lanes)))


def spill_share_bytes(lanes: LaneSet, memory: MemoryBudget) -> int:
    """Return how many bytes of a lane that spills may wait for an agent before it does."""
    share = round(memory.columns_bytes_max * SPILL_SHARES_TOTAL / max(1, len(lanes.spilling)))
    return min(share, share_bytes(lanes, memory))


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What must leave.

    Args:
        num_bytes: So much, the oldest first; 0 if it is not about memory.
        before_ns: What was read before this instant; None if it is not about waiting.
        partition: Only this one has no room; None: the lane as a whole.
        why: The reason, for people.
    """

    num_bytes: int
    before_ns: int | None
    partition: Partition | None
    why: str


@dataclass(slots=True, eq=False)
class Gate:
    """One lane of one agent, and what its policies do.

    Args:
        share_bytes: More than this may not wait.
        delay: Whether it waits too long; None for a lane without a target.
    """

    view: View
    rank: int
    lane: Lane
    share_bytes: int
    delay: QueueDelay | None = None
    full: bool = False  # it was above its share and is not back at the low mark
    why: str | None = None  # its policies act, and this is the reason
    needed_ns: int = 0  # when something last had to leave
    diversion: Flight | None = None
    failures: int = 0  # of diversions, one after the other
    not_before_ns: int = 0  # when the next diversion may be tried
    cursors: dict[Partition, int] = field(default_factory=dict)  # where conflating goes on
    shed_ratio: float = 0.0
    shed_why: str = ""

    @property
    def waiting_bytes(self) -> int:
        """Return the bytes that wait."""
        return self.view.backlog.queued_bytes(self.rank)

    @property
    def low_bytes(self) -> int:
        """Return at how many bytes it is no longer full."""
        return round(LOW * self.share_bytes)

    @property
    def is_full(self) -> bool:
        """Tell whether more waits than may, or than it must come back to."""
        return self.waiting_bytes > (self.low_bytes if self.full else self.share_bytes)

    def need(self, now_ns: int, *, late_counts: bool) -> Need | None:
        """Return what must leave now, None if nothing must.

        Args:
            late_counts: What waits too long must leave, too.
        """
        waiting_bytes = self.waiting_bytes
        self.full = self.is_full
        before_ns = self._late_before_ns(now_ns) if late_counts else None
        if self.full:
            why = f"{format_size(waiting_bytes)} wait, its share is {format_size(self.share_bytes)}"
            return Need(
                num_bytes=waiting_bytes - self.low_bytes, before_ns=before_ns, partition=None,
                why=why,
            )  # fmt: skip
        if before_ns is None or self.delay is None:
            return None
        why = (
            f"its records wait {format_duration(self.delay.least_ns / SECOND)} or longer, "
            f"{format_duration(self.delay.target_ns / SECOND)} is what its target has for that"
        )
        return Need(num_bytes=0, before_ns=before_ns, partition=None, why=why)

    def _late_before_ns(self, now_ns: int) -> int | None:
        """Return when records were read that wait too long now; None if none does."""
        if self.delay is None or not self.delay.overloaded:
            return None
        before_ns = now_ns - self.delay.slough_ns
        oldest_ns = self.view.backlog.oldest_fetched_ns(self.rank)
        return before_ns if oldest_ns is not None and oldest_ns < before_ns else None

    def may_leave(self, need: Need) -> Callable[[int], bool]:
        """Return what tells of a sub-queue whether it may give."""
        if need.partition is None or self.view.plan.order != "partition":
            return self.view.may_leave
        number = need.partition.number
        return lambda queue: queue == number and self.view.may_leave(queue)

    def look(self, now_ns: int) -> bool:
        """Judge how long records wait; True if the judgement has changed."""
        if self.delay is None:
            return False
        oldest_ns = self.view.backlog.oldest_fetched_ns(self.rank)
        return self.delay.look(
            now_ns,
            oldest_wait_ns=None if oldest_ns is None else now_ns - oldest_ns,
            service_ns=self.view.service_ns,
        )

    def waiting_of(self, partition: Partition) -> int:
        """Return the bytes of one partition that wait."""
        waiting = self.view.backlog.of_partition(self.rank, partition)
        return sum(each.piece.num_bytes for each in waiting)
