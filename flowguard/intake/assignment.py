"""Who gets which partition, without taking one away from a worker that is at work on it.

A partition that is to move is given to nobody at first: its owner finishes what is in flight,
commits, and asks for another rebalance, in which it is free. All others go on meanwhile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Claim", "Place", "Shares", "share_out"]

#: A topic and the number of one of its partitions.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member of the group says of itself.

    Args:
        topics: What it subscribes to.
        owned: The partitions that it works on.
        generation: Of the assignment that gave them to it.
    """

    topics: frozenset[str]
    owned: frozenset[Place] = frozenset()
    generation: int = -1


@dataclass(slots=True)
class Shares:
    """Who gets what.

    Args:
        given: Member → its partitions.
        withheld: Partitions that nobody gets until their owner has let them go.
    """

    given: dict[str, set[Place]]
    withheld: set[Place] = field(default_factory=set)


def share_out(partitions: Mapping[str, int], members: Mapping[str, Claim]) -> Shares:
    """Share partitions evenly among the subscribers of their topics.

    Topics with the same subscribers and as many partitions go together, as in Faust: who has a
    partition of one has that of the others, too. Of each such group every subscriber gets as
    many as any other, or one more; who gets one more is who has the fewest so far, and then who
    has the most of that group already. Each keeps what it owns up to that number. The same
    arguments give the same shares.

    Args:
        partitions: Topic → how many partitions it has.
        members: By their ids in the group.
    """
    owners, contested = _owners(members)
    shares = Shares({member: set() for member in members})
    totals = dict.fromkeys(members, 0)
    for (count, subscribers), topics in sorted(_groups(partitions, members).items()):
        held = _held(topics, count, owners, subscribers)
        targets = _targets(count, subscribers, held, totals)
        takers = _takers(count, held, targets)
        for number in range(count):
            for topic in topics:
                place = (topic, number)
                owner = owners.get(place)
                taker = takers[number]
                if place in contested or owner not in (None, taker):
                    shares.withheld.add(place)
                else:
                    shares.given[taker].add(place)
        for member, target in targets.items():
            totals[member] += target * len(topics)
    return shares


def _groups(
    partitions: Mapping[str, int], members: Mapping[str, Claim]
) -> dict[tuple[int, tuple[str, ...]], list[str]]:
    """Return the topics that go together, by their number of partitions and their subscribers."""
    groups: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    for topic, count in sorted(partitions.items()):
        subscribers = tuple(sorted(each for each in members if topic in members[each].topics))
        if subscribers and count:
            groups[count, subscribers].append(topic)
    return groups


def _owners(members: Mapping[str, Claim]) -> tuple[dict[Place, str], set[Place]]:
    """Return who owns what, and what two members say they have got at the same time.

    A claim of an older generation is that of a member which was away.
    """
    claims: dict[Place, list[tuple[int, str]]] = defaultdict(list)
    for member, claim in members.items():
        for place in claim.owned:
            claims[place].append((claim.generation, member))
    owners: dict[Place, str] = {}
    contested: set[Place] = set()
    for place, found in claims.items():
        newest = max(generation for generation, _ in found)
        rightful = [member for generation, member in found if generation == newest]
        if len(rightful) == 1:
            owners[place] = rightful[0]
        else:
            contested.add(place)
    return owners, contested


def _held(
    topics: list[str], count: int, owners: Mapping[Place, str], subscribers: Iterable[str]
) -> dict[str, list[int]]:
    """Return which numbers each subscriber has, by most of the topics of the group."""
    held: dict[str, list[int]] = {member: [] for member in subscribers}
    for number in range(count):
        found = Counter(owners.get((topic, number)) for topic in topics)
        having = [(-times, each) for each, times in found.items() if each in held]
        if having:
            held[str(min(having)[1])].append(number)
    return held


def _targets(
    count: int,
    subscribers: Sequence[str],
    held: Mapping[str, list[int]],
    totals: Mapping[str, int],
) -> dict[str, int]:
    """Return how many partitions of a group of topics each subscriber gets in the end."""
    base, more = divmod(count, len(subscribers))
    order = sorted(subscribers, key=lambda each: (totals[each], -len(held[each]), each))
    return {member: base + (rank < more) for rank, member in enumerate(order)}


def _takers(
    count: int, held: Mapping[str, list[int]], targets: Mapping[str, int]
) -> dict[int, str]:
    """Return who gets each number in the end: whoever has it keeps it, up to its target."""
    takers = {
        number: member for member, target in targets.items() for number in held[member][:target]
    }
    wanting = [
        member for member, target in targets.items() for _ in range(target - len(held[member]))
    ]
    # What nobody has goes first to those who have too little: what moves would make them wait.
    occupied = {number for numbers in held.values() for number in numbers}
    left = sorted(
        set(range(count)) - takers.keys(), key=lambda number: (number in occupied, number)
    )
    return takers | dict(zip(left, wanting, strict=True))
