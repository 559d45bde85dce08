"""How long the oldest record of each lane has waited in an agent's queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from flowguard.holdings import Waiting
from flowguard.lanes.lane_set import LaneSet

__all__ = ["QueueWaits"]

#: So many of the oldest are looked at for one that waits for a seat and nothing else.
LOOK_MAX: Final = 256


class QueueWaits:
    """What waits of each lane, the oldest first.

    Args:
        waiting: By lane, what waits by handle, in the order in which it was read.
        closed: Sub-queues that failed batches keep closed: what is behind them waits for a
            retry, and no other work can make it wait less.
    """

    def __init__(
        self,
        lanes: LaneSet,
        waiting: Sequence[Mapping[int, Waiting]],
        closed: Counter[tuple[int, int]],
    ) -> None:
        self._lanes = lanes
        self._waiting = waiting
        self._closed = closed

    def oldest_ns(self, rank: int, now_ns: int) -> int | None:
        """Return how long the oldest record that could be started has waited here; None: none.

        Records that are demoted by their age, that wait behind a failed batch, or whose
        partition may go away, wait on purpose and do not count.
        """
        demote_after_ns = self._lanes[rank].demote_after_ns
        for waiting in islice(self._waiting[rank].values(), LOOK_MAX):
            if waiting.partition.revoking or self._closed[rank, waiting.queue]:
                continue
            chunk = waiting.piece.chunk
            if demote_after_ns is None or now_ns - chunk.born_ns < demote_after_ns:
                return now_ns - chunk.fetched_ns
        return None
