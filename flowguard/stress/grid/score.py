"""What a run of the grid was worth.

Fixed before anything was tuned:

    goodput    work done in the whole run / what the provider could have done in it
    latency    service time / what it would have been alone, in the steady spans
    score      goodput / max(1, latency / 1.3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flowguard.control.limit import Algorithm, Limiter
from flowguard.control.limits import ALGORITHMS
from flowguard.stress.grid.arc import Arc
from flowguard.stress.grid.run import Run, Stretch
from flowguard.stress.grid.scenarios import Scenario

__all__ = ["PEERS", "PLAYERS", "Cell", "play"]

#: Latency up to this costs nothing.
LATENCY_FREE: Final = 1.3
CONVERGED: Final = 0.9
RECOVERED: Final = 1.5

OURS: Final = "goodput"
PLAYERS: Final[Mapping[str, Callable[[], Algorithm]]] = {**ALGORITHMS, "arc": Arc}
PEERS: Final = tuple(name for name in PLAYERS if name != OURS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One player in one scenario with one seed.

    Args:
        converged: Windows until nine tenths of the peak were reached, None for never.
        recovered: Windows after capacity was lost until latency was 1.5 times its normal or
            less; None where none is lost, -1 for never.
    """

    scenario: str
    player: str
    seed: int
    goodput: float
    latency: float
    converged: int | None
    recovered: int | None

    @property
    def score(self) -> float:
        """Return what it was worth, 0..1."""
        return self.goodput / max(1.0, self.latency / LATENCY_FREE)


def play(scenario: Scenario, player: str, seed: int) -> Cell:
    """Run one cell."""
    stretches = stretches_of(scenario, player, seed)
    steady = [each for each in stretches if is_steady(each, scenario)]
    alone_s = sum(each.alone_s for each in steady)
    return Cell(
        scenario.name,
        player,
        seed,
        goodput=sum(each.work for each in stretches) / sum(each.peak for each in stretches),
        latency=sum(each.taken_s for each in steady) / alone_s if alone_s else 1.0,
        converged=first_index(each.work >= CONVERGED * each.peak for each in stretches),
        recovered=recovered_in(stretches, scenario.lost_at_s) if scenario.lost_at_s else None,
    )


def stretches_of(scenario: Scenario, player: str, seed: int) -> Sequence[Stretch]:
    """Run one cell, and return all that happened."""
    limiter = Limiter(PLAYERS[player](), limit_min=1, limit_max=scenario.limit_max)
    if scenario.first:
        limiter.limit = float(scenario.first)
    return Run(limiter, scenario.provider, scenario.load, seed).go()


def is_steady(stretch: Stretch, scenario: Scenario) -> bool:
    duration_s = scenario.load.duration_s
    return any(
        since * duration_s <= stretch.since_s and stretch.until_s <= until * duration_s
        for since, until in scenario.steady
    )


def first_index(found: Iterable[bool]) -> int | None:
    return next((index for index, each in enumerate(found) if each), None)


def recovered_in(stretches: Sequence[Stretch], lost_at_s: float) -> int:
    """Return in how many windows after a loss service time came back."""
    after = [each for each in stretches if each.since_s >= lost_at_s]
    risen = first_index(each.latency_ratio > RECOVERED for each in after)
    if risen is None:
        return 0
    index = first_index(each.latency_ratio <= RECOVERED for each in after[risen:])
    return -1 if index is None else risen + index
