"""`flowguard offsets`: what commits say of lanes, and how the commands refuse."""

from __future__ import annotations

import pytest

from flowguard.cli.exit_codes import NO_BROKER, USAGE
from flowguard.cli.groups import Commit
from flowguard.cli.offsets_show import lanes_of
from flowguard.facts import CommitPoint
from flowguard.settle.watermarks import CommitContext, encode
from tests.unit.cli.conftest import Run

CONTEXT = CommitContext(cluster="c", rules="r", lanes=("realtime", "bulk"))


def test_lanes_that_are_ahead_are_read_from_the_commit() -> None:
    metadata = encode(CommitPoint(120, (998, 120)), CONTEXT)

    assert lanes_of(Commit(120, metadata)) == ({"realtime": 878}, None)
    assert lanes_of(Commit(100, metadata)) == (
        {"realtime": 878}, "ignored: the offset was moved from 120"
    )  # fmt: skip


@pytest.mark.parametrize("metadata", ["x", "{}", "[" * 5000, '{"w":1,"x":2}'])
def test_metadata_of_others_is_named_as_such(metadata: str) -> None:
    assert lanes_of(Commit(1, metadata)) == ({}, "metadata of something else")


@pytest.mark.parametrize("metadata", ["", "\0"])
def test_without_metadata_no_lane_is_ahead(metadata: str) -> None:
    assert lanes_of(Commit(1, metadata)) == ({}, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("show",), "-A MODULE"),
        (("show", "--group", "g"), "--broker"),
        (("reset", "--broker", "x", "--group", "g"), "--to"),
        (("reset", "--broker", "x", "--group", "g", "--to", "somewhere"), "is no time"),
        (("reset", "--broker", "x", "--group", "g", "--to", "0:1"), "--topic"),
        (("reset", "--broker", "x", "--group", "g", "--to", "0:1", "--to", "0:2"), "different"),
        (("reset", "--broker", "x", "--group", "g", "--to", "1h", "--to", "latest"), "one --to"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    run: Run, args: tuple[str, ...], said: str
) -> None:
    result = run("offsets", *args)

    assert result.exit_code == USAGE
    assert said in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [("show",), ("reset", "--to", "earliest")])
def test_a_broker_that_is_away_is_exit_code_3(
    run: Run, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowguard.cli.broker.REACH_WITHIN_S", 0.3)

    result = run("offsets", *args, "--broker", "127.0.0.1:1", "--group", "g")

    assert result.exit_code == NO_BROKER and result.stderr.count("\n") == 1
