"""`flowguard dlq redrive`: send dead letters back to where they were read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from aiokafka import TopicPartition

from flowguard.cli.agreement import agree
from flowguard.cli.broker import Access, over_kafka
from flowguard.cli.dlq_letters import Selection
from flowguard.cli.dlq_progress import Progress
from flowguard.cli.dlq_reading import found_spans, pieces
from flowguard.cli.dlq_sending import Order, Redriver, Sorted, check_room, remembered
from flowguard.cli.dlq_source import SCHEMA, Source, group_of, selection_options, source_options
from flowguard.cli.exit_codes import OK, USAGE, CommandError
from flowguard.cli.output import report, report_options
from flowguard.cli.spans import Span
from flowguard.cli.table import plural, rendered, row
from flowguard.cli.terminal import printable
from flowguard.stress.report import table_of
from flowguard.units import rate_per_s

__all__ = ["redrive"]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What there is when the command begins.

    Args:
        spans: The letters.
        progress: How far each partition was redriven before.
        done: What of it is not to be sent again; nothing with --again.
        topics: Every topic there is.
    """

    spans: list[Span]
    progress: dict[TopicPartition, Progress]
    done: dict[TopicPartition, Progress]
    topics: frozenset[str]

    @property
    def wanted(self) -> list[Span]:
        """What has to be read."""
        return [each.from_(self.done[each.partition].offset) for each in self.spans]

    @property
    def done_before(self) -> int:
        """How many offsets are before the committed ones, and still there."""
        return sum(each.offsets for each in self.spans) - sum(each.offsets for each in self.wanted)


@click.command
@source_options
@selection_options
@click.option("--to", metavar="TOPIC", help="Send them here instead of their original topics.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
@click.option("--rate", metavar="RATE", help="At most so many in a time, such as 500/s.")
@click.option("--again", is_flag=True, help="Also those that were redriven before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent, and where.")
@report_options
def redrive(
    source: Source,
    selection: Selection,
    to: str | None,
    limit: int | None,
    rate: str | None,
    again: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Send dead letters back to their original topics, as the records that they were.

    Key, value, headers, time and partition are those of the original. The header fg-redriven
    counts how often. The letters stay until they are purged or expire, but a second run does
    not repeat them: the group TOPIC.redrive remembers. Killed in the middle, it repeats some
    hundred at most and loses none.
    """
    if to in source.topics:
        raise CommandError(f"--to {to}: that is where they are; choose another topic", USAGE)
    order = Order(selection=selection, to=to, limit=limit, rate_per_s=rate_of(rate), again=again)
    start = over_kafka(source.access, beginning(source, order))
    check_room(start.progress, order, start.spans)
    planned = None
    if dry_run or not yes:
        planned = over_kafka(source.access, plan(source.access, order, start))
    if planned is not None and planned.total and not dry_run:
        click.echo(as_plan(planned), err=True)
        agree(f"redrive {plural(planned.total, 'letter')}?", unchanged="nothing is redriven")
    if planned is not None and (dry_run or not planned.total):
        result = planned
    else:
        result = over_kafka(source.access, sent(source.access, order, start))
    report(
        as_document(source, order, start, result, dry_run),
        lambda: as_text(start, result, dry_run),
        as_json=as_json,
        output=output,
    )
    return OK


def rate_of(text: str | None) -> float | None:
    """Return a rate in letters per second.

    Raises:
        ConfigError: It is none.
        CommandError: Nothing would ever be sent.
    """
    rate = None if text is None else rate_per_s(text, name="--rate")
    if rate == 0:
        raise CommandError("--rate 0/s sends nothing; leave it out, or write 500/s", USAGE)
    return rate


async def beginning(source: Source, order: Order) -> Beginning:
    """Look at what there is."""
    spans = await found_spans(source)
    progress = await remembered(source.access, spans)
    done = {each: Progress() for each in progress} if order.again else progress
    async with source.access.admin() as admin:
        topics = frozenset(await admin.list_topics())
    # To start over with all forgets everything; with a selection it forgets no other.
    return Beginning(spans, done if order.selection.is_all else progress, done, topics)


async def plan(access: Access, order: Order, start: Beginning) -> Sorted:
    """Read all letters, and count what would be sent where."""
    found = Sorted()
    async with aclosing(pieces(access, start.wanted, order.selection)) as read:
        async for piece in read:
            for letter in piece.letters:
                if order.limit is not None and found.total >= order.limit:
                    return found
                found.take(letter, order, start.done[piece.partition])
    return found


async def sent(access: Access, order: Order, start: Beginning) -> Sorted:
    """Send the letters of each topic, one topic after the other."""
    result = Sorted()
    async with access.producer() as producer:
        for topic, spans in groupby(start.wanted, lambda each: each.partition.topic):
            if order.limit is not None and result.total >= order.limit:
                break
            async with access.consumer(group_of(topic)) as committer:
                redriver = Redriver(
                    access,
                    order,
                    producer=producer,
                    committer=committer,
                    topics=start.topics,
                    progress=dict(start.progress),
                    done=start.done,
                    result=result,
                )
                await redriver.run(list(spans))
    return result


def as_document(
    source: Source, order: Order, start: Beginning, result: Sorted, dry_run: bool
) -> dict[str, Any]:
    """Return what was done for programs."""
    return {
        "schema": SCHEMA,
        "verb": "redrive",
        "topics": list(source.topics),
        "dry_run": dry_run,
        "letters": result.total,
        "to": dict(result.sent),
        "redriven_before": result.before + start.done_before,
        "left_out": result.left_out,
        "foreign": result.foreign,
        "missing_topics": missing(result, start),
    }


def missing(result: Sorted, start: Beginning) -> list[str]:
    return sorted(each for each in result.sent if each not in start.topics)


def as_text(start: Beginning, result: Sorted, dry_run: bool) -> str:
    """Return what was done for people."""
    lines = []
    if result.total:
        count = plural(result.total, "letter")
        lines += [as_plan(result), "", f"would redrive {count}" if dry_run else f"redrove {count}"]
    else:
        lines.append("nothing to redrive")
    before = result.before + start.done_before
    if before:
        lines.append(f"{before:,} were redriven before; --again sends them again")
    lines += cannot(result)
    if dry_run:
        lines += [f"topic {printable(each)} does not exist: redriving would stop there"
                  for each in missing(result, start)]  # fmt: skip
    return "\n".join(lines)


def cannot(result: Sorted) -> Sequence[str]:
    """Say what cannot be redriven, and where some of it is."""
    lines = []
    such_as = printable(", ".join(result.named))
    if result.left_out:
        lines.append(
            f"{plural(result.left_out, 'letter')} cannot be redriven, the value was too large to "
            f"be kept; the record may still be in its topic: {such_as}"
        )
    if result.foreign:
        lines.append(f"{plural(result.foreign, 'record')} cannot be redriven, nothing says where "
                     f"it was; name a topic with --to: {such_as}")  # fmt: skip
    return lines


def as_plan(result: Sorted) -> str:
    """Return how many go where."""
    table = table_of("to topic", "letters")
    for topic, count in result.sent.most_common():
        row(table, topic, f"{count:,}")
    return rendered(table)
