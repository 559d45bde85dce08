"""Windows: what the batches that ended in a short time have shown.

Service time is normalised by what batches of their size cost, so that larger batches do not
look like congestion; goodput is measured as work that was finished, not estimated from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from operator import mul, truediv
from statistics import median
from typing import Final, Literal, NamedTuple

from flowguard.control.cost import CostFit
from flowguard.units import MILLISECOND, SECOND

__all__ = ["Batches", "Outcome", "Sample", "Window", "WindowRule", "window_of"]

Outcome = Literal["ok", "failed", "unavailable", "timeout", "throttled"]

#: Outcomes that say "less, please". A batch that failed for its own reasons says nothing.
DROPS: Final = frozenset({"unavailable", "timeout", "throttled"})

#: A batch that took longer than this many medians counts as that long: a few stragglers say
#: little about congestion.
CLIPPED_AT: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRule:
    """How long windows are.

    Args:
        services: Length in median service times.
        min_ns: Shortest window.
        max_ns: Longest window, unless it takes longer to get enough batches.
        completions: Fewest batches of a window.
        completions_slow: The same where a batch takes more than a second.
        settle: Whether a large change of the limit is given time before the next window.
    """

    services: float = 2.0
    min_ns: int = 250 * MILLISECOND
    max_ns: int = 5 * SECOND
    completions: int = 10
    completions_slow: int = 3
    settle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one window has shown.

    Args:
        at_ns: Its end.
        length_ns: How long it was.
        limit: The limit it had, a fraction; `seats` is what it amounts to.
        limit_min: The least limit that may be asked for.
        limit_max: The most.
        seats: Batches that could be under way at once.
        in_flight_max: Most batches that were under way at once.
        in_flight_mean: Batches under way, on average over those that ended.
        completions: Batches that ended in any way.
        successes: Those of them that ended well.
        drops: Those that were refused: throttled, timed out, or something was unavailable.
        dropped_share: The share of all seats' time that went to them, 0..1.
        service_ns: Mean service time of the successes, in batches of normal cost; 0 without.
        goodput_per_s: Successes a second, in batches of normal cost.
        service_error: Standard error of `service_ns`, as a share of it, from how much batches
            differ; what all batches of the window have in common is not in it.
        goodput_error: The same for `goodput_per_s`, from batches half done at both ends, too.
        restarted: Nothing could be learnt for so long that the limit was halved, or this is
            the first window: what is known of normal service time is void.
    """

    at_ns: int
    length_ns: int
    limit: float
    limit_min: int
    limit_max: int
    seats: int
    in_flight_max: int
    in_flight_mean: float
    completions: int
    successes: int
    drops: int
    dropped_share: float
    service_ns: float
    goodput_per_s: float
    service_error: float = 0.0
    goodput_error: float = 0.0
    restarted: bool = False

    @property
    def drop_ratio(self) -> float:
        """Return the share of batches that were refused, 0..1."""
        return self.drops / self.completions if self.completions else 0.0

    @property
    def saturated(self) -> bool:
        """Tell whether the limit was what held work back; if not, it says nothing of more."""
        return self.in_flight_mean >= 0.9 * self.seats


class Sample(NamedTuple):
    """One batch that ended."""

    records: int
    service_ns: int
    outcome: Outcome
    in_flight: int
    late: bool  # it began before the limit was changed


class Batches:
    """Batches that ended well: how many records they had, and how long they took."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.sizes = [each.records for each in samples]
        self.times_ns = [each.service_ns for each in samples]

    @classmethod
    def of(cls, samples: Sequence[Sample], *, timely: bool = False) -> Batches:
        """Return those that ended well.

        Args:
            timely: Only those that began after the limit was changed, if there are any.
        """
        good = [each for each in samples if each.outcome == "ok"]
        if timely:
            good = [each for each in good if not each.late] or good
        return cls(good)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def mean_size(self) -> float:
        """Return the mean number of records."""
        return sum(self.sizes) / len(self.sizes)

    def service(self, cost: CostFit) -> tuple[float, float]:
        """Return the mean service time by cost, stragglers clipped, and its relative error."""
        if not self.sizes:
            return 0.0, 0.0
        costs = cost.costs(self.sizes)
        times: Sequence[float] = list(map(truediv, self.times_ns, costs))
        most = CLIPPED_AT * float(median(times))
        if max(times) > most:
            times = [min(each, most) for each in times]
        total = sum(costs)
        mean = sum(map(mul, times, costs)) / total
        off = [(time - mean) * own for time, own in zip(times, costs, strict=True)]
        return mean, (sum(map(mul, off, off)) ** 0.5 / total / mean if mean else 0.0)

    def work(self, cost: CostFit, seats: int) -> tuple[float, float]:
        """Return the sum of their costs, and how much of it is off at the ends of a window.

        At each end every seat has a batch of which any part may be done. A costly one is
        met there more often.
        """
        if not self.sizes:
            return 0.0, 0.0
        costs = cost.costs(self.sizes)
        total = sum(costs)
        met = sum(map(mul, costs, map(mul, costs, costs))) / total
        return total, (seats * met / 6) ** 0.5 / total


def window_of(
    samples: Sequence[Sample],
    cost: CostFit,
    *,
    at_ns: int,
    length_ns: int,
    limit: float,
    limit_min: int,
    limit_max: int,
    restarted: bool,
) -> Window:
    """Return what these batches have shown; not empty."""
    seats = int(limit)
    in_flight = [each.in_flight for each in samples]
    dropped_ns = [each.service_ns for each in samples if each.outcome in DROPS]
    good = Batches.of(samples)
    work, edge_error = good.work(cost, seats)
    service_ns, service_error = Batches.of(samples, timely=True).service(cost)
    return Window(
        at_ns=at_ns,
        length_ns=length_ns,
        limit=limit,
        limit_min=limit_min,
        limit_max=limit_max,
        seats=seats,
        in_flight_max=max(in_flight),
        in_flight_mean=sum(in_flight) / len(in_flight),
        completions=len(samples),
        successes=len(good),
        drops=len(dropped_ns),
        dropped_share=sum(dropped_ns) / max(1, sum(each.service_ns for each in samples)),
        service_ns=service_ns,
        goodput_per_s=work * SECOND / length_ns,
        service_error=service_error,
        goodput_error=hypot(service_error, edge_error),
        restarted=restarted,
    )
