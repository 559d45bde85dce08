"""The offsets of records that leave without an agent, gathered so that a line says many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.commands import Unprocessed

__all__ = ["LINE_CHARACTERS_MAX", "UnprocessedLog", "lines_of", "merged"]

#: Log collectors cut longer lines; most take 16 KiB, some 4.
LINE_CHARACTERS_MAX: Final = 2000

Ranges = list[tuple[int, int]]


@dataclass(slots=True)
class Entry:
    """What has left of one partition and lane in one way."""

    why: str
    count: int = 0
    ranges: Ranges = field(default_factory=list)


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
        ranges: Ranges,
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
                ranges=tuple(merged(entry.ranges)),
                count=entry.count,
                why=entry.why,
            )
            for (partition, lane, outcome), entry in sorted(entries.items())
        ]


def merged(ranges: Ranges) -> Ranges:
    """Return the same offsets in as few ranges as can be, ascending."""
    found: Ranges = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def lines_of(command: Unprocessed, lane: str) -> Iterator[str]:
    """Yield the lines that say which records have left and why; offsets are inclusive.

    Args:
        lane: Name of the lane.
    """
    topic, number = command.partition
    records = "1 record" if command.count == 1 else f"{command.count} records"
    head = f"{topic}[{number}] lane {lane}: {records} {command.outcome}, {command.why}: offsets "
    room = max(1, LINE_CHARACTERS_MAX - len(head))
    for line in wrapped((written(*each) for each in command.ranges), room):
        yield head + line
        head = f"{topic}[{number}] lane {lane}: … {command.outcome}: offsets "


def written(start: int, end: int) -> str:
    """Return a range as people write it: `5`, `5-9`."""
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


def wrapped(words: Iterable[str], room: int) -> Iterator[str]:
    """Join words with commas into lines of so many characters."""
    line: list[str] = []
    length = 0
    for word in words:
        if line and length + len(word) + 1 > room:
            yield ",".join(line)
            line, length = [], 0
        line.append(word)
        length += len(word) + 1
    if line:
        yield ",".join(line)
