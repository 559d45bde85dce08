"""How much a commit may carry beside its offsets, and what is lost where that is too little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from flowguard.facts import Stored
from flowguard.settle.watermarks import METADATA_BYTES_MAX, repeated

__all__ = ["MetadataRoom"]

#: After a refusal so much of the largest size is tried: a few steps to whatever the limit is.
SHRINK_RATIO: Final = 0.75

Name = TypeVar("Name")


class MetadataRoom:
    """What the broker takes: its default, or less where it refused that.

    Without its watermarks a partition is committed all the same. Only a crash repeats more, so
    that is said, once for each limit.
    """

    def __init__(self) -> None:
        self.bytes_max = METADATA_BYTES_MAX
        self._reported_bytes_max = -1

    def fit(self, stored: Mapping[Name, Stored]) -> dict[Name, Stored]:
        """Return commits, those without metadata whose metadata is too large."""
        return {
            name: each if len(each.metadata) <= self.bytes_max else Stored(each.offset, "")
            for name, each in stored.items()
        }

    def refuse(self, sent: Mapping[Name, Stored]) -> bool:
        """Take in that the broker found the metadata of some too large; False if none had any."""
        largest_bytes = largest(sent)
        self.bytes_max = int(largest_bytes * SHRINK_RATIO)
        return largest_bytes > 0

    def report(self, stored: Mapping[Name, Stored]) -> str | None:
        """Return what a crash would repeat, if that is news."""
        left_out = [each for each in stored.values() if len(each.metadata) > self.bytes_max]
        if not left_out or self._reported_bytes_max == self.bytes_max:
            return None
        self._reported_bytes_max = self.bytes_max
        advice = "use fewer lanes, or shorter names for them"
        if self.bytes_max < METADATA_BYTES_MAX:
            advice = f"raise the broker's offset.metadata.max.bytes to {METADATA_BYTES_MAX}"
        return (
            f"the lane watermarks of {len(left_out)} partitions are too large to be stored with "
            f"their offsets, {largest(stored)} bytes of {self.bytes_max}; a crash now would repeat "
            f"up to {sum(repeated(each.metadata) for each in left_out)} offsets, because faster "
            f"lanes are ahead of the committed ones; {advice}"
        )


def largest(stored: Mapping[Name, Stored]) -> int:
    """Return the size of the largest metadata in bytes; it is ASCII."""
    return max((len(each.metadata) for each in stored.values()), default=0)
