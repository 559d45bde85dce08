"""How soon Kafka deletes what is not finished yet.

What waits on disk is still to be had from Kafka, as long as Kafka keeps it. Where the log
begins moves in steps, as whole segments of it are deleted, so its pace is measured over half an
hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.units import SECOND

__all__ = ["GUARD_S", "RetentionGuard"]

#: What is deleted in less than this is worth a warning.
GUARD_S: Final = 15 * 60.0

WINDOW_NS: Final = 30 * 60 * SECOND


class RetentionGuard:
    """Where logs begin, and how fast that moves."""

    def __init__(self) -> None:
        self._seen: dict[TopicPartition, deque[tuple[int, int]]] = {}

    def observe(self, starts: Mapping[TopicPartition, int], now_ns: int) -> None:
        """Take in where logs begin now; partitions that are not named are forgotten."""
        self._seen = {name: self._seen.get(name, deque()) for name in starts}
        for name, offset in starts.items():
            seen = self._seen[name]
            seen.append((now_ns, offset))
            while now_ns - seen[0][0] > WINDOW_NS:
                seen.popleft()

    def left_s(self, name: TopicPartition, offset: int) -> float | None:
        """Return in how many seconds Kafka deletes a record; 0 if it has, None if unknown."""
        seen = self._seen.get(name)
        if not seen:
            return None
        (first_ns, first), (last_ns, last) = seen[0], seen[-1]
        if last > offset:
            return 0.0
        if last == first:
            return None
        return (offset - last) * (last_ns - first_ns) / (last - first) / SECOND
