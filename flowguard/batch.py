"""Batches: what an agent on a feed receives.

Row i of every view is the same record. Views are made when they are asked for, and stay
valid after the batch is settled: nothing of them is ever written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flowguard._native import wire
from flowguard.chunk import Slice, TopicPartition, run_of
from flowguard.facts import Nack
from flowguard.lanes.lane import Lane
from flowguard.selection import all_but, rows_of
from flowguard.trace_context import shared_traceparent
from flowguard.units import Duration, duration_ns

if TYPE_CHECKING:
    from faust.types import EventT

__all__ = ["Batch", "Delivery", "join_columns", "without_rows"]

#: Until when a producer wants a record to be done.
DEADLINE_HEADER = "fg-deadline-ms"

#: What fits into 64 bits; any bytes may stand in a header.
NUMBER = r"^-?[0-9]{1,18}$"

META = ("_topic", "_partition", "_offset", "_timestamp", "_key")


class Delivery(Protocol):
    """The Faust side of a batch, which its views do not need to know."""

    def events(self, batch: Batch) -> Iterator[EventT[Any]]:
        """Yield the batch's records as ordinary Faust events, each current in its turn."""
        ...

    def now_epoch(self) -> float:
        """Return the wall clock in seconds since 1970."""
        ...


class Batch:
    """Records of one lane of one feed, 1 to N of them.

    Attributes:
        lane: The lane they belong to.
        feed: The feed they came from.
        attempt: 1 at first, one more after each failure.
        degraded: Whether the agent's fallback serves it.
        occasion: Why it does: `brownout`, `failure` or `deadline`; "" if it does not.
        num_bytes: Bytes of its columns.
    """

    def __init__(
        self,
        *,
        feed: Any,
        lane: Lane,
        slices: Sequence[Slice],
        frame: Callable[[], pl.DataFrame],
        rejected: Sequence[int] = (),
        attempt: int,
        delivery: Delivery,
        occasion: str = "",
    ) -> None:
        self.feed = feed
        self.lane = lane
        self.attempt = attempt
        self.degraded = bool(occasion)
        self.occasion = occasion
        self.num_bytes = sum(piece.num_bytes for piece in slices)
        self._slices = slices
        self._make_frame = frame
        self._rejected = list(rejected)
        self.rejections: dict[int, str] = {}  # by row of all its slices
        self.nacks: dict[int, Nack] = {}
        self.nack_all: Nack | None = None
        self._framed: pl.DataFrame | None = None
        self._unframed: list[list[int]] = []  # left out since the frame was made
        self._delivery = delivery
        self._len = sum(piece.count for piece in slices) - len(rejected)

    def __len__(self) -> int:
        return self._len

    def __repr__(self) -> str:
        places = sorted(
            {f"{p.chunk.partition.topic}[{p.chunk.partition.partition}]" for p in self._slices}
        )
        return f"<Batch: {len(self)} records, lane {self.lane.name}, {', '.join(places)}>"

    @property
    def whole(self) -> bool:
        """Tell whether it has all records that it was handed out with."""
        return not self._rejected

    def part(self, start: int, count: int) -> Batch:
        """Return some records of one that was whole at first as a batch; nothing is copied."""
        return Batch(
            feed=self.feed,
            lane=self.lane,
            slices=run_of(self._slices, start, count),
            frame=lambda: self._make_frame().slice(start, count),
            attempt=self.attempt,
            delivery=self._delivery,
            occasion=self.occasion,
        )

    # What becomes of its records.

    def reject(self, rows: Any, reason: str) -> None:
        """Let bad records become dead letters when the agent comes back; they are not retried.

        Later views omit them.

        Args:
            rows: Row numbers of the views as they are now, or a mask.
            reason: Why, for people: `fg-error-reason`.

        Raises:
            TypeError, ValueError: `rows` are no rows of it.
        """
        for row in self._leave_out(rows):
            self.rejections[row] = str(reason)

    def nack(self, reason: str, rows: Any = None, after: Duration | None = None) -> None:
        """Have records tried again after the agent came back, as if it had raised for them.

        They count as having failed by themselves, and those that are nacked at once for one
        reason come again together; later views omit them. Without `rows` the whole batch has
        failed, and is split as after an exception.

        Args:
            reason: Why, for people.
            rows: Row numbers of the views as they are now, or a mask; None for all of it.
            after: Wait at least so long.

        Raises:
            TypeError, ValueError: `rows` are no rows of it.
            ConfigError: `after` is no duration.
        """
        after_ns = 0 if after is None else duration_ns(after, name="after")
        nack = Nack(str(reason), after_ns)
        if rows is None:
            self.nack_all = nack
            return
        for row in self._leave_out(rows):
            self.nacks[row] = nack

    def _leave_out(self, selection: Any) -> list[int]:
        """Leave rows out of later views; return where they are in all slices."""
        rows = rows_of(selection, len(self))
        if not rows:
            return []
        visible = np.arange(len(self) + len(self._rejected))
        if self._rejected:
            visible = np.delete(visible, self._rejected)
        found: list[int] = visible[rows].tolist()
        self._unframed.append(rows)
        self._rejected = sorted([*self._rejected, *found])
        self._len -= len(rows)
        for name in ("_columns", "deadline", "traceparent"):
            self.__dict__.pop(name, None)
        return found

    @cached_property
    def deadline(self) -> float | None:
        """Return when the first of its records is late, in seconds since 1970; None if never.

        A record is late when the lane's target has passed since its timestamp, and at what
        its header `fg-deadline-ms` says (ms since 1970).
        """
        deadlines = deadlines_in(self.header(DEADLINE_HEADER))
        if self.lane.target is not None:
            deadlines.append(self.oldest_timestamp_ms / 1e3 + self.lane.target)
        return min(deadlines, default=None)

    @property
    def remaining(self) -> float | None:
        """Return the seconds left until `deadline`, 0 if it has passed, None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._delivery.now_epoch())

    @cached_property
    def oldest_timestamp_ms(self) -> int:
        """Return the oldest record timestamp, in milliseconds since 1970."""
        return min(piece.oldest_timestamp_ms for piece in self._slices)

    @cached_property
    def traceparent(self) -> bytes | None:
        """Return the W3C `traceparent` that all its records share; None if there is none."""
        if self._rejected:
            return shared_traceparent([self._columns.column("headers")])
        return shared_traceparent(piece.columns.column("headers") for piece in self._slices)

    @property
    def _frame(self) -> pl.DataFrame:
        frame = self._make_frame() if self._framed is None else self._framed
        unframed, self._unframed = self._unframed, []
        for rows in unframed:
            frame = frame.filter(all_but(rows, len(frame)))
        self._framed = frame
        return frame

    @cached_property
    def _columns(self) -> pa.RecordBatch:
        return without_rows(join_columns(self._slices), self._rejected)

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """Return the partitions its records were read from."""
        return frozenset(piece.chunk.partition for piece in self._slices)

    @property
    def topics(self) -> list[str]:
        """Return the topic of each record."""
        return list(self._columns.column("topic").to_pylist())

    def to_polars(self, meta: bool = False) -> pl.DataFrame:
        """Return the decoded values.

        Args:
            meta: Add `_topic`, `_partition`, `_offset`, `_timestamp` (ms) and `_key`.

        Shape: one row a record.
        """
        if not meta:
            return self._frame
        columns = self._columns
        return self._frame.hstack([pl.Series(name, columns.column(name[1:])) for name in META])

    def to_arrow(self) -> pa.Table:
        """Return the decoded values as an Arrow table; one row a record."""
        return self._frame.to_arrow()

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the decoded values as one dict a record."""
        return self._frame.to_dicts()

    @property
    def records(self) -> pa.Table:
        """Return the records as Kafka has them: nothing is decoded.

        Shape: partition int32, offset int64, timestamp int64 (ms since 1970), key binary,
        value binary, headers list<struct<name, value>>; one row a record.
        """
        columns = self._columns
        return pa.table(
            {
                "partition": columns.column("partition"),
                "offset": columns.column("offset"),
                "timestamp": columns.column("timestamp"),
                "key": columns.column("key"),
                "value": columns.column("value"),
                "headers": wire.decode_headers(columns.column("headers")),
            }
        )

    def header(self, name: str) -> pa.BinaryArray:
        """Return one header of every record; the last if it is repeated, null if missing."""
        return wire.header_values(self._columns.column("headers"), name.encode())

    def events(self) -> Iterator[EventT[Any]]:
        """Yield the records as ordinary Faust events.

        Each is the current event in its turn, so tables, windows and `current_event()` work
        inside the loop as in an agent on a plain topic.
        """
        return self._delivery.events(self)


