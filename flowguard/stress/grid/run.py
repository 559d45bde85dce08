"""One limiter in a closed loop with one provider, on a virtual clock.

    work waits ─▶ seats (the real `Limiter`) ─▶ provider: servers, line ─▶ done, refused, given up
                        ▲                                                    │
                        └────────────────── sample ◀─────────────────────────┘

Time jumps from event to event: a batch ends, work arrives, or the worker ticks. The limiter
knows nothing but what it is told, as in the worker.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from random import Random
from typing import Final

from flowguard.control.limit import Change, Limiter, Outcome
from flowguard.stress.grid.provider import SLOT_S, Provider, Weather
from flowguard.units import SECOND

__all__ = ["Load", "Run", "Stretch"]

TICK_S: Final = 0.1

#: A refusal comes back after this.
REFUSED_S: Final = 0.05

DONE, REFUSED, GIVEN_UP = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What there is to do.

    Args:
        duration_s: How long the run is.
        arrivals_per_s: Batches that arrive; None where there always is work.
        backlog_from_s: From here on there always is work.
        size: The normal number of records of a batch, which its cost relates to.
        sizes: From when on batches have how many records.
        large_records: The records of some batches, and `large_ratio` how many they are.
        stalls_s: Begin and length of times in which the worker stands still.
    """

    duration_s: float = 120.0
    arrivals_per_s: float | None = None
    backlog_from_s: float = inf
    size: int = 64
    sizes: tuple[tuple[float, int], ...] = ((0.0, 64),)
    large_records: int = 0
    large_ratio: float = 0.0
    stalls_s: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class Stretch:
    """What happened from one decision of the limiter to the next.

    Work is in batches of normal cost; `peak` is what could have been done.
    """

    since_s: float
    until_s: float
    seats: int
    work: float
    peak: float
    taken_s: float  # by the batches that ended well
    alone_s: float  # that they would have taken alone
    change: Change | None  # what was decided at its end

    @property
    def latency_ratio(self) -> float:
        """Return how much longer batches took than they would have taken alone."""
        return self.taken_s / self.alone_s if self.alone_s else 1.0


@dataclass(slots=True, eq=False)
class Order:
    """A batch with the provider."""

    since_s: float
    records: int
    cost: float
    over: bool = False  # the worker has its answer
    alone_s: float = 0.0


