"""What a worker is called in its group, so that a restart gets its partitions back at once.

    fraud.host-7.9f2c41d0a6b3.0.4be1c09d
    app   host   data directory, slot, digest of the subscription

A static member that comes back is given the assignment that the group has stored, whatever it
subscribes to now. So what decides about an assignment, topics and their partition counts, is
part of the id: with another digest the worker is another member.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["ID_CHARACTERS_MAX", "digest_of", "instance_id", "is_legal", "member_name"]

#: What Kafka allows in names of topics and of group instances.
LEGAL: Final = re.compile(r"[A-Za-z0-9._-]+")
ID_CHARACTERS_MAX: Final = 249

DIGEST_CHARACTERS: Final = 8


def is_legal(name: str) -> bool:
    """Tell whether Kafka takes this as a group instance id, with room for what is appended."""
    return bool(LEGAL.fullmatch(name)) and len(name) < ID_CHARACTERS_MAX - DIGEST_CHARACTERS


def digest_of(partitions: Mapping[str, int], *, address: str = "") -> str:
    """Return a digest of a subscription.

    Args:
        partitions: Topic → how many partitions it has, 0 if it does not exist yet.
        address: Of the worker's pages, where an assignment depends on it.
    """
    lines = [address, *(f"{topic}\t{count}" for topic, count in sorted(partitions.items()))]
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def member_name(app: str, *parts: str) -> str:
    """Return the part of an id that does not depend on the subscription.

    Characters that Kafka does not take are replaced; a digest then tells apart what would
    become alike, as it does where the name is too long.
    """
    plain = ".".join((app, *parts))
    if is_legal(plain):
        return plain
    told_apart = hashlib.sha256(plain.encode()).hexdigest()[:DIGEST_CHARACTERS]
    room = ID_CHARACTERS_MAX - 2 * (DIGEST_CHARACTERS + 1)
    return f"{re.sub('[^A-Za-z0-9._-]', '_', plain)[:room]}.{told_apart}"


def instance_id(name: str, partitions: Mapping[str, int], *, address: str = "") -> str:
    """Return the group instance id of a member with this subscription."""
    return f"{name}.{digest_of(partitions, address=address)}"
