"""`flowguard bench`: end-to-end throughput of this machine beside its peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Final

import click

from flowguard.errors import FlowguardError

__all__ = ["bench"]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_REACHED: Final = 3

INSTALL: Final = 'pip install "flowguard[bench]"'


class Stop(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"flowguard bench: {self.format_message()}", file=file, err=True)


@click.command("bench")
@click.option("--broker", metavar="HOST:PORT", help="Apache Kafka to measure on.")
@click.option(
    "--records", default=5_000_000, show_default=True, metavar="N",
    type=click.IntRange(min=200_000), help="Records to fill the topic with.",
)  # fmt: skip
@click.option(
    "--partitions", default=4, show_default=True, metavar="N", type=click.IntRange(min=1),
    help="Partitions of the topic.",
)  # fmt: skip
@click.option(
    "--turns", default=3, show_default=True, metavar="N", type=click.IntRange(min=1),
    help="Readings of each; the median counts.",
)  # fmt: skip
@click.option("--only", metavar="NAME,…", help="Take only these into the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")
@click.option(
    "--output", metavar="FILE", type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write JSON to a file.",
)  # fmt: skip
def bench(
    broker: str | None,
    records: int,
    partitions: int,
    turns: int,
    only: str | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Measure end-to-end throughput on this machine, beside flowguard's peers.

    Fills one topic and lets everyone read it, in rotation, each time in a fresh process.
    The topic is deleted afterwards.
    """
    # What measures imports every client; a command line that is only completed must not.
    from flowguard.bench.cluster import reached
    from flowguard.bench.contest import NAMES, Contest, document, missing, table

    names = chosen(only, NAMES)
    address = address_of(broker)
    if not reached(address):
        raise Stop(f"no Kafka answers at {address}; check --broker", EXIT_NOT_REACHED)
    absent = missing(names)
    if absent:
        click.echo(f"{', '.join(absent)}: not installed, left out; {INSTALL}", err=True)
    contest = Contest(
        broker=address,
        records=records,
        partitions=partitions,
        turns=turns,
        names=[name for name in names if name not in absent],
        say=lambda line: click.echo(line, err=True),
    )
    try:
        contest.run()
    except (FlowguardError, OSError) as error:
        raise Stop(f"stopped without a result: {error}", EXIT_FAILED) from error
    text = json.dumps(document(contest, names), indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    click.echo(text if as_json else table(contest, names))


def address_of(broker: str | None) -> str:
    """Return the bootstrap servers as Kafka clients take them."""
    if not broker:
        raise Stop(
            "--broker HOST:PORT is missing. Measure on Apache Kafka: the embedded broker keeps "
            "everything in one process's memory and would flatter everyone; `make kafka` runs "
            "one and prints its address",
            EXIT_USAGE,
        )
    return broker.removeprefix("kafka://")


def chosen(only: str | None, names: tuple[str, ...]) -> list[str]:
    """Return who takes part, in the order of the rotation."""
    if only is None:
        return list(names)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    if unknown := wanted - set(names):
        raise Stop(
            f"--only {', '.join(sorted(unknown))}: no such name; known are {', '.join(names)}",
            EXIT_USAGE,
        )
    return [name for name in names if name in wanted]
