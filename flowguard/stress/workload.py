"""Workloads: what is sent, and when it is meant to be sent.

Everything is measured from the intended instant, so a sender that lags cannot hide
waiting time. Records are numbered from 0; record i goes to partition i mod P, where it
has the number i div P. Pure: time is an argument.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

import polars as pl

from flowguard.units import SECOND

__all__ = [
    "ConstantRate",
    "Schedule",
    "Spread",
    "TimeWarped",
    "record_id",
    "warp",
]

#: An id holds the number in its lower bits, above them the partition, and then the sender.
PARTITION_SHIFT: Final = 40
SOURCE_SHIFT: Final = 52


class Schedule(Protocol):
    """When each record is meant to be sent, from the beginning of the run."""

    @property
    def total(self) -> int:
        """Return how many records the whole run has."""
        ...

    def due(self, elapsed_ns: int) -> int:
        """Return how many records are meant to be sent before that."""
        ...

    def at_ns(self, index: int) -> int:
        """Return the intended instant of a record."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """A flood: the same rate from `begin_ns` to `end_ns`."""

    per_s: float
    begin_ns: int
    end_ns: int

    @property
    def total(self) -> int:
        """Return how many records the whole run has."""
        return int(self.per_s * max(0, self.end_ns - self.begin_ns) / SECOND)

    def due(self, elapsed_ns: int) -> int:
        """Return how many records are meant to be sent before that."""
        since_ns = min(elapsed_ns, self.end_ns) - self.begin_ns
        return min(self.total, max(0, ceil(self.per_s * since_ns / SECOND)))

    def at_ns(self, index: int) -> int:
        """Return the intended instant of a record."""
        return self.begin_ns + int(index * SECOND / self.per_s)


@dataclass(frozen=True, slots=True)
class TimeWarped:
    """Events at the instants they really had, on a faster clock.

    Args:
        instants_ns: Ascending.
    """

    instants_ns: Sequence[int]

    @property
    def total(self) -> int:
        """Return how many records the whole run has."""
        return len(self.instants_ns)

    def due(self, elapsed_ns: int) -> int:
        """Return how many records are meant to be sent before that."""
        return bisect_left(self.instants_ns, elapsed_ns)

    def at_ns(self, index: int) -> int:
        """Return the intended instant of a record."""
        return self.instants_ns[index]


def warp(times: pl.Series, *, speed: float, seconds: float) -> TimeWarped:
    """Return the schedule of events in their real rhythm.

    Args:
        times: When they happened, ascending datetimes.
        speed: How much faster than they happened, > 0.
        seconds: What comes later than this is left out.
    """
    first = times[0]
    elapsed_us = (times - first).dt.total_microseconds()
    instants_ns = (elapsed_us.cast(pl.Float64) * 1_000 / speed).cast(pl.Int64)
    return TimeWarped(instants_ns.filter(instants_ns < int(seconds * SECOND)).to_list())


@dataclass(frozen=True, slots=True)
class Spread:
    """Records dealt out to partitions in turn."""

    partitions: int

    def of(self, partition: int, first: int, end: int) -> range:
        """Return the records of one partition among those from `first` to before `end`."""
        return range(first + (partition - first) % self.partitions, end, self.partitions)

    def number(self, index: int) -> int:
        """Return a record's number within its partition."""
        return index // self.partitions

    def id(self, index: int) -> int:
        """Return a record's id."""
        return record_id(index % self.partitions, index // self.partitions)


def record_id(partition: int, number: int, source: int = 0) -> int:
    """Return the id of a record; ids of one partition and sender are consecutive."""
    return source << SOURCE_SHIFT | partition << PARTITION_SHIFT | number
