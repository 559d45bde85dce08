"""What a lane does with its records when they are too many.

A policy acts while the lane exceeds its share of the memory, or waits longer than its target
allows. Policies in a list are tried in order, and the last resort is always `Block`. Each but
`Block` says what may be done with records that no agent has been given; what is done is
counted, and the offsets are logged.

    Block      wait in Kafka: nothing is lost, and what shares the partition waits as well
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

__all__ = ["Block", "Conflate", "Divert", "Policy", "Shed", "described", "parse_overflow"]

#: What Kafka permits in the name of a topic.
TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

LATER: Final = ("Spill",)
USE: Final = "use fg.Block(), fg.Shed(), fg.Conflate(), fg.Divert(topic), or a list of them"


@dataclass(frozen=True, slots=True)
class Block:
    """Stop fetching the lane's partitions until the lane has room again.

    Nothing is lost or reordered. Lanes that share a partition with a blocked lane
    wait with it, because a partition can only be read in order.
    """


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


Policy: TypeAlias = Block | Shed | Conflate | Divert


def parse_overflow(value: Policy | Sequence[Policy] | None, *, owner: str) -> tuple[Policy, ...]:
    """Return the policies of a lane in the order they are tried; the last is `Block`.

    Raises:
        ConfigError: One is no policy, comes twice, or comes after `Block`.
    """
    if value is None:
        return (Block(),)
    listed: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    for policy in listed:
        if not isinstance(policy, (Block, Shed, Conflate, Divert)):
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
    if isinstance(policy, type) and issubclass(policy, (Block, Shed, Conflate, Divert)):
        return f"has a class where a policy belongs; write {policy.__name__}(…)"
    name = policy if isinstance(policy, str) else type(policy).__name__
    if name.lower() in (each.lower() for each in LATER):
        return "is not available in this version"
    return "is no overflow policy"


def described(policies: Sequence[Policy]) -> str:
    """Return policies in a line, without the `Block` that is always last."""
    words: list[str] = []
    for policy in policies:
        match policy:
            case Block():
                words += [] if words else ["block"]
            case Shed():
                words.append("shed")
            case Conflate(by):
                words.append("conflate" if by is None else f"conflate by {by}")
            case Divert(topic):
                words.append(f"divert to {topic}")
    return ", ".join(words)
