"""What was finished is forgotten before the last commit when partitions are revoked.

`Consumer.on_partitions_revoked` throws the acknowledged offsets away, and then calls what commits
them: each rebalance repeats the work of a commit interval, and the next commit of the partition is
its first (`test_faust_606_commit_past_the_head.py`). That feeds commit first is
`tests/contract/test_faust_hooks.py`, and that nothing repeats is `tests/kafka/test_crash.py`.
"""

from __future__ import annotations

from typing import Any

from tests.builders import A, EngineDriver
from tests.regression.plain import ORDERS, PlainFaust


async def test_plain_faust_has_forgotten_what_was_finished_when_it_commits() -> None:
    faust = PlainFaust(committed=10)
    faust.ack(10, 11, 12)
    left: list[tuple[dict[Any, Any], dict[Any, Any]]] = []

    async def commit_for_the_last_time(revoked: Any) -> None:
        left.append((dict(faust.consumer._acked), dict(faust.consumer._committed_offset)))
        await faust.commit()

    faust.consumer._on_partitions_revoked = commit_for_the_last_time
    await faust.consumer.on_partitions_revoked({ORDERS})

    assert left == [({}, {})]
    assert faust.committed == []


def test_a_feed_still_commits_what_finishes_while_its_partition_is_being_revoked() -> None:
    d = EngineDriver()
    d.assign(A=10)
    (cut,) = d.records(A, range(10, 13))
    d.revoking(A)

    d.finish(cut)

    assert d.commit() == {A: 13}
