"""The assignor of apps with feeds: like Kafka's cooperative one, in aiokafka's eager protocol.

It is called `roundrobin`, the assignor that Faust takes for apps without tables and standbys, so
that workers of both kinds can be in one group. What members own travels in the user data, which
that one ignores: a worker of plain Faust owns nothing between two assignments, and an assignment
made by one bears no mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from flowguard.intake.assignment import Claim, Place, share_out

__all__ = ["FeedAssignor", "is_complete", "is_cooperative"]

VERSION: Final = 0  # of Kafka's consumer protocol
MARK: Final = "flowguard"
FORMAT: Final = 1


class FeedAssignor:
    """Gives partitions out so that only those stop that move.

    Args:
        claim: Returns the generation and the partitions of this member.
    """

    name = "roundrobin"

    def __init__(self, claim: Callable[[], tuple[int, Iterable[Place]]]) -> None:
        self._claim = claim

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this member says of itself."""
        generation, owned = self._claim()
        numbers: dict[str, list[int]] = {}
        for topic, number in sorted(owned):
            numbers.setdefault(topic, []).append(number)
        told = {MARK: FORMAT, "generation": generation, "owned": numbers}
        return ConsumerProtocolMemberMetadata(VERSION, sorted(topics), json.dumps(told).encode())

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return what each member gets; the leader of the group is asked."""
        claims = {member: claim_of(told) for member, told in members.items()}
        topics = {topic for claim in claims.values() for topic in claim.topics}
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        shares = share_out(counts, claims)
        mark = json.dumps({MARK: FORMAT, "complete": not shares.withheld}).encode()
        return {
            member: ConsumerProtocolMemberAssignment(VERSION, by_topic(given), mark)
            for member, given in shares.given.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Do nothing; who asks for an assignment looks at it."""


def by_topic(places: Iterable[Place]) -> list[tuple[str, list[int]]]:
    """Return partitions as the protocol writes them."""
    found: dict[str, list[int]] = {}
    for topic, number in sorted(places):
        found.setdefault(topic, []).append(number)
    return list(found.items())


def claim_of(told: ConsumerProtocolMemberMetadata) -> Claim:
    """Return what a member says of itself; one that says nothing we can read owns nothing."""
    topics = frozenset(told.subscription)
    document = read_mark(told.user_data)
    try:
        owned = {
            (str(topic), int(number))
            for topic, numbers in document.get("owned", {}).items()
            for number in numbers
        }
        return Claim(topics, frozenset(owned), int(document.get("generation", -1)))
    except (AttributeError, TypeError, ValueError):
        return Claim(topics)


def read_mark(user_data: bytes | None) -> Mapping[str, Any]:
    """Return what flowguard wrote into user data, nothing if others did."""
    try:
        document = json.loads(user_data or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) and document.get(MARK) == FORMAT else {}


def is_cooperative(assignment: ConsumerProtocolMemberAssignment) -> bool:
    """Tell whether partitions that move were withheld, so that their owner may finish."""
    return bool(read_mark(assignment.user_data))


def is_complete(assignment: ConsumerProtocolMemberAssignment) -> bool:
    """Tell whether every partition was given to somebody."""
    return bool(read_mark(assignment.user_data).get("complete", True))
