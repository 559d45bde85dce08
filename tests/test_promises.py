"""The promises of the contract (API §2) that this version makes: which test breaks with each.

Each test here is the shortest form of its promise and names the tests that go deeper. That
each of them fails when its promise is broken was proved by breaking it (`MUTATIONS`):
`pytest tests/test_promises.py -m slow` does it again, on a copy of the package.

7 (elastic, below a second) needs parts that only a real broker shows.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowguard.agents.delivered import Delivered
from flowguard.control.memory import MemoryBudget
from flowguard.facts import Assigned, Found
from flowguard.intake.assignment import Claim, Shares, share_out
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Conflate, Divert, Shed, Spill
from flowguard.spill.manifest import FrameQueue
from flowguard.units import KIB, MIB
from tests.builders import BULK, REALTIME, A, B, EngineDriver, chunk_of, only_offsets
from tests.simulator.small import in_full, ran, scenario_of

ROOT = Path(__file__).resolve().parent.parent


class Told:
    """What the engine is told of a batch."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def returned(self, batch_id: int, **_: Any) -> None:
        self.names.append("returned")

    def finished(self, batch_id: int, dead_letters: Any, nacked: Any = None) -> None:
        self.names.append("finished")

    def failed(self, batch_id: int, error: BaseException, *, found: Any = None) -> None:
        self.names.append("failed")


def delivered_to(told: Told) -> Delivered:
    """Return a batch in an agent's hands."""
    batch: Any = SimpleNamespace(nack_all=None, rejections={}, nacks={})

    async def bury(_: Any) -> None:
        """There is nothing to bury."""

    return Delivered(1, batch, dead_letters=(), outcome=told, bury=bury)


def driver(**options: Any) -> EngineDriver:
    made = EngineDriver(**options)
    made.assign(A=0, B=0)
    return made


# 1. At least once. Deeper: unit/agents/test_agent.py, unit/settle/test_ledger.py,
#    stateful/test_engine.py, simulator/test_small_run.py (crash).


async def test_promise_1_nothing_is_finished_before_all_that_was_sent_is_acknowledged() -> None:
    told, sent = Told(), asyncio.get_running_loop().create_future()
    delivered = delivered_to(told)

    delivered.hold(sent)
    delivered.returned()
    assert told.names == ["returned"]
    sent.set_result(None)
    await asyncio.sleep(0)

    assert told.names == ["returned", "finished"]


async def test_promise_1_an_exception_is_a_failure_never_an_acknowledgement() -> None:
    told = Told()

    delivered_to(told).failed(ValueError())

    assert told.names == ["failed"]


def test_promise_1_of_a_batch_that_is_done_in_part_no_more_is_committed() -> None:
    d = driver(records_max=10)
    (cut,) = d.records(A, range(10), 1)

    d.fail(cut, found=Found(done=4, failing=2))

    assert d.commit()[A] == 4


def test_promise_1_offsets_are_committed_only_below_the_first_unfinished_record() -> None:
    d = driver(seats=2, order="none", records_max=5)
    first, second = d.records(A, range(10), 1)

    d.finish(second)
    assert d.commit()[A] == 0
    d.finish(first)

    assert d.commit()[A] == 10


def test_promise_1_a_crash_loses_nothing() -> None:
    crash = "[[faults]]\nat = '300ms'\ntarget = 'worker'\ntype = 'crash'\nrestart = '50ms'\n"

    world, _ = ran(scenario_of(more=crash, commit="50ms"))

    assert world.watch.violations == []
    assert in_full(world)


# 2. Nothing is dropped in silence. Deeper: `EngineDriver.check` after every fact of
#    unit/test_engine.py and stateful/test_engine.py.


def test_promise_2_the_counts_of_a_lane_balance_whatever_happens() -> None:
    d = driver(seats=2)
    (first,) = d.records(A, range(5), 1)
    (second,) = d.records(B, range(7), 1)
    d.fail(first)
    d.finish(second, dead_letters=3)
    d.records(B, range(7, 9), 1)
    d.revoke(A)

    assert d.counts(1) == {
        "read": 14, "settled": 4, "dead_letters": 3, "in_flight": 2, "released": 5,
    }  # fmt: skip


