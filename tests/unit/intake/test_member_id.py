"""What a worker is called in its group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.intake.member_id import (
    ID_CHARACTERS_MAX,
    digest_of,
    instance_id,
    is_legal,
    member_name,
)

TOPICS = {"orders": 4, "hints": 1}


def test_the_id_names_app_host_directory_and_slot_and_ends_with_the_digest() -> None:
    name = member_name("fraud", "host-7", "9f2c41d0a6b3", "0")

    assert instance_id(name, TOPICS) == f"fraud.host-7.9f2c41d0a6b3.0.{digest_of(TOPICS)}"


@pytest.mark.parametrize(
    "other",
    [
        {"orders": 5, "hints": 1},
        {"orders": 4},
        {"orders": 4, "hints": 1, "scores": 1},
        {"orders": 4, "hints": 0},
        {"orders": 1, "hints": 4},
    ],
    ids=["partitions added", "feed removed", "feed added", "topic missing", "swapped"],
)
def test_another_subscription_is_another_member(other: dict[str, int]) -> None:
    assert digest_of(other) != digest_of(TOPICS)


def test_the_order_of_topics_does_not_matter() -> None:
    assert digest_of(dict(reversed(TOPICS.items()))) == digest_of(TOPICS)


@given(app=st.text(max_size=300), host=st.text(max_size=300))
def test_every_id_is_one_that_kafka_takes(app: str, host: str) -> None:
    found = instance_id(member_name(app, host, "0"), TOPICS)

    assert len(found) <= ID_CHARACTERS_MAX
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_names_that_kafka_does_not_take_stay_apart() -> None:
    assert member_name("app", "hôst") != member_name("app", "häst")
    assert member_name("a" * 300, "x") != member_name("a" * 300, "y")
    assert not is_legal("a b")
