"""What was found in a spill directory, by whoever looks at it from outside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from flowguard.spill.layout import FrameHeader
from flowguard.spill.ports import Entry

__all__ = ["Held", "Problem", "SegmentReport", "SlotReport", "Survey", "Unread"]


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
            others; `torn`: the end; `payload`: one frame; `footer`: nothing is lost;
            `unreadable`: the system does not give the bytes.
        start: First byte of it in the file.
        end: The byte after it.
        what: What is lost, and why, for people.
        topic: Of the frame that is lost; None if that is not known.
        scan_lo: First offset of what the frame covers.
        scan_hi: Offset after the last.
    """

    kind: Literal["header", "gap", "torn", "payload", "footer", "unreadable"]
    start: int
    end: int
    what: str
    topic: str | None = None
    partition: int | None = None
    scan_lo: int | None = None
    scan_hi: int | None = None


@dataclass(slots=True)
class SegmentReport:
    """One file.

    Args:
        written_ms: When the file last changed, wall clock.
        status: `sealed`, `open` (no footer: it is written to, or its worker was killed),
            `damaged` (its header), `newer` (of a later format), or `unreadable`.
        lane: Empty if the header is damaged.
        created_ms: As its header says, wall clock.
        live_bytes: Most of its payloads that anybody may still want: frames of which there is
            a newer run are left out, those that are finished are not known. None if topics
            are encrypted.
        whole: No stretch of it is damaged, as far as headers tell.
        torn: It ends in the middle of a frame or footer, which may just be written.
        held: By partition; without topics if they are encrypted.
        headers: Of its frames.
    """

    name: str
    num_bytes: int
    written_ms: int = 0
    status: Literal["sealed", "open", "damaged", "newer", "unreadable"] = "open"
    lane: str = ""
    app: str = ""
    group: str = ""
    cluster: str = ""
    created_ms: int = 0
    encrypted: bool = False
    frames: int = 0
    records: int = 0
    payload_bytes: int = 0
    live_bytes: int | None = None
    whole: bool = True
    torn: bool = False
    held: list[Held] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    headers: list[tuple[str, FrameHeader]] = field(default_factory=list, repr=False)

    @property
    def known(self) -> bool:
        """Tell whether its header could be read."""
        return self.status in ("sealed", "open")


@dataclass(slots=True)
class SlotReport:
    """One worker's directory.

    Args:
        worker: Id of the process that has it, None if nobody has; not above 0 if the process
            cannot be seen from here.
        foreign: Names of what is not ours.
        quarantined: Segments that could not be read when a worker started.
    """

    directory: str
    worker: int | None = None
    segments: list[SegmentReport] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    quarantined: list[Entry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the slot as people call it: `<app>/<slot>`."""
        return "/".join(self.directory.rsplit("/", 2)[-2:])

    @property
    def app(self) -> str:
        """Return the app's directory, without what is above it."""
        return self.name.split("/")[0]

    @property
    def num_bytes(self) -> int:
        """Return the bytes of its segments."""
        return sum(segment.num_bytes for segment in self.segments)

    @property
    def quarantined_bytes(self) -> int:
        """Return the bytes of what is in quarantine."""
        return sum(entry.num_bytes for entry in self.quarantined)

    def damaged(self, segment: SegmentReport) -> bool | None:
        """Tell whether a segment is, as far as headers tell; None if they could not be read.

        What is torn under a worker is what it is just writing.
        """
        if not segment.known:
            return True if segment.status == "damaged" else None
        return not segment.whole or (segment.torn and self.worker is None)

    @property
    def problems(self) -> Iterable[tuple[SegmentReport, Problem]]:
        """Return what is wrong, with the segment in which it is."""
        return ((segment, each) for segment in self.segments for each in segment.problems)


class Unread(NamedTuple):
    """What could not be looked at, or not be deleted.

    Args:
        why: As the system says it.
    """

    path: str
    why: str


class Survey(NamedTuple):
    """All that is in a directory.

    Args:
        unread: Directories that the system does not let this user see.
    """

    slots: list[SlotReport]
    unread: list[Unread]
