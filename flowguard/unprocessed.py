"""The offsets of records that leave without an agent, gathered so that a line says many."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from flowguard._native.sieve import merged, range_lines
from flowguard.chunk import TopicPartition
from flowguard.commands import OffsetRanges, Unprocessed

__all__ = ["LINE_CHARACTERS_MAX", "UnprocessedLog", "lines_of"]

#: Log collectors cut longer lines; most take 16 KiB, some 4.
LINE_CHARACTERS_MAX: Final = 2000


@dataclass(slots=True)
class Entry:
    """What has left of one partition and lane in one way."""

    why: str
    count: int = 0
    ranges: array[int] = field(default_factory=lambda: array("q"))  # first, end, first, end …


class UnprocessedLog:
    """Offsets by partition, lane and outcome, until the next tick."""

    def __init__(self) -> None:
        self._entries: dict[tuple[TopicPartition, int, str], Entry] = {}

    def note(
        self,
        partition: TopicPartition,
        lane: int,
        outcome: str,
        *,
        ranges: array[int],
        count: int,
        why: str,
    ) -> None:
        """Note that records have left; of several reasons until the next tick the last is told."""
        entry = self._entries.setdefault((partition, lane, outcome), Entry(why))
        entry.why = why
        entry.count += count
        entry.ranges += ranges

    def take(self) -> list[Unprocessed]:
        """Return what was noted, and begin anew."""
        entries, self._entries = self._entries, {}
        return [
            Unprocessed(
                outcome=outcome,
                lane=lane,
                partition=partition,
                ranges=OffsetRanges(merged(entry.ranges)),
                count=entry.count,
                why=entry.why,
            )
            for (partition, lane, outcome), entry in sorted(entries.items())
        ]


def lines_of(command: Unprocessed, lane: str) -> Iterator[str]:
    """Yield the lines that say which records have left and why; offsets are inclusive.

    Args:
        lane: Name of the lane.
    """
    topic, number = command.partition
    records = "1 record" if command.count == 1 else f"{command.count} records"
    head = f"{topic}[{number}] lane {lane}: {records} {command.outcome}, {command.why}: offsets "
    for line in range_lines(command.ranges.flat, max(1, LINE_CHARACTERS_MAX - len(head))):
        yield head + line
        head = f"{topic}[{number}] lane {lane}: … {command.outcome}: offsets "
