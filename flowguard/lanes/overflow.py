"""What a lane does with its records when they are too many.

A policy acts while the lane exceeds its share of the memory, or waits longer than its target
allows. Policies in a list are tried in order, and the last resort is always `Block`. Each but
`Block` and `Spill` says which records may leave that no agent has been given; what leaves is
counted, and the offsets are logged.

    Block      wait in Kafka: nothing is lost, and what shares the partition waits as well
    Spill      wait on disk: nothing is lost, and what shares the partition goes on
    Shed       leave the oldest out
    Conflate   leave out what a newer record of the same key replaces
    Divert     write the oldest, as they are, to another topic
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from flowguard.errors import ConfigError
from flowguard.units import MIB, Duration, Size, duration_ns, format_size, size_bytes

__all__ = [
    "Block", "Conflate", "Divert", "Policy", "Shed", "Spill", "described", "parse_overflow",
]  # fmt: skip

#: What Kafka permits in the name of a topic.
TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

USE: Final = (
    "use fg.Block(), fg.Spill(size), fg.Shed(), fg.Conflate(), fg.Divert(topic), or a list of them"
)

#: Less is not worth a disk: a frame, a header and a footer must fit.
SPILL_BYTES_MIN: Final = MIB


@dataclass(frozen=True, slots=True)
class Block:
    """Stop fetching the lane's partitions until the lane has room again.

    Nothing is lost or reordered. Lanes that share a partition with a blocked lane
    wait with it, because a partition can only be read in order.
    """


@dataclass(frozen=True, slots=True, init=False)
class Spill:
    """Keep what the lane has no memory for on disk, until its agents have time for it.

    The disk is a cache of the log: what is on it is not committed, so the directory may be
    deleted at any time, and what cannot be read back is fetched from Kafka again. Order is
    kept. It pays where more urgent records share the partitions; where a topic holds nothing
    but lanes that are above their share, it is not read instead.

    Args:
        max_bytes: Most bytes on disk for this lane and worker, such as `"20GiB"`, 1 MiB or more.
        encrypt: True: with a key that lives as long as the worker does, so that a restart
            reads from Kafka what was spilled. Or an object with `current() -> Key` and
            `find(key_id) -> Key | None`. AES-256-GCM; needs the extra `encrypt`.
        ttl: Records that are older than this while they wait on disk are left out, counted as
            `expired`, and their offsets are logged; None: they wait.

    Raises:
        ConfigError: An argument is outside its range.
    """

    max_bytes: int
    encrypt: Any = False
    ttl_ns: int | None = None

    def __init__(self, max_bytes: Size, encrypt: Any = False, ttl: Duration | None = None) -> None:
        owner = f"Spill({max_bytes!r})"
        size = size_bytes(max_bytes, name="Spill(max_bytes)")
        if size < SPILL_BYTES_MIN:
            raise ConfigError(f"{owner}: that is too little for a disk; give it 1MiB or more")
        if not isinstance(encrypt, bool) and not (
            callable(getattr(encrypt, "current", None)) and callable(getattr(encrypt, "find", None))
        ):
            raise ConfigError(
                f"{owner}: encrypt={encrypt!r} gives no keys; use True, or an object with "
                "current() and find(key_id)"
            )
        ttl_ns = None if ttl is None else duration_ns(ttl, name="Spill(ttl)")
        if ttl_ns is not None and ttl_ns <= 0:
            raise ConfigError(f"{owner}: ttl={ttl!r} must be more than nothing; leave it out")
        object.__setattr__(self, "max_bytes", size)
        object.__setattr__(self, "encrypt", encrypt)
        object.__setattr__(self, "ttl_ns", ttl_ns)


@dataclass(frozen=True, slots=True)
class Shed:
    """Leave the oldest records out, until the lane is back within its share.

    They count as `shed`, no agent sees them, and their offsets are committed.
    """


@dataclass(frozen=True, slots=True)
class Conflate:
    """Leave out records that a newer one of the same key replaces.

    The newest is the one with the highest offset, among those of one partition and lane that
    no agent has been given. Tombstones count like any record; those without a key stay. What
    is left out counts as `conflated`.

    Args:
        by: A declared column in place of the record's key; records whose value has none, or
            cannot be decoded, stay.

    Raises:
        ConfigError: `by` is no name of a column.
    """

    by: str | None = None

    def __post_init__(self) -> None:
        if self.by is not None and (not isinstance(self.by, str) or not self.by):
            raise ConfigError(f"Conflate(by={self.by!r}): by is the name of a column")


@dataclass(frozen=True, slots=True)
class Divert:
    """Write the oldest records to another topic, until the lane is back within its share.

    They keep their key, value, headers and timestamp. They count as in flight until the broker
    has acknowledged them, then as `diverted`. While the topic cannot be written, they stay, and
    what comes after in the list is tried.

    Args:
        topic: Where to; no feed of the same app.

    Raises:
        ConfigError: It is no name of a topic.
    """

    topic: str

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not TOPIC.fullmatch(self.topic):
            raise ConfigError(
                f"Divert({self.topic!r}): that is no name of a topic; use letters, digits, "
                "., _ and -, at most 249"
            )


Policy: TypeAlias = Block | Spill | Shed | Conflate | Divert


def parse_overflow(value: Policy | Sequence[Policy] | None, *, owner: str) -> tuple[Policy, ...]:
    """Return the policies of a lane in the order they are tried; the last is `Block`.

    Raises:
        ConfigError: One is no policy, comes twice, or comes after `Block`.
    """
    if value is None:
        return (Block(),)
    listed: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for policy in listed:
        if not isinstance(policy, (Block, Spill, Shed, Conflate, Divert)):
            raise ConfigError(f"{owner}.overflow={value!r} {reason(policy)}; {USE}")
    kinds = [type(policy).__name__ for policy in listed]
    if "Block" in kinds[:-1]:
        raise ConfigError(
            f"{owner}.overflow: what comes after Block() is never tried; put Block() last, or "
            "leave it out"
        )
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"{owner}.overflow has {kind} twice; give each once")
    policies: tuple[Policy, ...] = tuple(listed)
    return policies if "Block" in kinds else (*policies, Block())


def reason(policy: object) -> str:
    """Return what is wrong with something that is no policy."""
    if isinstance(policy, type) and issubclass(policy, (Block, Spill, Shed, Conflate, Divert)):
        return f"has a class where a policy belongs; write {policy.__name__}(…)"
    return "is no overflow policy"


def described(policies: Sequence[Policy]) -> str:
    """Return policies in a line, without the `Block` that is always last."""
    words: list[str] = []
    for policy in policies:
        match policy:
            case Block():
                words += [] if words else ["block"]
            case Spill(max_bytes):
                words.append(f"spill {format_size(max_bytes)}")
            case Shed():
                words.append("shed")
            case Conflate(by):
                words.append("conflate" if by is None else f"conflate by {by}")
            case Divert(topic):
                words.append(f"divert to {topic}")
    return ", ".join(words)
