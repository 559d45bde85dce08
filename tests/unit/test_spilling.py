"""Lanes that spill: what is too much waits on disk, in order, and nothing depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flowguard.facts import Assigned, LogsBegin
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Conflate, Shed, Spill
from flowguard.situation import snapshot_of
from flowguard.spill.manifest import Frame, FrameQueue
from flowguard.units import MIB, SECOND
from tests.builders import EPOCH_MS, A, EngineDriver, chunk_of, copy_of, only_offsets

REALTIME = Lane("realtime", target="50ms")
BULK = Lane("bulk", overflow=Spill("1GiB"))

#: Of 16 MiB 10 are for columns; a lane that spills has 3.5 of them.
MEMORY = 16 * MIB
SHARE = round(10 * MIB * 0.35)


class Worker(EngineDriver):
    """A worker whose agents take whatever is started, and note bulk in the order they got it."""

    def serve(self) -> None:
        """Let the agent finish its first batch."""
        cut = self.running[0]
        self.seen = [*self.__dict__.get("seen", []), *(only_offsets(cut) if cut.lane else [])]
        self.finish(cut)

    def work(self) -> list[int]:
        """Let agents and disk go on until nothing moves; return all bulk that was served."""
        while self.running or self.writes or self.reads:
            if self.writes:
                self.write()
            elif self.reads:
                self.read_back()
            else:
                self.serve()
        return self.seen

    def flush(self) -> None:
        """Let the disk write what it was asked to."""
        while self.writes:
            self.write()

    def drain_memory(self) -> None:
        """Let agents work until something is to be read from disk."""
        while self.running and not self.reads:
            self.serve()

    def counts(self, lane: int = 1) -> dict[str, int]:
        return {name: n for name, n in self.engine.books[lane].counts.as_dict().items() if n}

    def state(self, lane: int = 1) -> tuple[str, str | None]:
        shown = snapshot_of(self.engine, now_ns=self.now_ns, epoch_ms=EPOCH_MS).lanes[lane]
        return shown.state, shown.why


def worker(*, bulk: Lane = BULK, **options: object) -> Worker:
    made = Worker(lanes=(REALTIME, bulk), memory_bytes=MEMORY, **options)  # type: ignore[arg-type]
    made.assign(A=0)
    return made


def read(it: Worker, offsets: Sequence[int], mib: float = 1.0, lane: int = 1, **more: Any) -> None:
    """Read so many MiB of a lane in as many records as there are offsets."""
    it.fetch(A, chunk_of(offsets, lane=lane, num_bytes=round(mib * MIB), **more))


def fill(it: Worker, chunks: int, start: int = 0, **more: Any) -> None:
    """Read chunks of ten bulk records and 1 MiB each."""
    for first in range(start, start + 10 * chunks, 10):
        read(it, range(first, first + 10), **more)


@pytest.fixture
def spilled() -> Worker:
    """A hundred and twenty records were read; tails that are too long are on disk."""
    it = worker()
    fill(it, 12)
    it.flush()
    return it


def test_what_is_above_the_share_goes_to_disk_and_comes_back_in_order(spilled: Worker) -> None:
    assert spilled.counts()["spilled"] > 0

    assert spilled.work() == list(range(120))
    assert spilled.counts() == {"read": 120, "settled": 120}
    assert spilled.commit()[A] == 120
    assert spilled.disk == {}
    assert spilled.memory.held_bytes == 0


def test_urgent_records_behind_a_backlog_are_served_before_it() -> None:
    it = worker(seats=2)
    fill(it, 12)
    it.flush()

    read(it, [500], mib=0.01, lane=0)

    assert only_offsets(it.running[-1]) == [500]
    assert it.counts()["spilled"] > 0


def test_memory_keeps_to_its_share_however_long_the_backlog_is() -> None:
    it = worker()
    for first in range(0, 2000, 10):
        read(it, range(first, first + 10))
        it.flush()
        assert it.memory.held_bytes <= SHARE + 3 * MIB

    assert it.work() == list(range(2000))


def test_nothing_that_is_on_disk_may_be_committed(spilled: Worker) -> None:
    first = min(frame.scan_lo for frame in spilled.disk)
    spilled.drain_memory()

    assert spilled.commit()[A] <= first


def test_what_follows_waits_behind_what_is_on_disk(spilled: Worker) -> None:
    spilled.drain_memory()
    read(spilled, range(120, 130), mib=0.01)

    assert spilled.work() == list(range(130))


def test_what_is_still_in_memory_when_its_turn_comes_never_sees_the_disk() -> None:
    it = worker()
    fill(it, 4)
    read(it, [50], mib=0.5)  # in a line, but the tail is not too long

    assert it.work() == [*range(40), 50]
    assert it.disk == {}
    assert it.counts() == {"read": 41, "settled": 41}


def test_a_partition_that_by_rule_has_nothing_more_urgent_is_not_read_instead() -> None:
    it = worker(ranks_of={"orders": frozenset({1})})
    fill(it, 12)

    assert it.writes == []
    assert it.counts()["held"] == 110


def test_of_two_lanes_that_spill_the_higher_is_reached_behind_the_lower() -> None:
    lanes = (REALTIME, Lane("middle", overflow=Spill("1GiB")), BULK)
    it = Worker(lanes=lanes, memory_bytes=MEMORY, ranks_of={"orders": frozenset({1, 2})})
    it.assign(A=0)
    for first in range(0, 60, 10):
        it.fetch(A, chunk_of(range(first, first + 10), lane=2, num_bytes=MIB))
    assert [write.lane for write in it.writes] == [2] * len(it.writes) != []

    it.flush()
    for first in range(60, 120, 10):  # now both are above their share: Kafka keeps the rest
        it.fetch(A, chunk_of(range(first, first + 10), lane=1, num_bytes=MIB))
    assert it.writes == []


# The disk says no.


def test_what_the_disk_does_not_take_stays_in_memory_and_in_order() -> None:
    it = worker()
    fill(it, 12)
    while it.writes:
        it.refuse_write()
    assert it.counts()["held"] == 110

    it.now_ns += 2 * SECOND
    it.watch_disk(1, accepts=True)
    assert it.writes
    assert it.work() == list(range(120))


def test_a_partition_that_cannot_be_read_because_the_disk_is_full_is_said_to_block() -> None:
    it = worker()
    fill(it, 12)
    while it.writes:
        it.refuse_write("20 GiB of its 20 GiB on disk are used")
    assert it.memory.reserve([(A, 1)]).shares == {}

    state, why = it.state()

    assert state == "hol_blocked"
    assert why is not None and "20 GiB of its 20 GiB on disk are used" in why
    assert "orders[0] is not fetched" in why


def test_a_disk_that_does_not_answer_is_said_and_counts_as_full() -> None:
    it = worker(bulk=Lane("bulk", overflow=[Spill("1GiB"), Shed()]))
    fill(it, 12)
    it.wait(4000)
    assert it.state()[0] != "hol_blocked"
    assert "shed" not in it.counts()

    it.wait(2000)
    it.wait(100)
    assert it.counts()["shed"] > 0

    it.flush()
    it.wait(100)
    assert "has not answered" not in (it.state()[1] or "")


def test_a_read_that_does_not_come_back_is_said(spilled: Worker) -> None:
    spilled.drain_memory()
    spilled.wait(6000)

    state, why = spilled.state()

    assert state == "spilling"
    assert why is not None and "the disk has not answered for 6 s" in why
    asked = spilled.reads.pop()
    spilled.lose(asked)
    spilled.wait(60_000)  # now it is Kafka that has to answer
    assert "has not answered" not in (spilled.state()[1] or "")


def test_after_a_refusal_the_disk_is_not_asked_at_once_again() -> None:
    it = worker()
    fill(it, 12)
    it.refuse_write(accepts=True)
    while it.writes:
        it.refuse_write(accepts=True)

    it.wait(100)
    assert it.writes == []
    it.wait(1000)
    assert it.writes


def test_policies_behind_it_act_only_when_the_disk_takes_no_more() -> None:
    it = worker(bulk=Lane("bulk", overflow=[Spill("1GiB"), Shed()]))
    fill(it, 12)
    it.flush()
    it.wait(200)
    assert "shed" not in it.counts()

    it.watch_disk(1, accepts=False, why="full")
    fill(it, 6, start=120)
    it.wait(200)
    assert it.work()[-1] == 179


def test_while_it_spills_what_is_read_back_is_conflated_if_the_lane_is() -> None:
    keys = [b"k%d" % (row % 2) for row in range(10)]
    it = worker(bulk=Lane("bulk", overflow=[Spill("1GiB"), Conflate()]))
    fill(it, 12, keys=keys)
    it.flush()
    it.wait(200)
    it.work()

    found = it.counts()
    assert found["conflated"] > 0
    assert found["settled"] + found["conflated"] == 120
    assert it.seen == sorted(it.seen) and it.seen[-1] == 119
    assert it.commit()[A] == 120


# The disk loses something.


def test_what_the_disk_has_lost_is_read_again_and_comes_in_its_place(spilled: Worker) -> None:
    spilled.drain_memory()
    asked = spilled.reads.pop()
    blocks = [[*map(copy_of, block)] for block in spilled.disk[asked.frame]]
    spilled.lose(asked)
    assert spilled.counts()["refetching"] == asked.frame.records
    read(spilled, range(120, 130), mib=0.01)

    spilled.restore(asked, blocks)

    assert spilled.work() == list(range(130))
    assert spilled.counts() == {"read": 130, "settled": 130}


def test_what_kafka_has_lost_as_well_is_counted_and_logged(spilled: Worker) -> None:
    spilled.drain_memory()
    asked = spilled.reads.pop()
    spilled.lose(asked)
    spilled.restore(asked, [])
    spilled.work()

    gone = asked.frame.records
    assert spilled.counts() == {"read": 120, "settled": 120 - gone, "expired": gone}
    (said,) = spilled.unprocessed
    assert list(said.ranges) == [(asked.frame.scan_lo, asked.frame.scan_hi)]
    assert "neither the spill directory nor Kafka" in said.why
    assert spilled.commit()[A] == 120


# Rebalances.


def test_what_is_on_disk_of_a_partition_that_went_away_is_kept_for_its_return(
    spilled: Worker,
) -> None:
    spilled.drain_memory()
    asked = spilled.reads[0]
    spilled.revoke(A)

    (frames,) = spilled.parked
    assert list(frames) == sorted(spilled.disk, key=lambda each: each.scan_lo)
    assert frames[0] == asked.frame
    found = spilled.counts()
    assert found["read"] == found["settled"] + found["released"]


def test_what_the_disk_says_of_a_partition_that_went_away_changes_nothing() -> None:
    it = worker()
    fill(it, 12)
    late = it.writes[0]
    it.write(it.writes[1]) if len(it.writes) > 1 else None
    it.revoke(A)
    before = it.counts()
    it.write(late)

    assert it.counts() == before
    assert not [frame for frame in it.disk if frame.scan_lo == late.scan_lo]


def adopted(it: Worker, watermark: int, *, realtime: int | None = None) -> Worker:
    """Return a worker that begins with what another one has left on disk."""
    frames = sorted(it.disk, key=lambda each: each.scan_lo)
    later = Worker(lanes=(REALTIME, BULK), memory_bytes=MEMORY)
    later.disk = dict(it.disk)
    later.tell(
        Assigned(
            offsets={A: watermark},
            watermarks={A: (watermark if realtime is None else realtime, watermark)},
            spilled={A: [FrameQueue("bulk", A, frames)]},
            at_ns=later.now_ns,
        )
    )
    return later


def test_a_restart_uses_what_is_on_disk_and_reads_only_what_is_not(spilled: Worker) -> None:
    on_disk = sorted(spilled.disk, key=lambda each: each.scan_lo)
    first, end = on_disk[0].scan_lo, on_disk[-1].scan_hi
    it = adopted(spilled, 0, realtime=1000)
    assert it.reading[A][0] == 0
    assert it.counts() == {"read": end - first, "spilled": end - first}

    for low in range(0, first, 10):
        read(it, range(low, low + 10))

    assert [seek.offset for seek in it.seeks] == [end]
    for low in range(end, 150, 10):
        read(it, range(low, low + 10))
    assert it.work() == list(range(150))
    assert it.counts() == {"read": 150, "settled": 150}
    assert it.commit()[A] == 150


def test_where_another_lane_has_to_be_read_again_what_is_on_disk_is_left_out(
    spilled: Worker,
) -> None:
    end = max(frame.scan_hi for frame in spilled.disk)
    it = adopted(spilled, 0)
    for low in range(0, 150, 10):
        read(it, range(low, low + 10), mib=0.3)
        read(it, [low + 9], mib=0.01, lane=0) if low >= end else None

    assert it.seeks == []
    assert it.work() == list(range(150))
    assert it.counts() == {"read": 150, "settled": 150}


def test_what_was_finished_of_a_frame_before_is_not_done_again(spilled: Worker) -> None:
    first = min(frame.scan_lo for frame in spilled.disk)
    it = adopted(spilled, first + 5, realtime=1000)
    end = max(frame.scan_hi for frame in spilled.disk)

    assert it.reading[A][0] == end
    assert it.work() == list(range(first + 5, end))
    assert it.counts()["skipped"] == 5
    assert it.commit()[A] == end


# Kafka forgets.


def test_the_lane_says_when_kafka_will_soon_delete_what_waits(spilled: Worker) -> None:
    for step in range(5):
        spilled.now_ns += 30 * SECOND
        spilled.tell(LogsBegin(starts={A: step}, at_ns=spilled.now_ns))

    state, why = spilled.state()

    assert state == "pinned"  # the log begins behind offset 0, which is with the agent
    assert why is not None and "all that has them" in why

    while spilled.commit()[A] < 10:
        spilled.serve()
    state, why = spilled.state()
    assert state == "spilling"
    assert why is not None and "Kafka deletes unfinished records of orders[0] in about" in why


def test_what_kafka_has_deleted_is_kept_on_disk_whatever_happens(spilled: Worker) -> None:
    spilled.tell(LogsBegin(starts={A: 1}, at_ns=spilled.now_ns))
    spilled.revoke(A)

    assert spilled.pinned == [True]


def test_what_comes_before_what_is_on_disk_holds_the_watermark_until_it_was_read(
    spilled: Worker,
) -> None:
    it = adopted(spilled, 0, realtime=1000)
    assert it.engine.commit_points()[A].watermarks == (1000, 0)

    read(it, range(10), mib=0.1)
    it.serve()

    assert it.engine.commit_points()[A].watermarks == (1000, 10)


def test_a_watermark_in_the_middle_of_a_frame_does_not_go_back(spilled: Worker) -> None:
    first = min(frame.scan_lo for frame in spilled.disk)
    it = adopted(spilled, first + 5, realtime=1000)

    assert it.commit()[A] == first + 5


def test_what_was_read_before_reading_went_on_behind_what_is_on_disk_is_left_out(
    spilled: Worker,
) -> None:
    on_disk = sorted(spilled.disk, key=lambda each: each.scan_lo)
    first, end = on_disk[0].scan_lo, on_disk[-1].scan_hi
    it = adopted(spilled, 0, realtime=1000)
    for low in range(0, first + 20, 10):  # two responses were under way
        read(it, range(low, low + 10), mib=0.1)
    assert [seek.offset for seek in it.seeks] == [end]

    assert it.work() == list(range(end))
    assert it.counts() == {"read": end, "settled": end}
    assert it.memory.held_bytes == 0


def test_reading_goes_on_behind_the_frames_of_the_lane_that_has_the_shortest() -> None:
    lanes = (REALTIME, Lane("middle", overflow=Spill("1GiB")), BULK)
    it = Worker(lanes=lanes, memory_bytes=MEMORY)
    frames = {rank: frame(lane, low, high) for rank, lane, low, high in FRAMES}
    it.disk = {
        each: [[chunk_of(range(each.scan_lo, each.scan_hi), lane=rank)]]
        for rank, each in frames.items()
    }
    it.tell(
        Assigned(
            offsets={A: 0},
            watermarks={A: (1000, 140, 0)},
            spilled={A: [FrameQueue(each.lane, A, [each]) for each in frames.values()]},
            at_ns=it.now_ns,
        )
    )

    assert it.reading[A][0] == 150
    bulk = chunk_of([*range(150, 160), *range(161, 200)], lane=2)
    it.fetch(A, chunk_of([160], lane=1), bulk, next_offset=200)
    assert sorted(it.work()) == sorted([*range(200), *range(140, 150), 160])
    assert it.commit()[A] == 200
    assert it.disk == {}


#: Rank, lane, and range of what is on disk of two lanes.
FRAMES = ((1, "middle", 130, 150), (2, "bulk", 0, 200))


def frame(lane: str, low: int, high: int) -> Frame:
    """Return a frame that has each offset of a range."""
    return Frame(
        lane, A, 0, 0, 4096, 100 * (high - low), 100 * (high - low), high - low, low, high,
        EPOCH_MS, EPOCH_MS, 0,
    )  # fmt: skip


# Too old.


def test_frames_that_are_too_old_leave_without_being_read() -> None:
    it = worker(bulk=Lane("bulk", overflow=Spill("1GiB", ttl="10s")), epoch_ms=EPOCH_MS)
    fill(it, 12)
    it.flush()
    on_disk = it.counts()["spilled"]
    it.epoch_ms = EPOCH_MS + 11_000
    it.wait(100)

    assert it.counts()["expired"] == on_disk
    assert it.disk == {}
    assert it.reads == []
    assert sum(each.count for each in it.unprocessed) == on_disk
    it.work()
    assert it.commit()[A] == 120


# What is shown.


def test_the_state_says_how_much_waits_on_disk(spilled: Worker) -> None:
    state, why = spilled.state()

    assert state == "spilling"
    assert why is not None
    assert why.startswith(f"{spilled.counts()['spilled']} records (")


def test_the_age_of_a_lane_counts_what_is_on_disk() -> None:
    it = worker()
    fill(it, 12, timestamps=[EPOCH_MS - 5_000] * 10)
    it.flush()
    it.drain_memory()
    it.read_back()
    shown = snapshot_of(it.engine, now_ns=it.now_ns, epoch_ms=EPOCH_MS).lanes[1]

    assert shown.oldest_age == 5.0
    assert shown.spilled_bytes == sum(frame.stored_bytes for frame in it.disk)
