"""`flowguard bench`: end-to-end throughput of this machine beside its peers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from flowguard.bench.cluster import reached
from flowguard.bench.contest import NAMES, Contest, document, missing, table
from flowguard.cli.exit_codes import NO_BROKER, USAGE, CommandError
from flowguard.cli.output import report, report_options
from flowguard.errors import FlowguardError
from flowguard.suggest import nearest

__all__ = ["bench"]

INSTALL: Final = 'pip install "flowguard[bench]"'

#: Fewer are a few responses of the limit, and say nothing about it.
RECORDS_MIN: Final = 200_000

COUNT: Final = click.IntRange(min=1)


@click.command
@click.option("--broker", metavar="HOST:PORT", help="Apache Kafka to measure on.")
@click.option("--records", default=5_000_000, show_default=True, metavar="N",
              type=click.IntRange(min=RECORDS_MIN), help="Records in the topic.")  # fmt: skip
@click.option("--partitions", default=4, show_default=True, metavar="N", type=COUNT,
              help="Partitions of the topic.")  # fmt: skip
@click.option("--turns", default=3, show_default=True, metavar="N", type=COUNT,
              help="Readings of each; the median counts.")  # fmt: skip
@click.option("--only", metavar="NAME,…", help=f"Of {', '.join(NAMES)}, only these.")
@report_options
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
    names = chosen(only)
    address = address_of(broker)
    if not reached(address):
        raise CommandError(f"no Kafka answers at {address}; check --broker", NO_BROKER)
    absent = missing(names)
    if absent:
        say(f"{', '.join(absent)}: not installed and left out; {INSTALL}")
    contest = Contest(
        broker=address,
        records=records,
        partitions=partitions,
        turns=turns,
        names=[name for name in names if name not in absent],
        say=say,
    )
    try:
        contest.run()
    except OSError as error:
        raise FlowguardError(f"stopped without a result: {error}; look at the broker") from error
    report(
        document(contest, names),
        lambda: table(contest, names),
        as_json=as_json,
        output=output,
    )


def say(line: str) -> None:
    """Show progress where it does not mix with the report."""
    click.echo(line, err=True)


def address_of(broker: str | None) -> str:
    """Return the bootstrap servers as Kafka clients take them.

    Raises:
        CommandError: There are none.
    """
    if not broker:
        raise CommandError(
            "say where Apache Kafka is: --broker HOST:PORT. `make kafka` runs one and prints "
            "its address; the embedded broker keeps all in memory, so its figures would mean "
            "nothing",
            USAGE,
        )
    return broker.removeprefix("kafka://")


def chosen(only: str | None) -> list[str]:
    """Return who takes part, in the order of the rotation.

    Raises:
        CommandError: A name does not exist.
    """
    if only is None:
        return list(NAMES)
    wanted = {name.strip() for name in only.split(",")} - {""}
    for name in sorted(wanted - set(NAMES)):
        like = nearest(name, NAMES)
        hint = f"did you mean {like}?" if like else f"there are {', '.join(NAMES)}"
        raise CommandError(f"--only: nobody is named {name!r}; {hint}", USAGE)
    if not wanted:
        raise CommandError(f"--only: name at least one of {', '.join(NAMES)}", USAGE)
    return [name for name in NAMES if name in wanted]
