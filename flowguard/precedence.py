"""Which failed batch is tried before which, and what may pass one that is exhausted.

Where order matters, the failed batches of a sub-queue are tried one by one, as they were read.
A record that has failed as often as it may lets the next one pass, right now and once: if that
succeeds, the record is to blame and becomes a dead letter, so nothing was reordered. If it fails
as well, something is missing, and both wait. What comes back between the two makes a good record
look bad; to try it again would reorder it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowguard.closures import Closures
from flowguard.holdings import Flight
from flowguard.settle.retry import RetryQueue

__all__ = ["Precedence"]


class Precedence:
    """The order of one agent's failed batches.

    Args:
        flights: By id, the batches that the agent has or that wait for their retry.
        retries: Those that wait.
        closures: Which sub-queues they keep closed.
        ordered: Whether the order of a sub-queue matters.

    Attributes:
        exhausted: Batches whose record has failed as often as it may, and which are not on their
            way to the dead letters.
    """

    def __init__(
        self,
        flights: Mapping[int, Flight],
        retries: RetryQueue,
        closures: Closures,
        *,
        ordered: bool,
    ) -> None:
        self.exhausted: dict[Flight, None] = {}
        self._flights = flights
        self._retries = retries
        self._closures = closures
        self._ordered = ordered
        self._lets_new_pass = False

    # Who waits?

    def holds_back(self, flight: Flight) -> bool:
        """Tell whether a failed batch must wait for another one of its sub-queues.

        What an agent sends may fail after it came back, when it has the next batch already,
        so several batches of a sub-queue can wait for their retry: they go one by one, in
        order, and none before what was sent for the ones before it is acknowledged.
        """
        return self._ordered and any(
            other.cut.lane == flight.cut.lane
            and (other.seated or self._goes_before(other, flight))
            and not other.queues.isdisjoint(flight.queues)
            for other in self._flights.values()
            if other is not flight
        )

    def _goes_before(self, other: Flight, flight: Flight) -> bool:
        """Tell whether a batch must end before another one, which failed, is tried again.

        What has passed an exhausted one decides about it, so its end is waited for.
        """
        waits = other.cut in self._retries
        if other.aside:
            return False
        if other.place > flight.place:
            return flight.exhausted and not waits
        passes = flight.passing and other.failed_ns >= flight.passes_from_ns
        return not (passes and other.exhausted and waits and not other.doomed)

    # Who passes?

    def let_next_pass(self, flight: Flight, *, seats_taken: bool) -> None:
        """Let the one behind an exhausted batch, which waits for its retry now, pass it.

        Args:
            seats_taken: The agent has others: what comes of them tells as well, and reorders
                nothing.
        """
        self.exhausted[flight] = None
        if seats_taken:
            return
        if followers := self._followers(flight):
            first = min(followers, key=lambda other: other.place)
            first.passing = True
            chained = flight.passes_from_ns >= 0  # it had passed others itself
            first.passes_from_ns = flight.passes_from_ns if chained else flight.failed_ns
            self._retries.add(first.cut, due_ns=flight.failed_ns)
        else:
            self._closures.end(flight)
            self._lets_new_pass = self._ordered

    def _followers(self, flight: Flight) -> list[Flight]:
        """Return the failed batches that come after one in its sub-queues."""
        if not self._ordered:
            return []
        return [
            other
            for other in self._flights.values()
            if other.place > flight.place
            and other.cut in self._retries
            and not other.doomed
            and other.cut.lane == flight.cut.lane
            and not other.queues.isdisjoint(flight.queues)
        ]

    def new_may_pass(self) -> bool:
        """Tell whether new records are to pass; True once."""
        may, self._lets_new_pass = self._lets_new_pass, False
        return may

    def started(self, flight: Flight) -> None:
        """Note whether a batch that is started now passes an exhausted one.

        If it does not, none passes any more: something else was started since then, and may
        show that what was missing is there.
        """
        if not flight.failed:
            passed_ns = [
                each.failed_ns
                for each in self.exhausted
                if each.cut.lane == flight.cut.lane and not each.queues.isdisjoint(flight.queues)
            ]
            flight.passing = self._ordered and bool(passed_ns)
            if flight.passing:
                flight.passes_from_ns = max(passed_ns)
        if not flight.passing:
            flight.passes_from_ns = -1
            self._let_none_pass()

    def _let_none_pass(self) -> None:
        self._lets_new_pass = False
        for flight in self.exhausted:
            self._closures.close_for(flight)
            for other in self._followers(flight):
                other.passing = False

    def forget(self, flight: Flight) -> None:
        """Take note that a batch ends, or is on its way to the dead letters."""
        self.exhausted.pop(flight, None)
