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

__all__ = ["OURS", "PEERS", "PLAYERS", "Cell", "judge", "play", "stretches_of"]

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
        goodput: Work done, as a share of what could have been done.
        latency: Service time, as a multiple of what it would have been alone.
        converged: Windows until nine tenths of the peak were reached, None for never.
        recovered: Windows after capacity was lost until service time was 1.5 times its normal
            or less; None where none is lost, or for never.
        moved: By which share the limit moved from the first steady span to the last one.
    """

    scenario: str
    player: str
    seed: int
    goodput: float
    latency: float
    converged: int | None
    recovered: int | None
    moved: float

    @property
    def score(self) -> float:
        """Return what it was worth, 0..1."""
        return self.goodput / max(1.0, self.latency / LATENCY_FREE)


def play(scenario: Scenario, player: str, seed: int) -> Cell:
    """Run one cell."""
    return judge(stretches_of(scenario, player, seed), scenario, player, seed)


def judge(stretches: Sequence[Stretch], scenario: Scenario, player: str, seed: int) -> Cell:
    """Judge one cell by all that happened."""
    spans = [within(stretches, scenario, span) for span in scenario.steady]
    steady = [each for span in spans for each in span]
    alone_s = sum(each.alone_s for each in steady)
    first, last = mean_seats(spans[0]), mean_seats(spans[-1])
    return Cell(
        scenario.name,
        player,
        seed,
        goodput=sum(each.work for each in stretches) / sum(each.peak for each in stretches),
        latency=sum(each.taken_s for each in steady) / alone_s if alone_s else 1.0,
        converged=first_index(each.work >= CONVERGED * each.peak for each in stretches),
        recovered=recovered_in(stretches, scenario.lost_at_s) if scenario.lost_at_s else None,
        moved=last / first - 1.0 if first else 0.0,
    )


def stretches_of(scenario: Scenario, player: str, seed: int) -> Sequence[Stretch]:
    """Run one cell, and return all that happened."""
    limiter = Limiter(PLAYERS[player](), limit_min=1, limit_max=scenario.limit_max)
    if scenario.first:
        limiter.limit = float(scenario.first)
    return Run(limiter, scenario.provider, scenario.load, seed).go()


def within(
    stretches: Sequence[Stretch], scenario: Scenario, span: tuple[float, float]
) -> list[Stretch]:
    since_s, until_s = (share * scenario.load.duration_s for share in span)
    return [each for each in stretches if since_s <= each.since_s and each.until_s <= until_s]


def mean_seats(stretches: Sequence[Stretch]) -> float:
    time_s = sum(each.until_s - each.since_s for each in stretches)
    seats_s = sum((each.until_s - each.since_s) * each.seats for each in stretches)
    return seats_s / time_s if time_s else 0.0


def first_index(found: Iterable[bool]) -> int | None:
    return next((index for index, each in enumerate(found) if each), None)


def recovered_in(stretches: Sequence[Stretch], lost_at_s: float) -> int | None:
    """Return in how many windows after a loss service time came back."""
    after = [each for each in stretches if each.since_s >= lost_at_s]
    risen = first_index(each.latency_ratio > RECOVERED for each in after)
    if risen is None:
        return 0
    fell = first_index(each.latency_ratio <= RECOVERED for each in after[risen:])
    return None if fell is None else risen + fell
