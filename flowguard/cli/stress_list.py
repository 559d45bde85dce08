"""`flowguard stress list`: the scenarios that come with flowguard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from flowguard.cli.output import report, report_options
from flowguard.stress.arrivals import Trace
from flowguard.stress.report import table_of
from flowguard.stress.scenario import Scenario, read_scenario, shipped_scenarios
from flowguard.units import SECOND, format_duration

__all__ = ["list_scenarios"]

SCHEMA: Final = "flowguard.scenarios/v1"


@click.command("list")
@report_options
def list_scenarios(as_json: bool, output: Path | None) -> None:
    """Show the scenarios that come with flowguard; a path to a file of your own works as well."""
    scenarios = {name: read_scenario(path) for name, path in shipped_scenarios().items()}
    document = {"schema": SCHEMA, "scenarios": [entry(*each) for each in scenarios.items()]}
    report(document, lambda: as_text(scenarios), as_json=as_json, output=output)


def entry(name: str, scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as in the JSON."""
    return {
        "name": name,
        "about": scenario.about,
        "duration": scenario.duration_ns / SECOND,
        "seed": scenario.seed,
        "lanes": scenario.worker.lane_names,
        "faults": [str(fault) for fault in scenario.faults],
        "simulated_only": any(fault.simulated_only for fault in scenario.faults),
        "needs_trace": needs_trace(scenario),
    }


def needs_trace(scenario: Scenario) -> bool:
    """Tell whether it runs only with `--trace FILE`."""
    models = [each.model for each in scenario.arrivals]
    return any(isinstance(model, Trace) and not model.file for model in models)


def as_text(scenarios: dict[str, Scenario]) -> str:
    """Return the list for people."""
    table = table_of("scenario", "load")
    table.add_column("")
    table.add_column("about")
    for name, scenario in scenarios.items():
        marks = []
        if any(fault.simulated_only for fault in scenario.faults):
            marks.append("--simulate")
        if needs_trace(scenario):
            marks.append("--trace FILE")
        length = format_duration(scenario.duration_ns / SECOND)
        table.add_row(name, length, " ".join(marks), scenario.about)
    console = Console()
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip() + "\n\nrun one: flowguard stress run NAME --simulate"
