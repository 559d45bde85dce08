"""From which sub-queues records are taken when a lane has too many.

The fattest gives first, half of what it has at a time, so that a sub-queue that fills the
lane does not push the others out (FQ-CoDel, RFC 8290 section 4.1.1, by bytes).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from heapq import heapify, heapreplace

__all__ = ["fattest_first"]


def fattest_first(sizes: Iterable[tuple[int, int]], wanted_bytes: int) -> dict[int, int]:
    """Return how many bytes each sub-queue gives so that it is enough, in the order they give.

    Args:
        sizes: Sub-queue and its bytes.
        wanted_bytes: What they give together; all they have if it is less.
    """
    heap = [(-num_bytes, queue) for queue, num_bytes in sizes if num_bytes > 0]
    if sum(-negative for negative, _ in heap) <= wanted_bytes:
        return {queue: -negative for negative, queue in sorted(heap)}
    heapify(heap)
    given: dict[int, int] = defaultdict(int)
    while wanted_bytes > 0:
        negative, queue = heap[0]
        half_bytes = min((1 - negative) // 2, wanted_bytes)
        given[queue] += half_bytes
        wanted_bytes -= half_bytes
        heapreplace(heap, (negative + half_bytes, queue))
    return dict(given)
