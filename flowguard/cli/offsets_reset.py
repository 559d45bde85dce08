"""`flowguard offsets reset`: let an app go on elsewhere in its topics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from flowguard.cli.agreement import agree
from flowguard.cli.broker import over_kafka
from flowguard.cli.exit_codes import FAILED, OK, USAGE, CommandError
from flowguard.cli.groups import Commit, commit_offsets, members_of
from flowguard.cli.moments import PLACE, moment_ms, place_of
from flowguard.cli.offsets_group import SCHEMA, Group, Position, group_options, positions
from flowguard.cli.output import report, report_options
from flowguard.cli.spans import Span, not_before
from flowguard.cli.table import plural, rendered, row
from flowguard.stress.report import table_of

__all__ = ["reset"]

EARLIEST: Final = "earliest"
LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class Move:
    """A partition, and where its group is to go on."""

    position: Position
    offset: int

    @property
    def is_one(self) -> bool:
        """Tell whether anything changes: metadata goes, too, where lanes were ahead."""
        return self.position.commit != Commit(self.offset, "")

    @property
    def by(self) -> int | None:
        """How far it moves; None from nowhere."""
        commit = self.position.commit
        return None if commit is None else self.offset - commit.offset


@click.command
@group_options
@click.option("--to", "targets", metavar="WHERE", multiple=True, required=True,
              help="earliest, latest, 2h ago, a date, or PARTITION:OFFSET.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be committed.")
@report_options
def reset(
    group: Group,
    targets: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Commit other offsets: what is before them is not read, what is behind them is read again.

    Only while no worker runs. What lanes had finished beyond their offset is forgotten.
    PARTITION:OFFSET may be repeated, and changes no other partition.
    """
    places = dict(place_of(each) for each in targets if PLACE.fullmatch(each))
    if len(places) < len(targets) and len(targets) > 1:
        raise CommandError("give one --to, or PARTITION:OFFSET of different partitions", USAGE)
    if places and len(group.topics) != 1:
        raise CommandError("--to PARTITION:OFFSET is of one topic; give one --topic", USAGE)
    word = "" if places else targets[0]
    at_ms = None if places or word in (EARLIEST, LATEST) else moment_ms(word, name="--to")
    moves = over_kafka(group.access, planned(group, word, places, at_ms))
    if moves and not yes and not dry_run:
        click.echo(as_plan(moves), err=True)
        agree(f"commit {plural(len(moves), 'offset')}?", unchanged="nothing is reset")
    if moves and not dry_run:
        over_kafka(group.access, carry_out(group, moves))
    report(
        {
            "schema": SCHEMA,
            "verb": "reset",
            "group": group.name,
            "dry_run": dry_run,
            "partitions": list(map(as_entry, moves)),
        },
        lambda: as_text(moves, dry_run),
        as_json=as_json,
        output=output,
    )
    return OK


async def planned(group: Group, word: str, places: dict[int, int], at_ms: int | None) -> list[Move]:
    """Return which offsets change.

    Raises:
        CommandError: A worker runs, there is nothing to reset, or a position does not exist.
    """
    await reject_members(group)
    found = [each for each in await positions(group) if each.span is not None]
    if not found:
        raise CommandError(
            f"group {group.name} has committed nothing; say which topics: --topic TOPIC", USAGE
        )
    spans = [each.span for each in found if each.span is not None]
    if places:
        return [each for each in (Move(*one) for one in named(found, places)) if each.is_one]
    offsets = [each.end if word == LATEST else each.begin for each in spans]
    if at_ms is not None:
        async with group.access.consumer() as consumer:
            offsets = [each.begin for each in await not_before(consumer, spans, at_ms)]
    moves = map(Move, found, offsets)
    return [each for each in moves if each.is_one]


def named(found: Sequence[Position], places: dict[int, int]) -> list[tuple[Position, int]]:
    """Return the partitions that were named, with their offsets.

    Raises:
        CommandError: One does not exist, or does not have that offset.
    """
    numbers = {each.partition.partition: each for each in found}
    chosen = []
    for number, offset in places.items():
        position = numbers.get(number)
        if position is None or position.span is None:
            raise CommandError(
                f"{found[0].partition.topic} has no partition {number}; it has {len(found)}", USAGE
            )
        reject_outside(position.span, offset)
        chosen.append((position, offset))
    return chosen


def reject_outside(span: Span, offset: int) -> None:
    """Raise if a partition does not have an offset, or end with it.

    Raises:
        CommandError: It has not.
    """
    if not span.begin <= offset <= span.end:
        raise CommandError(
            f"{span.partition.topic}[{span.partition.partition}] does not have offset {offset}; "
            f"choose from {span.begin} to {span.end}",
            USAGE,
        )


async def carry_out(group: Group, moves: Sequence[Move]) -> None:
    """Commit; a worker that has started since is refused, too."""
    await reject_members(group)
    commits = {each.position.partition: Commit(each.offset, "") for each in moves}
    await commit_offsets(group.access, group.name, commits)


async def reject_members(group: Group) -> None:
    """Raise while somebody reads.

    Raises:
        CommandError: The group has members.
    """
    members = await members_of(group.access, group.name)
    if members:
        raise CommandError(
            f"nothing is reset: group {group.name} has {plural(members, 'member')}; stop the "
            f"workers first, with SIGINT; one that was killed or got SIGTERM is a member until its "
            f"session ends",
            FAILED,
        )


def as_entry(move: Move) -> dict[str, Any]:
    """Return a move for programs."""
    commit = move.position.commit
    return {
        "topic": move.position.partition.topic,
        "partition": move.position.partition.partition,
        "committed": None if commit is None else commit.offset,
        "offset": move.offset,
    }


def as_text(moves: Sequence[Move], dry_run: bool) -> str:
    """Return what was done for people."""
    if not moves:
        return "nothing to reset: it is there already"
    does = "would commit" if dry_run else "committed"
    return f"{as_plan(moves)}\n\n{does} {plural(len(moves), 'offset')}"


def as_plan(moves: Sequence[Move]) -> str:
    """Return what changes, by partition."""
    table = table_of("partition", "committed", "to", "moves by")
    for each in moves:
        commit = each.position.commit
        row(
            table,
            each.position.place,
            "–" if commit is None else str(commit.offset),
            str(each.offset),
            "–" if each.by is None else f"{each.by:+,}",
        )
    return rendered(table)
