"""`flowguard demo`: see it work, in about a minute, with nothing but Python installed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from flowguard.errors import ConfigError, FlowguardError
from flowguard.stress.live import Demo, DemoPlan
from flowguard.stress.report import Scorecard
from flowguard.stress.view import LineView, LiveView, view_for

__all__ = ["demo"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

#: The embedded broker keeps everything in memory, so a demo has an end.
SECONDS_MIN, SECONDS_MAX = 5, 120


@click.command()
@click.option(
    "--seconds",
    type=click.IntRange(SECONDS_MIN, SECONDS_MAX),
    default=40,
    show_default=True,
    help="How long there is load.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the dashboard.")
@click.option("--keep", is_flag=True, help="Leave worker and broker running until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the scorecard as JSON.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the scorecard as JSON to a file.",
)
def demo(seconds: int, no_browser: bool, keep: bool, as_json: bool, output: Path | None) -> None:
    """Replay a year of flights beside a flood, on an embedded broker.

    A worker scores departures as they happen, a day a second, while another topic wants
    the whole year scored again, three times faster than the worker can. It ends with a
    scorecard and exits with 0 if all its objectives held.
    """
    plan = DemoPlan(seconds=seconds)
    try:
        card = asyncio.run(run_demo(plan, keep=keep, as_json=as_json, output=output))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted: worker, broker and load have been stopped", err=True)
        sys.exit(INTERRUPTED)
    except ConfigError as error:
        click.echo(f"flowguard demo: {error}", err=True)
        sys.exit(USAGE)
    except FlowguardError as error:
        click.echo(f"flowguard demo: {error}", err=True)
        sys.exit(FAILED)
    sys.exit(0 if card.result == "pass" else FAILED)


async def run_demo(plan: DemoPlan, *, keep: bool, as_json: bool, output: Path | None) -> Scorecard:
    """Run it, and print the scorecard; SIGTERM ends it as Ctrl-C does."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    console = Console(stderr=as_json)  # standard output is for the JSON alone
    with view_for(console) as view:
        async with Demo(plan, view) as running:
            card = await running.run()
            if not keep:
                view.say("done: stopping")
            else:
                publish(card, console, as_json=as_json, output=output)
                await keep_on(running, view)
    if not keep:
        publish(card, console, as_json=as_json, output=output)
    return card


async def keep_on(running: Demo, view: LineView | LiveView) -> None:
    """Leave worker and broker running until Ctrl-C, which is then no failure."""
    try:
        await running.keep()
    except asyncio.CancelledError:
        this = asyncio.current_task()
        assert this is not None
        this.uncancel()
        view.say("stopping")


def publish(card: Scorecard, console: Console, *, as_json: bool, output: Path | None) -> None:
    """Print the scorecard, and write it where it was asked for."""
    text = json.dumps(card.as_dict(), indent=2)
    if output is not None:
        output.write_text(f"{text}\n", encoding="utf-8")
    if as_json:
        click.echo(text)
    else:
        console.print(card)
