"""The member of a group: aiokafka's coordinator with what flowguard adds, and a scripted group."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata

from flowguard.intake import coordinator as coordinating
from flowguard.intake.assignor import FeedAssignor
from flowguard.intake.coordinator import FeedCoordinator, Replaced

HEARTBEAT = HeartbeatRequest("group", 3, "me")
COMMIT = OffsetCommitRequest("group", 3, "me", -1, [])
JOIN = JoinGroupRequest("group", 10_000, 60_000, "me", "blue", "consumer", [])

UNKNOWN, FENCED = 25, 82


@asynccontextmanager
async def member(
    monkeypatch: pytest.MonkeyPatch, answer: Any, *, instance_id: str | None = "blue"
) -> AsyncIterator[tuple[FeedCoordinator, list[str]]]:
    """Return a member that has joined, and the ids that it was told another worker has taken."""
    sent: list[Any] = []

    async def send(self: Any, request: Any) -> Any:
        sent.append(request)
        return answer

    monkeypatch.setattr(GroupCoordinator, "_send_req", send)
    client: Any = SimpleNamespace(cluster=ClusterMetadata())
    told: list[str] = []
    made = FeedCoordinator.adopt(
        GroupCoordinator(
            client, SubscriptionState(), group_id="group", group_instance_id=instance_id
        ),
        on_replaced=told.append,
        on_strangers=lambda: told.append("strangers"),
    )
    made.sent = sent
    made.member_id, made.generation = "me", 3
    made.lost, made.heard_s = False, time.monotonic()
    made.owned = frozenset({("orders", 0)})
    try:
        yield made, told
    finally:
        await made.close()


def error(code: int) -> SimpleNamespace:
    return SimpleNamespace(error_code=code)


def commit_error(code: int) -> SimpleNamespace:
    return SimpleNamespace(topics=[("orders", [(0, 0), (1, code)])])


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (HEARTBEAT, error(UNKNOWN)),
        (COMMIT, commit_error(UNKNOWN)),
        (HEARTBEAT, error(FENCED)),
        (JOIN, error(FENCED)),
    ],
    ids=["heartbeat", "commit", "fenced", "join"],
)
async def test_a_member_that_another_worker_replaced_in_time_says_so_once_and_gives_way(
    request_: Any, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with member(monkeypatch, answer) as (coordinator, told):
        ended = asyncio.CancelledError if request_ is HEARTBEAT else Replaced
        with pytest.raises(ended):
            await coordinator._send_req(request_)
        await coordinator._send_req(request_)

        assert told == ["blue"]
        assert coordinator.replaced
        assert not coordinator.may_commit
        assert coordinator.owned == frozenset()


async def test_a_member_that_was_away_for_longer_than_its_session_is_only_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, error(UNKNOWN)) as (coordinator, told):
        coordinator.heard_s -= 2 * coordinator.session_s
        assert coordinator.fenced

        await coordinator._send_req(HEARTBEAT)
        coordinator.reset_generation()

        assert not told
        assert coordinator.lost
        assert coordinator.losses == 1


async def test_a_dynamic_member_that_is_not_known_joins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, error(UNKNOWN), instance_id=None) as (coordinator, told):
        await coordinator._send_req(HEARTBEAT)

        assert not told
        assert not coordinator.replaced


async def test_an_answer_to_who_we_were_before_says_nothing_of_who_we_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, error(UNKNOWN)) as (coordinator, told):

        async def joined_meanwhile(self: Any, request: Any) -> Any:
            coordinator.member_id = "me, newly"
            return error(UNKNOWN)

        monkeypatch.setattr(GroupCoordinator, "_send_req", joined_meanwhile)
        await coordinator._send_req(HEARTBEAT)

        assert not told


async def test_members_with_another_assignor_are_named_once_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coordinating, "ASK_AGAIN_S", 0.0)
    async with member(monkeypatch, error(23)) as (coordinator, told):
        for _ in range(2):
            with pytest.raises(KafkaError):
                await coordinator._send_req(JOIN)

        assert told == ["strangers"]


@pytest.mark.parametrize("code", [0, 27])
async def test_a_heartbeat_that_is_answered_counts_from_when_it_was_sent(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with member(monkeypatch, error(code)) as (coordinator, _):
        coordinator.heard_s -= 2 * coordinator.session_s
        assert not coordinator.may_commit

        await coordinator._send_req(HEARTBEAT)

        assert coordinator.may_commit


async def test_nothing_is_committed_while_the_member_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, error(0)) as (coordinator, _):
        coordinator.joining = True
        assert not coordinator.may_commit
        assert not coordinator.fenced


@pytest.mark.parametrize(("version", "static"), [(5, True), (2, False)])
async def test_a_broker_that_knows_no_static_members_has_a_dynamic_one(
    version: int, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(error_code=0, API_VERSION=version)
    async with member(monkeypatch, answer) as (coordinator, _):
        await coordinator._send_req(JOIN)

        assert coordinator.is_static is static


async def test_a_commit_that_waited_while_the_group_forgot_us_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, commit_error(0)) as (coordinator, _):

        async def find_after_a_loss() -> None:
            coordinator.losses += 1

        monkeypatch.setattr(coordinator, "ensure_coordinator_known", find_after_a_loss)
        place, at = TopicPartition("orders", 0), OffsetAndMetadata(7, "")

        assert not await coordinator.commit({place: at}, losses=coordinator.losses)
        assert not coordinator.sent


async def test_a_commit_of_a_member_in_time_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(topics=[("orders", [(0, 0)])])
    async with member(monkeypatch, answer) as (coordinator, _):
        coordinator.coordinator_id = 1

        assert await coordinator.commit(
            {TopicPartition("orders", 0): OffsetAndMetadata(7, "")}, losses=coordinator.losses
        )
        assert len(coordinator.sent) == 1


@pytest.mark.parametrize(("leaves", "expected"), [(True, 1), (False, 0)])
async def test_a_static_member_leaves_the_group_only_when_it_is_told_to(
    leaves: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with member(monkeypatch, error(0)) as (coordinator, _):
        if leaves:
            coordinator.leave_at_the_end()
        await coordinator.close()

        left = [each for each in coordinator.sent if isinstance(each, LeaveGroupRequest)]
        assert len(left) == expected


async def test_the_assignor_of_faust_is_replaced_and_that_of_tables_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member(monkeypatch, error(0)) as (coordinator, _):
        (assignor,) = coordinator._assignors
        assert isinstance(assignor, FeedAssignor)
        assert assignor.name == RoundRobinPartitionAssignor.name
        assert coordinator._claim() == (3, frozenset({("orders", 0)}))


@pytest.mark.parametrize(
    "name",
    [
        "ensure_active_group", "_do_rejoin_group", "_on_join_complete", "reset_generation",
        "_send_req",
    ],
)  # fmt: skip
def test_the_hook_is_still_there_and_takes_what_it_took(name: str) -> None:
    theirs = inspect.signature(getattr(GroupCoordinator, name)).parameters
    ours = inspect.signature(getattr(FeedCoordinator, name)).parameters

    assert len(ours) == len(theirs)


def test_a_static_member_sends_no_leave_request_of_its_own_accord() -> None:
    source = inspect.getsource(GroupCoordinator._maybe_leave_group)

    assert "self._group_instance_id is None" in source


@pytest.mark.parametrize("complete", [True, False])
async def test_what_nobody_got_is_asked_for_again_although_its_owner_may_be_dead(
    complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinating, "HANDED_OVER_WITHIN_S", 0.0)
    async with member(monkeypatch, error(0)) as (coordinator, _):
        coordinator.complete = complete

        coordinator.rejoin_unless_complete()
        for _ in range(3):
            await asyncio.sleep(0)

        assert coordinator._rejoin_needed_fut.done() is not complete
