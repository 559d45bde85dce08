"""Which sub-queues an agent gets nothing of for now, because of records before.

A batch that failed keeps the sub-queues of its records closed until it is settled, and so do
records on their way to another topic; where order does not matter, nothing is closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from flowguard._native.scheduler import Scheduler
from flowguard.backlog import FLOW_QUEUES
from flowguard.holdings import Flight, Part

__all__ = ["Closures"]


class Closures:
    """Close sub-queues for batches, and open them when nothing else holds them back.

    Args:
        scheduler: Hands out what is open.
        flights: By id, the batches that an agent has or that wait for their retry.
        ordered: Whether the order of a sub-queue matters.

    Attributes:
        counts: Lane and sub-queue → how many batches keep it closed.
    """

    def __init__(
        self, scheduler: Scheduler, flights: Mapping[int, Flight], *, ordered: bool
    ) -> None:
        self.counts: Counter[tuple[int, int]] = Counter()
        self._scheduler = scheduler
        self._flights = flights
        self._ordered = ordered

    def close_for(self, flight: Flight) -> None:
        """Keep the sub-queues of a batch closed until it is settled, if it does not already.

        What it has of a partition that is gone closes nothing for whoever has it again.
        """
        if not self._ordered or flight.closed:
            return
        flight.closed = {part.queue for part in flight.live}
        for queue in flight.closed:
            self.counts[flight.cut.lane, queue] += 1
            self._scheduler.close(flight.cut.lane, queue)

    def renew(self, flight: Flight) -> None:
        """Keep closed what a batch has now: it has got other records."""
        self.release(flight, flight.closed)
        self.close_for(flight)

    def end(self, flight: Flight) -> None:
        """Let all sub-queues of a batch go on."""
        self.release(flight, flight.closed)
        self.open(flight, flight.parts)

    def open_without(self, flight: Flight, gone: Iterable[Part]) -> None:
        """Let the flows go on that a failed batch held only for partitions that are gone."""
        self.release(flight, flight.closed - flight.queues)
        self.open(flight, gone)

    def release(self, flight: Flight, queues: set[int]) -> None:
        """Note that a batch no longer keeps these sub-queues closed; they are not opened yet."""
        for queue in queues:
            self.counts[flight.cut.lane, queue] -= 1
        flight.closed = flight.closed - queues

    def open(self, flight: Flight, parts: Iterable[Part]) -> None:
        """Let the sub-queues of a batch go on, unless something else holds them back."""
        if not self._ordered:
            return
        lane = flight.cut.lane
        for part in parts:
            gone = part.partition.gone or part.partition.revoking
            held_back = gone and part.queue < FLOW_QUEUES
            held_back = held_back or self.counts[lane, part.queue] > 0
            if not held_back and not self._in_hand(flight, part):
                self._scheduler.open(lane, part.queue)

    def _in_hand(self, flight: Flight, part: Part) -> bool:
        """Tell whether an agent has another batch of the same sub-queue.

        It may have got it after this one came back, before what was sent for this one failed.
        What it has of a partition from an earlier assignment does not count.
        """
        return any(
            each.queue == part.queue
            and (each.queue >= FLOW_QUEUES or each.partition is part.partition)
            for other in self._flights.values()
            if other.seated and other.cut.lane == flight.cut.lane and other is not flight
            for each in other.parts
        )
