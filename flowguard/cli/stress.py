"""`flowguard stress`: scenarios, against a real worker or on a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from flowguard.cli import LazyGroup, Verb

__all__ = ["stress"]

VERBS: Final[Mapping[str, Verb]] = {
    "list": Verb("flowguard.cli.stress_list:list_scenarios", "Show the scenarios there are."),
    "run": Verb("flowguard.cli.stress_run:run", "Run a scenario, and judge what came of it."),
    "grid": Verb("flowguard.cli.stress_grid:grid", "Compare limits of concurrency with others."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def stress() -> None:
    """Put a worker to the test: what is offered, what goes wrong, and what must come of it."""
