"""What is on disk, as memory knows it: frames, queues of them, and runs.

A *frame* is some records of one lane of one partition. A *run* is the frames that were
written of them in one go; the engine has the queue of each while the partition is its own,
and hands it back when it is not.

    offsets   100        140     150        180
    frames     ├── 0 ─────┤       ├── 1 ─────┤       coverage [100, 140) and [150, 180)

- A queue costs 64 bytes a frame, so that 50 GiB in frames of 64 KiB are 50 MB of memory.
- Coverage says of which offsets a lane's records are all here. What is between is not: it
  was never spilled, was given up, or is damaged; it is read from Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from flowguard.chunk import TopicPartition

__all__ = ["Frame", "FrameQueue", "Probe", "Run", "Usable", "coverage", "usable"]

PACKED: Final = Struct("<IIIIIIqqqqq")
UNIT_BYTES: Final = 64  # frames begin at multiples of it
COMPACT_BYTES: Final = 64 * 1024


class Frame(NamedTuple):
    """Where some records are, and what must be known of them before they are read.

    Args:
        lane: Name of the lane.
        segment: Number of the segment.
        number: The frame's number in its segment.
        position: Where it begins in the file.
        stored_bytes: Payload on disk.
        raw_bytes: What it takes in memory once it is read.
        scan_lo: First offset of the range of which the lane's records are all here.
        scan_hi: Offset after that range.
        deadline_ms: The earliest deadline, `NO_DEADLINE` if there is none.
    """

    lane: str
    partition: TopicPartition
    segment: int
    number: int
    position: int
    stored_bytes: int
    raw_bytes: int
    records: int
    scan_lo: int
    scan_hi: int
    min_timestamp_ms: int
    max_timestamp_ms: int
    deadline_ms: int


class FrameQueue:
    """Frames of one lane and partition, first in, first out; 64 bytes each.

    Args:
        lane: Name of the lane.

    Thread-safety: none needed; a queue has one owner at a time.
    """

    __slots__ = ("_first", "_packed", "lane", "partition", "raw_bytes", "records", "stored_bytes")

    def __init__(self, lane: str, partition: TopicPartition, frames: Iterable[Frame] = ()) -> None:
        self.lane = lane
        self.partition = partition
        self.records = 0
        self.raw_bytes = 0
        self.stored_bytes = 0
        self._packed = bytearray()
        self._first = 0
        for frame in frames:
            self.append(frame)

    def append(self, frame: Frame) -> None:
        """Put a frame behind all others."""
        self._packed += _packed(frame)
        self._count(frame, 1)

    def appendleft(self, frame: Frame) -> None:
        """Put a frame before all others, such as one that was read for nothing."""
        if self._first:
            self._first -= PACKED.size
            self._packed[self._first : self._first + PACKED.size] = _packed(frame)
        else:
            self._packed[:0] = _packed(frame)
        self._count(frame, 1)

    def popleft(self) -> Frame:
        """Take the first frame out.

        Raises:
            IndexError: There is none.
        """
        frame = self[0]
        self._first += PACKED.size
        self._count(frame, -1)
        if self._first >= COMPACT_BYTES and 2 * self._first >= len(self._packed):
            del self._packed[: self._first]
            self._first = 0
        return frame

    def _count(self, frame: Frame, sign: int) -> None:
        self.records += sign * frame.records
        self.raw_bytes += sign * frame.raw_bytes
        self.stored_bytes += sign * frame.stored_bytes

    def __len__(self) -> int:
        return (len(self._packed) - self._first) // PACKED.size

    def __getitem__(self, index: int) -> Frame:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        at = self._first + index % len(self) * PACKED.size
        segment, number, units, *rest = PACKED.unpack_from(self._packed, at)
        return Frame(self.lane, self.partition, segment, number, units * UNIT_BYTES, *rest)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self[index]

    def __repr__(self) -> str:
        name = f"{self.partition.topic}[{self.partition.partition}]"
        return f"<FrameQueue {self.lane} {name}: {len(self)} frames, {self.records} records>"


def _packed(frame: Frame) -> bytes:
    _, _, segment, number, position, *rest = frame
    return PACKED.pack(segment, number, position // UNIT_BYTES, *rest)


class Probe(NamedTuple):
    """By which record of a log it is told whether it is still the log that was spilled.

    Args:
        offset: Where that record is.
        crc: `probe_crc` of its timestamp, key, value and headers.
    """

    offset: int
    crc: int


@dataclass(slots=True, eq=False)
class Run:
    """What was spilled of one lane and partition, and belongs to nobody for now.

    Args:
        number: By which its frames are told from those of other runs.
        rule: Fingerprint of what decided the lane.
        parked_ms: Since when nobody owns it, monotonic.
        pinned: Kafka may have lost these records; kept whatever happens.
    """

    frames: FrameQueue
    number: int
    rule: bytes
    parked_ms: int
    pinned: bool = False

    @property
    def lane(self) -> str:
        """Return the name of the lane."""
        return self.frames.lane

    @property
    def partition(self) -> TopicPartition:
        """Return the partition."""
        return self.frames.partition


def coverage(frames: Iterable[Frame]) -> list[tuple[int, int]]:
    """Return the ranges of offsets of which all records of the lane are in these frames."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((frame.scan_lo, frame.scan_hi) for frame in frames):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


class Usable(NamedTuple):
    """What is to become of a run's frames once it is known what is finished.

    Args:
        outdated: All of their records are finished.
        kept: Of these all records in [kept[0].scan_lo, kept[-1].scan_hi) need not be read
            from Kafka; what is between the watermark and them is to be read first.
        beyond: They are behind a hole and would come before what is read to fill it.
    """

    outdated: list[Frame]
    kept: list[Frame]
    beyond: list[Frame]


def usable(frames: Iterable[Frame], watermark: int) -> Usable:
    """Tell which frames of a run can be used in the order of the partition.

    Args:
        frames: By offset, as a run has them.
        watermark: Below this offset the lane's records are finished.
    """
    found = Usable([], [], [])
    for frame in frames:
        if frame.scan_hi <= watermark:
            found.outdated.append(frame)
        elif found.beyond or (found.kept and found.kept[-1].scan_hi < frame.scan_lo):
            found.beyond.append(frame)
        else:
            found.kept.append(frame)
    return found
