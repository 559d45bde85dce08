"""How long an agent usually takes for a batch."""

from __future__ import annotations

from collections import deque
from typing import Final

from flowguard.units import SECOND

__all__ = ["ServiceTimes"]

#: So many batches are remembered, and fewer than these tell nothing.
KEPT_MAX: Final = 64
KEPT_MIN: Final = 5

#: A sample counts for this long, or for so many times its own length if that is longer. A
#: lucky or unlucky moment is forgotten also when no batch comes that could outvote it.
MEMORY_NS: Final = 30 * SECOND
MEMORY_OWN: Final = 10


class ServiceTimes:
    """A percentile of the service times of the last batches."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=KEPT_MAX)  # length, end

    def add(self, service_ns: int, now_ns: int) -> None:
        """Take note of a batch that ended now."""
        self._samples.append((service_ns, now_ns))

    def percentile_ns(self, percent: int, now_ns: int) -> int | None:
        """Return what so many in a hundred of the batches did not exceed; None if unknown."""
        alive = sorted(
            length
            for length, end_ns in self._samples
            if now_ns - end_ns < max(MEMORY_NS, MEMORY_OWN * length)
        )
        if len(alive) < KEPT_MIN:
            return None
        return alive[-(-len(alive) * percent // 100) - 1]
