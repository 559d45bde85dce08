"""What a lane may do with too many records."""

from __future__ import annotations

from typing import Any

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
        ("spill", "is no overflow policy; use fg.Block"),
        (fg.Spill, "has a class where a policy belongs; write Spill"),
        ([fg.Block(), fg.Shed()], "what comes after Block.. is never tried"),
        ([fg.Shed(), fg.Shed()], "has Shed twice"),
        ([fg.Divert("a"), fg.Divert("b")], "has Divert twice"),
        ({"shed": True}, "is no overflow policy"),
    ],
)
def test_what_is_no_list_of_policies_is_refused(overflow: object, said: str):
    with pytest.raises(ConfigError, match=said):
        fg.Lane("a", overflow=overflow)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_bytes": "100KiB"}, "too little for a disk; give it 1MiB or more"),
        ({"max_bytes": "much"}, "max_bytes"),
        ({"max_bytes": "1GiB", "encrypt": "secret"}, "gives no keys; use True, or an object"),
        ({"max_bytes": "1GiB", "ttl": "0s"}, "ttl='0s' must be more than nothing"),
    ],
)
def test_what_is_no_size_key_or_time_of_a_spill_is_refused(arguments: Any, said: str):
    with pytest.raises(ConfigError, match=said):
        fg.Spill(**arguments)


def test_a_spill_takes_sizes_and_times_as_text():
    assert fg.Spill("20GiB", ttl="1h") == fg.Spill(20 << 30, ttl=3600)


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
