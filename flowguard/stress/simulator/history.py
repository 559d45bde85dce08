"""What became of each record, known from outside of the engine.

One byte a record, marked a slice at a time: how often an agent settled it, and whether a
policy left it out. The checkers of the invariants look at nothing else of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from flowguard.chunk import Slice, TopicPartition
from flowguard.commands import Cut, Unprocessed
from flowguard.stress.simulator.log import PartitionLog, Segment, Span

__all__ = ["Handed", "History", "Marks"]

#: One more, as far as a byte goes.
MORE: Final = bytes([*range(1, 256), 255])


class Marks:
    """A small number for each record of a log, 0 at first."""

    def __init__(self, log: Mapping[TopicPartition, PartitionLog]) -> None:
        self._of = {
            segment: bytearray(len(segment))
            for partition in log.values()
            for segment in partition.segments
        }

    def add(self, span: Span) -> int:
        """Add one to each record; return how many had none."""
        marks = self._of[span.segment]
        before = marks[span.start : span.stop]
        marks[span.start : span.stop] = before.translate(MORE)
        return before.count(0)

    def missing(self, segment: Segment, start: int, stop: int) -> int:
        """Return how many records among these rows have no mark."""
        return self._of[segment].count(0, start, stop)

    def repeated(self, segment: Segment) -> int:
        """Return how often records were marked again."""
        marks = self._of[segment]
        return sum(marks) - (len(marks) - marks.count(0))

    def clear(self, partition: PartitionLog) -> None:
        """Forget the marks of a partition."""
        for segment in partition.segments:
            self._of[segment] = bytearray(len(segment))


@dataclass(frozen=True, slots=True)
class Handed:
    """A batch, as it was handed to the agent.

    Args:
        cut: What the engine cut.
        spans: Its records; those that follow one another are one span.
        cost: What it costs in the scheduler.
        buried: It is no agent that has it: it is on its way to the dead letters.
    """

    cut: Cut
    spans: Sequence[Span]
    cost: int
    buried: bool = False


class History:
    """What became of the records of a log.

    Args:
        log: All of them.

    Attributes:
        settled: How often each was settled by an agent.
        ended: How often each came to an end, in any way.
    """

    def __init__(self, log: Mapping[TopicPartition, PartitionLog]) -> None:
        self.log = log
        self.settled = Marks(log)
        self.ended = Marks(log)
        self._segments = {
            (name, segment.lane, segment.flow): segment
            for name, partition in log.items()
            for segment in partition.segments
        }

    @property
    def segments(self) -> Iterable[Segment]:
        """Return all segments."""
        return self._segments.values()

    def spans_of(self, pieces: Iterable[Slice]) -> list[Span]:
        """Return where the records of slices are."""
        spans: list[Span] = []
        for piece in pieces:
            for span in self._spans_of(piece):
                last = spans[-1] if spans else None
                if last is not None and last.segment is span.segment and last.stop == span.start:
                    spans[-1] = Span(span.segment, last.start, span.stop)
                else:
                    spans.append(span)
        return spans

    def _spans_of(self, piece: Slice) -> Iterable[Span]:
        chunk, start = piece.chunk, piece.start
        segment = self._segments[chunk.partition, chunk.lane, chunk.flow]
        first = segment.row_of(chunk.offset_at(start))
        last, end = start + piece.count - 1, first + piece.count
        if end <= len(segment) and segment.offsets[end - 1] == chunk.offset_at(last):
            return (Span(segment, first, end),)
        # A policy has taken some out of it.
        offsets = (chunk.offset_at(row) for row in range(start, last + 1))
        return runs_of(segment, (segment.row_of(offset) for offset in offsets))

    def settle(self, spans: Iterable[Span]) -> int:
        """Mark records as settled; return how many had not come to an end."""
        fresh = 0
        for span in spans:
            self.settled.add(span)
            fresh += self.ended.add(span)
        return fresh

    def leave(self, command: Unprocessed) -> tuple[int, int]:
        """Mark records that a policy left out.

        Returns:
            How many there are, and how many of them had not come to an end.
        """
        count = fresh = 0
        for span in self.spans_left(command):
            count += span.stop - span.start
            fresh += self.ended.add(span)
        return count, fresh

    def spans_left(self, command: Unprocessed) -> Iterator[Span]:
        """Return the records that a policy left out."""
        for segment in self.log[command.partition].segments:
            if segment.lane == command.lane:
                for first, end in command.ranges:
                    start, stop = segment.row_of(first), segment.row_of(end)
                    if start < stop:
                        yield Span(segment, start, stop)

    def duplicates(self, lane: int) -> int:
        """Return how often records of a lane were settled again."""
        return sum(
            self.settled.repeated(segment) for segment in self.segments if segment.lane == lane
        )


def runs_of(segment: Segment, rows: Iterable[int]) -> list[Span]:
    """Return ascending rows as runs."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1][1] = row + 1
        else:
            runs.append([row, row + 1])
    return [Span(segment, start, stop) for start, stop in runs]
