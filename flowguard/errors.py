"""Every error of flowguard.

FlowguardError
 ├── ConfigError        an option or a declaration is wrong; nothing was started
 ├── HookError          Faust or aiokafka is used in a way a feed cannot support
 ├── WireError          bytes from the broker cannot be read; their partition stops
 ├── RegistryError      a schema registry does not answer; what needs it is tried again
 ├── SpillError         the spill directory cannot be used; Kafka still has every record
 │    ├── SpillRefused  records were not written; whoever has them keeps them
 │    └── FrameLost     records cannot be read back; they are fetched from Kafka again
 ├── SettleError        a send or a commit failed for good
 │    └── LettersNotWritten  dead letters were not acknowledged; their records wait
 ├── Nacked             an agent wants a batch again
 ├── Rejected           raised by you: the records are bad; they become dead letters
 ├── SimulationError    a test asked the harness for what only a real worker can do
 └── Unavailable        raised by you: what the agent depends on is not there; nothing is lost

Each message says what happened, what flowguard does now, and what you can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowguard.chunk import TopicPartition

__all__ = [
    "ConfigError",
    "FlowguardError",
    "FrameLost",
    "HookError",
    "LettersNotWritten",
    "Nacked",
    "RegistryError",
    "Rejected",
    "SettleError",
    "SimulationError",
    "SpillError",
    "SpillRefused",
    "Unavailable",
    "WireError",
]


class FlowguardError(Exception):
    """The base of all errors that flowguard raises."""


class ConfigError(FlowguardError):
    """An option or a declaration is wrong; nothing was started."""


class HookError(FlowguardError):
    """Faust or aiokafka is used in a way that a feed cannot support."""


class WireError(FlowguardError):
    """Bytes from the broker cannot be read; their partition stops, others go on.

    Args:
        message: What is wrong with the bytes.
        topic: Topic of the partition, if known.
        partition: Partition number, -1 if unknown.
        offset: Offset of the wire batch or record that cannot be read, -1 if unknown.
        needed_bytes: Memory that reading it would take, 0 if that is not the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        topic: str = "",
        partition: int = -1,
        offset: int = -1,
        needed_bytes: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.needed_bytes = needed_bytes
        place = f"{topic}[{partition}] at offset {offset}: " if topic else ""
        super().__init__(f"{place}{message}")


class RegistryError(FlowguardError):
    """A schema registry does not answer; what needs it is tried again, nothing is rejected."""


class SpillError(FlowguardError):
    """The spill directory cannot be used; Kafka still has every record."""


class SpillRefused(SpillError):
    """Records were not written to disk; whoever has them keeps them.

    Args:
        message: Why, and what happens now.
        too_large: It is these records; others may be written.
    """

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        self.too_large = too_large
        super().__init__(message)


class FrameLost(SpillError):
    """Records cannot be read back from disk; they are fetched from Kafka again.

    Args:
        reason: `missing`, `corrupt`, `unreadable` (the disk failed) or `locked` (no key).
        topic: Topic of the partition.
        partition: Partition number.
        lane: Name of the lane.
        scan_lo: First offset that is to be fetched again for that lane.
        scan_hi: Offset after the last of them.
        detail: What exactly was found.
    """

    def __init__(
        self,
        reason: str,
        *,
        topic: str,
        partition: int,
        lane: str,
        scan_lo: int,
        scan_hi: int,
        detail: str,
    ) -> None:
        self.reason = reason
        self.topic = topic
        self.partition = partition
        self.lane = lane
        self.scan_lo = scan_lo
        self.scan_hi = scan_hi
        super().__init__(
            f"{topic}[{partition}]: what lane {lane!r} spilled of offsets {scan_lo} to "
            f"{scan_hi - 1} is {reason} ({detail}); it is read from Kafka again"
        )


class SettleError(FlowguardError):
    """A send or a commit failed for good; its batch is not acknowledged.

    Args:
        message: What was not settled, and why.
        topic: Where it was sent to, if it was a send.
        partition: Partition number, -1 if unknown.
        unavailable: The topic or its broker is not there, whatever is sent; the records
            themselves are not to blame.
    """

    def __init__(
        self, message: str, *, topic: str = "", partition: int = -1, unavailable: bool = False
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.unavailable = unavailable
        super().__init__(message)


class LettersNotWritten(SettleError):
    """Dead letters were not acknowledged, or are too many; their records wait.

    Args:
        message: Why.
        topic: Where they were to go.
        stops: Partition → why its lane stops, if there are too many.
    """

    def __init__(
        self, message: str, *, topic: str, stops: Mapping[TopicPartition, str] | None = None
    ) -> None:
        self.stops = dict(stops or {})
        super().__init__(message, topic=topic, unavailable=True)


class Rejected(FlowguardError):
    """Raise it in an agent when records are bad: they become dead letters, and are not retried.

    Of a batch of several records, each half is tried by itself until the bad ones are alone;
    where it is known which they are, `batch.reject(rows, reason)` costs nothing.
    """


class Nacked(FlowguardError):
    """An agent wants a whole batch again; it said so by `batch.nack`.

    Args:
        reason: Why.
        retry_after_ns: How long to wait at least.
    """

    def __init__(self, reason: str, retry_after_ns: int | None = None) -> None:
        self.retry_after_ns = retry_after_ns
        super().__init__(reason)


class SimulationError(FlowguardError):
    """Something in a test needs a real clock, socket or thread; the message says what to do."""


class Unavailable(FlowguardError):
    """Raise it in an agent when something that the agent depends on is not there.

    The batch is held, and one batch at a time tries again, after 0.1 s, then 0.2 s, up to
    10 s, for as long as it takes: that counts as no attempt, and nothing becomes a dead
    letter. `raise fg.Unavailable(30) from error` shows people the error, too.

    Args:
        retry_after: How long to wait at least: `"2s"`, a `timedelta`, or seconds. What is no
            duration never hides that something is not there: text counts as `why`, and any
            other value as none.
        why: What is not there, for people.
    """

    def __init__(
        self, retry_after: str | float | timedelta | None = None, *, why: str = ""
    ) -> None:
        from flowguard.units import duration_ns  # it needs the errors of this module

        self.retry_after_ns: int | None = None
        try:
            if retry_after is not None:
                self.retry_after_ns = duration_ns(retry_after, name="retry_after")
        except ConfigError:
            why = why or (retry_after if isinstance(retry_after, str) else "")
        super().__init__(*[why] if why else [])
