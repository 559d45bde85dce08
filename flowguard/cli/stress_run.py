"""`flowguard stress run`: one scenario, on a virtual clock or against a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from rich.console import Console

from flowguard.cli.exit_codes import FAILED, OK
from flowguard.cli.output import html_option, optional_app_option, report, report_options
from flowguard.stress.html import write_html
from flowguard.stress.report import Scorecard
from flowguard.stress.scenario import Scenario, find_scenario
from flowguard.stress.simulator.run import simulate
from flowguard.stress.timetable import timetable

__all__ = ["run"]

#: What runs a trace that is given without a scenario.
FOR_TRACES: Final = "trace"


@click.command
@click.argument("scenario", required=False)
@click.option("--simulate", "simulated", is_flag=True, help="On a virtual clock, without Kafka.")
@click.option("--trace", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="CSV of timestamps, or of timestamps and counts, to replay.")  # fmt: skip
@click.option("--speed", metavar="X", type=click.FloatRange(min=0),
              help="How much faster than it happened a trace is replayed.")  # fmt: skip
@click.option("--seed", metavar="N", type=int, help="Of everything that is random.")
@optional_app_option("Your app, to put to the test instead of one made from the scenario.")
@click.option("--broker", metavar="URL", envvar="FLOWGUARD_BROKER",
              help="Kafka, such as kafka://HOST:PORT; without it the embedded broker.")  # fmt: skip
@html_option
@report_options
def run(
    scenario: str | None,
    simulated: bool,
    trace: Path | None,
    speed: float | None,
    seed: int | None,
    app: str | None,
    broker: str | None,
    html: Path | None,
    as_json: bool,
    output: Path | None,
) -> int:
    """Run SCENARIO, a name of `flowguard stress list` or a TOML file, and judge its outcome.

    On a real worker and broker or, with --simulate, on a virtual clock.

    It ends with a scorecard, and exits with 0 if all that the scenario asserts held. With
    --trace and no scenario, any CSV file becomes a scenario of its own.
    """
    chosen = choose(scenario, trace=trace, speed=speed, seed=seed)
    if not simulated:
        # Only here, because a simulation needs no Kafka and none of its clients.
        from flowguard.cli.stress_real import run_real

        return run_real(chosen, app=app, broker=broker, html=html, as_json=as_json, output=output)
    if app is not None:
        raise click.UsageError("-A is for a real worker; leave it out, or leave out --simulate")
    with Console(stderr=True).status(f"simulating {chosen.name}"):
        card = simulate(chosen)
    if html is not None:
        write_html(html, card.as_dict())
    report(card.as_dict(), lambda: as_text(card), as_json=as_json, output=output)
    return OK if card.result == "pass" else FAILED


def choose(
    name: str | None, *, trace: Path | None, speed: float | None, seed: int | None
) -> Scenario:
    """Return the scenario that is asked for, with what is changed in it."""
    if name is None and trace is None:
        raise click.UsageError("say which scenario, or --trace FILE; see: flowguard stress list")
    scenario = find_scenario(name or FOR_TRACES)
    if trace is not None:
        scenario = scenario.with_trace(trace)
    if speed is not None:
        scenario = scenario.with_speed(speed)
    return scenario if seed is None else scenario.with_seed(seed)


def as_text(card: Scorecard) -> str:
    """Return the run and its scorecard for people, as wide as their terminal."""
    console = Console()
    with console.capture() as captured:
        console.print(f"{card.scenario}\n", style="bold")
        console.print(timetable(card.timeline))
        console.print()
        console.print(card)
    return captured.get().rstrip()
