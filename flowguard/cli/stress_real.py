"""`flowguard stress run` without `--simulate`: a scenario against a real worker and broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from mode.utils.loops import get_event_loop
from rich.console import Console

from flowguard.bench.cluster import reached as answers
from flowguard.cli.demo import publish, stop_on_sigterm
from flowguard.cli.exit_codes import FAILED, NO_BROKER, OK, CommandError
from flowguard.cli.find_app import find_app
from flowguard.cli.worker import configure
from flowguard.stress.real import RealRun
from flowguard.stress.report import Scorecard
from flowguard.stress.scenario import Scenario
from flowguard.stress.users_app import UsersApp
from flowguard.stress.view import view_for

__all__ = ["run_real"]


def run_real(
    scenario: Scenario,
    *,
    app: str | None,
    broker: str | None,
    html: Path | None,
    as_json: bool,
    output: Path | None,
) -> int:
    """Run a scenario, print its scorecard, and return the exit code.

    Args:
        app: `MODULE[:APP]` of the user's app; None runs the pipeline that the scenario states.
        broker: Kafka; None starts the embedded broker.

    Raises:
        CommandError: No broker answers.
        ConfigError: Only the simulator can run the scenario.
    """
    bootstrap = None if broker is None else reached(broker)
    found = None if app is None else users_app(app, scenario)
    try:
        card = asyncio.run(run(scenario, app=found, bootstrap=bootstrap, as_json=as_json))
    except asyncio.CancelledError:
        raise click.Abort from None
    publish(card, html=html, as_json=as_json, output=output)
    return OK if card.result == "pass" else FAILED


async def run(
    scenario: Scenario, *, app: UsersApp | None, bootstrap: str | None, as_json: bool
) -> Scorecard:
    """Run a scenario while it is shown."""
    stop_on_sigterm()
    # Standard output is for the scorecard alone when a program reads it.
    with view_for(Console(stderr=as_json), f"flowguard stress run {scenario.name}") as view:
        async with RealRun(scenario, view, app=app, bootstrap=bootstrap) as running:
            return await running.card()


def reached(broker: str) -> str:
    """Return the bootstrap servers as Kafka clients take them.

    Raises:
        CommandError: None of them answers.
    """
    servers = broker.replace(";", ",").replace("aiokafka://", "").replace("kafka://", "")
    if not answers(servers):
        raise CommandError(
            f"no Kafka answers at {servers}, and nothing was started; check --broker, or leave it "
            f"out for the embedded broker",
            NO_BROKER,
        )
    return servers


def users_app(spec: str, scenario: Scenario) -> UsersApp:
    """Return the app of the user's that `-A` names."""
    get_event_loop()  # before the import: whatever the app makes must belong to one
    found = find_app(spec)
    configure(found, config=None)
    return UsersApp(found, spec, scenario)
