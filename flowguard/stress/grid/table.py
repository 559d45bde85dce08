"""The grid for people."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Final

from flowguard.stress.grid.contest import HELD_OUT_SEED, TUNED_SEEDS, Contest, Target
from flowguard.stress.grid.scenarios import HELD_OUT, Scenario
from flowguard.stress.grid.score import OURS, PEERS, Cell

__all__ = ["table"]

LEGEND: Final = """\
goodput: work done in the whole run, as a share of what the provider could have done in it;
latency: service time in steady state, as a multiple of what it would have been alone;
score: goodput / max(1, latency / 1.3). Behind each peer: cells won / tied (within 1 %) / lost."""


def table(contest: Contest, *, targets: bool = True) -> str:
    """Return the result of a contest as text, with the targets if all of it was played."""
    known = [each for each in contest.scenarios if each not in HELD_OUT]
    held_out = [each for each in contest.scenarios if each in HELD_OUT]
    lines = [LEGEND, "", *heads()]
    lines += [row(contest, each) for each in known]
    if known:
        lines += ["", *tallies(contest)]
    if held_out:
        last = HELD_OUT_SEED + contest.seeds - 1
        lines += ["", f"Held out, never tuned on (seeds {HELD_OUT_SEED} to {last}):"]
        lines += [row(contest, each) for each in held_out]
        cells = contest.ours(held_out=True)
        lines += ["", tally_line(contest, "held out", cells)]
    if known and targets:
        lines += ["", *(target_line(each) for each in contest.targets())]
    return "\n".join(lines)


def heads() -> list[str]:
    peers = "".join(f" | {peer:^25}" for peer in PEERS)
    columns = "".join(f" | {'good. latency':>15} {'w/t/l':>9}" for _ in PEERS)
    return [
        f"{'':20} {OURS:^20}{peers}",
        f"{'scenario':20} goodput latency score{columns}",
    ]


def row(contest: Contest, scenario: Scenario) -> str:
    ours = contest.of(scenario.name, OURS)
    goodput, latency, score = means(ours)
    text = f"{scenario.name:20} {goodput:7.3f} {latency:7.2f} {score:.3f}"
    for peer in PEERS:
        its_goodput, its_latency, _ = means(contest.of(scenario.name, peer))
        tally = contest.tally(peer, ours)
        text += f" | {its_goodput:7.3f} {its_latency:7.2f} {tally!s:>9}"
    return text


def means(cells: Iterable[Cell]) -> tuple[float, float, float]:
    known = list(cells)
    return (
        mean(cell.goodput for cell in known),
        mean(cell.latency for cell in known),
        mean(cell.score for cell in known),
    )


def tallies(contest: Contest) -> list[str]:
    lines = [tally_line(contest, "all", contest.ours())]
    fresh = contest.ours(tuned=False)
    if fresh:
        lines.append(tally_line(contest, f"seeds above {max(TUNED_SEEDS)}", fresh))
    return lines


def tally_line(contest: Contest, name: str, cells: list[Cell]) -> str:
    parts = []
    for peer in PEERS:
        tally = contest.tally(peer, cells)
        parts.append(f"{peer} {tally} ({tally.share:.0%})")
    return f"won/tied/lost, {name}: " + ", ".join(parts)


def target_line(target: Target) -> str:
    sign = ">=" if target.at_least else "<="
    value = "never" if target.value is None else f"{target.value:.3g}"
    mark = "ok  " if target.passed else "FAIL"
    where = f" in {target.where}" if target.where else ""
    return f"{mark} {target.name:30} {value:>6} ({sign} {target.limit:g}){where}"