def overflowing(*policies: Any, **options: Any) -> EngineDriver:
    """Return a worker with records of a lane that are too many: 50 of 100 KiB in 16 MiB."""
    lanes = (REALTIME, Lane("hints", overflow=list(policies), max_age="10s"))
    d = driver(lanes=lanes, memory_bytes=16 * MIB, **options)
    d.fresh(B, [0], 1)
    for start in range(0, 50, 10):
        keys = [b"%d" % (number % 45) for number in range(start, start + 10)]
        d.fresh(A, range(start, start + 10), 1, num_bytes=10 * 100 * KIB, keys=keys)
    return d


@pytest.mark.parametrize("policy", [Shed(), Conflate(), Divert("later")])
def test_promise_2_what_leaves_without_an_agent_is_counted_and_its_offsets_are_logged(
    policy: Any,
) -> None:
    d = overflowing(policy)  # counts are balanced after every fact, or `check` fails
    while d.diverting:
        d.acknowledge(d.diverting[0])
    d.wait(11_000)

    counts = d.counts(1)
    outcomes = ("shed", "conflated", "diverted", "expired")
    logged = [offset for outcome in outcomes for offset in d.left(outcome)]
    assert sorted(logged) == list(range(50))
    assert sum(counts.get(outcome, 0) for outcome in outcomes) == len(logged)
    assert len([outcome for outcome in outcomes if counts.get(outcome)]) == 2
    assert d.commit()[A] == 50


def spilling(chunks: int = 12) -> EngineDriver:
    """Return a worker whose disk has some of a lane: chunks of ten records, 1 MiB each.

    Of its 16 MiB the lane has 3.5.
    """
    d = driver(lanes=(REALTIME, Lane("bulk", overflow=Spill("1GiB"))), memory_bytes=16 * MIB)
    for start in range(0, 10 * chunks, 10):
        d.fetch(A, chunk_of(range(start, start + 10), lane=1, num_bytes=MIB))
        while d.writes:
            d.write()
    return d


def serve(d: EngineDriver) -> list[int]:
    """Let agents and disk go on until nothing moves; return the offsets that were served."""
    served: list[int] = []
    while d.running or d.reads:
        if d.running:
            served += only_offsets(d.running[0])
            d.finish(d.running[0])
        else:
            d.read_back()
    return served


def test_promise_2_what_is_on_disk_or_read_again_is_counted_as_that() -> None:
    d = spilling()
    on_disk = d.counts(1)["spilled"]
    while not d.reads:
        d.finish(d.running[0])
    lost = d.reads.pop()
    assert d.counts(1)["spilled"] == on_disk  # until it is back

    d.lose(lost)
    records = lost.frame.records
    assert (d.counts(1)["spilled"], d.counts(1)["refetching"]) == (on_disk - records, records)
    d.restore(lost, [])  # Kafka has lost it too

    serve(d)
    assert d.counts(1) == {"read": 120, "settled": 120 - records, "expired": records}
    assert d.left("expired") == list(range(lost.frame.scan_lo, lost.frame.scan_hi))


def test_promise_2_what_is_on_disk_when_its_partition_goes_is_released() -> None:
    d = spilling()
    d.finish(d.running[0])
    d.revoke(A)

    counts = d.counts(1)
    assert counts["read"] == 120 == counts["settled"] + counts["released"]


# 3. Bounded. Deeper: unit/control/test_memory.py (property), unit/intake/test_fetcher.py
#    (`…unpacks_to_much…`), simulator (`test_memory_stays_in_its_budget…`).


def test_promise_3_columns_stay_within_their_part_however_much_a_response_unpacks_to() -> None:
    memory = MemoryBudget(4 * MIB)
    names = list(range(50))
    memory.assign(names)

    for _ in range(20):
        reservation = memory.reserve(names)
        for name in reservation.shares:
            memory.charge(name, memory.allowance(name, reservation), reservation)
        memory.settle(reservation)

    assert 0 < memory.held_bytes <= memory.columns_bytes_max < memory.memory_bytes


