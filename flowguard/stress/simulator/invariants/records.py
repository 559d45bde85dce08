"""Invariants of records: none is lost, none is repeated without need, and order is kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flowguard.chunk import TopicPartition
from flowguard.facts import CommitPoint
from flowguard.settle.retry import FAILURES_MAX
from flowguard.stress.simulator.history import Handed, History, Marks
from flowguard.stress.simulator.invariants.checker import Checker, where, written
from flowguard.stress.simulator.log import Segment, Span

__all__ = ["CommitFloor", "Duplicates", "LostWrite", "Order", "PollSkip", "Unseen"]


class LostWrite(Checker):
    """I1: what was committed has come to an end."""

    name = "lost-write"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._offsets: dict[TopicPartition, int] = {}

    def committed(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """Note how far the group is."""
        for name, point in points.items():
            self._offsets[name] = point.offset

    def ended(self, *, idle: bool) -> None:
        """Look at everything below what is committed."""
        for segment in self.history.segments:
            row = segment.row_of(self._offsets.get(segment.partition, 0))
            missing = self.history.ended.missing(segment, 0, row)
            if missing:
                self.broken(f"{missing:,} records of {where(segment)} are committed, and are lost")


class Unseen(Checker):
    """I2: nothing is left when the worker has nothing to do."""

    name = "unseen"

    def ended(self, *, idle: bool) -> None:
        """Look at everything that was offered."""
        if not idle:
            return
        for segment in self.history.segments:
            missing = self.history.ended.missing(segment, 0, len(segment))
            if missing:
                self.broken(f"{missing:,} records of {where(segment)} wait, and nobody works")


class Duplicates(Checker):
    """I3: a record is settled once in an assignment, and only above where it began."""

    name = "duplicate"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._marks = Marks(history.log)
        self._floors: dict[TopicPartition, Sequence[int]] = {}
        self._assignment: Counter[TopicPartition] = Counter()
        self._started_in: dict[int, dict[TopicPartition, int]] = {}

    def restarted(self) -> None:
        """Forget batches: their numbers are used again."""
        self._started_in.clear()

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """Begin anew with a partition."""
        self._assignment[name] += 1
        self._floors[name] = watermarks
        self._marks.clear(self.history.log[name])

    def started(self, batch: Handed) -> None:
        """Note in which assignment."""
        names = {span.segment.partition for span in batch.spans}
        self._started_in[batch.cut.batch_id] = {name: self._assignment[name] for name in names}

    def settled(self, batch: Handed) -> None:
        """Look for what was settled before in this assignment."""
        began = self._started_in.pop(batch.cut.batch_id, {})
        for span in batch.spans:
            segment, name = span.segment, span.segment.partition
            if began.get(name) != self._assignment[name]:
                continue  # of an assignment that was lost: uncommitted, and repeated
            again = span.stop - span.start - self._marks.add(span)
            if again:
                self.broken(f"{again:,} records of {where(segment)} are settled twice")
            if span.start < (floor := segment.row_of(self._floors[name][segment.lane])):
                self.broken(
                    f"{where(segment)} is settled again from row {span.start}, and was finished "
                    f"to row {floor} before"
                )


class CommitFloor(Checker):
    """I4: a commit never passes an unfinished record, and never goes back."""

    name = "commit-floor"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._points: dict[TopicPartition, CommitPoint] = {}
        self._checked: dict[Segment, int] = defaultdict(int)

    def committed(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """Look at what lies below each watermark."""
        for name, point in points.items():
            before = self._points.get(name)
            if before is not None and point.offset < before.offset:
                self.broken(f"{written(name)} goes back from {before.offset} to {point.offset}")
            self._points[name] = point
            if point.offset > min(point.watermarks):
                self.broken(f"{written(name)} is committed beyond a lane's watermark")
            for segment in self.history.log[name].segments:
                self._check(segment, point.watermarks[segment.lane])

    def _check(self, segment: Segment, watermark: int) -> None:
        start, stop = self._checked[segment], segment.row_of(watermark)
        missing = self.history.ended.missing(segment, start, stop)
        if missing:
            self.broken(
                f"{missing:,} records of {where(segment)} below offset {watermark} are committed "
                f"and not finished"
            )
        self._checked[segment] = max(start, stop)


class Waiting(NamedTuple):
    """Rows of a sub-queue that failed.

    Args:
        failure: How many batches had failed by then if it is a record alone, or 0.
        exhausted: It has failed as often as it may.
    """

    start: int
    stop: int
    failure: int
    exhausted: bool

    def lets_pass(self, failure: int) -> bool:
        """Tell whether what failed last at that time may go first."""
        return self.exhausted and self.failure > failure


class Order(Checker):
    """I5: inside a lane the order that the feed declares is kept, through retries.

    What failed comes before all behind it, until it is settled or a dead letter. A record that
    has failed as often as it may lets them pass, once after each of its failures.

    Args:
        order: As in the scenario; with none there is nothing to keep.
    """

    name = "nonmonotonic-poll"

    def __init__(self, history: History, order: str) -> None:
        super().__init__(history)
        self._declared = order != "none"
        self._next: dict[Segment, int] = defaultdict(int)
        self._seated: dict[Segment, int] = {}
        self._failed: dict[Segment, list[Waiting]] = defaultdict(list)
        self._failures = 0

    def restarted(self) -> None:
        """Nothing is under way."""
        self._seated.clear()
        self._failed.clear()

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """Begin anew with a partition."""
        for segment in self.history.log[name].segments:
            self._next[segment] = 0
            self._seated.pop(segment, None)
            self._failed.pop(segment, None)

    def started(self, batch: Handed) -> None:
        """Look whether it is this batch's turn."""
        if not self._declared or batch.buried:
            return
        cut = batch.cut
        before: dict[Segment, list[Span]] = defaultdict(list)  # of this batch
        for span in batch.spans:
            segment = span.segment
            if self._seated.get(segment, cut.batch_id) != cut.batch_id:
                self.broken(f"two batches of {where(segment)} are with the agent at once")
            failed = self._failed.get(segment, ())
            own = max((each.failure for each in failed if each.start == span.start), default=0)
            if any(
                self._waits(each, span, before[segment]) and not each.lets_pass(own)
                for each in failed
            ):
                self.broken(f"{where(segment)} goes on while an earlier batch waits for its retry")
            if not cut.again:
                if span.start < self._next[segment]:
                    self.broken(f"{where(segment)} goes back to row {span.start}")
                self._next[segment] = span.stop
            self._seated[segment] = cut.batch_id
            before[segment].append(span)

    def _waits(self, failed: Waiting, span: Span, before: Sequence[Span]) -> bool:
        """Tell whether something that failed comes before these rows, and has not left.

        Args:
            before: What the same batch has of the sub-queue before them; that goes along.
        """
        start, stop = failed.start, min(failed.stop, span.start)
        for each in before:
            if self._left_over(span.segment, start, min(each.start, stop)):
                return True
            start = max(start, each.stop)
        return self._left_over(span.segment, start, stop)

    def _left_over(self, segment: Segment, start: int, stop: int) -> bool:
        return start < stop and self.history.ended.missing(segment, start, stop) > 0

    def returned(self, batch: Handed) -> None:
        """Let its sub-queues go on."""
        for span in batch.spans:
            if self._seated.get(span.segment) == batch.cut.batch_id:
                del self._seated[span.segment]

    def failed(self, batch: Handed) -> None:
        """Keep its sub-queues until it is settled."""
        self.returned(batch)
        self._failures += 1
        lone = batch.cut.num_records == 1
        for span in batch.spans:
            exhausted = lone and batch.cut.attempt >= FAILURES_MAX
            waiting = Waiting(span.start, span.stop, self._failures if lone else 0, exhausted)
            self._failed[span.segment] = [*self._without(span), waiting]

    def settled(self, batch: Handed) -> None:
        """Let its sub-queues go on."""
        self.returned(batch)
        for span in batch.spans:
            if span.segment in self._failed:
                self._failed[span.segment] = self._without(span)

    def _without(self, span: Span) -> list[Waiting]:
        """Return what failed of a sub-queue, without these rows."""
        left: list[Waiting] = []
        for each in self._failed[span.segment]:
            if each.stop <= span.start or each.start >= span.stop:
                left.append(each)
                continue
            if each.start < span.start:
                left.append(each._replace(stop=span.start))
            if each.stop > span.stop:
                left.append(each._replace(start=span.stop))
        return left


class PollSkip(Checker):
    """I6: between two batches of a lane and partition nothing is left out in silence."""

    name = "poll-skip"

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._next: dict[Segment, int] = defaultdict(int)

    def assigned(self, name: TopicPartition, watermarks: Sequence[int]) -> None:
        """Begin where the lane was."""
        for segment in self.history.log[name].segments:
            self._next[segment] = segment.row_of(watermarks[segment.lane])

    def started(self, batch: Handed) -> None:
        """Look at what lies between this batch and the one before."""
        if batch.cut.again:
            return
        for span in batch.spans:
            segment, before = span.segment, self._next[span.segment]
            if span.start > before:
                missing = self.history.ended.missing(segment, before, span.start)
                if missing:
                    self.broken(f"{missing:,} records of {where(segment)} are skipped")
            self._next[segment] = max(before, span.stop)
