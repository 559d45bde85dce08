"""`flowguard dlq ls`: how many dead letters there are, and what is wrong with them."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import click

from flowguard.cli.broker import over_kafka
from flowguard.cli.dlq_counts import Counts
from flowguard.cli.dlq_letters import Selection
from flowguard.cli.dlq_reading import found_spans, pieces
from flowguard.cli.dlq_source import SCHEMA, Source, selection_options, source_options
from flowguard.cli.exit_codes import OK
from flowguard.cli.moments import when
from flowguard.cli.output import report, report_options
from flowguard.cli.table import plural, rendered, row
from flowguard.cli.terminal import printable
from flowguard.stress.report import table_of

__all__ = ["ls"]

GROUPS_SHOWN: Final = 50


@click.command
@source_options
@selection_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=GROUPS_SHOWN,
    show_default=True,
    help="Most rows; what has the most letters comes first.",
)
@report_options
def ls(source: Source, selection: Selection, limit: int, as_json: bool, output: Path | None) -> int:
    """Count dead letters by error, reason, topic and lane.

    All of them are read, and none is kept in memory. Times are those of the records.
    """
    counts = over_kafka(source.access, counted(source, selection))
    report(
        as_document(source, counts, limit),
        lambda: as_text(source, counts, limit),
        as_json=as_json,
        output=output,
    )
    return OK


async def counted(source: Source, selection: Selection) -> Counts:
    """Read all letters and count those that are meant."""
    counts = Counts()
    spans = await found_spans(source)
    async with aclosing(pieces(source.access, spans, selection)) as found:
        async for piece in found:
            counts.add(filter(selection.has, piece.letters))
    return counts


def as_document(source: Source, counts: Counts, limit: int) -> dict[str, Any]:
    """Return the counts for programs."""
    largest, all_letters = counts.largest(limit), counts.all
    return {
        "schema": SCHEMA,
        "verb": "ls",
        "topics": list(source.topics),
        **all_letters.to_dict(),
        "left_out": counts.left_out,
        "foreign": counts.foreign,
        "groups": [
            {"type": kind, "reason": reason, "topic": topic, "lane": lane, **group.to_dict()}
            for (kind, reason, topic, lane), group in largest
        ],
        "more": {
            "groups": len(counts.groups) - len(largest),
            "letters": all_letters.letters - sum(group.letters for _, group in largest),
        },
    }


def as_text(source: Source, counts: Counts, limit: int) -> str:
    """Return the counts for people."""
    where = printable(", ".join(source.topics))
    letters = counts.all.letters
    if not letters:
        return f"no dead letters in {where}"
    largest = counts.largest(limit)
    with_lane = any(lane is not None for (_, _, _, lane), _ in largest)
    table = table_of("type", "letters", "returned", "first", "last")
    for name in ("topic", *(["lane"] if with_lane else []), "reason"):
        table.add_column(name)
    for (kind, reason, topic, lane), group in largest:
        row(
            table,
            kind or "–",
            f"{group.letters:,}",
            f"{group.returned:,}",
            when(group.first_ms),
            when(group.last_ms),
            topic or "–",
            *([lane or "–"] if with_lane else []),
            reason,
        )
    lines = [f"{plural(letters, 'dead letter')} in {where}", "", rendered(table)]
    hidden = len(counts.groups) - len(largest)
    if hidden:
        rest = letters - sum(group.letters for _, group in largest)
        lines += ["", f"and {rest:,} in {plural(hidden, 'group')} more; see --limit"]
    if counts.left_out:
        lines += ["", f"{plural(counts.left_out, 'value')} too large to be kept: "
                      "such a letter cannot be redriven"]  # fmt: skip
    if counts.foreign:
        lines += ["", f"{plural(counts.foreign, 'record')} without fg-orig-topic: "
                      "written by something else"]  # fmt: skip
    return "\n".join(lines)
