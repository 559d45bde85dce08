"""A provider with a capacity: what a batch takes when so many are with it.

    servers work, each on one batch; more batches wait in line
                 ┌─ knee: service slows down as servers fill up
    goodput      │   ┌─ degradation: each batch beyond the servers slows all down
      │       ___▼__ ▼
      │     /        ‾‾‾‾--___
      │   /
      └──┴─────────┴──────────── batches at once
                servers

Noise is one factor for all batches that begin in the same quarter of a second; jitter and
tails are each batch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf
from random import Random
from typing import Final

__all__ = ["SLOT_S", "Provider", "Weather", "between", "steps"]

#: Service time has one noise factor for so long.
SLOT_S: Final = 0.25

#: So many factors of single batches are drawn, and used in turn.
JITTERS: Final = 4096

Servers = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What a provider can do.

    Args:
        servers: By time (s), how many batches are worked on at once.
        service_s: What a batch of normal size takes alone.
        fixed_ratio: How much of that does not depend on its number of records.
        knee: By how much service is slower when all servers work (1 is twice as slow).
        degradation: By how much each batch beyond the servers slows down all, a share.
        noise: Deviation of the logarithm of the factor of a quarter of a second.
        jitter: Deviation of the logarithm of the factor of a batch.
        tail: Share of batches that take `tail_factor` times as long.
        tail_factor: See `tail`.
        errors: By time (s), the share of batches that fail as unavailable after their time.
        refuses_above: More batches at once than this are refused.
        rate_max_per_s: More batches a second than this are refused.
        timeout_s: A batch is given up after this; the provider goes on with it.
        lucky_s: In this quarter of a second batches take a tenth of their time.
    """

    servers: Servers
    service_s: float = 0.1
    fixed_ratio: float = 0.2
    knee: float = 0.0
    degradation: float = 0.01
    noise: float = 0.08
    jitter: float = 0.2
    tail: float = 0.0
    tail_factor: float = 1.0
    errors: Callable[[float], float] | None = None
    refuses_above: float = inf
    rate_max_per_s: float = inf
    timeout_s: float = inf
    lucky_s: float = -1.0

    def slowed(self, working: int, present: int, servers: float) -> float:
        """Return by which factor service is slower than alone."""
        factor = 1.0
        if self.knee:
            factor += self.knee * (working / max(1.0, servers)) ** 2
        if self.degradation and present > servers:
            factor *= 1.0 + self.degradation * (present - servers)
        return factor

    def best_per_s(self, servers: float) -> float:
        """Return the most batches of normal size a second that so many servers can do."""
        most = int(min(servers, self.refuses_above))
        best = max((n / self.slowed(n, n, servers) for n in range(1, most + 1)), default=0.0)
        return best / self.service_s


class Weather:
    """The chance of one run: noise by time, and a factor for each batch; both are 1 on average.

    (Of noise it is the goodput that is, so that a run's peak does not depend on how much.)
    """

    def __init__(self, provider: Provider, duration_s: float, rng: Random) -> None:
        sigma = provider.noise
        count = int(duration_s / SLOT_S) + 2
        self.noise = [exp(sigma * rng.gauss(0.0, 1.0) + sigma * sigma / 2) for _ in range(count)]
        if provider.lucky_s >= 0.0:
            self.noise[int(provider.lucky_s / SLOT_S)] = 0.1
        own = provider.jitter
        tails = 1.0 + provider.tail * (provider.tail_factor - 1.0)
        self.jitter = [
            exp(own * rng.gauss(0.0, 1.0) - own * own / 2)
            * (provider.tail_factor if rng.random() < provider.tail else 1.0)
            / tails
            for _ in range(JITTERS)
        ]
        mean = sum(self.jitter) / JITTERS
        self.jitter = [each / mean for each in self.jitter]


def steps(*changes: tuple[float, float]) -> Servers:
    """Return servers that change at these times: `steps((0, 32), (40, 8))`."""
    if len(changes) == 1:
        [(_, count)] = changes
        return lambda at_s: count
    backwards = changes[::-1]

    def servers(at_s: float) -> float:
        for since_s, count in backwards:
            if at_s >= since_s:
                return count
        raise ValueError(f"there are no servers at {at_s} s")

    return servers


def between(*points: tuple[float, float]) -> Servers:
    """Return servers that change along a line through these points."""

    def servers(at_s: float) -> float:
        for (since_s, before), (until_s, after) in pairwise(points):
            if at_s < until_s:
                share = (at_s - since_s) / (until_s - since_s)
                return before + (after - before) * share
        return points[-1][1]

    return servers
