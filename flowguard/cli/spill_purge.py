"""`flowguard spill purge`: delete what is spilled."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click

from flowguard.cli.agreement import agree
from flowguard.cli.exit_codes import OK, CommandError
from flowguard.cli.output import report, report_options
from flowguard.cli.spill_directory import (
    directory_argument,
    fold_partitions,
    partitions_of,
    reject_unread,
    size,
    surveyed,
    unread_of,
)
from flowguard.cli.table import plural, rendered, row
from flowguard.cli.terminal import printable
from flowguard.clock import SystemClock
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.findings import Held, SlotReport
from flowguard.spill.inspection import inspect_slot
from flowguard.spill.purging import Choice, Doomed, Plan, plan_purge
from flowguard.spill.purging import purge as delete
from flowguard.stress.report import table_of
from flowguard.suggest import nearest
from flowguard.units import MILLISECOND, duration_ns

__all__ = ["purge"]

SCHEMA: Final = "flowguard.spill-purge/v1"

WARNING: Final = (
    "What is not finished is read from Kafka again; what Kafka has deleted meanwhile is lost."
)


@click.command
@directory_argument
@click.option("--lane", "lanes", metavar="LANE", multiple=True, help="Only of this lane.")
@click.option("--topic", "topics", metavar="TOPIC[:PARTITION]", multiple=True,
              help="Only segments that have records of this topic.")  # fmt: skip
@click.option("--older-than", metavar="TIME",
              help="Only what was last written to so long ago, such as 1h.")  # fmt: skip
@click.option("--app", "apps", metavar="ID", multiple=True, help="Only of this app.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@report_options
def purge(
    directory: str,
    lanes: tuple[str, ...],
    topics: tuple[str, ...],
    older_than: str | None,
    apps: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Delete segments and quarantined files in DIR: all, or what agrees with every option.

    Whole files are deleted, so a segment with some records of a topic goes with all it has.
    Files that are not flowguard's stay. A worker may be running: it reads what it still needs
    from Kafka again.
    """
    choice = Choice(
        lanes=lanes,
        topics=tuple(map(topic_of, topics)),
        apps=apps,
        older_than_ms=0 if older_than is None else age_ms(older_than),
    )
    found = surveyed(directory, inspect_slot)
    plan = plan_purge(found.slots, choice, epoch_ms=SystemClock().epoch_ms())
    asked = bool(plan.doomed) and not yes and not dry_run
    if asked:
        click.echo(f"{as_plan(plan)}\n\n{WARNING}", err=True)
        agree(
            f"delete {plural(len(plan.doomed), 'file')} of {size(plan.num_bytes)}?",
            unchanged="nothing is deleted",
        )
    deleted, failed = ([], []) if dry_run else delete(RealFileSystem(), plan)
    report(
        {
            "schema": SCHEMA,
            "directory": directory,
            "dry_run": dry_run,
            "chosen": [entry(each) for each in plan.doomed],
            "deleted_files": len(deleted),
            "deleted_bytes": sum(each.num_bytes for each in deleted),
            "kept": unread_of(plan.kept),
            "failed": unread_of(failed),
            "unread": unread_of(found.unread),
        },
        lambda: as_text(plan, deleted, dry_run, asked, hint(found.slots, lanes)),
        as_json=as_json,
        output=output,
    )
    if failed:
        raise CommandError(
            f"{plural(len(failed), 'file')} could not be deleted, such as {failed[0].path}: "
            f"{failed[0].why}; run as the worker's user, and look at the disk"
        )
    reject_unread(found.unread)
    return OK


# Options.


def topic_of(text: str) -> tuple[str, int | None]:
    """Return a topic, and a partition if there is one; topics have no colon in their names.

    Raises:
        UsageError: The partition is no number.
    """
    topic, colon, partition = text.partition(":")
    if not topic or (colon and not (partition.isascii() and partition.isdigit())):
        raise click.UsageError(f"--topic {text!r} is no topic; write orders, or orders:3")
    return topic, int(partition) if colon else None


def age_ms(text: str) -> int:
    """Return an age in milliseconds.

    Raises:
        ConfigError: It is no time.
    """
    return duration_ns(text, name="--older-than") // MILLISECOND


# For programs.


def entry(doomed: Doomed) -> dict[str, Any]:
    """Return a file as in the JSON."""
    return {
        "slot": doomed.slot.name,
        "file": doomed.name,
        "bytes": doomed.num_bytes,
        "lane": doomed.lane or None,
        "records": doomed.records,
        "partitions": partitions_of(doomed.held),
    }


# For people.


def as_text(plan: Plan, deleted: list[Doomed], dry_run: bool, asked: bool, lane_hint: str) -> str:
    """Return what is done for people; what they were shown before is not said again."""
    lines = []
    if not plan.doomed:
        lines.append(f"nothing to delete{lane_hint}")
    elif dry_run:
        files = plural(len(plan.doomed), "file")
        lines += [as_plan(plan), "", f"would delete {files} of {size(plan.num_bytes)}"]
    else:
        if not asked:
            lines += [as_plan(plan), ""]
        num_bytes = sum(each.num_bytes for each in deleted)
        lines.append(f"deleted {plural(len(deleted), 'file')} of {size(num_bytes)}")
    for why, count in Counter(each.why for each in plan.kept).items():
        lines.append(f"left alone, {plural(count, 'file')}: {why}")
    return "\n".join(lines)


def as_plan(plan: Plan) -> str:
    """Return what is to go, by slot and lane."""
    table = table_of("slot", "files", "size", "records")
    table.add_column("lane")
    table.add_column("offsets")
    for (slot, lane), group in groupby(sorted(plan.doomed, key=place), place):
        files = list(group)
        row(
            table,
            slot,
            f"{len(files):,}",
            size(sum(each.num_bytes for each in files)),
            f"{sum(each.records for each in files):,}",
            lane,
            fold_partitions(merged(files)),
        )
    return rendered(table)


def place(doomed: Doomed) -> tuple[str, str]:
    """Return the row in which a file is counted."""
    return doomed.slot.name, doomed.lane or ("quarantine" if "/" in doomed.name else "?")


def merged(files: list[Doomed]) -> list[Held]:
    """Return what files have of each partition together."""
    found: dict[tuple[str, int], Held] = {}
    for each in (held for file in files for held in file.held):
        topic, partition, frames, records, low, high = each
        before = found.get((topic, partition), Held(topic, partition, 0, 0, low, high))
        found[topic, partition] = Held(
            topic, partition, before.frames + frames, before.records + records,
            min(before.scan_lo, low), max(before.scan_hi, high),
        )  # fmt: skip
    return [found[key] for key in sorted(found)]


def hint(slots: list[SlotReport], lanes: tuple[str, ...]) -> str:
    """Return what to say about lanes of which there is nothing."""
    known = {segment.lane for slot in slots for segment in slot.segments if segment.known}
    missing = [lane for lane in lanes if lane not in known]
    if not missing:
        return ""
    like = nearest(missing[0], known)
    there = f"; did you mean {printable(like)}?" if like else ""
    return f": there is nothing of lane {printable(missing[0])}{there}"
