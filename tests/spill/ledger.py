"""Kafka as the tests of the store have it: what is owed, and what may come twice.

The records of a place follow from their offsets, so that whatever is read can be compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flowguard.chunk import TopicPartition
from flowguard.spill.manifest import Probe
from flowguard.spill.payload import probe_crc
from tests.spill.builders import A, B, records

LANES = ("realtime", "bulk", "slow")  # the first one is never spilled
PLACES = (A, B)


def lane_of(offset: int) -> str:
    """Return the lane of a record: a pure function of it, and bursts of one lane."""
    return LANES[(offset // 3 * 7 + offset % 3) % 3]


def exists(offset: int) -> bool:
    """Tell whether a log has this offset; there are gaps."""
    return offset % 11 != 10


@dataclass
class Committed:
    """What Kafka keeps of a partition."""

    offset: int = 0
    watermarks: dict[str, int] = field(default_factory=dict)

    def of(self, lane: str) -> int:
        return self.watermarks.get(lane, self.offset)


@dataclass
class Log:
    """Kafka: what was written, what is committed, and what was delivered of it.

    Args:
        epochs: How often the topic was made anew; each time with other records.
        waived: What an operator has decided to leave out.
        may_repeat: How many records may come twice at most.
    """

    ends: Counter[TopicPartition] = field(default_factory=Counter)
    epochs: Counter[TopicPartition] = field(default_factory=Counter)
    committed: dict[TopicPartition, Committed] = field(default_factory=dict)
    delivered: Counter[tuple[TopicPartition, int, int]] = field(default_factory=Counter)
    uncommitted: Counter[TopicPartition] = field(default_factory=Counter)
    waived: set[tuple[TopicPartition, int, int]] = field(default_factory=set)
    may_repeat: int = 0

    def offsets(self, place: TopicPartition, lane: str, low: int, high: int) -> list[int]:
        high = min(high, self.ends[place])
        return [at for at in range(low, high) if exists(at) and lane_of(at) == lane]

    def size(self, place: TopicPartition) -> int:
        """Return what tells the records of one epoch from those of another."""
        return 20 + self.epochs[place]

    def probe_agrees(self, place: TopicPartition, probe: Probe) -> bool:
        if not exists(probe.offset) or probe.offset >= self.ends[place]:
            return False
        (row,) = records(place, [probe.offset], size=self.size(place)).to_pylist()
        return probe.crc == probe_crc(row["timestamp"], row["key"], row["value"], row["headers"])

    def deliver(self, place: TopicPartition, offset: int) -> None:
        self.delivered[place, self.epochs[place], offset] += 1
        self.uncommitted[place] += 1

    def commit(self, place: TopicPartition, committed: Committed) -> None:
        self.committed[place] = committed
        self.uncommitted[place] = 0

    def forget(self, place: TopicPartition) -> None:
        """Whoever read the partition is gone without a commit."""
        self.may_repeat += self.uncommitted.pop(place, 0)

    def recreate(self, place: TopicPartition) -> None:
        self.epochs[place] += 1
        self.ends[place] = self.ends[place] // 2
        self.committed.pop(place, None)
        self.uncommitted.pop(place, None)

    def move(self, place: TopicPartition, offset: int) -> None:
        """Move the committed offset, as an operator does; old watermarks do not count then."""
        epoch = self.epochs[place]
        self.waived |= {(place, epoch, at) for at in range(offset)}
        self.may_repeat += sum(
            times for (at, then, where), times in self.delivered.items()
            if at == place and then == epoch and where >= offset
        )  # fmt: skip
        self.committed[place] = Committed(offset)

    def lost(self) -> list[tuple[TopicPartition, int]]:
        return [
            (place, at)
            for place in PLACES
            for at in range(self.ends[place])
            if exists(at) and not self.delivered[place, self.epochs[place], at]
            and (place, self.epochs[place], at) not in self.waived
        ]  # fmt: skip

    @property
    def repeated(self) -> int:
        return sum(times - 1 for times in self.delivered.values() if times > 1)
