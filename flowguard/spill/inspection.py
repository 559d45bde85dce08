"""Look at spill directories from outside, whether a worker has them or not; nothing is changed.

    <directory> ─▶ slots ─▶ segments ─▶ footers, or headers of frames      `inspect_slot`
                                     ─▶ every byte                         `verify_slot`

Every byte of a segment is covered by one checksum: header, frame headers, payloads with their
padding, footer, trailer. So `verify` finds every bit that is another one, and every frame that
is not whole. It needs no key; without one it does not name topics.

What is deleted while it is looked at is not there, and is no error. Links are not followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Literal

from flowguard.spill.findings import Held, Problem, SegmentReport, SlotReport, Survey, Unread
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
from flowguard.spill.reading import Broken, FileSource, read_payload, reveal
from flowguard.spill.recovery import (
    Contents,
    Damage,
    Found,
    frame_of,
    newest_runs,
    read_contents,
    read_footer,
    scan,
)
from flowguard.spill.slot import LOCK_NAME, PROBE_NAME
from flowguard.spill.validation import validate

__all__ = ["find_slots", "inspect_slot", "said", "survey", "verify_slot"]

#: How deep below the directory that was named slots are: `<app>/<slot>`.
DEPTH: Final = 2

#: What a file system makes by itself, for root only.
NOT_LOOKED_INTO: Final = {"lost+found", QUARANTINE_NAME}

#: A worker may be writing what looks torn; by then it is done.
SETTLED_S: Final = 1.0

DAMAGE: Final = {
    "gap": "frames are damaged",
    "torn": "the last frame is not whole",
    "footer": "the footer is damaged; nothing is lost",
}

Look = Callable[[File, SegmentReport], None]


def said(error: OSError) -> str:
    """Return what the system said."""
    return error.strerror or str(error)


# Directories.


def survey(
    filesystem: FileSystem, directory: str, look: Callable[[FileSystem, str], SlotReport]
) -> Survey:
    """Look at all slots in a directory: its own, those of an app, or those of all apps.

    Args:
        look: `inspect_slot`, or what is like it.

    Raises:
        OSError: The directory itself cannot be read.
    """
    paths, unread = find_slots(filesystem, directory)
    slots = []
    for path in paths:
        try:
            slots.append(look(filesystem, path))
        except FileNotFoundError:
            continue  # somebody deleted it
        except OSError as error:
            unread.append(Unread(path, said(error)))
    return Survey(slots, unread)


def find_slots(filesystem: FileSystem, directory: str) -> tuple[list[str], list[Unread]]:
    """Return the slots in a directory, and the directories that cannot be read.

    Raises:
        OSError: The directory itself cannot be read.
    """
    unread: list[Unread] = []
    entries = filesystem.list_directory(directory)
    return list(_slots(filesystem, directory, entries, DEPTH, unread)), unread


def _slots(
    filesystem: FileSystem,
    directory: str,
    entries: list[Entry],
    depth: int,
    unread: list[Unread],
) -> Iterator[str]:
    if any(map(_marks_slot, entries)):
        yield directory
        return
    for entry in entries if depth else []:
        if not entry.is_directory or entry.name in NOT_LOOKED_INTO:
            continue
        path = f"{directory}/{entry.name}"
        try:
            inside = filesystem.list_directory(path)
        except FileNotFoundError:
            continue  # gone meanwhile
        except OSError as error:
            unread.append(Unread(path, said(error)))
            continue
        yield from _slots(filesystem, path, inside, depth - 1, unread)


def _marks_slot(entry: Entry) -> bool:
    if entry.is_directory:
        return entry.name == QUARANTINE_NAME
    return entry.is_file and (entry.name == LOCK_NAME or segment_number(entry.name) is not None)


def inspect_slot(filesystem: FileSystem, directory: str) -> SlotReport:
    """Return what a slot holds, by footers and headers of frames.

    Raises:
        OSError: The directory cannot be read.
    """
    return _report(filesystem, directory, _inspect)


def verify_slot(
    filesystem: FileSystem,
    directory: str,
    pause: Callable[[float], None],
    *,
    deep: bool = False,
) -> SlotReport:
    """Return what a slot holds, after reading all of it.

    What a worker is just writing is not whole. So under a worker what looks bad is looked at
    again after a pause, and counts if it is still the same.

    Args:
        pause: Waits so many seconds.
        deep: Decode records too, and compare them with what the headers say.

    Raises:
        OSError: The directory cannot be read.
    """

    def look(file: File, report: SegmentReport) -> None:
        _verify(file, report, deep)

    report = _report(filesystem, directory, look)
    if report.worker is None or not any(segment.problems for segment in report.segments):
        return report
    pause(SETTLED_S)
    settled = []
    for segment in report.segments:
        if segment.problems:
            again = _segment(filesystem, directory, segment.name, segment.written_ms, look)
            if again is None:
                continue  # its worker has deleted it
            before = {(problem.kind, problem.start) for problem in segment.problems}
            again.problems = [p for p in again.problems if (p.kind, p.start) in before]
            segment = again
        settled.append(segment)
    report.segments = settled
    _count_live(report)
    return report


def _report(filesystem: FileSystem, directory: str, look: Look) -> SlotReport:
    report = SlotReport(directory)
    for entry in filesystem.list_directory(directory):
        if entry.is_file and segment_number(entry.name) is not None:
            found = _segment(filesystem, directory, entry.name, entry.modified_ms, look)
            if found is not None:
                report.segments.append(found)
        elif entry.is_file and entry.name == LOCK_NAME:
            report.worker = _holder(filesystem, directory)
        elif entry.is_directory and entry.name == QUARANTINE_NAME:
            report.quarantined, others = _quarantined(filesystem, directory)
            report.foreign += others
        elif not (entry.is_file and entry.name == PROBE_NAME):
            report.foreign.append(entry.name)
    _count_live(report)
    return report


def _holder(filesystem: FileSystem, directory: str) -> int | None:
    """Return the process that has a slot, None if nobody has or nobody may know."""
    try:
        return filesystem.locked_by(f"{directory}/{LOCK_NAME}")
    except OSError:
        return None


def _quarantined(filesystem: FileSystem, directory: str) -> tuple[list[Entry], list[str]]:
    """Return the segments in quarantine, and the names of what else is there."""
    try:
        entries = filesystem.list_directory(f"{directory}/{QUARANTINE_NAME}")
    except FileNotFoundError:
        return [], []
    ours = [e for e in entries if e.is_file and segment_number(e.name) is not None]
    return ours, [f"{QUARANTINE_NAME}/{e.name}" for e in entries if e not in ours]


# Segments.


def _segment(
    filesystem: FileSystem, directory: str, name: str, written_ms: int, look: Look
) -> SegmentReport | None:
    """Return what is known of a segment, None if it was deleted meanwhile."""
    report = SegmentReport(name, 0, written_ms)
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
        report.status, report.lane = "damaged", ""
        report.problems = [Problem("header", 0, report.num_bytes, f"all of it is lost: {error}")]
    except OSError as error:
        report.status = "unreadable"
        what = f"it cannot be read: {said(error)}"
        report.problems = [Problem("unreadable", 0, report.num_bytes, what)]
    return report


def _inspect(file: File, report: SegmentReport) -> None:
    _describe(report, read_contents(FileSource(file)))


def _verify(file: File, report: SegmentReport, deep: bool) -> None:
    source = FileSource(file)
    contents = scan(source, decode_segment(source.read(0, SEGMENT_HEADER_BYTES)))
    _describe(report, contents)
    listed = None
    if contents.footer is not None:
        listed = read_footer(source, contents.header, contents.footer.position)
    for damage in contents.damage:
        report.problems += _named(damage, listed[1] if listed else [], contents.header)
    for header in contents.frames:
        problem = _look_at(file, header, contents.header, deep)
        if problem is not None:
            report.problems.append(problem)
    if not report.problems and listed is not None and listed[1] != contents.frames:
        place = listed[0].position, source.num_bytes
        report.problems.append(Problem("footer", *place, DAMAGE["footer"]))


def _named(damage: Damage, listed: list[FrameHeader], segment: SegmentHeader) -> Iterator[Problem]:
    """Name what is lost in a stretch of damage, frame by frame where the footer lists them."""
    inside = [each for each in listed if damage.start <= each.position < damage.end]
    for frame in inside:
        yield _lost("gap", frame, segment, "its header is damaged")
    if not inside:
        yield Problem(*damage, DAMAGE[damage.kind])


def _look_at(file: File, header: FrameHeader, segment: SegmentHeader, deep: bool) -> Problem | None:
    """Read a frame; return what is wrong with it, if anything is."""
    try:
        _, payload = read_payload(file, header.position, header.stored_bytes, segment)
        if deep and not segment.encrypted:
            validate(header, payload)
    except Broken as error:
        return _lost("payload", header, segment, str(error))
    except OSError as error:
        return _lost("unreadable", header, segment, f"it cannot be read: {said(error)}")
    return None


def _lost(
    kind: Literal["gap", "payload", "unreadable"],
    frame: FrameHeader,
    segment: SegmentHeader,
    why: str,
) -> Problem:
    topic = _topic_of(frame, segment)
    low, high = frame.scan_lo, frame.scan_hi
    what = f"{topic or '?'}[{frame.partition}], offsets {low} to {high - 1}: {why}"
    return Problem(kind, frame.position, frame.end, what, topic, frame.partition, low, high)


def _describe(report: SegmentReport, contents: Contents) -> None:
    """Write down what is in a segment.

    Raises:
        BadSegment: It has another one's name.
    """
    header = contents.header
    number = segment_number(report.name)
    if header.number != number:
        raise BadSegment(f"it has the name of segment {number}, and is {header.number}")
    report.app, report.group, report.cluster = header.app, header.group, header.cluster
    report.lane, report.created_ms = header.lane, header.created_ms
    report.encrypted = header.encrypted
    report.status = "open" if contents.footer is None else "sealed"
    report.whole = not any(each.kind == "gap" for each in contents.damage)
    report.torn = any(each.kind != "gap" for each in contents.damage)
    report.frames = len(contents.frames)
    report.records = sum(frame.records for frame in contents.frames)
    report.payload_bytes = sum(frame.stored_bytes for frame in contents.frames)
    held: dict[tuple[str, int], Held] = {}
    for frame in contents.frames:
        topic = _topic_of(frame, header)
        if topic is not None:
            report.headers.append((topic, frame))
        place = topic or "", frame.partition
        _, _, frames, records, low, high = held.get(
            place, Held(*place, 0, 0, frame.scan_lo, frame.scan_hi)
        )
        low, high = min(low, frame.scan_lo), max(high, frame.scan_hi)
        held[place] = Held(*place, frames + 1, records + frame.records, low, high)
    report.held = [held[place] for place in sorted(held)]


def _topic_of(frame: FrameHeader, segment: SegmentHeader) -> str | None:
    """Return a frame's topic, None if it is encrypted or is none."""
    if segment.encrypted:
        return None
    try:
        return reveal(frame, None)[1]
    except Broken:
        return None


def _count_live(report: SlotReport) -> None:
    """Count what a worker that starts here would still use, unless it is finished."""
    found = [
        Found(frame_of(header, segment.lane, topic, index), header.run, header.rule)
        for index, segment in _by_number(report)
        for topic, header in segment.headers
    ]
    live: Counter[int] = Counter()
    for run in newest_runs(found)[0]:
        for each in run:
            live[each.frame.segment] += each.frame.stored_bytes
    for index, segment in _by_number(report):
        segment.live_bytes = None if segment.encrypted or not segment.known else live[index]


def _by_number(report: SlotReport) -> list[tuple[int, SegmentReport]]:
    """Return the segments as they were begun, the first one first."""
    segments = sorted(report.segments, key=lambda each: segment_number(each.name) or 0)
    return list(enumerate(segments))
