"""`flowguard spill verify`: check every byte of what is spilled."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import click

from flowguard.cli.exit_codes import CORRUPT, OK, CommandError
from flowguard.cli.output import report, report_options
from flowguard.cli.spill_directory import (
    describe_slot,
    directory_argument,
    reject_unread,
    surveyed,
    unread_of,
)
from flowguard.cli.table import plural
from flowguard.cli.terminal import printable
from flowguard.spill.findings import Problem, SegmentReport, SlotReport, Survey
from flowguard.spill.inspection import verify_slot

__all__ = ["verify"]

SCHEMA: Final = "flowguard.spill-verify/v1"

#: Waits for what a worker is just writing.
pause: Callable[[float], None] = time.sleep


@click.command
@directory_argument
@click.option("--deep", is_flag=True, help="Decode the records, and compare them with the headers.")
@report_options
def verify(directory: str, deep: bool, as_json: bool, output: Path | None) -> int:
    """Check the checksums of every header, frame and footer in DIR.

    What is damaged is named with its offsets, and is no loss: workers fetch it from Kafka
    again. Exits with 4 if anything is damaged, with 1 if something cannot be read.
    """
    found = surveyed(directory, partial(verify_slot, pause=pause, deep=deep))
    report(
        as_document(directory, found, deep),
        lambda: as_text(directory, found, deep),
        as_json=as_json,
        output=output,
    )
    reject_problems(found)
    reject_unread(found.unread)
    return OK


def reject_problems(found: Survey) -> None:
    """End with a line about what is wrong, if anything is; corruption before all else.

    Raises:
        CommandError: Something is.
    """
    hurt = {
        f"{slot.name}/{segment.name}"
        for slot in found.slots
        for segment, problem in slot.problems
        if problem.kind != "unreadable"
    }
    if hurt:
        raise CommandError(
            f"corrupt data in {plural(len(hurt), 'segment')}, such as {min(hurt)}; workers fetch "
            "it from Kafka again, and `flowguard spill purge` deletes it: look at the disk",
            CORRUPT,
        )
    for slot in found.slots:
        for segment, problem in slot.problems:
            raise CommandError(
                f"{slot.directory}/{segment.name}: {problem.what}; run as the worker's user, "
                "and look at the disk"
            )


def segments_of(found: Survey) -> list[SegmentReport]:
    """Return the segments of all slots."""
    return [segment for slot in found.slots for segment in slot.segments]


def result_of(found: Survey) -> Literal["ok", "corrupt", "unreadable"]:
    """Return what came of it, in a word."""
    kinds = {problem.kind for slot in found.slots for _, problem in slot.problems}
    if kinds - {"unreadable"}:
        return "corrupt"
    return "unreadable" if kinds or found.unread else "ok"


def as_document(directory: str, found: Survey, deep: bool) -> dict[str, Any]:
    """Return what was found as in the JSON."""
    segments = segments_of(found)
    return {
        "schema": SCHEMA,
        "directory": directory,
        "deep": deep,
        "result": result_of(found),
        "segments": len(segments),
        "frames": sum(each.frames for each in segments),
        "records": sum(each.records for each in segments),
        "bytes": sum(each.num_bytes for each in segments),
        "encrypted_segments": sum(each.encrypted for each in segments),
        "later_segments": sum(each.status == "newer" for each in segments),
        "problems": [
            problem_entry(slot, segment, problem)
            for slot in found.slots
            for segment, problem in slot.problems
        ],
        "unread": unread_of(found.unread),
    }


def problem_entry(slot: SlotReport, segment: SegmentReport, problem: Problem) -> dict[str, Any]:
    """Return a problem as in the JSON; what is not known of it is null."""
    return {
        "slot": slot.name,
        "segment": segment.name,
        "kind": problem.kind,
        "start": problem.start,
        "end": problem.end,
        "lane": segment.lane or None,
        "topic": problem.topic,
        "partition": problem.partition,
        "first_offset": problem.scan_lo,
        "last_offset": None if problem.scan_hi is None else problem.scan_hi - 1,
        "what": problem.what,
    }


def as_text(directory: str, found: Survey, deep: bool) -> str:
    """Return what was found for people."""
    if not found.slots:
        return f"nothing is spilled in {printable(directory)}"
    lines = []
    for slot in found.slots:
        lines.append(describe_slot(slot))
        lines += [
            f"  {segment.name} at {problem.start}–{problem.end}: {printable(problem.what)}"
            for segment, problem in slot.problems
        ]
    lines += ["", *notes(found, deep)]
    return "\n".join(lines)


def notes(found: Survey, deep: bool) -> list[str]:
    """Return what was checked, and what could not be."""
    segments = segments_of(found)
    frames = plural(sum(each.frames for each in segments), "frame")
    problems = sum(len(each.problems) for each in segments)
    what = plural(problems, "problem") if problems else "nothing is damaged"
    depth = "checksums, records and headers" if deep else "checksums"
    lines = [f"{depth} of {frames} in {plural(len(segments), 'segment')}: {what}"]
    encrypted = sum(each.encrypted for each in segments)
    if encrypted:
        lines.append(
            f"{plural(encrypted, 'segment')} encrypted: their checksums cover all bytes and were "
            "checked; seals, records and topics need the key and were not"
        )
    later = sum(each.status == "newer" for each in segments)
    if later:
        lines.append(f"{plural(later, 'segment')} of a later format: not checked")
    return lines
