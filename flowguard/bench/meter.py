"""The measure that all peers share: one clock, one rule when it starts and stops."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Context", "Meter", "Reading", "Run", "peak_memory", "peak_of"]


@dataclass(frozen=True, slots=True)
class Context:
    """What a peer is told.

    Args:
        broker: Bootstrap servers, `host:port`.
        topic: The filled topic.
        partitions: How many it has.
        leaders: Partition → `host:port` of its leader; JSON makes the keys text.
        group: A consumer group that nobody used before.
        directory: Where it may write, gone afterwards.
    """

    broker: str
    topic: str
    partitions: int
    leaders: Mapping[str, str]
    group: str
    directory: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one peer did in one turn.

    Args:
        records: Those after the first handover.
        seconds: From the first handover to the last.
        cpu_seconds: User and system time meanwhile, of the process and its children.
        peak_memory: The most bytes that were resident since the process began.
    """

    records: int
    seconds: float
    cpu_seconds: float
    peak_memory: int

    @property
    def per_second(self) -> float:
        """Return records a second."""
        return self.records / self.seconds

    @property
    def cpu_us_per_record(self) -> float:
        """Return microseconds of CPU a record."""
        return self.cpu_seconds / self.records * 1e6


#: Read this many records.
Run = Callable[[int], Reading]


class Meter:
    """Count what is handed over; the first handover starts the clock and does not count.

    Without that, what a client has fetched before anybody asked would be a gift to it, and
    joining its group a burden.
    """

    def __init__(self, goal: int) -> None:
        self._goal = goal
        self._seen = 0
        self._first = 0
        self._began_s = self._began_cpu_s = 0.0
        self._reading: Reading | None = None

    def add(self, count: int) -> bool:
        """Note a handover; True once the goal is reached."""
        if count and not self._first:
            self._first = self._seen = count
            self._began_s, self._began_cpu_s = time.perf_counter(), cpu_seconds()
            return False
        self._seen += count
        if self._seen < self._goal:
            return False
        if self._reading is None:
            self._reading = Reading(
                records=self._seen - self._first,
                seconds=time.perf_counter() - self._began_s,
                cpu_seconds=cpu_seconds() - self._began_cpu_s,
                peak_memory=peak_memory(),
            )
        return True

    @property
    def reading(self) -> Reading:
        """Return the result.

        Raises:
            RuntimeError: The goal was not reached.
        """
        if self._reading is None:
            raise RuntimeError(f"stopped after {self._seen} of {self._goal} records")
        return self._reading


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children so far."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_memory() -> int:
    """Return the most bytes that this process and its children had resident, each at its own time.

    Not `ru_maxrss`: that begins with what the process was forked from.
    """
    children = " ".join(each.read_text() for each in Path("/proc/self/task").glob("*/children"))
    return sum(peak_of(each) for each in ("self", *children.split()))


def peak_of(process: str) -> int:
    """Return the most bytes that a process had resident, 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 if peaks else 0
