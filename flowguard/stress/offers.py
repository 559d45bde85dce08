"""What a sender sends: which record when, with which key, value and headers.

An offer numbers its records from 0, in the order of their instants. It is made before the run
begins, so that sending is only looking up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Protocol

import polars as pl

from flowguard.stress.flights import bodies, departures, value_of
from flowguard.stress.workload import ConstantRate, Schedule, Spread, TimeWarped, warp
from flowguard.units import SECOND

__all__ = ["Flights", "Offer", "Planned", "flood_of_flights", "warped_flights"]

#: What is around the padding of a planned value: its id, and quotes.
PADDING_FROM: Final = 40


class Offer(Protocol):
    """Records of one stream."""

    schedule: Schedule
    headers: list[tuple[str, bytes]]

    def of(self, partition: int, first: int, end: int) -> Sequence[int]:
        """Return the records of one partition among those from `first` to before `end`."""
        ...

    def number(self, partition: int, index: int) -> int:
        """Return a record's number within its partition."""
        ...

    def record(self, index: int, record_id: int) -> tuple[bytes | None, bytes]:
        """Return key and value of a record."""
        ...


class Flights:
    """Departures, dealt out to partitions in turn; the id is the key.

    Args:
        schedule: When they are sent.
        values: What is sent, again and again if there are more records than departures.
    """

    def __init__(self, schedule: Schedule, values: Sequence[bytes], partitions: int) -> None:
        self.schedule = schedule
        self.headers: list[tuple[str, bytes]] = []
        self._values = values
        self._spread = Spread(partitions)

    def of(self, partition: int, first: int, end: int) -> Sequence[int]:
        """Return the records of one partition among those from `first` to before `end`."""
        return self._spread.of(partition, first, end)

    def number(self, partition: int, index: int) -> int:
        """Return a record's number within its partition."""
        return self._spread.number(index)

    def record(self, index: int, record_id: int) -> tuple[bytes | None, bytes]:
        """Return key and value of a record."""
        return b"%d" % record_id, value_of(record_id, self._values[index % len(self._values)])


def warped_flights(*, speed: float, seconds: float, partitions: int) -> Flights:
    """Return departures in their real rhythm, so many times faster."""
    frame = departures()
    schedule = warp(frame["at"], speed=speed, seconds=seconds)
    return Flights(schedule, bodies(frame.head(schedule.total)), partitions)


def flood_of_flights(*, per_s: float, begin_s: float, seconds: float, partitions: int) -> Flights:
    """Return departures over and over, at the same rate."""
    schedule = ConstantRate(per_s, int(begin_s * SECOND), int(seconds * SECOND))
    return Flights(schedule, bodies(departures()), partitions)


class Planned:
    """Records of a plan, each with its instant, partition, key and size.

    Args:
        plan: One row a record in the order of their instants.
        headers: Of all of them.
        key_prefix: What their keys begin with.
        values: What is sent, in turn; without any, values that hold an id and padding.

    Shape of the plan: at_ns int64, partition int16, key int64 (-1: none), size int32.
    """

    def __init__(
        self,
        plan: pl.DataFrame,
        headers: list[tuple[str, bytes]],
        *,
        key_prefix: str = "",
        values: Sequence[bytes] = (),
    ) -> None:
        self.schedule: Schedule = TimeWarped(plan["at_ns"].to_list())
        self.headers = headers
        self._keys = plan["key"].to_list()
        self._sizes = plan["size"].to_list()
        rows = plan.select("partition").with_row_index("row")
        self._rows = {
            int(partition): group["row"].to_list()
            for (partition,), group in rows.group_by("partition", maintain_order=True)
        }
        self._padding = b"x" * max(self._sizes, default=0)
        self._key_prefix = key_prefix.encode()
        self._values = values

    def of(self, partition: int, first: int, end: int) -> Sequence[int]:
        """Return the records of one partition among those from `first` to before `end`."""
        rows = self._rows.get(partition, [])
        return rows[bisect_left(rows, first) : bisect_left(rows, end)]

    def number(self, partition: int, index: int) -> int:
        """Return a record's number within its partition."""
        return bisect_left(self._rows[partition], index)

    def record(self, index: int, record_id: int) -> tuple[bytes | None, bytes]:
        """Return key and value of a record; no value is shorter than what it must hold."""
        number = self._keys[index]
        key = None if number < 0 else b"%bkey-%d" % (self._key_prefix, number)
        if self._key_prefix and key is None:
            key = self._key_prefix
        if self._values:
            return key, self._values[index % len(self._values)]
        padding = self._padding[: max(0, self._sizes[index] - PADDING_FROM)]
        value = b'{"id":%d,"padding":"%b"}' % (record_id, padding)
        return key, value
