"""Which of an agent's two functions serves a batch, and whether one may start at all.

    a batch is started ─▶ the primary is there? ─ no ─▶ probe due: the primary tries it
                              │                      └▶ else the fallback: `failure`
                             yes ─▶ failed too often: the fallback, and the primary in turn
                                 ─▶ too little time left: `deadline`
                                 ─▶ the lane's share of a brownout: `brownout`
                                 ─▶ the primary

What the fallback fails with is the primary's again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from flowguard._native import wire
from flowguard.batch import DEADLINE_HEADER, deadlines_in
from flowguard.chunk import Slice
from flowguard.control.dimmer import Diffusion
from flowguard.dispatch.service_times import ServiceTimes
from flowguard.errors import WireError
from flowguard.holdings import Flight
from flowguard.settle.outage import Outage
from flowguard.settle.retry import Retry, backoff_ns
from flowguard.units import MILLISECOND, SECOND

__all__ = ["OCCASIONS", "Serving"]

#: When a fallback may serve.
OCCASIONS: Final = ("brownout", "failure", "deadline")

#: How batches ended is looked at over so many seconds, for the pressure of errors.
OUTCOMES_S: Final = 5

#: A batch with less time left than all but a few of the others took would be late.
PERCENT: Final = 95


@dataclass(slots=True)
class Outcomes:
    """How batches ended in one second."""

    second: int
    batches: int = 0
    refused: int = 0


class Serving:
    """One agent's primary function and its fallback.

    Args:
        fallback_on: The occasions of the fallback; empty if there is none.
        targets_ns: By lane, its target or None.
        retries: How often a record may fail before the fallback has it.
        chance: Returns a number, 0..1, for the jitter of waits.
    """

    def __init__(
        self,
        fallback_on: frozenset[str],
        targets_ns: Sequence[int | None],
        *,
        retries: Retry,
        chance: Callable[[], float],
    ) -> None:
        self._retries = retries
        self._chance = chance
        self.primary = Outage(chance)
        self.fallback = Outage(chance)
        self.common = False  # a sink or registry is missing, which the fallback needs too
        self.times = ServiceTimes()
        self.clock_ns: int | None = None  # epoch minus monotonic clock, once it is known
        self.shares = [0.0 for _ in targets_ns]
        self._targets_ns = targets_ns
        self._diffusion = [Diffusion() for _ in targets_ns]
        self._fallback_on = fallback_on
        self._outcomes: deque[Outcomes] = deque()

    # May anything start?

    @property
    def stands_in(self) -> bool:
        """Tell whether the fallback may serve what the primary cannot."""
        return "failure" in self._fallback_on and not self.common

    @property
    def gate_ns(self) -> int | None:
        """Return from when on a batch may be started; None if only a fact can change it."""
        gate_ns = self.primary.gate_ns
        if self.primary.over or not self.stands_in:
            return gate_ns
        gates = (gate_ns, self.fallback.gate_ns)
        return min((each for each in gates if each is not None), default=None)

    def is_open(self, now_ns: int) -> bool:
        """Tell whether a batch may be started now."""
        gate_ns = self.gate_ns
        return gate_ns is not None and gate_ns <= now_ns

    @property
    def is_shut(self) -> bool:
        """Tell whether nothing but a probe is started."""
        if self.primary.over:
            return False
        return not (self.stands_in and self.fallback.over)

    # Who serves?

    def assign(self, flight: Flight, now_ns: int) -> None:
        """Choose who serves a batch that is started now."""
        cut = flight.cut
        cut.degraded = self._occasion(flight, now_ns)
        self._of(flight).started(flight)

    def _occasion(self, flight: Flight, now_ns: int) -> str:
        """Return why the fallback serves a batch, "" if the primary does."""
        if not self.primary.over:
            return "" if self.primary.is_open(now_ns) else "failure"
        cut, on = flight.cut, self._fallback_on
        # What the fallback has just failed with is the primary's again.
        if not on or not self.fallback.is_open(now_ns) or (flight.failed and cut.degraded):
            return ""
        if "failure" in on and (flight.held or self._is_worn_out(flight)):
            return "failure"
        if "deadline" in on and self._is_late(flight, now_ns):
            return "deadline"
        if "brownout" in on and not flight.failed:
            return "brownout" if self._diffusion[cut.lane].take(self.shares[cut.lane]) else ""
        return ""

    def _is_worn_out(self, flight: Flight) -> bool:
        return self._retries.max is not None and flight.failures >= self._retries.max

    def is_exhausted(self, flight: Flight) -> bool:
        """Tell whether a record has failed as often as it may, with the fallback too."""
        if self._retries.max is None:
            return False
        return flight.failures >= self._retries.max + ("failure" in self._fallback_on)

    def _is_late(self, flight: Flight, now_ns: int) -> bool:
        """Tell whether a batch has less time left than the primary usually takes."""
        usual_ns = self.times.percentile_ns(PERCENT, now_ns)
        if usual_ns is None:
            return False
        due_ns = deadline_ns(
            flight.cut.slices, target_ns=self._targets_ns[flight.cut.lane], clock_ns=self.clock_ns
        )
        return due_ns is not None and due_ns - now_ns < usual_ns

    def _of(self, flight: Flight) -> Outage:
        return self.fallback if flight.cut.degraded else self.primary

    def wait_ns(self, flight: Flight) -> int:
        """Return how long a failed batch waits; none of its own if a probe or fallback is next."""
        if not flight.held:
            return self._retries.wait_ns(flight.failures, self._chance())
        all_there = self.primary.over and self._of(flight).over
        if not all_there or (self.stands_in and not flight.cut.degraded):
            return 0
        return backoff_ns(flight.refusals)

    # How it ended.

    def finished(self, flight: Flight, now_ns: int) -> None:
        """Take note of a batch that is settled."""
        self._note(now_ns, refused=False)
        self._answered(flight, now_ns)

    def failed(
        self,
        flight: Flight,
        now_ns: int,
        *,
        unavailable: bool = False,
        retry_after_ns: int | None = None,
        common: bool = False,
        alone: bool = False,
    ) -> None:
        """Take note of a batch that failed; `flight.why` says why."""
        self._note(now_ns, refused=unavailable)
        flight.held = unavailable
        flight.refusals = flight.refusals + 1 if unavailable else 0
        if not unavailable or alone:  # it got as far as to fail on something else
            self._answered(flight, now_ns)
            return
        function = self._of(flight)
        if common and function is self.fallback:
            self._answered(flight, now_ns)
            function = self.primary
        if function is self.primary:
            self.common = common
        function.refused(flight, now_ns, why=flight.why, retry_after_ns=retry_after_ns)

    def _answered(self, flight: Flight, now_ns: int) -> None:
        self._of(flight).answered(flight, now_ns)
        if self.primary.over:
            self.common = False

    def _note(self, now_ns: int, *, refused: bool) -> None:
        second = now_ns // SECOND
        if not self._outcomes or self._outcomes[-1].second != second:
            self._outcomes.append(Outcomes(second))
        self._outcomes[-1].batches += 1
        self._outcomes[-1].refused += refused

    def refused_share(self, now_ns: int) -> float:
        """Return the share of the last batches that met something unavailable, 0..1."""
        while self._outcomes and now_ns // SECOND - self._outcomes[0].second > OUTCOMES_S:
            self._outcomes.popleft()
        batches = sum(each.batches for each in self._outcomes)
        if batches == 0:
            return 1.0 if self.is_shut else 0.0
        return sum(each.refused for each in self._outcomes) / batches


def deadline_ns(
    slices: Iterable[Slice], *, target_ns: int | None, clock_ns: int | None
) -> int | None:
    """Return when the first record of a batch is late, on the monotonic clock; None if never.

    As `Batch.deadline`: when the target has passed since its timestamp, and at what its
    header `fg-deadline-ms` says.

    Args:
        clock_ns: The wall clock minus the monotonic one; without it headers do not count.
    """
    due_ns: list[float] = []
    for piece in slices:
        if target_ns is not None:
            due_ns.append(born_ns(piece) + target_ns)
        if clock_ns is not None:
            due_ns += [each * SECOND - clock_ns for each in deadlines_named(piece)]
    return None if not due_ns else round(min(due_ns))


def deadlines_named(piece: Slice) -> list[float]:
    """Return the deadlines that headers name, in seconds since 1970."""
    try:
        return deadlines_in(wire.header_values(piece.columns.column("headers"), DEADLINE_NAME))
    except WireError:  # whoever looks at these headers is told; here they only name no deadline
        return []


DEADLINE_NAME: Final = DEADLINE_HEADER.encode()


def born_ns(piece: Slice) -> int:
    """Return the oldest timestamp of a slice on the monotonic clock; the future counts as now."""
    chunk = piece.chunk
    later_ms = piece.oldest_timestamp_ms - chunk.first_timestamp_ms
    return min(max(chunk.fetched_ns, chunk.born_ns), chunk.born_ns + later_ms * MILLISECOND)