def test_promise_3_a_partition_that_holds_its_share_is_not_asked_for() -> None:
    memory = MemoryBudget(4 * MIB)
    memory.assign("ab")
    reservation = memory.reserve("a")
    memory.charge("a", memory.allowance("a", reservation), reservation)
    memory.settle(reservation)

    assert memory.reserve("ab").shares.keys() == {"b"}


def test_promise_3_columns_stay_within_their_part_however_long_a_lane_is_on_disk() -> None:
    d = spilling(100)

    assert d.counts(1)["spilled"] > 800
    held = []
    while d.running or d.reads:
        held.append(d.memory.held_bytes)
        d.read_back() if d.reads else d.finish(d.running[0])
    assert max(held) <= d.memory.columns_bytes_max
    assert d.counts(1) == {"read": 1000, "settled": 1000}


# 4. The directory may be deleted. Deeper: unit/test_spilling.py, stateful/test_spilling.py,
#    spill/test_faults.py, kafka/test_spill.py.


def test_promise_4_what_is_on_disk_is_not_committed() -> None:
    d = spilling()
    while d.running:
        d.finish(d.running[0])

    assert d.commit()[A] == d.reads[0].frame.scan_lo < 120


def test_promise_4_what_was_deleted_is_read_from_kafka_and_served_once_and_in_order() -> None:
    d = spilling()
    kafka = dict(d.disk)
    served: list[int] = []
    while d.running or d.reads:
        if d.reads:
            lost = d.reads.pop()
            d.lose(lost)
            d.restore(lost, kafka[lost.frame])
            continue
        served += only_offsets(d.running[0])
        d.finish(d.running[0])

    assert served == list(range(120))
    assert d.commit()[A] == 120


