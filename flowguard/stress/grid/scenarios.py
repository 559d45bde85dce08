"""The scenarios of the grid, and those that nobody tunes on.

Unless a scenario says otherwise: 32 servers, a batch takes 0.1 s alone, each batch beyond the
servers costs 1 % of goodput, noise of 8 %, and there is always work.
Origin: the failures that users of Netflix's, Vector's and Envoy's limits reported, one a scenario.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sin
from typing import Any, Final

from flowguard.stress.grid.provider import Provider, Servers, between, steps
from flowguard.stress.grid.run import Load

__all__ = ["HELD_OUT", "SCENARIOS", "Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A provider, a load, and what is looked at.

    Args:
        first: Where every limit starts, 0 for where each algorithm starts by itself.
        limit_max: The most any limit may be.
        steady: Spans, as shares of the run, in which service time counts.
        lost_at_s: When capacity is lost to a quarter; 0 for never.
    """

    name: str
    provider: Provider
    load: Load
    first: int
    limit_max: int
    steady: tuple[tuple[float, float], ...]
    lost_at_s: float


def scenario(
    name: str,
    servers: float | Servers = 32,
    *,
    load: Load | None = None,
    first: int = 0,
    limit_max: int = 256,
    steady: tuple[tuple[float, float], ...] = ((1 / 3, 1.0),),
    lost_at_s: float = 0.0,
    **provider: Any,
) -> Scenario:
    fixed = servers if callable(servers) else steps((0.0, servers))
    return Scenario(
        name=name,
        provider=Provider(servers=fixed, **provider),
        load=load or Load(),
        first=first,
        limit_max=limit_max,
        steady=steady,
        lost_at_s=lost_at_s,
    )


def only_between(since_s: float, until_s: float, ratio: float) -> Any:
    return lambda at_s: ratio if since_s <= at_s < until_s else 0.0


def every_ten_seconds(low: float, high: float) -> Any:
    return lambda at_s: high if int(at_s / 10) % 2 else low


#: Three thirds: what it can do, a quarter of it, and all again; each after it has settled.
THIRDS: Final = ((0.1, 1 / 3), (0.45, 2 / 3), (0.8, 1.0))
HALVES: Final = ((0.25, 0.5), (0.65, 1.0))
LONG: Final = Load(duration_s=180.0)
MIDDLE: Final = Load(duration_s=75.0)

SCENARIOS: Final[tuple[Scenario, ...]] = (
    # How much it can do.
    scenario("servers-2", 2),
    scenario("servers-4", 4),
    scenario("servers-8", 8),
    scenario("servers-16", 16),
    scenario("servers-32"),
    scenario("servers-64", 64, load=MIDDLE),
    scenario("servers-200", 200, load=MIDDLE, limit_max=1000),
    # How it degrades, and how noisy it is.
    scenario("no-degradation", degradation=0.0),
    scenario("steep", degradation=0.05),
    scenario("steep-8", 8, degradation=0.05),
    scenario("constant", noise=0.0, jitter=0.0),
    scenario("noisy", noise=0.25),
    scenario("noisy-no-degradation", degradation=0.0, noise=0.25),
    scenario("noisy-steep", degradation=0.05, noise=0.25),
    scenario("noisy-8", 8, noise=0.25),
    scenario("noisy-200", 200, noise=0.25, load=MIDDLE, limit_max=1000),
    # What its service time looks like.
    scenario("shallow-knee", knee=0.5),
    scenario("jitter", jitter=0.8),
    scenario("heavy-tail", tail=0.02, tail_factor=20.0),
    scenario("bimodal-hidden", tail=0.2, tail_factor=6.0),
    scenario("bimodal-sizes", load=Load(large_records=512, large_ratio=0.2)),
    scenario("fast", 8, service_s=0.01, load=Load(duration_s=40.0)),
    scenario("slow", 16, service_s=2.0, load=Load(duration_s=1200.0)),
    # What changes.
    scenario("capacity-32-8-32", steps((0, 32), (60, 8), (120, 32)), load=LONG,
             steady=THIRDS, lost_at_s=60.0),
    scenario("boiling-frog", between((0, 32), (10, 32), (150, 8), (180, 8)), load=LONG),
    scenario("starts-overloaded", 16, first=128),
    scenario("size-step-up", load=Load(sizes=((0.0, 64), (60.0, 512))), steady=HALVES),
    scenario("size-step-down", load=Load(sizes=((0.0, 512), (60.0, 64))), steady=HALVES),
    scenario("worker-stalls", load=Load(stalls_s=tuple((5.0 + 10 * n, 0.3) for n in range(11)))),
    scenario("lucky-sample", lucky_s=40.0),
    # What goes wrong.
    scenario("one-off-errors", errors=lambda at_s: 0.003),
    scenario("oscillating-errors", errors=every_ten_seconds(0.02, 0.06)),
    scenario("all-errors-20s", errors=only_between(50, 70, 1.0), steady=((0.2, 0.4), (0.75, 1.0))),
    scenario("outage-20s", steps((0, 32), (50, 0), (70, 32)), steady=((0.2, 0.4), (0.75, 1.0))),
    scenario("stable-timeout", 16, first=128, timeout_s=0.5),
    scenario("refuses-above-24", refuses_above=24),
    scenario("refuses-rate-200", rate_max_per_s=200.0),
    # What there is to do.
    scenario("little-to-do", load=Load(arrivals_per_s=190.0)),
    scenario("little-then-flood", load=Load(arrivals_per_s=100.0, backlog_from_s=60.0),
             steady=HALVES),
)  # fmt: skip

#: Variants that the algorithms were never tuned on.
HELD_OUT: Final[tuple[Scenario, ...]] = (
    scenario("held-out-12", 12, degradation=0.02, noise=0.15),
    scenario("held-out-100", 100, noise=0.15, load=MIDDLE, limit_max=500),
    scenario("held-out-48-16-48", steps((0, 48), (60, 16), (120, 48)), noise=0.12, load=LONG,
             steady=THIRDS),
    scenario("held-out-tide", lambda at_s: 24 + 12 * sin(2 * pi * at_s / 60), load=LONG),
    scenario("held-out-knee-tail", 20, knee=0.3, tail=0.01, tail_factor=15.0),
    scenario("held-out-refuses-12", 20, refuses_above=12, errors=every_ten_seconds(0.0, 0.02)),
    scenario("held-out-burst", 24, load=Load(arrivals_per_s=60.0, backlog_from_s=90.0),
             steady=((0.2, 0.7), (0.85, 1.0))),
)  # fmt: skip
