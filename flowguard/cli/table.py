"""Tables and counts for people; nothing in them is markup, and no terminal finds a command."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowguard.cli.terminal import printable

__all__ = ["plural", "rendered", "row"]

#: Where no terminal is, lines are as long as they need to be.
WIDE: Final = 1000


def plural(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def row(table: Table, *cells: str) -> None:
    """Add a row in which nothing is markup, and no terminal finds a command."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


def rendered(table: Table) -> str:
    """Return a table, as wide as the terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())
