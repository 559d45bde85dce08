"""Play all cells of the grid, and say who was better."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf
from statistics import mean, median
from typing import Any, Final

from flowguard.stress.grid.scenarios import HELD_OUT, SCENARIOS, Scenario
from flowguard.stress.grid.score import OURS, PEERS, PLAYERS, Cell, play

__all__ = ["HELD_OUT_SEED", "TUNED_SEEDS", "Contest", "Tally", "Target", "named"]

SCHEMA: Final = "flowguard.grid/v1"

#: Constants were tuned on these seeds, and on no others.
TUNED_SEEDS: Final = frozenset(range(1, 5))

#: The first seed of scenarios that are held out.
HELD_OUT_SEED: Final = 101

#: A difference below this is a tie.
TIE: Final = 0.01

BY_NAME: Final = {each.name: each for each in (*SCENARIOS, *HELD_OUT)}

#: Scenarios in which nothing but the cold start is to be learnt, of up to 64 servers.
COLD: Final[tuple[str, ...]] = (
    "servers-2", "servers-4", "servers-8", "servers-16", "servers-32", "servers-64",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tally:
    """Cells against one peer."""

    wins: int
    ties: int
    losses: int

    @property
    def share(self) -> float:
        """Return the share of cells that were won; a tie is none."""
        return self.wins / max(1, self.wins + self.ties + self.losses)

    def __str__(self) -> str:
        return f"{self.wins}/{self.ties}/{self.losses}"


@dataclass(frozen=True, slots=True)
class Target:
    """What must come of it; `where` is the scenario that decides, where it is a single one."""

    name: str
    limit: float
    value: float | None
    at_least: bool
    where: str | None = None

    @property
    def passed(self) -> bool:
        """Tell whether it did; what was not measured did not."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def named(name: str) -> list[Scenario]:
    """Return the scenarios whose name has this in it, the held-out ones last."""
    return [each for each in BY_NAME.values() if name in each.name]


