"""The batches of one partition on their way, in their order.

    waiting ──▶ under way ──▶ acknowledged
       ▲            │
       └── refused ─┘   same sequence, once every answer is in

- A batch is sent only after all before it were sent. What is refused for now goes back to the
  head, and none behind it is sent until the answers of all that were under way are in.
- A broker takes any sequence of a producer id that it does not know. Were the first batch of an
  id refused, one behind it could be written before it. So until one was acknowledged, a single
  batch is under way; so again after a long silence, because brokers forget.
- A batch that is too large is cut in two; both have the sequence numbers it had. What is known
  to be too large is cut before it is sent.
- What fails for good leaves a gap in the sequence, so the rest goes on with a new producer id.

Source: KIP-98; apache/kafka storage/.../internals/log/ProducerAppendInfo.java (checkSequence).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.intake.parcel import (
    SEQUENCE_MASK,
    TO_BLAME,
    TOO_LARGE,
    Compression,
    Parcel,
    Session,
    name_of,
)

__all__ = ["DUPLICATE_SEQUENCE", "PASSING", "SESSION_LOST", "STALE_METADATA", "Lineup"]

DUPLICATE_SEQUENCE: Final = 46

#: Answers after which the metadata is looked up again.
STALE_METADATA: Final = frozenset({3, 5, 6, 13, 56})
#: Those, and a broker or its replicas that take no part for now or had no time.
PASSING: Final = STALE_METADATA | {7, 19, 20, 89}
#: The broker no longer knows the producer, or another sequence of it.
SESSION_LOST: Final = frozenset({45, 47, 49, 59})

#: For so long after an acknowledgement a broker is taken to know the producer; it forgets one
#: after a day (producer.id.expiration.ms), and some are set to an hour.
KNOWN_FOR_S: Final = 600.0

#: For so long a size that was refused is not tried again; a topic may get another limit.
TOO_LARGE_FOR_S: Final = 600.0


@dataclass(slots=True, eq=False)
class Lineup:
    """The batches of one partition: those under way, then those that wait.

    Args:
        unanswered: How many of those under way have no answer yet.
        node: The broker that they went to.
        acknowledged_s: When the last one of this session was, in seconds of the event loop.
        say_after_s: When it may be said again that it waits.
        too_large_bytes: The smallest batch that was refused as too large, until `…_until_s`.
    """

    name: TopicPartition
    waiting: deque[Parcel] = field(default_factory=deque)
    under_way: deque[Parcel] = field(default_factory=deque)
    unanswered: int = 0
    node: int = -1
    session: Session | None = None
    next_sequence: int = 0
    not_before_s: float = 0.0
    acknowledged_s: float | None = None
    say_after_s: float = 0.0
    too_large_bytes: int | None = None
    too_large_until_s: float = 0.0

    @property
    def broken(self) -> bool:
        """Tell whether something under way was refused, so that nothing more may be sent."""
        return len(self.under_way) > self.unanswered

    def waits_since_s(self, within_s: float) -> float:
        """Return when the first that waits was sent.

        Args:
            within_s: How long it may take.
        """
        return self.waiting[0].deadline_s - within_s

    def has_room(self, now_s: float) -> bool:
        """Tell whether another batch may be under way now."""
        if not self.under_way:
            return True
        return self.acknowledged_s is not None and now_s - self.acknowledged_s < KNOWN_FOR_S

    def begin(self, session: Session) -> None:
        """Count in a session that this partition has not had."""
        self.session, self.next_sequence, self.acknowledged_s = session, 0, None

    def seal_first(self, compression: Compression | None, now_s: float) -> Parcel:
        """Return the first that waits, with its sequence, cut until it may be small enough."""
        assert self.session is not None
        parcel = self.waiting[0]
        if parcel.session is not self.session:
            if compression is not None and not parcel.batch.closed:
                compression.pack(parcel.batch)
            parcel.seal(self.session, self.next_sequence)
            self.next_sequence = (self.next_sequence + parcel.batch.count) & SEQUENCE_MASK
        while parcel.batch.count > 1 and self._is_too_large(parcel, now_s):
            self.waiting.popleft()
            self.waiting.extendleft(reversed(parcel.halves(compression)))
            parcel = self.waiting[0]
        return parcel

    def _is_too_large(self, parcel: Parcel, now_s: float) -> bool:
        return (
            self.too_large_bytes is not None
            and len(parcel.batch) >= self.too_large_bytes
            and now_s < self.too_large_until_s
        )

    def send_first(self, node: int) -> Parcel:
        """Return the first that waits, and note that it goes to a broker now."""
        parcel = self.waiting.popleft()
        self.under_way.append(parcel)
        self.unanswered += 1
        self.node = node
        return parcel

    def answered(self, parcel: Parcel, refused: int | BaseException, now_s: float) -> bool:
        """Take in what became of a batch; True if `put_back` is due, because all answers are in.

        Args:
            refused: 0, the broker's error code, or how the connection ended.
        """
        self.unanswered -= 1
        if refused in (0, DUPLICATE_SEQUENCE):
            self.under_way.remove(parcel)
            self.acknowledged_s = now_s
            parcel.acknowledge()
        else:
            parcel.refused = refused
        return self.broken and not self.unanswered

    def put_back(self, now_s: float, backoff_s: float) -> bool:
        """Let what was refused wait where it was, or give up its first.

        Returns:
            Whether the session is over: the broker lost it, or its sequence has a gap.
        """
        first = self.under_way[0]
        refused = first.refused
        assert refused is not None
        over = False
        if refused in TOO_LARGE and first.batch.count > 1:
            self.too_large_bytes = len(first.batch)
            self.too_large_until_s = now_s + TOO_LARGE_FOR_S
        elif isinstance(refused, BaseException) or refused in PASSING | SESSION_LOST:
            self.not_before_s = now_s + backoff_s
            over = refused in SESSION_LOST
        else:
            self.under_way.popleft()
            why = first.why_refused(refused)
            first.fail(self.name, why, unavailable=refused not in TO_BLAME)
            over = True
        self.waiting.extendleft(reversed(self.under_way))
        self.under_way.clear()
        if over:
            self._drop_abandoned()
        return over

    def fail_all(self, why: str, *, unavailable: bool = False) -> None:
        """Give up everything."""
        for parcel in (*self.under_way, *self.waiting):
            parcel.fail(self.name, why, unavailable=unavailable)
        self.waiting.clear()

    def _drop_abandoned(self) -> None:
        """Leave out what belongs to sends that have failed: they are sent again as a whole."""
        self.waiting = deque(parcel for parcel in self.waiting if not parcel.abandoned)

    def fail_late(self, now_s: float, within_s: float, why: str) -> bool:
        """Give up what waits and has waited too long; True if it may be in the log or not.

        Args:
            within_s: How long it may take.
            why: What else is known of it if it was never sent.
        """
        doubtful = False
        while self.waiting and not self.under_way and self.waiting[0].deadline_s < now_s:
            parcel = self.waiting.popleft()
            doubtful = doubtful or parcel.session is not None
            last = f", last: {name_of(parcel.refused)}" if parcel.refused is not None else why
            parcel.fail(
                self.name,
                f"no acknowledgement within {within_s:.0f} s{last}; is the broker up, are its "
                f"replicas in sync?",
                unavailable=True,
            )
        if doubtful:
            self._drop_abandoned()
        return doubtful
