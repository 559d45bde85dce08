"""The ledger: what may be committed, and never more.

The names of some tests are those of bugs of Faust that must not exist here.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowguard.settle.ledger import LaneLedger, PartitionLedger


class Log:
    """A partition being read, by one agent unless told otherwise."""

    def __init__(self, position: int = 100, *, lanes: int = 1, agents: int = 1) -> None:
        self.ledger = PartitionLedger(position, agents=agents, watermarks=[position] * lanes)

    def read(self, first: int, end: int, *, lane: int = 0, agent: int = 0):
        run = self.lane(lane, agent).admit(first)
        self.ledger.position = end
        return run

    def lane(self, lane: int = 0, agent: int = 0) -> LaneLedger:
        return self.ledger.agents[agent][lane]

    @property
    def committable(self) -> int:
        return self.ledger.point.offset


def test_nothing_read_means_nothing_new_to_commit():
    assert Log(100).committable == 100


def test_what_waits_holds_the_commit_back_until_it_is_finished():
    log = Log()

    run = log.read(105, 110)
    assert log.committable == 105
    log.lane().finish(run)

    assert log.committable == 110


def test_the_rest_of_a_chunk_that_was_taken_in_part_waits():
    log = Log()
    run = log.read(100, 110)

    log.lane().split(run, 104)
    log.lane().finish(run)

    assert log.committable == 104


def test_faust_606_an_unfinished_head_is_never_committed_past():
    """faust-streaming/faust#606: committed 2585, acked 2586..2589 gave 2590."""
    log = Log(2585)
    head, *others = [log.read(offset, offset + 1) for offset in range(2585, 2590)]

    for run in others:
        log.lane().finish(run)

    assert log.committable == 2585
    log.lane().finish(head)
    assert log.committable == 2590


def test_faust_606_the_first_commit_of_a_partition_waits_for_its_head_too():
    """Nothing committed, records 1..3 finished, 0 in flight: Faust committed 4."""
    log = Log(0)
    runs = [log.read(offset, offset + 1) for offset in range(4)]

    for run in runs[1:]:
        log.lane().finish(run)

    assert log.committable == 0


def test_faust_add_gap_the_record_after_a_gap_is_not_part_of_the_gap():
    """A gap 101..109, record 110 in flight, 100 and 111 finished: Faust committed 112."""
    log = Log(100)
    first, after_gap, last = [log.read(offset, offset + 1) for offset in (100, 110, 111)]

    log.lane().finish(first)
    log.lane().finish(last)

    assert log.committable == 110
    log.lane().finish(after_gap)
    assert log.committable == 112


def test_a_gap_at_the_end_is_committed_with_what_came_before_it():
    log = Log(100)

    log.lane().finish(log.read(100, 10_000_000))

    assert log.committable == 10_000_000


def test_the_slowest_lane_decides_and_the_others_keep_their_watermarks():
    log = Log(100, lanes=2)
    fast = log.read(100, 110, lane=0)
    log.read(103, 110, lane=1)

    log.lane(0).finish(fast)

    assert log.ledger.point == (103, (110, 103))


def test_a_lane_without_records_holds_nothing_back():
    log = Log(100, lanes=8)

    log.lane(3).finish(log.read(100, 110, lane=3))

    assert log.committable == 110


def test_an_offset_is_finished_when_all_agents_have_finished_it():
    log = Log(100, agents=2)
    mine, theirs = log.read(100, 110, agent=0), log.read(100, 110, agent=1)

    log.lane(agent=0).finish(mine)
    assert log.committable == 100
    log.lane(agent=1).finish(theirs)

    assert log.committable == 110


def test_watermarks_of_an_earlier_life_hold_until_reading_has_passed_them():
    ledger = PartitionLedger(100, agents=1, watermarks=[1_000, 100])

    assert ledger.point == (100, (1_000, 100))
    ledger.position = 500
    assert ledger.point == (500, (1_000, 500))
    ledger.position = 2_000
    assert ledger.point == (2_000, (2_000, 2_000))


def test_what_was_finished_before_is_not_held_back_by_what_is_finished_again():
    ledger = PartitionLedger(100, agents=1, watermarks=[150])
    run = ledger.agents[0][0].admit(150)
    ledger.position = 200

    assert ledger.point.offset == 150
    ledger.agents[0][0].finish(run)

    assert ledger.point.offset == 200


def test_a_finished_lane_keeps_nothing_whatever_the_number_of_its_records():
    lane = LaneLedger()

    lane.finish(lane.admit(0))

    assert lane.runs == []


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_order_the_watermark_is_the_first_unfinished_offset(lengths, order):
    log = Log(0)
    first = 0
    runs = []
    for length in lengths:
        runs.append((first, log.read(first, first + length)))
        first += length
    unfinished = dict(runs)
    order.shuffle(runs)

    for at, run in runs:
        log.lane().finish(run)
        del unfinished[at]
        assert log.committable == min(unfinished, default=first)


@given(data=st.data())
def test_runs_may_be_read_cut_and_finished_in_any_order(data):
    """Flows of one lane are handed out out of order, in parts."""
    lane = LaneLedger()
    unfinished = {offset: lane.admit(offset) for offset in range(0, 100, 10)}
    while unfinished:
        offset = data.draw(st.sampled_from(sorted(unfinished)))
        run = unfinished.pop(offset)
        if offset % 10 < 8 and data.draw(st.booleans()):
            rest = offset + data.draw(st.integers(1, 2))
            unfinished[rest] = lane.split(run, rest)
        lane.finish(run)
        assert lane.watermark(100) == min(unfinished, default=100)
