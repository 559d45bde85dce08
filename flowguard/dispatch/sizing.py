"""How many records a batch may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowguard.errors import ConfigError
from flowguard.suggest import reject_unknown
from flowguard.units import MILLISECOND, Duration, duration_ns

__all__ = ["BatchLimit", "BatchSize"]

#: A running batch cannot be preempted, so it may hold a seat for this share of the
#: tightest target at most.
TARGET_SHARE: Final = 4

#: Where the search starts when nothing is known of the agent.
RECORDS_FIRST: Final = 64


@dataclass(frozen=True, slots=True, init=False)
class BatchSize:
    """How batches are cut.

    Args:
        max: Most records a batch, >= 1.
        linger: Longest wait of a lane without a target for a batch to fill.
        by_partition: Every batch comes from one partition.
    """

    max: int = 4096
    linger_ns: int = 5 * MILLISECOND
    by_partition: bool = False

    def __init__(
        self,
        max: int = 4096,
        linger: Duration = "5ms",
        by_partition: bool = False,
        **unknown: object,
    ) -> None:
        reject_unknown(unknown, known=("max", "linger", "by_partition"), owner="BatchSize")
        if isinstance(max, bool) or not isinstance(max, int) or max < 1:
            raise ConfigError(f"BatchSize.max={max!r} is no number of records; use 1 or more")
        object.__setattr__(self, "max", max)
        object.__setattr__(self, "linger_ns", duration_ns(linger, name="BatchSize.linger"))
        object.__setattr__(self, "by_partition", bool(by_partition))


class BatchLimit:
    """Learn how many records an agent handles in a quarter of the tightest target.

    Doubles while full batches take less than half of the time allowed, and shrinks in
    proportion as soon as one takes longer. Where shrinking does not help, because a call
    takes its time whatever its size, that fixed part is left out of account, and half of the
    time allowed is for records all the same: or a slow call would be made for a handful of
    records again and again. Without a target the limit is `records_max`.

    Args:
        records_max: The agent's `BatchSize.max`.
        target_ns: The tightest target of the app's lanes, or None.
    """

    def __init__(self, records_max: int, *, target_ns: int | None) -> None:
        self.records_max = records_max
        self.service_ns_max = None if target_ns is None else target_ns // TARGET_SHARE
        self.records = records_max if target_ns is None else min(records_max, RECORDS_FIRST)
        self._fixed_ns = 0
        self._late: tuple[int, int] | None = None  # the last batch, if it took too long

    def sample(self, *, records: int, service_ns: int) -> None:
        """Learn from one finished batch."""
        if self.service_ns_max is None:
            return
        self._learn_fixed(records, service_ns)
        room_ns = max(self.service_ns_max - self._fixed_ns, self.service_ns_max // 2)
        taken_ns = service_ns - self._fixed_ns
        self._late = (records, service_ns) if taken_ns > room_ns else None
        if taken_ns > room_ns:
            self.records = max(1, min(self.records, records * room_ns // taken_ns))
        elif records >= self.records and taken_ns * 2 < room_ns:
            self.records = min(self.records_max, self.records * 2)

    def _learn_fixed(self, records: int, service_ns: int) -> None:
        """Put the line through two late batches of different size; no batch is faster."""
        if self._late is not None and self._late[0] >= 2 * records:
            more, longer_ns = self._late
            self._fixed_ns = (service_ns * more - longer_ns * records) // (more - records)
        self._fixed_ns = max(0, min(self._fixed_ns, service_ns))
