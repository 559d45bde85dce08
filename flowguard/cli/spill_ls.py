"""`flowguard spill ls`: what is spilled, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from flowguard.cli.exit_codes import OK
from flowguard.cli.output import report, report_options
from flowguard.cli.spill_directory import (
    age_of,
    describe_slot,
    directory_argument,
    fold_partitions,
    partitions_of,
    reject_unread,
    size,
    surveyed,
    unread_of,
)
from flowguard.cli.table import rendered, row
from flowguard.cli.terminal import printable
from flowguard.clock import SystemClock
from flowguard.spill.findings import SegmentReport, SlotReport, Survey
from flowguard.spill.inspection import inspect_slot
from flowguard.stress.report import table_of

__all__ = ["ls"]

SCHEMA: Final = "flowguard.spill/v1"

UNKNOWN: Final = "?"


@click.command
@directory_argument
@report_options
def ls(directory: str, as_json: bool, output: Path | None) -> int:
    """Show what slots, lanes and segments in DIR hold.

    By their headers and footers; records are not read. `live` is the most that may still be
    wanted: which of it is finished stands in Kafka, not on the disk.
    """
    found = surveyed(directory, inspect_slot)
    now_ms = SystemClock().epoch_ms()
    report(
        {
            "schema": SCHEMA,
            "directory": directory,
            "slots": [slot_entry(slot, now_ms) for slot in found.slots],
            "unread": unread_of(found.unread),
        },
        lambda: as_text(directory, found, now_ms),
        as_json=as_json,
        output=output,
    )
    reject_unread(found.unread)
    return OK


def by_lane(slot: SlotReport) -> dict[str, list[SegmentReport]]:
    """Return the segments of each lane; those whose header cannot be read are left out."""
    lanes: dict[str, list[SegmentReport]] = {}
    for segment in slot.segments:
        if segment.known:
            lanes.setdefault(segment.lane, []).append(segment)
    return lanes


def live_bytes(segments: list[SegmentReport]) -> int | None:
    """Return what is live of several segments, None if that of one is unknown."""
    known = [each.live_bytes for each in segments if each.live_bytes is not None]
    return sum(known) if len(known) == len(segments) else None


# For programs.


def slot_entry(slot: SlotReport, now_ms: int) -> dict[str, Any]:
    """Return a slot as in the JSON."""
    visible = slot.worker is not None and slot.worker > 0
    return {
        "directory": slot.directory,
        "slot": slot.name,
        "held": slot.worker is not None,
        "process": slot.worker if visible else None,
        "bytes": slot.num_bytes,
        "lanes": {
            lane: {
                "segments": len(segments),
                "bytes": sum(each.num_bytes for each in segments),
                "live_bytes": live_bytes(segments),
                "records": sum(each.records for each in segments),
                "age": max(age_s(each.written_ms, now_ms) for each in segments),
            }
            for lane, segments in by_lane(slot).items()
        },
        "segments": [
            {**segment_entry(each, now_ms), "damaged": slot.damaged(each)} for each in slot.segments
        ],
        "quarantine": {"files": len(slot.quarantined), "bytes": slot.quarantined_bytes},
        "foreign": slot.foreign,
    }


def segment_entry(segment: SegmentReport, now_ms: int) -> dict[str, Any]:
    """Return a segment as in the JSON; what its header does not tell is null."""
    known = segment.known
    return {
        "name": segment.name,
        "state": segment.status,
        "bytes": segment.num_bytes,
        "age": age_s(segment.written_ms, now_ms),
        "lane": segment.lane if known else None,
        "app": segment.app if known else None,
        "group": segment.group if known else None,
        "cluster": segment.cluster if known else None,
        "created": segment.created_ms / 1000 if known else None,
        "encrypted": segment.encrypted if known else None,
        "frames": segment.frames if known else None,
        "records": segment.records if known else None,
        "payload_bytes": segment.payload_bytes if known else None,
        "live_bytes": segment.live_bytes,
        "partitions": partitions_of(segment.held),
    }


def age_s(written_ms: int, now_ms: int) -> float:
    return max(0, now_ms - written_ms) / 1000


# For people.


def as_text(directory: str, found: Survey, now_ms: int) -> str:
    """Return all slots for people."""
    if not found.slots:
        return f"nothing is spilled in {printable(directory)}"
    return "\n\n\n".join(slot_text(slot, now_ms) for slot in found.slots)


def slot_text(slot: SlotReport, now_ms: int) -> str:
    """Return a slot, its lanes and its segments for people."""
    parts = [describe_slot(slot)]
    lanes = by_lane(slot)
    if lanes:
        parts.append(rendered_lanes(lanes, now_ms))
    if slot.segments:
        parts.append(rendered_segments(slot, now_ms))
    return "\n\n".join(parts)


def rendered_lanes(lanes: dict[str, list[SegmentReport]], now_ms: int) -> str:
    table = table_of("lane", "segments", "size", "live", "records", "oldest")
    for lane, segments in lanes.items():
        row(
            table,
            lane,
            f"{len(segments):,}",
            size(sum(each.num_bytes for each in segments)),
            size(live_bytes(segments)),
            f"{sum(each.records for each in segments):,}",
            age_of(max(age_s(each.written_ms, now_ms) for each in segments)),
        )
    return rendered(table)


def rendered_segments(slot: SlotReport, now_ms: int) -> str:
    table = table_of("segment", "state", "size", "live", "frames", "records", "age")
    table.add_column("offsets")
    for each in slot.segments:
        known = each.known
        row(
            table,
            each.name,
            f"{each.status}, damaged" if known and slot.damaged(each) else each.status,
            size(each.num_bytes),
            size(each.live_bytes),
            f"{each.frames:,}" if known else UNKNOWN,
            f"{each.records:,}" if known else UNKNOWN,
            age_of(age_s(each.written_ms, now_ms)),
            (fold_partitions(each.held) or "none") if known else why(each),
        )
    return rendered(table)


def why(segment: SegmentReport) -> str:
    if segment.status == "newer":
        return "of a later format"
    return segment.problems[0].what
