"""Open a slot's directory: what is still good, whatever happened to it. It never refuses.

| found | is |
| --- | --- |
| a segment for this app, group and cluster | kept; its frames are parked |
| one for somebody else, of a lane that is gone, or whose key is gone | deleted |
| one whose header is damaged, that cannot be read, or whose keys nobody gives | quarantined |
| one of a later format, and any other file | left alone |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flowguard.spill.cipher import NoKey, SegmentCipher, unwrap_segment_key
from flowguard.spill.layout import BadSegment, NewerSegment, SegmentHeader, segment_number
from flowguard.spill.manifest import FrameQueue, Run
from flowguard.spill.options import Identity, LaneSpill
from flowguard.spill.ports import Entry, FileSystem
from flowguard.spill.quarantine import Quarantine
from flowguard.spill.reading import Broken, FileSource, reveal
from flowguard.spill.recovery import Contents, Found, frame_of, newest_runs, read_contents
from flowguard.spill.segment import Segment

__all__ = ["Opened", "open_directory"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Opened:
    """What a directory holds.

    Args:
        segments: By number; those in which no frame is wanted are not among them.
        next_number: No segment has this number or a higher one.
        deleted: How many segments were of no use.
        quarantined: How many could not be read.
        torn: How many had a torn tail.
        gaps: How many stretches of frames were damaged.
    """

    segments: dict[int, Segment] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    next_number: int = 0
    deleted: int = 0
    quarantined: int = 0
    torn: int = 0
    gaps: int = 0

    def __str__(self) -> str:
        """Return it in a line, for the log."""
        records = sum(run.frames.records for run in self.runs)
        found = [f"{records} records in {len(self.segments)} files kept for their partitions"]
        for count, what in (
            (self.deleted, "deleted, for nobody here can use them"),
            (self.quarantined, "damaged and put aside"),
            (self.torn, "torn and cut off"),
            (self.gaps, "damaged stretches skipped"),
        ):
            found += [f"{count} {what}"] if count else []
        return "; ".join(found)


class Unusable(Exception):
    """A segment is whole, but nobody here can use it."""


def open_directory(
    filesystem: FileSystem,
    directory: str,
    identity: Identity,
    lanes: Mapping[str, LaneSpill],
    quarantine: Quarantine,
    *,
    now_ms: int,
) -> Opened:
    """Return what a directory holds, after cleaning it up.

    Args:
        now_ms: Since when what is found is parked, monotonic.

    Raises:
        OSError: The directory itself cannot be listed.
    """
    opened = Opened()
    found: list[Found] = []
    reader = _Reader(filesystem, directory, identity, lanes)
    for entry in _entries(filesystem, directory):
        number = segment_number(entry.name)
        if number is None or not entry.is_file:
            continue
        opened.next_number = max(opened.next_number, number + 1)
        try:
            segment, contents = reader.open(entry, number)
        except NewerSegment as error:
            logger.warning("spill: %s is left alone: %s", entry.name, error)
        except FileNotFoundError:
            continue  # deleted meanwhile, which it may be
        except Unusable as error:
            logger.info("spill: %s is deleted: %s", entry.name, error)
            opened.deleted += _done(filesystem.unlink, f"{directory}/{entry.name}")
        except (BadSegment, NoKey, OSError) as error:
            logger.warning("spill: %s goes to quarantine: %s", entry.name, error)
            opened.quarantined += _done(quarantine.put, entry.name)
        else:
            opened.segments[number] = segment
            opened.torn += any(each.kind == "torn" for each in contents.damage)
            opened.gaps += sum(each.kind == "gap" for each in contents.damage)
            found += found_in(contents, segment)
    _park(opened, found, now_ms)
    for segment in [each for each in opened.segments.values() if not each.live_frames]:
        del opened.segments[segment.header.number]
        opened.deleted += _done(filesystem.unlink, f"{directory}/{segment.name}")
    return opened


def _entries(filesystem: FileSystem, directory: str) -> list[Entry]:
    """Return what is in a directory; one that was deleted meanwhile has nothing in it.

    Raises:
        OSError: It cannot be listed.
    """
    try:
        return filesystem.list_directory(directory)
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens segments for whom they are kept."""

    filesystem: FileSystem
    directory: str
    identity: Identity
    lanes: Mapping[str, LaneSpill]

    def open(self, entry: Entry, number: int) -> tuple[Segment, Contents]:
        """Return a segment; a torn tail is cut off.

        Raises:
            BadSegment: Its header is damaged, or it has another one's name.
            NewerSegment: It is of a later format.
            Unusable: It is of no use here.
            NoKey: The provider of its key failed.
            OSError: It cannot be read.
        """
        path = f"{self.directory}/{entry.name}"
        file = self.filesystem.open(path)
        try:
            contents = read_contents(FileSource(file))
        finally:
            file.close()
        header = contents.header
        if header.number != number:
            raise BadSegment(f"it has the name of segment {number}, and is {header.number}")
        cipher = self._cipher(header)
        num_bytes = entry.num_bytes
        torn = any(each.kind != "gap" for each in contents.damage)
        if torn or contents.footer is None:  # room that was reserved is given back in both cases
            num_bytes = self._cut_off(path, contents.end if torn else num_bytes, num_bytes)
        return Segment(header, entry.name, num_bytes, cipher), contents

    def _cipher(self, header: SegmentHeader) -> SegmentCipher | None:
        """Return what decrypts a segment, if anybody here may use it."""
        ours = self.identity
        if (header.app, header.group, header.cluster) != (ours.app, ours.group, ours.cluster):
            raise Unusable("it was written for another app, group or cluster")
        lane = self.lanes.get(header.lane)
        if lane is None:
            raise Unusable(f"lane {header.lane!r} spills nothing any more")
        if header.encrypted != (lane.keys is not None):
            raise Unusable(f"lane {header.lane!r} was and is not encrypted alike")
        if lane.keys is None:
            return None
        cipher = unwrap_segment_key(lane.keys, header.key, header.wrapped_key)
        if cipher is None:
            raise Unusable(f"the key {header.key!r} is not to be had")
        return cipher

    def _cut_off(self, path: str, end: int, num_bytes: int) -> int:
        """Cut off a torn tail or footer, so that nobody finds it again; return the size.

        What was reserved behind the end is free again: a killed worker had a segment's worth of
        it in each lane.
        """
        try:
            file = self.filesystem.open(path, writable=True)
            try:
                file.truncate(end)
            finally:
                file.close()
        except OSError as error:
            logger.warning("spill: the end of %s cannot be cut off: %s", path, error)
            return num_bytes
        return end


def found_in(contents: Contents, segment: Segment) -> list[Found]:
    """Return the frames of a segment whose topics can be read."""
    found = []
    for header in contents.frames:
        try:
            _, topic = reveal(header, segment.cipher)
        except Broken:
            continue
        frame = frame_of(header, segment.lane, topic, segment.header.number)
        found.append(Found(frame, header.run, header.rule))
    return found


def _park(opened: Opened, found: list[Found], now_ms: int) -> None:
    """Make runs of what was found, and note which frames are wanted."""
    runs, _ = newest_runs(found)
    for frames in runs:
        first = frames[0]
        queue = FrameQueue(first.frame.lane, first.frame.partition)
        for each in frames:
            queue.append(each.frame)
            opened.segments[each.frame.segment].add(each.frame.number, each.frame.stored_bytes)
        opened.runs.append(Run(queue, first.run, first.rule, now_ms))


def _done(step: Callable[[str], None], name: str) -> bool:
    """Do what may fail without harm; tell whether it did not."""
    try:
        step(name)
    except OSError as error:
        logger.warning("spill: cannot clean up %s: %s", name, error)
        return False
    return True