def deadlines_in(values: pa.BinaryArray) -> list[float]:
    """Return the deadlines that headers name, in seconds; what is no number is ignored."""
    if values.null_count == len(values):
        return []
    numbers = values.filter(pc.match_substring_regex(values, NUMBER))
    first_ms = pc.min(numbers.cast(pa.string()).cast(pa.int64())).as_py()
    return [] if first_ms is None else [first_ms / 1e3]


def join_columns(slices: Sequence[Slice]) -> pa.RecordBatch:
    """Return the records of all slices, with their topic and partition.

    Shape: topic, partition, offset, timestamp, key, value, headers; one row a record. The
    columns of a single slice are not copied.
    """
    batches = [add_place(piece) for piece in slices]
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def add_place(piece: Slice) -> pa.RecordBatch:
    """Return a slice's columns with its topic and partition before them."""
    columns = piece.columns
    topic, partition = piece.chunk.partition
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(pa.scalar(topic), piece.count),
            pa.repeat(pa.scalar(partition, pa.int32()), piece.count),
            *columns.columns,
        ],
        names=["topic", "partition", *columns.schema.names],
    )


def without_rows(columns: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    """Return the columns without these rows, ascending; the very same if there are none."""
    if not rows:
        return columns
    return columns.filter(pa.array(all_but(rows, columns.num_rows)))