class Contest:
    """The cells of some scenarios.

    Args:
        scenarios: Which ones.
        seeds: How many seeds each is played with.
        jobs: Processes at once.
        progress: Told how many cells are done, and of how many.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        *,
        seeds: int,
        jobs: int = 2,
        progress: Callable[[int, int], None] = lambda done, all_: None,
    ) -> None:
        self.scenarios = list(scenarios)
        self.seeds = seeds
        self.jobs = jobs
        self.progress = progress
        self.cells: dict[tuple[str, str, int], Cell] = {}

    def play(self) -> None:
        """Play all cells."""
        wanted = [
            (scenario.name, player, seed)
            for scenario in self.scenarios
            for seed in self.seeds_of(scenario)
            for player in PLAYERS
        ]
        with ProcessPoolExecutor(self.jobs) as pool:
            for done, cell in enumerate(pool.map(play_named, wanted, chunksize=4), 1):
                self.cells[cell.scenario, cell.player, cell.seed] = cell
                self.progress(done, len(wanted))

    def seeds_of(self, scenario: Scenario) -> range:
        """Return the seeds that a scenario is played with."""
        first = HELD_OUT_SEED if scenario in HELD_OUT else 1
        return range(first, first + self.seeds)

    def of(self, scenario: str, player: str) -> list[Cell]:
        """Return a player's cells of one scenario."""
        return [
            cell for (name, who, _), cell in self.cells.items() if (name, who) == (scenario, player)
        ]

    def tally(self, peer: str, cells: Iterable[Cell]) -> Tally:
        """Return how these cells of ours compare with a peer's."""
        gains = [cell.score - self.cells[cell.scenario, peer, cell.seed].score for cell in cells]
        wins = sum(gain >= TIE for gain in gains)
        losses = sum(gain <= -TIE for gain in gains)
        return Tally(wins, len(gains) - wins - losses, losses)

    def ours(self, *, held_out: bool = False, tuned: bool | None = None) -> list[Cell]:
        """Return our cells of the scenarios that are held out, or of the others.

        Args:
            tuned: Only seeds that constants were tuned on, or only the others; None for all.
        """
        names = {each.name for each in self.scenarios if (each in HELD_OUT) == held_out}
        return [
            cell
            for cell in self.cells.values()
            if cell.player == OURS
            and cell.scenario in names
            and (tuned is None or (cell.seed in TUNED_SEEDS) == tuned)
        ]

    def targets(self) -> list[Target]:
        """Return what must come of the scenarios that are not held out, and what did."""
        by_scenario: dict[str, list[Cell]] = {}
        for cell in self.ours():
            by_scenario.setdefault(cell.scenario, []).append(cell)
        goodputs = {
            name: mean(cell.goodput for cell in cells) for name, cells in by_scenario.items()
        }
        gentle = {
            name: goodput
            for name, goodput in goodputs.items()
            if BY_NAME[name].provider.degradation <= 0.01
        }
        latencies = {
            name: mean(cell.latency for cell in cells) for name, cells in by_scenario.items()
        }
        poorest = min(gentle, key=lambda name: gentle[name], default=None)
        slowest = max(latencies, key=lambda name: latencies[name], default=None)
        cold = {
            name: worst(cell.converged for cell in by_scenario[name])
            for name in COLD
            if name in by_scenario
        }
        coldest = max(cold, key=lambda name: inf_of(cold[name]), default=None)
        lost = [cell for cell in self.ours() if BY_NAME[cell.scenario].lost_at_s]
        sized = [cell for cell in self.ours() if cell.scenario.startswith("size-step")]
        return [
            Target("goodput, median scenario", 0.90, median_of(goodputs.values()), True),
            Target("goodput, worst scenario", 0.80, gentle.get(poorest or ""), True, poorest),
            Target("latency, median scenario", 1.3, median_of(latencies.values()), False),
            Target("latency, worst scenario", 1.3, latencies.get(slowest or ""), False, slowest),
            *(
                Target(f"cells better than {peer}", 0.8, self.tally(peer, self.ours()).share, True)
                for peer in PEERS
            ),
            Target("windows from cold to 90 %", 10, cold.get(coldest or ""), False, coldest),
            Target("windows after a loss", 20, worst(c.recovered for c in lost), False),
            Target("limit moved by a size step", 0.1, worst(mean_moved(sized)), False),
        ]

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "schema": SCHEMA,
            "seeds": self.seeds,
            "result": "pass" if all(each.passed for each in self.targets()) else "fail",
            "targets": [
                {"name": each.name, "limit": each.limit, "value": each.value,
                 "passed": each.passed, "where": each.where}
                for each in self.targets()
            ],
            "peers": {
                peer: {
                    "all": tally_document(self.tally(peer, self.ours())),
                    "seeds_not_tuned_on": tally_document(self.tally(peer, self.ours(tuned=False))),
                    "held_out": tally_document(self.tally(peer, self.ours(held_out=True))),
                }
                for peer in PEERS
            },
            "cells": [cell_document(cell) for cell in self.cells.values()],
        }  # fmt: skip


def play_named(which: tuple[str, str, int]) -> Cell:
    name, player, seed = which
    return play(BY_NAME[name], player, seed)


def median_of(values: Collection[float]) -> float | None:
    return median(values) if values else None


def inf_of(value: float | None) -> float:
    """Return a number of windows; what never happens takes infinitely many."""
    return inf if value is None else value


def worst(values: Iterable[float | None]) -> float | None:
    """Return the greatest; None if there is none, or one of them was never reached."""
    known = list(values)
    return None if not known or None in known else max(each for each in known if each is not None)


def mean_moved(cells: Sequence[Cell]) -> list[float]:
    """Return by how much the limit moved in each scenario, on average over seeds."""
    names = {cell.scenario for cell in cells}
    return [abs(mean(cell.moved for cell in cells if cell.scenario == name)) for name in names]


def tally_document(tally: Tally) -> dict[str, Any]:
    return {"wins": tally.wins, "ties": tally.ties, "losses": tally.losses, "share": tally.share}


def cell_document(cell: Cell) -> dict[str, Any]:
    return {
        "scenario": cell.scenario, "player": cell.player, "seed": cell.seed,
        "goodput": cell.goodput, "latency": cell.latency, "score": cell.score,
        "converged": cell.converged, "recovered": cell.recovered, "moved": cell.moved,
    }  # fmt: skip
