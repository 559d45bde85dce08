"""What a lane may do with too many records."""

from __future__ import annotations

import pytest

import flowguard as fg
from flowguard.errors import ConfigError
from flowguard.lanes.overflow import described


def test_a_lane_blocks_unless_it_says_otherwise():
    lane = fg.Lane("a")

    assert lane.overflow == (fg.Block(),)
    assert lane.policies == ()


def test_the_last_resort_is_always_to_block():
    assert fg.Lane("a", overflow=fg.Shed()).overflow == (fg.Shed(), fg.Block())
    lane = fg.Lane("a", overflow=[fg.Conflate(), fg.Divert("later"), fg.Block()])
    assert lane.overflow == (fg.Conflate(), fg.Divert("later"), fg.Block())
    assert lane.policies == (fg.Conflate(), fg.Divert("later"))


def test_what_a_lane_has_makes_the_same_lane_again():
    lane = fg.Lane("a", overflow=[fg.Conflate("symbol"), fg.Shed()])

    assert fg.Lane("a", overflow=lane.overflow) == lane
    assert {lane: 1}[lane] == 1


def test_an_empty_list_blocks():
    assert fg.Lane("a", overflow=[]).overflow == (fg.Block(),)


@pytest.mark.parametrize(
    ("overflow", "said"),
    [
        ("shed", "is no overflow policy; use fg.Block()"),
        (fg.Shed, "has a class where a policy belongs; write Shed"),
        ([fg.Shed(), 5], "is no overflow policy"),
        ("spill", "is not available in this version"),
        ([fg.Block(), fg.Shed()], "what comes after Block.. is never tried"),
        ([fg.Shed(), fg.Shed()], "has Shed twice"),
        ([fg.Divert("a"), fg.Divert("b")], "has Divert twice"),
        ({"shed": True}, "is no overflow policy"),
    ],
)
def test_what_is_no_list_of_policies_is_refused(overflow: object, said: str):
    with pytest.raises(ConfigError, match=said):
        fg.Lane("a", overflow=overflow)  # type: ignore[arg-type]


def test_a_policy_of_a_later_version_says_so():
    class Spill:
        pass

    with pytest.raises(ConfigError, match="not available in this version"):
        fg.Lane("a", overflow=Spill())  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "a b", "a/b", "x" * 250, None, 5])
def test_what_is_no_topic_is_refused(topic: object):
    with pytest.raises(ConfigError, match="no name of a topic"):
        fg.Divert(topic)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["", 5, b"x"])
def test_what_is_no_column_is_refused(by: object):
    with pytest.raises(ConfigError, match="by is the name of a column"):
        fg.Conflate(by)  # type: ignore[arg-type]


def test_policies_are_written_in_a_line():
    assert described(fg.Lane("a").overflow) == "block"
    lane = fg.Lane("a", overflow=[fg.Conflate(), fg.Divert("later"), fg.Shed()])
    assert described(lane.overflow) == "conflate, divert to later, shed"
    assert described(fg.Lane("a", overflow=fg.Conflate("x")).overflow) == "conflate by x"
