"""`flowguard demo`: see it work, in about a minute, with nothing but Python installed."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from flowguard.cli.exit_codes import FAILED, OK
from flowguard.cli.output import html_option, report, report_options
from flowguard.stress.demo import Demo, DemoPlan
from flowguard.stress.html import write_html
from flowguard.stress.report import Scorecard
from flowguard.stress.view import view_for

__all__ = ["demo"]

#: The embedded broker keeps everything in memory, so a demo has an end.
SECONDS_MIN, SECONDS_MAX = 5, 120


@click.command
@click.option(
    "--seconds",
    metavar="N",
    type=click.IntRange(SECONDS_MIN, SECONDS_MAX),
    default=40,
    show_default=True,
    help="How long there is load.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the dashboard.")
@click.option("--keep", is_flag=True, help="Leave worker and broker running until Ctrl-C.")
@html_option
@report_options
def demo(
    seconds: int,
    no_browser: bool,
    keep: bool,
    html: Path | None,
    as_json: bool,
    output: Path | None,
) -> int:
    """Replay a year of flights beside a flood, on an embedded broker.

    A worker scores departures as they happen, six hours a second, while another topic wants
    the whole year scored again, three times faster than the worker can. It ends with a
    scorecard, and exits with 0 if all its objectives held.
    """
    plan = DemoPlan(seconds=seconds)
    try:
        return asyncio.run(run(plan, keep=keep, html=html, as_json=as_json, output=output))
    except asyncio.CancelledError:
        raise click.Abort from None


async def run(
    plan: DemoPlan, *, keep: bool, html: Path | None, as_json: bool, output: Path | None
) -> int:
    """Run the demo, print its scorecard, and return the exit code."""
    stop_on_sigterm()
    with ExitStack() as shown:
        # Standard output is for the scorecard alone when a program reads it.
        view = view_for(Console(stderr=as_json), "flowguard demo")
        shown.enter_context(view)
        async with Demo(plan, view) as running:
            card = await running.card()
            if keep:
                shown.close()
                publish(card, html=html, as_json=as_json, output=output)
                await keep_on(running)
    if not keep:
        publish(card, html=html, as_json=as_json, output=output)
    return OK if card.result == "pass" else FAILED


def stop_on_sigterm() -> None:
    """Have SIGTERM end the demo as cleanly as Ctrl-C does."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)


async def keep_on(running: Demo) -> None:
    """Leave worker and broker running; Ctrl-C is then the expected end."""
    this = asyncio.current_task()
    assert this is not None
    try:
        await running.restart_worker()
        click.echo(f"\nworker: {running.worker.url}/api/state and /metrics", err=True)
        click.echo(f"broker: {running.bootstrap}; Ctrl-C ends both", err=True)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        this.uncancel()


def publish(card: Scorecard, *, html: Path | None, as_json: bool, output: Path | None) -> None:
    """Print the scorecard, and write it where it was asked for."""
    if html is not None:
        write_html(html, card.as_dict())
    report(card.as_dict(), lambda: as_text(card), as_json=as_json, output=output)


def as_text(card: Scorecard) -> str:
    """Return the scorecard for people, as wide as their terminal."""
    console = Console()
    with console.capture() as captured:
        console.print(card)
    return captured.get().rstrip()
