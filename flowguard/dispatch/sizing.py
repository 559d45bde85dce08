"""How many records a batch may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from flowguard.errors import ConfigError
from flowguard.suggest import reject_unknown
from flowguard.units import MILLISECOND, SECOND, Duration, duration_ns

__all__ = ["BatchLimit", "BatchSize", "Review"]

#: A running batch cannot be preempted, so it may hold a seat for this share of the
#: tightest target at most.
TARGET_SHARE: Final = 4

#: Where the search starts when nothing is known of the agent.
RECORDS_FIRST: Final = 64

#: So few records say nothing of what one more would take: most of it may be the call. After so
#: many full batches that changed nothing one may have a record more, to see.
FEW_RECORDS: Final = 4
PROBE_EACH: Final = 64

#: More records a batch gain nothing once its fixed part is a twentieth of it, and it takes
#: so long that what flowguard itself does for a batch (about a millisecond) is little.
FIXED_PART: Final = 20
WORTHWHILE_NS: Final = 50 * MILLISECOND

#: A batch that takes this long is worth finding out about.
LONG_NS: Final = 4 * WORTHWHILE_NS

#: The slow loop looks so often, and never more than once in so many windows of the limit.
REVIEW_NS: Final = 10 * SECOND
REVIEW_WINDOWS: Final = 5

#: It changes nothing by less than this, and nothing by more than this factor at once.
REVIEW_RATIO: Final = 1.25
REVIEW_FACTOR: Final = 2


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


class Review(NamedTuple):
    """What the slow loop changed: the most records of a batch, before and after."""

    before: int
    after: int
    why: str


class Doubt(NamedTuple):
    """A batch took too long, though as many records had been in time before."""

    since_ns: int
    fitting: int  # how many records would have been in time


class BatchLimit:
    """Learn how many records an agent handles in a quarter of the tightest target.

    Doubles while full batches take less than half of the time allowed, and shrinks in proportion
    when one takes longer: at once where so many were never in time, otherwise when a second one
    says the same. Where shrinking does not help, because a call takes its time whatever its size,
    that fixed part is left out of account, and half of the time allowed is for records all the
    same: or a slow call would be made for a handful of records again and again. Now and then a
    batch of very few has one more. Without a target the limit is `records_max`.

    Beside that a slow loop (`review`) lowers what batches may have while more records would
    only make them longer: what they cost is a fixed part, and the same for each record.

    Args:
        records_max: The agent's `BatchSize.max`.
        target_ns: The tightest target of the app's lanes, or None.

    Attributes:
        bulk_factor: How many times as large as that they may be now, within `records_max`.
        worthwhile: So many records a batch are worth their time, as the slow loop says.
    """

    def __init__(self, records_max: int, *, target_ns: int | None) -> None:
        self.records_max = records_max
        self.service_ns_max = None if target_ns is None else target_ns // TARGET_SHARE
        self.bulk_factor = 1.0
        self._learnt = records_max if target_ns is None else min(records_max, RECORDS_FIRST)
        self.worthwhile = records_max
        self._reviewed_ns: int | None = None
        self._fixed_ns = 0
        self._late: tuple[int, int] | None = None  # the last batch, if it took too long
        self._in_time = 0  # the most records of a batch that did not take too long
        self._doubt: Doubt | None = None
        self._unchanged = 0  # full batches since the limit moved, or was tried

    @property
    def records(self) -> int:
        """Return the most records of the next batch."""
        probes = self._learnt < FEW_RECORDS and self._unchanged >= PROBE_EACH
        most = min(self._learnt + probes, self.worthwhile)
        return max(1, min(self.records_max, int(most * self.bulk_factor)))

    def review(
        self,
        now_ns: int,
        *,
        fixed_ns: float,
        record_ns: float | None,
        service_ns: float = 0.0,
        window_ns: int = 0,
        enforce: bool = True,
    ) -> Review | None:
        """Let batches have as many records as are worth it, every ten seconds at most.

        Args:
            fixed_ns: What a batch takes whatever its size.
            record_ns: What each record takes; None while that is not known.
            service_ns: What batches take now.
            window_ns: How long the limit of concurrency looks before it decides.
            enforce: Whether to do it, or only to say it.
        """
        if self._reviewed_ns is None:
            self._reviewed_ns = now_ns
        if now_ns - self._reviewed_ns < max(REVIEW_NS, REVIEW_WINDOWS * window_ns):
            return None
        self._reviewed_ns = now_ns
        before = self.worthwhile
        if record_ns is None:
            # Batches of one size do not tell what makes them long; half as many records do.
            wanted = before / REVIEW_FACTOR if service_ns > LONG_NS else float(before)
            why = f"batches take {service_ns / MILLISECOND:.0f} ms, and nobody knows what for"
        else:
            wanted = max(WORTHWHILE_NS, FIXED_PART * fixed_ns) / max(record_ns, 1e-3)
            each_us, fixed_ms = record_ns / 1e3, fixed_ns / MILLISECOND
            why = f"a record takes {each_us:.0f} us, and a batch {fixed_ms:.1f} ms beside"
        wanted = max(before / REVIEW_FACTOR, min(wanted, before * REVIEW_FACTOR))
        after = max(1, min(self.records_max, round(wanted)))
        if max(after, before) < REVIEW_RATIO * min(after, before):
            return None
        if enforce:
            self.worthwhile = after
        return Review(before, after, why)

    def sample(self, *, records: int, service_ns: int, now_ns: int) -> None:
        """Learn from one batch that has just finished."""
        if self.service_ns_max is None:
            return
        self._learn_fixed(records, service_ns)
        room_ns = max(self.service_ns_max - self._fixed_ns, self.service_ns_max // 2)
        taken_ns = service_ns - self._fixed_ns
        before = self._learnt
        self._late = (records, service_ns) if taken_ns > room_ns else None
        if taken_ns > room_ns:
            fitting = self._confirmed(records, records * room_ns // taken_ns, service_ns, now_ns)
            self._learnt = max(1, min(before, fitting))
            self._in_time = min(self._in_time, self._learnt)
        else:
            self._in_time = max(self._in_time, records)
            self._doubt = None
            if records >= before:
                doubled = 2 * before if taken_ns * 2 < room_ns else 0
                self._learnt = min(self.records_max, max(records, doubled))
        if records > before or self._learnt != before:
            self._unchanged = 0
        elif records == before:
            self._unchanged += 1

    def _confirmed(self, records: int, fitting: int, service_ns: int, now_ns: int) -> int:
        """Return how many records fit, as far as one batch that took too long can say.

        Where as many were in time before, it may have been an accident, and the batches that ran
        beside it have met with the same. One that began later has not: what fits is what the
        better of both says.
        """
        if records > self._in_time:
            return fitting
        if self._doubt is None:
            self._doubt = Doubt(now_ns, fitting)
            return self._learnt
        if now_ns - service_ns < self._doubt.since_ns:
            return self._learnt
        fitting = max(fitting, self._doubt.fitting)
        self._doubt = None
        return fitting

    def _learn_fixed(self, records: int, service_ns: int) -> None:
        """Put the line through two late batches of different size; no batch is faster."""
        if self._late is not None and self._late[0] >= 2 * records:
            more, longer_ns = self._late
            self._fixed_ns = (service_ns * more - longer_ns * records) // (more - records)
        self._fixed_ns = max(0, min(self._fixed_ns, service_ns))
