"""The assignor on the wire, among members of its kind and of plain Faust."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from flowguard.intake.assignor import FeedAssignor, claim_of, is_complete, is_cooperative

CLUSTER = SimpleNamespace(partitions_for_topic={"orders": {0, 1, 2, 3}}.get)


def told(*numbers: int, generation: int = 1) -> ConsumerProtocolMemberMetadata:
    owned = [("orders", number) for number in numbers]
    assignor = FeedAssignor(lambda: (generation, owned))
    return ConsumerProtocolMemberMetadata.decode(assignor.metadata({"orders"}).encode())


def assign(
    **members: ConsumerProtocolMemberMetadata,
) -> dict[str, ConsumerProtocolMemberAssignment]:
    made = FeedAssignor(lambda: (-1, ())).assign(CLUSTER, members)
    return {
        name: ConsumerProtocolMemberAssignment.decode(each.encode()) for name, each in made.items()
    }


def numbers(assignment: ConsumerProtocolMemberAssignment) -> list[int]:
    return sorted(each.partition for each in assignment.partitions())


def test_an_owner_keeps_its_half_when_another_one_joins_and_all_know_that_something_is_left() -> (
    None
):
    found = assign(a=told(0, 1, 2, 3), b=told())

    assert (numbers(found["a"]), numbers(found["b"])) == ([0, 1], [])
    assert is_cooperative(found["b"])
    assert not is_complete(found["b"])


def test_a_worker_of_plain_faust_gets_what_nobody_claims() -> None:
    plain = RoundRobinPartitionAssignor.metadata({"orders"})

    found = assign(a=told(0, 1), b=plain)

    assert (numbers(found["a"]), numbers(found["b"])) == ([0, 1], [2, 3])
    assert is_complete(found["a"])


def test_an_assignment_that_plain_faust_made_is_known_as_one() -> None:
    found = RoundRobinPartitionAssignor.assign(CLUSTER, {"a": told(0, 1), "b": told()})

    assert not is_cooperative(found["a"])
    assert is_complete(found["a"])


@pytest.mark.parametrize(
    "user_data",
    [
        None, b"", b"\x00\xff", b"[]", b"7", b'"x"', b"{}",
        b'{"flowguard": 2, "owned": {"orders": [0]}}',
        b'{"flowguard": 1, "owned": [1]}', b'{"flowguard": 1, "owned": {"orders": 3}}',
        b'{"flowguard": 1, "owned": {"orders": ["x"]}}',
        b'{"flowguard": 1, "owned": {"orders": [0]}, "generation": []}',
    ],
)  # fmt: skip
def test_who_says_what_nobody_understands_owns_nothing(user_data: bytes | None) -> None:
    claim = claim_of(ConsumerProtocolMemberMetadata(0, ["orders"], user_data))

    assert not claim.owned
    assert claim.topics == {"orders"}
