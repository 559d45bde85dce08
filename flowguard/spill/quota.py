"""How much may be written: states with hysteresis, never surprises.

    a lane      OK ──80 %──▶ SOFT ──100 %──▶ HARD        back below 90 % and 70 %
    the disk    OK ──little is free, or it said so──▶ HARD ──a try succeeds──▶ OK
                   ──it fails───────────────────────▶ DISABLED ──a probe succeeds──▶ OK

- SOFT: what nobody needs goes, and what is written is packed tighter.
- HARD: nothing more is written; whoever has records keeps them and stops reading.
- DISABLED: the disk does not do what it is told. A probe every 30 s tells when it does again.
- A state counts for a lane if it is the worse one of its own and the disk's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from flowguard.units import MIB, SECOND, format_size

__all__ = ["DiskState", "LaneQuota", "SpillState", "free_bytes_min"]

SOFT_RATIO: Final = 0.8
SOFT_LEAVE_RATIO: Final = 0.7
HARD_LEAVE_RATIO: Final = 0.9

#: What stays free: a twentieth of the disk and 2 GiB, on a small disk a fifth of it. A full
#: system disk stops more than a spill (ydb #30012).
FREE_RATIO: Final = 0.05
FREE_BYTES: Final = 2048 * MIB
FREE_SMALL_RATIO: Final = 0.2
FREE_LEAVE_RATIO: Final = 1.1

#: A full disk is tried again soon, because another program may have freed it; one that failed
#: is left alone for longer.
FULL_RETRY_NS: Final = 10 * SECOND
FAILED_RETRY_NS: Final = 30 * SECOND


class SpillState(IntEnum):
    """How far spilling may go; the higher the worse."""

    OK = 0
    SOFT = 1
    HARD = 2
    DISABLED = 3


def free_bytes_min(total_bytes: int) -> int:
    """Return how much of a disk stays free unless it was configured."""
    return int(max(FREE_RATIO * total_bytes, min(FREE_BYTES, FREE_SMALL_RATIO * total_bytes)))


@dataclass(slots=True)
class LaneQuota:
    """What one lane may have on disk.

    Args:
        max_bytes: Most bytes of its segments, with what is parked or quarantined of it.
        used_bytes: What it has.
    """

    max_bytes: int
    used_bytes: int = 0
    state: SpillState = SpillState.OK

    def charge(self, num_bytes: int) -> None:
        """Count what was written, or given back if it is negative."""
        self.used_bytes = max(0, self.used_bytes + num_bytes)
        self._settle()

    def limit(self, max_bytes: int) -> None:
        """Set another limit."""
        self.max_bytes = max_bytes
        self._settle()

    def admits(self, num_bytes: int) -> bool:
        """Tell whether so much may be written; if not, the quota is reached."""
        if self.state < SpillState.HARD and self.used_bytes + num_bytes > self.max_bytes:
            self.state = SpillState.HARD
        return self.state < SpillState.HARD

    def _settle(self) -> None:
        share = self.used_bytes / self.max_bytes if self.max_bytes else 1.0
        was = self.state
        if share >= 1.0 or (was is SpillState.HARD and share >= HARD_LEAVE_RATIO):
            self.state = SpillState.HARD
        elif share >= SOFT_RATIO or (was > SpillState.OK and share >= SOFT_LEAVE_RATIO):
            self.state = SpillState.SOFT
        else:
            self.state = SpillState.OK


@dataclass(slots=True)
class DiskState:
    """Whether the disk takes what it is given.

    Args:
        min_free_bytes: What stays free; None: `free_bytes_min`.
        why: What is wrong, for people; empty if nothing is.
    """

    min_free_bytes: int | None = None
    state: SpillState = SpillState.OK
    why: str = ""
    _retry_ns: int = field(default=0, repr=False)
    _by_itself: bool = field(default=False, repr=False)  # it said so, whatever is free

    def observe(self, free_bytes: int, total_bytes: int) -> None:
        """Take in what is free."""
        wanted = self.min_free_bytes
        if wanted is None:
            wanted = free_bytes_min(total_bytes)
        if self.state is SpillState.OK and free_bytes < wanted:
            self.state = SpillState.HARD
            free, stays = format_size(free_bytes), format_size(wanted)
            self.why = f"{free} are free and {stays} stay free; free some room"
        elif (
            self.state is SpillState.HARD
            and not self._by_itself
            and free_bytes >= wanted * FREE_LEAVE_RATIO
        ):
            self.recover()

    def full(self, why: str, now_ns: int) -> None:
        """Note that a write found no room."""
        if self.state is not SpillState.DISABLED or self.retry_due(now_ns):
            self._turn(SpillState.HARD, why, now_ns, FULL_RETRY_NS)

    def fail(self, why: str, now_ns: int) -> None:
        """Note that the disk failed."""
        self._turn(SpillState.DISABLED, why, now_ns, FAILED_RETRY_NS)

    def _turn(self, state: SpillState, why: str, now_ns: int, retry_ns: int) -> None:
        """Go to a state; what fails again while it is waited for does not make it longer."""
        if self.state is not state or not self._by_itself or self.retry_due(now_ns):
            self._retry_ns = now_ns + retry_ns
        self.state, self.why, self._by_itself = state, why, True

    def retry_due(self, now_ns: int) -> bool:
        """Tell whether it is time to try what did not work."""
        return self._by_itself and now_ns >= self._retry_ns

    def recover(self) -> None:
        """Note that it works again."""
        self.state, self.why, self._by_itself = SpillState.OK, "", False
