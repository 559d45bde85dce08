"""A provider: what the agent calls once a batch, with a capacity.

Calls share what there is. With `n` calls under way and a capacity of `C`, each is served at

    n <= C:  full speed, but for the knee before C
    n > C:   C / (1 + degradation × (n − C)) / n of it

so more calls bring less, as in databases, models on one accelerator, and thread pools. How
far calls are is kept as one number, the work done for each since the beginning (processor
sharing), so a call costs O(log calls) whatever happens meanwhile.

It has no clock and starts no task: time is an argument, and who asks must come back at
`due_ns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import ceil
from typing import TYPE_CHECKING

from flowguard.control.rate import RateLimit
from flowguard.stress.chance import lognormal
from flowguard.stress.scenario import ProviderPlan
from flowguard.units import MILLISECOND

if TYPE_CHECKING:
    import random

__all__ = ["REFUSAL_NS", "Answer", "Call", "Provider"]

#: A refusal comes back after this long.
REFUSAL_NS = MILLISECOND

#: Less work than this is a rounding error.
DONE_WORK = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended.

    Args:
        why: Why it failed, "" if it did not.
        unavailable: The provider is not there, rather than that the batch is wrong.
        retry_after_ns: When to come back, None if it did not say.
    """

    why: str = ""
    unavailable: bool = False
    retry_after_ns: int | None = None


@dataclass(slots=True, eq=False)
class Call:
    """A call under way.

    Args:
        answer: What will come of it.
        done: Told when it has.
    """

    answer: Answer
    done: Callable[[Answer], None]
    under_way: bool = True


class Provider:
    """The provider of a scenario.

    Args:
        plan: What it can do.
        rng: Where chance comes from.

    Attributes:
        factor: Calls take so many times as long.
        delay_ns: And so much longer.
        capacity: As in the plan; 0: any number.
        errors: Share of calls that fail.
        unavailable: What fails says that it is not there.
        outage: Every call is refused with this.
        hanging: No call comes to its end.
    """

    def __init__(self, plan: ProviderPlan, rng: random.Random) -> None:
        self.plan = plan
        self.factor = 1.0
        self.delay_ns = 0
        self.capacity = plan.capacity
        self.errors = plan.errors
        self.unavailable = plan.unavailable
        self.outage: Answer | None = None
        self.hanging = False
        self.retry_after_ns = plan.retry_after_ns
        self._rng = rng
        self._rate = RateLimit(plan.rate_per_s) if plan.rate_per_s else None
        self._usual_rate = self._rate
        self._calls: list[tuple[float, int, Call]] = []  # by the work at which they are done
        self._under_way = 0
        self._number = 0
        self._work = 0.0
        self._at_ns = 0
        self.refused = 0

    @property
    def under_way(self) -> int:
        """Return how many calls it is working on."""
        return self._under_way

    @property
    def due_ns(self) -> int | None:
        """Return when the next call is done, None if that is not in sight."""
        self._forget_cancelled()
        speed = self.speed
        if not self._calls or speed == 0.0:
            return None
        return self._at_ns + max(0, ceil((self._calls[0][0] - self._work) / speed))

    @property
    def speed(self) -> float:
        """Return how fast each call is served, 1 for as fast as can be."""
        calls, capacity = self._under_way, self.capacity
        if self.hanging:
            return 0.0
        speed = 1.0 / self.factor
        if not capacity or not calls:
            return speed
        speed /= self._knee(min(1.0, calls / capacity))
        if calls > capacity:
            left = capacity / (1 + self.plan.degradation * (calls - capacity))
            speed *= left / calls
        return speed

    def _knee(self, load: float) -> float:
        knee = self.plan.knee
        if load <= knee:
            return 1.0
        return 1.0 + (self.plan.knee_factor - 1.0) * (load - knee) / (1.0 - knee)

    def call(self, now_ns: int, records: int, done: Callable[[Answer], None]) -> Call | Answer:
        """Begin a call, or refuse it.

        Args:
            records: Of the batch.
            done: Told how it ended, unless it is cancelled before.
        """
        refusal = self._refusal(now_ns)
        if refusal is not None:
            self.refused += 1
            return refusal
        if self._rate is not None:
            self._rate.spend(1)
        self._elapse(now_ns)
        work = self.plan.service_ns(records) * lognormal(self._rng, self.plan.jitter)
        if self.plan.slow_share and self._rng.random() < self.plan.slow_share:
            work *= self.plan.slow_factor
        fails = self.errors > 0 and self._rng.random() < self.errors
        answer = Answer("the provider failed", self.unavailable) if fails else Answer()
        call = Call(answer, done)
        self._number += 1
        self._under_way += 1
        heappush(self._calls, (self._work + work + self.delay_ns, self._number, call))
        return call

    def _refusal(self, now_ns: int) -> Answer | None:
        if self.outage is not None:
            return self.outage
        busy = self.plan.calls_max and self._under_way >= self.plan.calls_max
        if busy or (self._rate is not None and not self._rate.allows(now_ns)):
            return Answer("too many requests", True, self.retry_after_ns or None)
        return None

    def cancel(self, call: Call, now_ns: int) -> None:
        """End a call that nobody waits for any more."""
        if call.under_way:
            self._elapse(now_ns)
            call.under_way = False
            self._under_way -= 1

    def advance(self, now_ns: int) -> None:
        """Tell the calls that are done by now."""
        self._elapse(now_ns)
        ended = []
        while self._calls and self._calls[0][0] <= self._work + DONE_WORK:
            call = heappop(self._calls)[2]
            if call.under_way:
                call.under_way = False
                self._under_way -= 1
                ended.append(call)
        for call in ended:
            call.done(call.answer)

    def fail_all(self, now_ns: int, answer: Answer) -> None:
        """End all calls that are under way with a failure."""
        self._elapse(now_ns)
        calls = [call for _, _, call in sorted(self._calls) if call.under_way]
        self._calls.clear()
        self._under_way = 0
        for call in calls:
            call.under_way = False
            call.done(answer)

    def throttle(self, rate_per_s: float | None) -> None:
        """Refuse calls above a rate; None: as in the plan."""
        self._rate = self._usual_rate if rate_per_s is None else RateLimit(rate_per_s)

    def change(self, now_ns: int, **state: object) -> None:
        """Change attributes at an instant; what was done before was done as before."""
        self._elapse(now_ns)
        for name, value in state.items():
            setattr(self, name, value)

    def _elapse(self, now_ns: int) -> None:
        if now_ns > self._at_ns:
            self._work += (now_ns - self._at_ns) * self.speed
            self._at_ns = now_ns

    def _forget_cancelled(self) -> None:
        if len(self._calls) > 2 * self._under_way + 8:
            self._calls = [each for each in self._calls if each[2].under_way]
            heapify(self._calls)
        while self._calls and not self._calls[0][2].under_way:
            heappop(self._calls)
