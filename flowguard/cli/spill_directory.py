"""What the commands of `flowguard spill` have in common: their directory, and words for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from flowguard.cli.exit_codes import FAILED, USAGE, CommandError
from flowguard.cli.table import plural
from flowguard.cli.terminal import printable
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.findings import Held, SlotReport, Survey, Unread
from flowguard.spill.inspection import said, survey
from flowguard.spill.ports import FileSystem
from flowguard.units import format_size

__all__ = [
    "age_of",
    "as_range",
    "describe_slot",
    "directory_argument",
    "fold_partitions",
    "partitions_of",
    "reject_unread",
    "size",
    "surveyed",
    "unread_of",
]

Command = TypeVar("Command", bound=Callable[..., Any])

#: As many partitions of a segment as are named for people; the JSON has all.
NAMED: Final = 3


def directory_argument(command: Command) -> Command:
    """Add DIR, as `directory`: absolute, without links."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if ctx.resilient_parsing:
            return value
        if not value:
            raise click.UsageError(
                f"say which directory: {ctx.command_path} DIR, or set FLOWGUARD_SPILL_DIR", ctx
            )
        if not os.path.isdir(value):
            raise CommandError(
                f"{value} is no directory; name what the worker has as --spill-dir", USAGE
            )
        return os.path.realpath(value)

    return click.argument(
        "directory", metavar="DIR", required=False, envvar="FLOWGUARD_SPILL_DIR", callback=check
    )(command)


def surveyed(directory: str, look: Callable[[FileSystem, str], SlotReport]) -> Survey:
    """Look at all slots in a directory.

    Raises:
        CommandError: It cannot be read.
    """
    try:
        return survey(RealFileSystem(), directory, look)
    except FileNotFoundError:
        return Survey([], [])  # somebody deleted it
    except OSError as error:
        raise CommandError(
            f"{directory} cannot be read: {said(error)}; run as the worker's user", FAILED
        ) from error


def reject_unread(unread: list[Unread]) -> None:
    """End with a line about directories that were left out, if there are any.

    Raises:
        CommandError: There are.
    """
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise CommandError(
            f"{unread[0].path}{more} cannot be read and was left out: {unread[0].why}; "
            "run as the worker's user"
        )


# For programs.


def unread_of(unread: list[Unread]) -> list[dict[str, Any]]:
    """Return paths with reasons as in the JSON."""
    return [{"path": each.path, "why": each.why} for each in unread]


def partitions_of(held: list[Held]) -> list[dict[str, Any]]:
    """Return what a file has of each partition as in the JSON."""
    return [
        {
            "topic": each.topic or None,
            "partition": each.partition,
            "frames": each.frames,
            "records": each.records,
            "first_offset": each.scan_lo,
            "last_offset": each.scan_hi - 1,
        }
        for each in held
    ]


# For people.


def describe_slot(slot: SlotReport) -> str:
    """Return a line about a slot."""
    parts = [holder(slot), f"{plural(len(slot.segments), 'segment')} of {size(slot.num_bytes)}"]
    if slot.quarantined:
        files = plural(len(slot.quarantined), "file")
        parts.append(f"{files} of {size(slot.quarantined_bytes)} in quarantine")
    if slot.foreign:
        parts.append(f"not flowguard's: {', '.join(map(printable, slot.foreign))}")
    return f"{printable(slot.name)}: {'; '.join(parts)}"


def holder(slot: SlotReport) -> str:
    if slot.worker is None:
        return "no worker has it"
    if slot.worker <= 0:
        return "a worker has it that cannot be seen from here"
    return f"the worker with process {slot.worker} has it"


def size(num_bytes: int | None) -> str:
    """Return a size, which may be unknown."""
    return "?" if num_bytes is None else format_size(num_bytes)


def age_of(seconds: float) -> str:
    """Return how long ago something was, as coarse as it matters."""
    seconds = max(0.0, seconds)
    for unit, most in (("s", 120), ("min", 120), ("h", 48)):
        if seconds < most:
            return f"{seconds:.0f} {unit}"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.0f} d"


def as_range(held: Held) -> str:
    """Return a partition with its offsets; the last one is included."""
    return f"{held.topic or '?'}[{held.partition}] {held.scan_lo}–{held.scan_hi - 1}"


def fold_partitions(held: list[Held], most: int = NAMED) -> str:
    """Return the first partitions, and how many there are besides."""
    named = ", ".join(map(as_range, held[:most]))
    return named if len(held) <= most else f"{named}, {len(held) - most:,} more"
