"""The timeline of a run as a short table, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from flowguard.stress.report import table_of
from flowguard.units import format_size

__all__ = ["timetable"]

#: So many rows at most; a longer run is told in steps of several seconds.
ROWS_MAX: Final = 20

Entry = Mapping[str, Any]


def timetable(timeline: Sequence[Entry]) -> Table:
    """Return a row for each second, or for each few of them."""
    lanes = list(timeline[0]["offered"]) if timeline else []
    table = table_of("t", "offered/s", "settled/s", *(f"{lane} p99" for lane in lanes), "waiting",
                     "seats", "memory", "rung")  # fmt: skip
    table.add_column("")
    step = -(-len(timeline) // ROWS_MAX) or 1
    for first in range(0, len(timeline), step):
        rows = timeline[first : first + step]
        p99 = [worst(row["p99"][lane] for row in rows) for lane in lanes]
        table.add_row(
            f"{rows[-1]['t']:.0f} s",
            short(mean_total(rows, "offered")),
            short(mean_total(rows, "settled")),
            *("–" if each is None else brief(each) for each in p99),
            short(sum(rows[-1]["waiting"].values())),
            f"{figure(rows, 'in_flight')}/{figure(rows, 'limit')}",
            size(worst(row["memory"] for row in rows)),
            rung(rows),
            notes(rows),
        )
    return table


def mean_total(rows: Sequence[Entry], name: str) -> float:
    """Return the mean of what all lanes had together."""
    return sum(sum(row[name].values()) for row in rows) / len(rows)


def worst(values: Any) -> float | None:
    """Return the largest value that is known."""
    return max((value for value in values if value is not None), default=None)


def figure(rows: Sequence[Entry], name: str) -> str:
    """Return the mean over all agents, as a whole number."""
    known = [value for row in rows for value in row[name].values() if value is not None]
    return f"{sum(known) / len(known):.0f}" if known else "–"


def short(count: float) -> str:
    """Return a count in few letters: `"950"`, `"60.3k"`, `"1.2M"`."""
    for unit in ("", "k"):
        if abs(count) < 999.5:
            return f"{count:.0f}" if unit == "" else f"{count:.{1 if count < 99.95 else 0}f}{unit}"
        count /= 1000
    return f"{count:.1f}M"


def brief(seconds: float) -> str:
    """Return a duration in few letters, without breaking at its space."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f}\u00a0ms"
    return f"{seconds:.{1 if seconds < 9.95 else 0}f}\u00a0s"


def size(num_bytes: float | None) -> str:
    return "–" if num_bytes is None else format_size(num_bytes).replace(" ", "\u00a0")


def rung(rows: Sequence[Entry]) -> str:
    """Return the highest rung that was taken."""
    found = worst(row["rung"] for row in rows)
    return "–" if found is None else f"{found:.0f}"


def notes(rows: Sequence[Entry]) -> str:
    """Return what went wrong, and what was left out."""
    faults = list(dict.fromkeys(fault for row in rows for fault in row["faults"]))
    for name in ("shed", "conflated", "expired", "diverted", "degraded"):
        count = sum(sum(row[name].values()) for row in rows)
        if count:
            faults.append(f"{count:,.0f} {name}")
    return ", ".join(faults)