def test_promise_4_a_restart_that_finds_only_a_part_reads_the_rest_first() -> None:
    frames = sorted(spilling().disk.items(), key=lambda each: each[0].scan_lo)[1:]
    d = driver(lanes=(REALTIME, Lane("bulk", overflow=Spill("1GiB"))), memory_bytes=16 * MIB)
    d.disk = dict(frames)
    d.revoke(A)
    queue = FrameQueue("bulk", A, [frame for frame, _ in frames])
    d.tell(Assigned(offsets={A: 0}, spilled={A: [queue]}, at_ns=d.now_ns))

    assert d.commit()[A] == 0
    first, end = queue[0].scan_lo, queue[-1].scan_hi
    for start in range(0, first, 10):
        d.fetch(A, chunk_of(range(start, start + 10), lane=1, num_bytes=MIB // 10))
    d.fetch(A, chunk_of(range(first, end), lane=1), next_offset=end)
    assert serve(d) == list(range(end))
    assert d.commit()[A] == end


# 5. Order. Deeper: unit/test_engine.py ("Order"), stateful/test_engine.py.


def test_promise_5_a_lane_of_a_partition_waits_for_its_failed_batch() -> None:
    d = driver(seats=4, records_max=1)
    (first,) = d.records(A, range(3), 1)
    order = []

    d.fail(first)
    assert d.running == []
    d.wait(100)
    while d.running:
        order += only_offsets(d.running[0])
        d.finish(d.running[0])

    assert order == list(range(3))


def test_promise_5_nothing_more_is_started_when_a_send_of_an_earlier_batch_fails() -> None:
    d = driver(seats=4, records_max=1)
    (first,) = d.records(A, range(4), 1)
    (second,) = d.give_back(first)

    d.fail(first)
    d.finish(second)
    assert d.running == []
    d.wait(100)
    assert d.running == [first]
    assert d.give_back(first) == []
    (third,) = d.settle(first)

    assert only_offsets(third) == [2]


def test_promise_5_nothing_is_started_before_older_records_that_are_being_diverted() -> None:
    d = overflowing(Divert("later"))
    (first,) = d.running

    d.finish(first)
    assert d.running == []
    d.bounce(d.diverting[0])

    assert only_offsets(d.running[0])[0] == 0


def test_promise_5_records_that_could_not_be_diverted_come_out_before_newer_ones() -> None:
    d = overflowing(Divert("later"), records_max=4)
    order = []

    d.bounce(d.diverting[0])
    for _ in range(50):
        order += [offset for cut in d.running for offset in only_offsets(cut)]
        for cut in list(d.running):
            d.finish(cut)
        for cut in list(d.diverting):
            d.acknowledge(cut)

    assert order == sorted(order)
    assert order[:3] == [0, 0, 1]  # that of partition B, and the first of A


# 6. Priority. Deeper: property/test_scheduler.py, simulator/test_small_run.py.


def test_promise_6_a_record_waits_for_at_most_one_batch_of_a_lower_lane_a_seat() -> None:
    d = driver(seats=2, order="none", records_max=5)
    d.records(A, range(100), 1)
    d.fetch(B, chunk_of([0], partition=B, lane=0))

    (started,) = d.finish(d.running[0])

    assert started.lane == 0


def test_promise_6_a_reserve_is_never_lent() -> None:
    lanes = (Lane("realtime", reserve=0.5), BULK)
    d = driver(lanes=lanes, seats=2, order="none", records_max=5)

    d.records(A, range(100), 1)

    assert len(d.running) == 1


def test_promise_6_a_lower_lane_has_its_floor() -> None:
    d = driver(lanes=(Lane("high"), Lane("low")), order="none", records_max=5)
    d.records(A, range(500), 0)
    d.records(B, range(500), 1)
    lanes = []

    for _ in range(60):
        lanes.append(d.running[0].lane)
        d.finish(d.running[0])

    assert 1 in lanes and lanes.count(0) > lanes.count(1)


# 7. Elasticity. Deeper: unit/intake/test_assignment.py, kafka/test_membership.py, which measures
# the second.


def test_promise_7_a_worker_that_joins_stops_only_what_moves_to_it() -> None:
    alone = share_out({"orders": 4}, {"first": Claim(ORDERS)})
    claims = {"first": claim(alone, "first"), "second": Claim(ORDERS)}

    joined = share_out({"orders": 4}, claims)

    assert joined.given["second"] == set(), "their owner is still at work on them"
    assert len(joined.given["first"]) == len(joined.withheld) == 2
    claims = {name: claim(joined, name) for name in claims}
    assert share_out({"orders": 4}, claims).given == {
        "first": joined.given["first"], "second": joined.withheld,
    }  # fmt: skip


def test_promise_7_a_worker_that_leaves_stops_nothing_of_the_others() -> None:
    alone = share_out({"orders": 4}, {"first": Claim(ORDERS)})
    joined = share_out({"orders": 4}, {"first": claim(alone, "first"), "second": Claim(ORDERS)})

    left = share_out({"orders": 4}, {"first": claim(joined, "first")})

    assert left.given["first"] >= joined.given["first"] and not left.withheld


def test_promise_7_nothing_is_repeated_of_partitions_that_come_back() -> None:
    d = driver(seats=2, records_max=2)
    (at_work, *_) = d.records(A, range(4))
    d.revoking(A)

    d.assign(A=0)  # another worker came or went, this one keeps it
    d.finish(at_work)

    assert [only_offsets(cut) for cut in d.running] == [[2, 3]]
    d.finish(d.running[0])
    assert d.commit()[A] == 4


ORDERS = frozenset({"orders"})


def claim(shares: Shares, member: str) -> Claim:
    """Return what a member says of itself after it got its share."""
    return Claim(ORDERS, frozenset(shares.given[member]), generation=1)


#: Promise, file, what it says, what would break the promise.
MUTATIONS = [
    ("promise_1_nothing_is_finished", "agents/delivered.py",
     "        if self._pending:\n            return\n", ""),
    ("promise_1_an_exception", "agents/delivered.py",
     "        if self._error is not None:\n            self._outcome.failed",
     "        if False:\n            self._outcome.failed"),
    ("promise_1_of_a_batch_that_is_done_in_part", "failing.py",
     "failing = self._split(view, flight, found.done)",
     "failing = self._split(view, flight, found.done + 1)"),
    ("promise_1_offsets", "settle/ledger.py",
     "return self.runs[0].first_offset if", "return self.runs[-1].first_offset + 1 if"),
    ("promise_1_a_crash", "settle/ledger.py",
     "        return self.admit(rest_offset, run.ordinal)",
     "        return Run(rest_offset, run.ordinal)"),
    ("promise_2", "tally.py", "        counts.released += count\n", ""),
    ("promise_2_what_leaves", "leaving.py", "        if given_up.count:\n", "        if False:\n"),
    ("promise_2_what_leaves", "tally.py",
     "        setattr(counts, outcome, getattr(counts, outcome) + given_up)\n", ""),
    ("promise_2_what_is_on_disk_or", "spilling.py",
     "        counts.refetching += fact.frame.records\n", ""),
    ("promise_2_what_is_on_disk_when", "spilling.py",
     "            counts.spilled -= line.spilled_records\n", ""),
    ("promise_3_columns_stay_within_their_part_however_long", "spilling.py",
     "        while self._queued_bytes(rank) + disk.reading_bytes < low_bytes:",
     "        while True:"),
    ("promise_3_columns_stay_within_their_part_however_much", "control/memory.py",
     "        self._pool_used += max(0, before + num_bytes - own) - max(0, before - own)\n", ""),
    ("promise_3_a_partition", "control/memory.py",
     "        self._held[partition] = before + num_bytes\n", ""),
    ("promise_4_what_is_on_disk", "lines.py",
     "line.anchors = [ledger.admit(first_offset, line.ordinal) for ledger in ledgers]",
     "line.anchors = []"),
    ("promise_4_what_was_deleted", "spilling.py",
     "        line.refetching = True\n", "        line.refetching, line.reading = True, None\n"),
    ("promise_4_a_restart", "lines.py", "line.opened = False", "line.opened = True"),
    ("promise_5_a_lane", "view.py", "exclusive=self._ordered,", "exclusive=False,"),
    ("promise_5_nothing", "closures.py",
     "            self._scheduler.close(flight.cut.lane, queue)\n",
     "            self._scheduler.open(flight.cut.lane, queue)\n"),
    ("promise_5_nothing_is_started", "view.py",
     "        self.diversions.append(flight)\n        self._closures.close_for(flight)\n",
     "        self.diversions.append(flight)\n"),
    ("promise_5_records", "backlog.py",
     "self._admit(self.scheduler.put_back,", "self._admit(self.scheduler.admit,"),
    ("promise_6_a_record", "view.py",
     "    def _lane_mask(self, now_ns: int) -> int:",
     "    def _lane_mask(self, now_ns: int) -> int:\n"
     "        mask = self.all_lanes(now_ns)\n        return mask & -(1 << (mask.bit_length() - 1))"
     " if mask else 0\n\n    def all_lanes(self, now_ns: int) -> int:"),
    ("promise_6_a_reserve", "view.py", "return self.seats_free > kept", "return True"),
    ("promise_6_a_lower", "view.py", "CAP: Final = 0.8\nFLOOR: Final = 0.05",
     "CAP: Final = 0.9999\nFLOOR: Final = 0.0"),
    ("promise_7_a_worker_that_joins", "intake/assignment.py",
     "if place in contested or owner not in (None, taker):", "if place in contested:"),
    ("promise_7_a_worker_that_leaves", "intake/assignment.py",
     "for number in held[member][:target]", "for number in held[member][:0]"),
    ("promise_7_nothing_is_repeated", "engine.py",
     "held.committed.offset == offset and held.why is None", "False"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("promise", "file", "before", "after"), MUTATIONS)
def test_breaking_a_promise_breaks_its_test(
    tmp_path: Path, promise: str, file: str, before: str, after: str
) -> None:
    shutil.copytree(ROOT / "flowguard", tmp_path / "flowguard")
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / "flowguard" / file
    text = broken.read_text()
    assert before in text, f"{file} has changed; adapt the mutation"
    broken.write_text(text.replace(before, after))

    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
               "tests/test_promises.py", "-k", promise]  # fmt: skip
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1, f"nothing failed:\n{run.stdout[-2000:]}"
    assert "1 failed" in run.stdout
