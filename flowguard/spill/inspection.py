"""Look at spill directories from outside, whether a worker has them or not; nothing is changed.

Every byte of a segment is covered by one checksum: header, frame headers, payloads with their
padding, footer, trailer. So `verify` finds every bit that is another one, and every frame that
is not whole. It needs no key; without one it does not name topics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from flowguard.spill.layout import (
    SEGMENT_HEADER_BYTES,
    BadSegment,
    FrameHeader,
    NewerSegment,
    SegmentHeader,
    decode_segment,
    segment_number,
)
from flowguard.spill.ports import Entry, File, FileSystem
from flowguard.spill.quarantine import QUARANTINE_NAME
from flowguard.spill.reading import Broken, FileSource, read_batches, read_payload, reveal
from flowguard.spill.recovery import Contents, read_contents, read_footer, scan
from flowguard.spill.slot import LOCK_NAME

__all__ = [
    "Held",
    "Problem",
    "SegmentReport",
    "SlotReport",
    "find_slots",
    "inspect_slot",
    "verify_slot",
]

#: How deep below the directory that was named slots are: `<app>/<slot>`.
DEPTH: Final = 2

#: A worker may be writing what looks torn; by then it is done.
SETTLED_S: Final = 1.0

DAMAGE: Final = {
    "gap": "frames are damaged",
    "torn": "the last frame is not whole",
    "footer": "the footer is damaged; nothing is lost",
}


class Held(NamedTuple):
    """What a segment has of one partition.

    Args:
        scan_lo: First offset of what its frames cover.
        scan_hi: Offset after the last.
    """

    topic: str
    partition: int
    frames: int
    records: int
    scan_lo: int
    scan_hi: int


class Problem(NamedTuple):
    """Bytes that are not what was written.

    Args:
        kind: `header`: the segment's, so all of it is lost; `gap`: whole frames between
            others; `torn`: the end; `payload`: one frame; `footer`: nothing is lost.
        start: First byte of it in the file.
        end: The byte after it.
        what: What is lost, and why, for people.
    """

    kind: Literal["header", "gap", "torn", "payload", "footer"]
    start: int
    end: int
    what: str


@dataclass(slots=True)
class SegmentReport:
    """One file.

    Args:
        status: `sealed`, `open` (no footer: it is written to, or its worker was killed),
            `damaged` (its header), or `newer` (of a later format).
        lane: Empty if the header is damaged.
        held: By partition; without topics if they are encrypted.
    """

    name: str
    num_bytes: int
    status: Literal["sealed", "open", "damaged", "newer"] = "open"
    lane: str = ""
    created_ms: int = 0
    encrypted: bool = False
    frames: int = 0
    records: int = 0
    payload_bytes: int = 0
    held: list[Held] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class SlotReport:
    """One worker's directory.

    Args:
        worker: Id of the process that has it, None if nobody has.
        foreign: Names of files that are not ours.
    """

    directory: str
    worker: int | None = None
    segments: list[SegmentReport] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    quarantined_files: int = 0
    quarantined_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        """Return the bytes of its segments."""
        return sum(segment.num_bytes for segment in self.segments)


def find_slots(filesystem: FileSystem, directory: str) -> list[str]:
    """Return the slots in a directory: its own, those of an app, or those of all apps.

    Raises:
        OSError: The directory cannot be read.
    """
    return list(_slots(filesystem, directory, filesystem.list_directory(directory), DEPTH))


def _slots(
    filesystem: FileSystem, directory: str, entries: list[Entry], depth: int
) -> Iterator[str]:
    if any(e.is_file and (e.name == LOCK_NAME or segment_number(e.name) is not None)
           for e in entries):  # fmt: skip
        yield directory
        return
    for entry in entries if depth else []:
        if entry.is_directory:
            path = f"{directory}/{entry.name}"
            try:
                inside = filesystem.list_directory(path)
            except OSError:
                continue  # gone meanwhile, or not ours
            yield from _slots(filesystem, path, inside, depth - 1)


def inspect_slot(filesystem: FileSystem, directory: str) -> SlotReport:
    """Return what a slot holds, by footers and headers of frames.

    Raises:
        OSError: The directory cannot be read.
    """
    return _report(filesystem, directory, _inspect)


def verify_slot(
    filesystem: FileSystem, directory: str, pause: Callable[[float], None]
) -> SlotReport:
    """Return what a slot holds, after reading all of it.

    Args:
        pause: Waits so many seconds, for what a worker may just be writing.

    Raises:
        OSError: The directory cannot be read.
    """
    report = _report(filesystem, directory, _verify)
    if report.worker is None or not any(segment.problems for segment in report.segments):
        return report
    pause(SETTLED_S)
    for index, segment in enumerate(report.segments):
        if segment.problems:
            again = _segment(filesystem, directory, segment.name, segment.num_bytes, _verify)
            report.segments[index] = again or SegmentReport(segment.name, 0)
    report.segments = [segment for segment in report.segments if segment.num_bytes]
    return report


Look = Callable[[File, SegmentReport], None]


def _report(filesystem: FileSystem, directory: str, look: Look) -> SlotReport:
    report = SlotReport(directory, filesystem.locked_by(f"{directory}/{LOCK_NAME}"))
    for entry in filesystem.list_directory(directory):
        if not entry.is_file or entry.name == LOCK_NAME:
            if entry.name == QUARANTINE_NAME:
                _count_quarantine(filesystem, report)
        elif segment_number(entry.name) is None:
            report.foreign.append(entry.name)
        else:
            found = _segment(filesystem, directory, entry.name, entry.num_bytes, look)
            if found is not None:
                report.segments.append(found)
    return report


def _count_quarantine(filesystem: FileSystem, report: SlotReport) -> None:
    entries = filesystem.list_directory(f"{report.directory}/{QUARANTINE_NAME}")
    report.quarantined_files = sum(entry.is_file for entry in entries)
    report.quarantined_bytes = sum(entry.num_bytes for entry in entries)


def _segment(
    filesystem: FileSystem, directory: str, name: str, num_bytes: int, look: Look
) -> SegmentReport | None:
    """Return what is known of a segment, None if it was deleted meanwhile."""
    report = SegmentReport(name, num_bytes)
    try:
        file = filesystem.open(f"{directory}/{name}")
        try:
            report.num_bytes = file.size()
            look(file, report)
        finally:
            file.close()
    except FileNotFoundError:
        return None
    except NewerSegment:
        report.status = "newer"
    except BadSegment as error:
        report.status = "damaged"
        report.problems.append(Problem("header", 0, report.num_bytes, str(error)))
    except OSError as error:
        said = error.strerror or str(error)
        report.problems.append(
            Problem("payload", 0, report.num_bytes, f"it cannot be read: {said}")
        )
    return report


def _inspect(file: File, report: SegmentReport) -> None:
    contents = read_contents(FileSource(file))
    _describe(report, contents)


def _verify(file: File, report: SegmentReport) -> None:
    source = FileSource(file)
    contents = scan(source, decode_segment(source.read(0, SEGMENT_HEADER_BYTES)))
    _describe(report, contents)
    for damage in contents.damage:
        report.problems.append(Problem(*damage, DAMAGE[damage.kind]))
    for header in contents.frames:
        try:
            _, payload = read_payload(file, header.position, header.stored_bytes, contents.header)
            if not contents.header.encrypted:
                read_batches(header, payload, None)
        except Broken as error:
            what = f"{_place_of(header, contents.header)}: {error}"
            report.problems.append(Problem("payload", header.position, header.end, what))
    if not report.problems and contents.footer is not None:
        listed = read_footer(source, contents.header, contents.footer.position)
        if listed is None or listed[1] != contents.frames:
            place = contents.footer.position, source.num_bytes
            report.problems.append(Problem("footer", *place, DAMAGE["footer"]))


def _describe(report: SegmentReport, contents: Contents) -> None:
    header = contents.header
    report.lane, report.created_ms = header.lane, header.created_ms
    report.encrypted = header.encrypted
    report.status = "open" if contents.footer is None else "sealed"
    report.frames = len(contents.frames)
    report.records = sum(frame.records for frame in contents.frames)
    report.payload_bytes = sum(frame.stored_bytes for frame in contents.frames)
    held: dict[tuple[str, int], Held] = {}
    for frame in contents.frames:
        place = _topic_of(frame, header), frame.partition
        _, _, frames, records, low, high = held.get(
            place, Held(*place, 0, 0, frame.scan_lo, frame.scan_hi)
        )
        low, high = min(low, frame.scan_lo), max(high, frame.scan_hi)
        held[place] = Held(*place, frames + 1, records + frame.records, low, high)
    report.held = [held[place] for place in sorted(held)]


def _topic_of(frame: FrameHeader, segment: SegmentHeader) -> str:
    """Return a frame's topic, nothing if it is encrypted."""
    if segment.encrypted:
        return ""
    try:
        return reveal(frame, None)[1]
    except Broken:
        return ""


def _place_of(frame: FrameHeader, segment: SegmentHeader) -> str:
    topic = _topic_of(frame, segment) or "?"
    return f"{topic}[{frame.partition}], offsets {frame.scan_lo} to {frame.scan_hi - 1}"
