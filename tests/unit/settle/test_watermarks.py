"""Watermarks in the metadata of a commit: believed only when nothing speaks against them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.facts import CommitPoint
from flowguard.settle.watermarks import METADATA_BYTES_MAX, CommitContext, decode, encode, repeated

CONTEXT = CommitContext(cluster="c1", rules="0123456789abcdef", lanes=("realtime", "bulk"))
POINT = CommitPoint(120, (1_000_120, 120))


def test_what_was_written_is_read_back():
    assert decode(encode(POINT, CONTEXT), 120, CONTEXT).watermarks == POINT.watermarks


def test_nothing_is_written_where_no_lane_is_ahead():
    assert encode(CommitPoint(120, (120, 120)), CONTEXT) == ""


def test_a_commit_by_someone_else_tells_nothing():
    for metadata in ("", "note of an operator", "[]", "null", "{}", '{"v":1}', "[" * 100_000):
        assert decode(metadata, 120, CONTEXT).watermarks is None


def test_metadata_that_an_outside_tool_kept_while_it_moved_the_offset_is_ignored():
    for moved in (0, 119, 121, 2_000_000):
        restored = decode(encode(POINT, CONTEXT), moved, CONTEXT)
        assert restored.watermarks is None
        assert "moved" in (restored.why or "")


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"cluster": "c2"}, "another cluster"), ({"rules": "f" * 16}, "rule"),
     ({"lanes": ("bulk", "realtime"), "rules": "e" * 16}, "rule")],
)  # fmt: skip
def test_metadata_of_another_cluster_or_rule_is_ignored_and_it_is_said_how_much_repeats(
    changed, why
):
    restored = decode(encode(POINT, CONTEXT), 120, replace(CONTEXT, **changed))

    assert restored.watermarks is None
    assert why in (restored.why or "")
    assert restored.repeated == 1_000_000


@given(at=st.integers(0, 200), byte=st.characters(min_codepoint=32, max_codepoint=126))
def test_no_changed_character_gives_another_watermark(at, byte):
    metadata = encode(POINT, CONTEXT)
    at %= len(metadata)

    restored = decode(metadata[:at] + byte + metadata[at + 1 :], 120, CONTEXT)

    assert restored.watermarks in (None, POINT.watermarks)


def test_another_version_is_ignored():
    fields = json.loads(encode(POINT, CONTEXT))
    assert decode(json.dumps({**fields, "v": 2}), 120, CONTEXT).watermarks is None


def test_the_metadata_of_many_lanes_is_written_whole_and_says_what_repeats_without_it():
    names = tuple(f"{'x' * 200}{number}" for number in range(62))
    point = CommitPoint(5, (12,) * 61 + (5,))
    context = replace(CONTEXT, lanes=names)

    metadata = encode(point, context)

    assert len(metadata) > METADATA_BYTES_MAX
    assert decode(metadata, 5, context).watermarks == point.watermarks
    assert repeated(metadata) == 7
    assert repeated("") == repeated("a note of an operator") == 0
