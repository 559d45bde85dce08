"""faust-streaming/faust#606 (open), #707, robinhood/faust#682, #355: commits of unfinished records.

`Consumer._new_offset` compares the first finished offset with the committed one, off by one and
only if something was committed before. A crash then loses the records that were in flight.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.builders import A, EngineDriver
from tests.regression.plain import PlainFaust


@pytest.mark.parametrize(
    ("committed", "finished", "wrong"),
    [
        (2585, [2586, 2587, 2588, 2589], 2590),  # 2585 is in flight
        (None, [1, 2, 3], 4),  # 0 is in flight, nothing was ever committed
        (0, [5, 6], 7),  # 0 to 4 are in flight
    ],
)
async def test_plain_faust_commits_past_a_record_in_flight(
    committed: int | None, finished: Sequence[int], wrong: int
) -> None:
    faust = PlainFaust(committed=committed)

    faust.ack(*finished)

    assert await faust.commit() == wrong


@pytest.mark.parametrize(("begin", "finished"), [(2585, [1, 2, 3, 4]), (0, [1, 2, 3]), (0, [5, 6])])
def test_a_feed_commits_nothing_past_a_record_in_flight(
    begin: int, finished: Sequence[int]
) -> None:
    d = EngineDriver(order="none", seats=8, records_max=1)
    d.assign(A=begin)
    cuts = d.records(A, range(begin, begin + 8))

    for each in finished:
        d.finish(cuts[each])

    assert d.commit() == {A: begin}


def test_a_feed_commits_all_of_it_once_the_record_is_finished() -> None:
    d = EngineDriver(order="none", seats=8, records_max=1)
    d.assign(A=2585)
    head, *others = d.records(A, range(2585, 2590))
    for each in others:
        d.finish(each)

    d.finish(head)

    assert d.commit() == {A: 2590}