class Run:
    """Run one scenario once.

    Args:
        limiter: What decides how many batches are under way; its limit is where it starts.
    """

    def __init__(self, limiter: Limiter, provider: Provider, load: Load, seed: int) -> None:
        self.limiter = limiter
        self.provider = provider
        self.load = load
        self.rng = Random(seed)
        self.weather = Weather(provider, load.duration_s, self.rng)
        self.stretches: list[Stretch] = []
        self._events: list[tuple[float, int, int, Order]] = []
        self._line: deque[Order] = deque()
        self._sequence = 0
        self._working = 0
        self._in_flight = 0
        self._waiting = 0
        self._allowed = 0.0 if provider.rate_max_per_s == inf else provider.rate_max_per_s * TICK_S
        self._allowed_s = 0.0
        self._since_s = 0.0
        self._work = self._taken_s = self._alone_s = 0.0
        self._peaks = self._peaks_by_slot()

    def go(self) -> list[Stretch]:
        """Let all of its time pass, and return what happened."""
        end_s = self.load.duration_s
        stalls = deque(self.load.stalls_s)
        tick_s = TICK_S
        arrives_s = self._next_arrival(0.0)
        self._fill(0.0)
        while tick_s < end_s:
            if stalls and min(tick_s, arrives_s, self._next_event_s) >= stalls[0][0]:
                tick_s = max(tick_s, self._stand_still(*stalls.popleft()))
            now_s = min(tick_s, arrives_s, self._next_event_s)
            if now_s == tick_s:
                self._tick(now_s)
                tick_s += TICK_S
            elif now_s == arrives_s:
                self._waiting += 1
                arrives_s = self._next_arrival(now_s)
            else:
                self._answer(*heappop(self._events))
            self._fill(now_s)
        self._note(end_s, self.limiter.seats, None)
        return self.stretches

    # The worker.

    @property
    def _next_event_s(self) -> float:
        return self._events[0][0] if self._events else inf

    def _next_arrival(self, now_s: float) -> float:
        rate = self.load.arrivals_per_s
        if rate is None or now_s >= self.load.backlog_from_s:
            return inf
        return now_s + self.rng.expovariate(rate)

    def _stand_still(self, since_s: float, length_s: float) -> float:
        """Let what ends meanwhile be seen only afterwards; return when that is."""
        until_s = since_s + length_s
        self._events = [(max(at_s, until_s), *rest) for at_s, *rest in self._events]  # type: ignore[misc]
        heapify(self._events)
        self.limiter.invalidate("the worker stood still")
        return until_s

    def _tick(self, now_s: float) -> None:
        self._serve_line(now_s)  # servers may have come back without a batch that ended
        seats = self.limiter.seats
        change = self.limiter.tick(round(now_s * SECOND), in_flight=self._in_flight)
        if change is not None:
            self._note(now_s, seats, change)

    def _note(self, now_s: float, seats: int, change: Change | None) -> None:
        self.stretches.append(
            Stretch(
                self._since_s, now_s, seats, self._work,
                self._peak_until(now_s) - self._peak_until(self._since_s),
                self._taken_s, self._alone_s, change,
            )
        )  # fmt: skip
        self._since_s = now_s
        self._work = self._taken_s = self._alone_s = 0.0

    def _fill(self, now_s: float) -> None:
        """Hand out what waits while seats are free."""
        seats = self.limiter.seats
        if self._in_flight >= seats:
            return
        load, fixed = self.load, self.provider.fixed_ratio
        always = load.arrivals_per_s is None or now_s >= load.backlog_from_s
        normal = next(size for since_s, size in reversed(load.sizes) if now_s >= since_s)
        while self._in_flight < seats and (always or self._waiting):
            self._waiting -= not always
            self._in_flight += 1
            large = load.large_ratio and self.rng.random() < load.large_ratio
            records = load.large_records if large else normal
            self._offer(Order(now_s, records, fixed + (1 - fixed) * records / load.size))

    # The provider.

    def _offer(self, order: Order) -> None:
        now_s, provider = order.since_s, self.provider
        if self._working + len(self._line) >= provider.refuses_above or not self._in_rate(now_s):
            self._push(now_s + REFUSED_S, REFUSED, order)
            return
        if provider.timeout_s < inf:
            self._push(now_s + provider.timeout_s, GIVEN_UP, order)
        if self._working < provider.servers(now_s):
            self._serve(now_s, order)
        else:
            self._line.append(order)

    def _in_rate(self, now_s: float) -> bool:
        rate = self.provider.rate_max_per_s
        if rate == inf:
            return True
        self._allowed = min(rate * TICK_S, self._allowed + rate * (now_s - self._allowed_s))
        self._allowed_s = now_s
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True

    def _serve(self, now_s: float, order: Order) -> None:
        provider, weather = self.provider, self.weather
        self._working += 1
        self._sequence += 1
        order.alone_s = (
            provider.service_s
            * order.cost
            * weather.noise[int(now_s / SLOT_S)]
            * weather.jitter[self._sequence % len(weather.jitter)]
        )
        present = self._working + len(self._line)
        servers = provider.servers(now_s)
        taken_s = order.alone_s * provider.slowed(self._working, present, servers)
        heappush(self._events, (now_s + taken_s, self._sequence, DONE, order))

    def _serve_line(self, now_s: float) -> None:
        while self._line and self._working < self.provider.servers(now_s):
            self._serve(now_s, self._line.popleft())

    def _push(self, at_s: float, kind: int, order: Order) -> None:
        self._sequence += 1
        heappush(self._events, (at_s, self._sequence, kind, order))

    def _answer(self, now_s: float, _: int, kind: int, order: Order) -> None:
        """Take in that a batch ended, at the provider or for the worker."""
        if kind == DONE:
            self._working -= 1
            self._serve_line(now_s)
        if order.over:
            return
        order.over = True
        outcome: Outcome = "throttled" if kind == REFUSED else "timeout"
        if kind == DONE:
            errors = self.provider.errors
            failed = errors is not None and self.rng.random() < errors(now_s)
            outcome = "unavailable" if failed else "ok"
        taken_s = now_s - order.since_s
        if outcome == "ok":
            self._work += order.cost
            self._taken_s += taken_s
            self._alone_s += order.alone_s
        self.limiter.sample(
            records=order.records,
            service_ns=round(taken_s * SECOND),
            outcome=outcome,
            in_flight=self._in_flight,
            at_ns=round(now_s * SECOND),
        )
        self._in_flight -= 1

    # What could be done.

    def _peaks_by_slot(self) -> list[float]:
        """Return what could have been done up to each slot, at most what there was to do."""
        provider, load = self.provider, self.load
        best_per_s: dict[float, float] = {}
        total, sums = 0.0, [0.0]
        for slot in range(int(load.duration_s / SLOT_S) + 1):
            at_s = (slot + 0.5) * SLOT_S
            servers = provider.servers(at_s)
            if servers not in best_per_s:
                best_per_s[servers] = provider.best_per_s(servers)
            peak = min(best_per_s[servers] / self.weather.noise[slot], provider.rate_max_per_s)
            if provider.errors is not None:
                peak *= 1.0 - provider.errors(at_s)
            if load.arrivals_per_s is not None and at_s < load.backlog_from_s:
                peak = min(peak, load.arrivals_per_s)
            total += peak * SLOT_S
            sums.append(total)
        return sums

    def _peak_until(self, at_s: float) -> float:
        slot = int(at_s / SLOT_S)
        share = at_s / SLOT_S - slot
        return self._peaks[slot] + share * (self._peaks[slot + 1] - self._peaks[slot])
