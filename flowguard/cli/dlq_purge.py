"""`flowguard dlq purge`: delete dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError

from flowguard.cli.agreement import agree
from flowguard.cli.broker import over_kafka, worded
from flowguard.cli.dlq_reading import found_spans
from flowguard.cli.dlq_sending import remembered
from flowguard.cli.dlq_source import SCHEMA, Source, source_options
from flowguard.cli.exit_codes import OK, USAGE, CommandError
from flowguard.cli.moments import PLACE, moment_ms, place_of
from flowguard.cli.output import report, report_options
from flowguard.cli.spans import Span, not_before
from flowguard.cli.table import plural, rendered, row
from flowguard.stress.report import table_of

__all__ = ["purge"]


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is to go of one partition.

    Args:
        span: All it holds.
        until: What is before this goes.
        redriven_until: What is before this was redriven.
    """

    span: Span
    until: int
    redriven_until: int

    @property
    def records(self) -> int:
        """How many go, counted by offsets."""
        return max(0, self.until - self.span.begin)

    @property
    def not_redriven(self) -> int:
        """How many of them were not redriven, or by a selection only."""
        return max(0, self.until - max(self.span.begin, self.redriven_until))


@click.command
@source_options
@click.option(
    "--before",
    "befores",
    metavar="WHEN",
    multiple=True,
    help="Up to a time: 7d ago, a date, or PARTITION:OFFSET; that one stays.",
)
@click.option("--redriven", is_flag=True, help="Up to where all was redriven.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@report_options
def purge(
    source: Source,
    befores: tuple[str, ...],
    redriven: bool,
    everything: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Delete dead letters from the beginning of their topic on; there is no way back.

    Kafka deletes from the front of a partition only. So --before 7d stops at the first letter
    that is younger, and older ones behind it stay. Records are counted by offsets.
    """
    if (bool(befores) + redriven + everything) != 1:
        raise CommandError("say what: one of --before WHEN, --redriven and --all", USAGE)
    places = [place_of(each) for each in befores if PLACE.fullmatch(each)]
    if len(places) < len(befores) and len(befores) > 1:
        raise CommandError("give one time, or PARTITION:OFFSET several times", USAGE)
    if places and len(source.topics) > 1:
        raise CommandError("--before PARTITION:OFFSET is of one topic; give one --topic", USAGE)
    before_ms = moment_ms(befores[0], name="--before") if befores and not places else None
    doomed = over_kafka(
        source.access, chosen(source, dict(places), before_ms=before_ms, redriven=redriven)
    )
    doomed = [each for each in doomed if each.records]
    if doomed and not yes and not dry_run:
        click.echo(as_plan(doomed), err=True)
        agree(f"delete {plural(total(doomed), 'record')}?", unchanged="nothing is deleted")
    deleted = 0 if dry_run or not doomed else over_kafka(source.access, delete(source, doomed))
    report(
        as_document(source, doomed, deleted, dry_run),
        lambda: as_text(doomed, deleted, dry_run),
        as_json=as_json,
        output=output,
    )
    return OK


async def chosen(
    source: Source, places: dict[int, int], *, before_ms: int | None, redriven: bool
) -> list[Doomed]:
    """Return what is to go of each partition.

    Raises:
        CommandError: A partition that was named does not exist.
    """
    spans = await found_spans(source)
    unknown = places.keys() - {each.partition.partition for each in spans}
    if unknown:
        raise CommandError(
            f"{source.topics[0]} has no partition {min(unknown)}; it has {len(spans)}", USAGE
        )
    done = {each: found.offset for each, found in (await remembered(source.access, spans)).items()}
    ends = {each.partition: each.end for each in spans}
    if places:
        ends = {each: min(end, places.get(each.partition, 0)) for each, end in ends.items()}
    elif redriven:
        ends = done
    elif before_ms is not None:
        async with source.access.consumer() as consumer:
            younger = await not_before(consumer, spans, before_ms)
        ends = {each.partition: each.begin for each in younger}
    return [Doomed(each, ends[each.partition], done[each.partition]) for each in spans]


async def delete(source: Source, doomed: Sequence[Doomed]) -> int:
    """Delete, one partition after the other; return how many records are gone.

    Raises:
        CommandError: The broker refused.
    """
    deleted = 0
    async with source.access.admin() as admin:
        for each in doomed:
            partition = TopicPartition(*each.span.partition)
            try:
                begins = await admin.delete_records({partition: RecordsToDelete(each.until)})
            except KafkaError as error:
                raise CommandError(
                    f"deleted {plural(deleted, 'record')}, then Kafka refused for "
                    f"{partition.topic}[{partition.partition}]: {worded(error)}; it needs the ACL "
                    f"DELETE, and cleanup.policy=delete"
                ) from error
            deleted += max(0, begins[partition] - each.span.begin)
    return deleted


def total(doomed: Sequence[Doomed]) -> int:
    """Return how many records go."""
    return sum(each.records for each in doomed)


def as_document(
    source: Source, doomed: Sequence[Doomed], deleted: int, dry_run: bool
) -> dict[str, Any]:
    """Return what was done for programs."""
    return {
        "schema": SCHEMA,
        "verb": "purge",
        "topics": list(source.topics),
        "dry_run": dry_run,
        "chosen": total(doomed),
        "not_redriven": sum(each.not_redriven for each in doomed),
        "deleted": deleted,
        "partitions": [
            {
                "topic": each.span.partition.topic,
                "partition": each.span.partition.partition,
                "begin": each.span.begin,
                "until": each.until,
                "end": each.span.end,
            }
            for each in doomed
        ],
    }


def as_text(doomed: Sequence[Doomed], deleted: int, dry_run: bool) -> str:
    """Return what was done for people."""
    if not doomed:
        return "nothing to delete"
    if dry_run:
        return f"{as_plan(doomed)}\n\nwould delete {plural(total(doomed), 'record')}"
    return f"deleted {plural(deleted, 'record')}"


def as_plan(doomed: Sequence[Doomed]) -> str:
    """Return what is to go, by partition, and what is lost by it."""
    table = table_of("partition", "records", "of", "up to offset")
    for each in doomed:
        partition = each.span.partition
        row(
            table,
            f"{partition.topic}[{partition.partition}]",
            f"{each.records:,}",
            f"{each.span.offsets:,}",
            f"{each.until - 1:,}",
        )
    lines = [rendered(table)]
    lost = sum(each.not_redriven for each in doomed)
    if lost:
        lines += ["", f"{lost:,} of them were not redriven"]
    return "\n".join(lines)
