"""How long the oldest record of each lane has waited in an agent's queue."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from itertools import islice
from typing import Final

from flowguard.holdings import Waiting
from flowguard.lanes.lane_set import LaneSet

__all__ = ["QueueWaits"]

#: So many of the oldest are looked at for one that waits for a seat and nothing else.
LOOK_MAX: Final = 256

#: What has left the queue is forgotten once there is this much more of it than of what waits.
STALE_MAX: Final = 1024


class QueueWaits:
    """The arrivals of each lane, oldest first.

    What has left the queue is noticed when somebody asks, so whoever takes records out need
    not tell.

    Args:
        waiting: What waits, by handle.
        closed: Sub-queues that failed batches keep closed: what is behind them waits for a
            retry, and no other work can make it wait less.
    """

    def __init__(
        self,
        lanes: LaneSet,
        waiting: Mapping[int, Waiting],
        closed: Counter[tuple[int, int]],
    ) -> None:
        self._lanes = lanes
        self._waiting = waiting
        self._closed = closed
        self._handles: list[deque[int]] = [deque() for _ in lanes]

    def arrived(self, rank: int, handle: int) -> None:
        """Note what was queued behind all else of its lane."""
        handles = self._handles[rank]
        handles.append(handle)
        if len(handles) > 2 * len(self._waiting) + STALE_MAX:
            self._handles[rank] = deque(each for each in handles if each in self._waiting)

    def oldest_ns(self, rank: int, now_ns: int) -> int | None:
        """Return how long the oldest record that could be started has waited here; None: none.

        Records that are demoted by their age, that wait behind a failed batch, or whose
        partition may go away, wait on purpose and do not count.
        """
        handles = self._handles[rank]
        while handles and handles[0] not in self._waiting:
            handles.popleft()
        demote_after_ns = self._lanes[rank].demote_after_ns
        for handle in islice(handles, LOOK_MAX):
            waiting = self._waiting.get(handle)
            if waiting is None or waiting.partition.revoking or self._closed[rank, waiting.queue]:
                continue
            if demote_after_ns is None or now_ns - waiting.chunk.born_ns < demote_after_ns:
                return now_ns - waiting.chunk.fetched_ns
        return None
