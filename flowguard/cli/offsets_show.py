"""`flowguard offsets show`: what a group has committed, and how far each lane is beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flowguard.cli.broker import over_kafka
from flowguard.cli.exit_codes import OK
from flowguard.cli.groups import Commit, members_of
from flowguard.cli.offsets_group import SCHEMA, Group, Position, group_options, positions
from flowguard.cli.output import report, report_options
from flowguard.cli.table import plural, rendered, row
from flowguard.cli.terminal import printable
from flowguard.settle.watermarks import parse
from flowguard.stress.report import table_of

__all__ = ["lanes_of", "show"]


@click.command
@group_options
@report_options
def show(group: Group, as_json: bool, output: Path | None) -> int:
    """Show the committed offset of each partition, the lag, and the lanes that are ahead.

    The committed offset is that of the slowest lane; `realtime +812` has finished 812 offsets
    more, and does not repeat them after a restart.
    """
    members, found = over_kafka(group.access, looked(group))
    report(
        {
            "schema": SCHEMA,
            "verb": "show",
            "group": group.name,
            "members": members,
            "partitions": list(map(as_entry, found)),
        },
        lambda: as_text(group, members, found),
        as_json=as_json,
        output=output,
    )
    return OK


async def looked(group: Group) -> tuple[int, list[Position]]:
    """Return how many members there are, and where they are."""
    return await members_of(group.access, group.name), await positions(group)


def lanes_of(commit: Commit) -> tuple[dict[str, int], str | None]:
    """Return how far lanes are ahead, and why that will be ignored, if it will."""
    fields = parse(commit.metadata)
    if fields is None:
        return {}, "metadata of something else" if commit.metadata.rstrip("\0") else None
    ahead: dict[str, int] = fields["w"]
    if fields["c"] != commit.offset:
        return ahead, f"ignored: the offset was moved from {fields['c']}"
    return ahead, None


def as_entry(position: Position) -> dict[str, Any]:
    """Return a position for programs."""
    commit, span = position.commit, position.span
    ahead, why = ({}, None) if commit is None else lanes_of(commit)
    return {
        "topic": position.partition.topic,
        "partition": position.partition.partition,
        "committed": None if commit is None else commit.offset,
        "begin": None if span is None else span.begin,
        "end": None if span is None else span.end,
        "lag": position.lag,
        "lanes": {} if commit is None else {
            lane: commit.offset + offsets for lane, offsets in ahead.items()
        },
        "why": why,
    }  # fmt: skip


def as_text(group: Group, members: int, found: Sequence[Position]) -> str:
    """Return positions for people."""
    name = printable(group.name)
    if not found:
        return f"group {name} has committed nothing"
    table = table_of("partition", "committed", "end", "lag")
    table.add_column("lanes ahead")
    for each in found:
        ahead, why = ({}, None) if each.commit is None else lanes_of(each.commit)
        lanes = ", ".join(f"{lane} +{offsets:,}" for lane, offsets in ahead.items())
        row(
            table,
            each.place,
            "–" if each.commit is None else str(each.commit.offset),
            "gone" if each.span is None else str(each.span.end),
            "–" if each.lag is None else f"{each.lag:,}",
            "; ".join(filter(None, (lanes, why))),
        )
    lag = sum(each.lag or 0 for each in found)
    return f"group {name}, {plural(members, 'member')}, lag {lag:,}\n\n{rendered(table)}"
