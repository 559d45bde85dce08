"""Commits without watermarks where the broker takes none: said once, with what a crash repeats."""

from __future__ import annotations

import pytest

from flowguard.facts import CommitPoint, Stored
from flowguard.settle.metadata_room import MetadataRoom
from flowguard.settle.watermarks import METADATA_BYTES_MAX, CommitContext, encode


def stored(lanes: int = 2, ahead: int = 1000, name: str = "lane") -> Stored:
    """Return a commit at offset 50 of which all lanes but the last are ahead."""
    names = tuple(f"{name}-{number}" for number in range(lanes))
    point = CommitPoint(50, (50 + ahead,) * (lanes - 1) + (50,))
    return Stored(50, encode(point, CommitContext(cluster="c", rules="r", lanes=names)))


SMALL = stored()
LARGE = stored(62, 123_456, "x" * 80)


def test_what_fits_is_committed_as_it_is_and_nothing_is_said():
    room = MetadataRoom()

    assert room.fit({"a": SMALL}) == {"a": SMALL}
    assert room.report({"a": SMALL}) is None


def test_what_is_larger_than_a_broker_takes_by_default_is_not_even_tried():
    room = MetadataRoom()
    assert len(LARGE.metadata) > METADATA_BYTES_MAX

    assert room.fit({"a": SMALL, "b": LARGE}) == {"a": SMALL, "b": Stored(50, "")}


def test_what_is_left_out_is_said_once_with_what_a_crash_repeats():
    room = MetadataRoom()
    commits = {"a": SMALL, "b": LARGE, "c": LARGE}

    line = room.report(commits)
    again = room.report(commits)

    assert line is not None and again is None
    assert "the lane watermarks of 2 partitions" in line
    assert f"{len(LARGE.metadata)} bytes of 4096" in line
    assert f"repeat up to {2 * 123_456} offsets" in line
    assert "fewer lanes" in line


@pytest.mark.parametrize("taken_bytes", [0, 20, len(SMALL.metadata) - 1, 1000])
def test_a_lower_limit_of_the_broker_is_found_in_a_few_steps(taken_bytes: int):
    room = MetadataRoom()
    commits = {"small": SMALL, "wide": stored(30), "wider": stored(50, name="x" * 40)}
    sent, tries = room.fit(commits), 1
    while max(len(each.metadata) for each in sent.values()) > taken_bytes:
        assert room.refuse(sent)
        sent, tries = room.fit(commits), tries + 1

    assert tries <= 10
    assert [each.offset for each in sent.values()] == [50] * 3
    assert bool(sent["small"].metadata) == (taken_bytes == 1000)
    line = room.report(commits)
    assert line is not None and "offset.metadata.max.bytes" in line


def test_a_refusal_without_any_metadata_is_not_ours_to_mend():
    assert not MetadataRoom().refuse({"a": Stored(7, "")})
