"""`flowguard stress grid`: limits of concurrency, on a virtual clock, beside those of others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from flowguard.cli.exit_codes import FAILED
from flowguard.cli.output import report, report_options
from flowguard.stress.grid.contest import Contest, named
from flowguard.stress.grid.scenarios import HELD_OUT, SCENARIOS, Scenario
from flowguard.stress.grid.table import table
from flowguard.suggest import nearest

__all__ = ["grid"]

#: More processes than this help little, and the machine may have other work.
JOBS: Final = min(2, os.cpu_count() or 1)

#: How often progress is said on a terminal, in cells.
SAID_EVERY: Final = 20


@click.command
@click.option("--seeds", default=12, show_default=True, metavar="N", type=click.IntRange(min=1),
              help="Runs of each scenario.")  # fmt: skip
@click.option("--jobs", default=JOBS, show_default=True, metavar="N", type=click.IntRange(min=1),
              help="Processes at once.")  # fmt: skip
@click.option("--only", metavar="NAME", help="Only scenarios whose name has this in it.")
@report_options
@click.pass_context
def grid(
    ctx: click.Context,
    seeds: int,
    jobs: int,
    only: str | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Compare limits of concurrency with those of others, on a virtual clock.

    Every algorithm meets every provider: slow ones and noisy ones, those that lose capacity,
    refuse, hang or degrade. Takes minutes. Exit code 1 if a target was missed; with --only
    there are none.
    """
    contest = Contest(chosen(only), seeds=seeds, jobs=jobs, progress=say)
    contest.play()
    document = contest.document()
    if only is not None:
        document |= {"result": None, "targets": []}
    report(document, lambda: table(contest, targets=only is None), as_json=as_json, output=output)
    if document["result"] == "fail":
        ctx.exit(FAILED)


def chosen(only: str | None) -> list[Scenario]:
    """Return the scenarios to play.

    Raises:
        click.UsageError: None is named like that.
    """
    if only is None:
        return [*SCENARIOS, *HELD_OUT]
    scenarios = named(only)
    if not scenarios:
        names = [each.name for each in (*SCENARIOS, *HELD_OUT)]
        like = nearest(only, names)
        hint = f"did you mean {like}?" if like else f"there are {', '.join(names)}"
        raise click.UsageError(f"no scenario of the grid is named {only!r}; {hint}")
    return scenarios


def say(done: int, all_: int) -> None:
    """Say how far it is, where somebody may be looking."""
    if sys.stderr.isatty() and (done % SAID_EVERY == 0 or done == all_):
        click.echo(f"\r{done} of {all_} runs", nl=done == all_, err=True)
