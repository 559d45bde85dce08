"""Does a lane wait because it is busy, or because there is more than can be done?

A queue that empties now and then is a buffer at work, however long it is for a moment. One
whose luckiest record waits too long, for a whole interval, never empties: whoever comes later
waits as long, and nothing but fewer records will help.

    least wait   ┤        ╭────────────     overloaded: the least wait of an interval
             2 T ┤╌╌╌╌╌╌╌╌│╌╌╌╌╌╌╌╌╌╌╌╌╌    is above T. Then what has waited longer than
               T ┤────────┼─────────────    2 T has missed its time already, and is acted on
                 └────────┴──────────────▶
                  interval   interval

Source: Nichols and Jacobson, "Controlling Queue Delay" (2012); Maurer, "Fail at Scale" (2015),
    and the form of folly/executors/Codel.cpp: no square root law, but all that waited longer
    than twice the target.
"""

from __future__ import annotations

from typing import Final

from flowguard.units import MILLISECOND

__all__ = ["INTERVAL_NS_MIN", "QueueDelay"]

#: As in folly and CoDel: some round trips, so that a burst is no overload.
INTERVAL_NS_MIN: Final = 100 * MILLISECOND

#: A batch of a lower lane may take a quarter of the target, and so may waiting in line.
TARGET_PART: Final = 4

#: An interval is at least so many times T, and twice what a batch takes: a lane whose batches
#: take long is looked at when some were started.
INTERVAL_TARGETS: Final = 5
INTERVAL_BATCHES: Final = 2

SLOUGH: Final = 2


class QueueDelay:
    """Tell whether one lane of one agent is overloaded, by how long its records wait.

    Args:
        target_ns: The lane's target, > 0.
    """

    def __init__(self, target_ns: int) -> None:
        self.target_ns = max(1, target_ns // TARGET_PART)
        self.slough_ns = SLOUGH * self.target_ns
        self.overloaded = False
        self.least_ns = 0  # of the last whole interval
        self._since_ns: int | None = None
        self._least_ns: int | None = None

    def sample(self, wait_ns: int) -> None:
        """Take in how long the luckiest record of a batch has waited, when it is started."""
        self._least_ns = wait_ns if self._least_ns is None else min(self._least_ns, wait_ns)

    def look(self, now_ns: int, *, oldest_wait_ns: int | None, service_ns: float = 0.0) -> bool:
        """Judge an interval when it is over; True if the judgement has changed.

        Args:
            oldest_wait_ns: How long the oldest record has waited that waits now; None if none
                does. It stands for an interval in which nothing was started.
            service_ns: What a batch takes, on average.
        """
        if self._since_ns is None:
            self._since_ns = now_ns
        interval_ns = max(
            INTERVAL_NS_MIN,
            INTERVAL_TARGETS * self.target_ns,
            round(INTERVAL_BATCHES * service_ns),
        )
        if now_ns - self._since_ns < interval_ns:
            return False
        least_ns = self._least_ns if self._least_ns is not None else oldest_wait_ns
        before = self.overloaded
        self.least_ns = least_ns or 0
        self.overloaded = self.least_ns > self.target_ns
        self._since_ns, self._least_ns = now_ns, None
        return self.overloaded != before
