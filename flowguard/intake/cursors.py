"""Where each partition is being read, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from flowguard._native import wire
from flowguard.chunk import TopicPartition
from flowguard.lanes.split import Splitter

__all__ = ["Cursor", "Haste", "PartitionPlan"]


class Haste(IntEnum):
    """How soon the records of a partition are wanted, as its lanes by rule have a target."""

    NONE = 0  # not all have one
    SOME = 1  # all have one, and time for it
    MOST = 2  # one of them is tight


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """How the partitions of a topic are read.

    Args:
        rule: Which lane a record belongs to.
        haste: How soon its records are wanted; those of one haste share a connection.
        may_be_urgent: It can hold a record of a lane with a target.
        pace_s: A request can wait so long for more records than a few, because no target
            is missed by that.
        on_offset_loss: stop, earliest or latest.
        splitter: What moves records to lanes and flows that the parser cannot see, or None.
        in_blocks: The feed's order lets a lane run ahead of its oldest record.
    """

    rule: wire.LaneRule
    haste: Haste
    may_be_urgent: bool
    on_offset_loss: str
    pace_s: float = 0.0
    splitter: Splitter | None = None
    in_blocks: bool = False


@dataclass(slots=True, eq=False)
class Cursor:
    """Where one partition is being read."""

    name: TopicPartition
    offset: int
    epoch: int
    plan: PartitionPlan
    needed_bytes: int = 0  # the next wire batch needs this much room
    not_before_s: float = 0.0
    stopped: bool = False
    losing: bool = False  # its position is being looked up anew
    doubted: bool = False  # its topic may be another one by now
    former: bool = False  # its offsets are of a topic that is gone
    begun: bool = False  # something of it was read

    @property
    def account(self) -> tuple[TopicPartition, int]:
        """Return what memory is counted by: the partition in this assignment."""
        return self.name, self.epoch

    @property
    def place(self) -> str:
        """Return what it is called in messages."""
        return f"{self.name.topic}[{self.name.partition}]"

    @property
    def readable(self) -> bool:
        """Tell whether it may be in a request at all."""
        return not (self.stopped or self.losing or self.doubted)
