"""Whether what a worker holds is still its own."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from flowguard.chunk import TopicPartition
from flowguard.lanes.lane import Lane
from flowguard.membership import Membership
from tests.builders import A, B, EngineDriver


class Group:
    """The member of a group, as far as a worker asks it."""

    def __init__(self) -> None:
        self.silent = self.lost = False
        self.losses = 0

    @property
    def fenced(self) -> bool:
        return self.silent or self.lost

    def forget(self) -> None:
        self.lost = True
        self.losses += 1


class Runtime:
    """An engine with two partitions, in a group that does as it is told."""

    def __init__(self) -> None:
        self.driver = EngineDriver(lanes=(Lane("only"),), seats=8)
        self.driver.assign(A=0, B=0)
        self.engine = self.driver.engine
        self.member = Group()
        self.joined = True
        self.clock = SimpleNamespace(now_ns=lambda: self.driver.now_ns)
        self.app = SimpleNamespace(conf=SimpleNamespace(id="fraud"))
        self.observe = self.driver.tell


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def membership(runtime: Runtime) -> Membership:
    fake: Any = runtime
    return Membership(fake, instance_id="")


NAMES: set[TopicPartition] = {A, B}


def test_a_silent_group_stops_everything_and_one_that_answers_again_lets_it_go_on(
    runtime: Runtime, membership: Membership
) -> None:
    runtime.member.silent = True
    membership.look()
    runtime.driver.records(A, range(3), 0)
    assert membership.held == set()
    assert not runtime.driver.running
    assert not membership.may_commit(A)

    runtime.member.silent = False
    membership.look()

    assert membership.held == NAMES
    assert len(runtime.driver.running) == 1
    assert membership.may_commit(A)


def test_after_a_group_has_forgotten_the_worker_only_an_assignment_lets_it_go_on(
    runtime: Runtime, membership: Membership
) -> None:
    runtime.member.silent = True
    membership.look()
    runtime.member.forget()
    membership.look()

    runtime.member.silent = runtime.member.lost = False  # it has joined again
    membership.look()

    assert membership.held == set()
    assert not membership.may_commit(B)
    membership.settled({A})
    assert membership.may_commit(A)
    assert not membership.may_commit(B)


def test_a_worker_that_is_forgotten_before_it_has_noticed_waits_for_its_assignment_as_well(
    runtime: Runtime, membership: Membership
) -> None:
    runtime.member.forget()
    membership.fence()
    runtime.member.lost = False

    membership.look()

    assert membership.held == set()


def test_a_worker_that_has_not_joined_yet_has_nothing_to_lose(
    runtime: Runtime, membership: Membership
) -> None:
    runtime.joined = False
    runtime.member.lost = True

    membership.look()

    assert membership.held == NAMES


def test_a_replaced_worker_says_by_whom_and_stops(
    runtime: Runtime,
    membership: Membership,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))

    membership.replaced("fraud.blue.12345678")

    assert sent == [(os.getpid(), signal.SIGTERM)]
    (record,) = caplog.records
    assert "another worker has joined group fraud as fraud.blue.12345678" in record.getMessage()
    assert membership.held == set()
    assert not membership.may_commit(A)
