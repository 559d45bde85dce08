"""What is unavailable holds an agent; a fallback stands in on its three occasions."""

from __future__ import annotations

from typing import Any

from flowguard.commands import Cut
from flowguard.facts import Ticked
from flowguard.serving import Serving
from flowguard.situation import snapshot_of
from flowguard.units import MILLISECOND
from tests.builders import EPOCH_MS, A, B, C, EngineDriver, chunk_of, only_offsets


def driver(*on: str, seats: int = 1, **options: Any) -> EngineDriver:
    """Return a worker with three partitions; `on` are the occasions of its fallback."""
    made = EngineDriver(seats=seats, fallback_on=frozenset(on), **options)
    made.assign(A=0, B=0, C=0)
    return made


def serving(d: EngineDriver) -> Serving:
    return d.engine.views["agent"].serving


def lane_of(d: EngineDriver, rank: int) -> tuple[str, str | None]:
    lane = snapshot_of(d.engine, now_ns=d.now_ns, epoch_ms=EPOCH_MS).lanes[rank]
    return lane.state, lane.why


def taught(d: EngineDriver, service_ms: int, batches: int = 5) -> None:
    """Let the agent take so long for some batches, so that its p95 is known."""
    for number in range(batches):
        (cut,) = d.records(A, [1_000_000 + number], lane=1)
        d.wait(service_ms)
        d.finish(cut)


# Unavailable.


def test_what_is_unavailable_counts_as_no_attempt() -> None:
    d = driver()
    (cut,) = d.records(A, range(4))
    for _ in range(20):
        d.refuse(cut)
        (again,) = d.wait(10_000)
        assert again is cut and cut.attempt == 1 and cut.again
    d.finish(cut)
    assert d.commit()[A] == 4
    assert d.counts(1) == {"read": 4, "settled": 4}


def test_what_refuses_one_of_many_holds_only_that_one() -> None:
    d = driver(seats=3)
    for name in (A, B, C):
        d.records(name, range(4))
    first, second, third = d.running
    d.finish(first)

    d.refuse(second)
    assert serving(d).primary.over
    assert d.fresh(A, [4], 1)
    d.finish(third)
    (again,) = d.wait(100)

    assert again is second and again.attempt == 1


def test_a_fallback_serves_at_once_what_one_of_many_is_refused() -> None:
    d = driver("failure", seats=3)
    for name in (A, B):
        d.records(name, range(4))
    first, second = d.running
    d.finish(first)

    (again,) = d.refuse(second)

    assert again is second and again.degraded == "failure"
    assert serving(d).primary.over


def test_an_ordinary_failure_counts_beside_it() -> None:
    d = driver()
    (cut,) = d.records(A, [0])
    d.fail(cut)
    (cut,) = d.wait(10_000)
    d.refuse(cut)
    (cut,) = d.wait(10_000)
    assert cut.attempt == 2


def test_one_batch_looks_and_the_others_wait_for_it() -> None:
    d = driver(seats=3)
    cuts = [*d.records(A, range(4)), *d.records(B, range(4)), *d.records(C, range(4))]
    assert len(cuts) == 3
    for cut in cuts:
        d.refuse(cut)
    (probe,) = d.wait(100)
    assert d.wait(60_000) == [], "nothing but the probe"
    d.refuse(probe)
    (other,) = d.wait(200)
    assert other is not probe, "they take turns"
    rest = d.finish(other)
    assert {each.batch_id for each in rest} == {each.batch_id for each in cuts if each is not other}


def test_nothing_new_is_started_while_something_is_missing() -> None:
    d = driver(seats=3)
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    assert d.records(B, range(4)) == []
    assert d.records(C, range(4), lane=0) == []
    assert d.engine.due_ns == d.now_ns + 100 * MILLISECOND
    (probe,) = d.wait(100)
    assert probe is cut
    assert d.engine.due_ns is None, "only the probe's end changes anything"
    started = d.finish(probe)
    assert {only_offsets(each)[0] for each in started} == {0} and len(started) == 2


def test_a_batch_that_was_under_way_proves_nothing() -> None:
    d = driver(seats=2)
    (first,), (second,) = d.records(A, range(4)), d.records(B, range(4))
    d.refuse(first)
    d.finish(second)
    assert d.records(C, range(4)) == []


def test_it_may_say_how_long_to_wait() -> None:
    d = driver()
    (cut,) = d.records(A, range(4))
    d.refuse(cut, retry_after_ns=30_000 * MILLISECOND)
    assert d.wait(29_900) == []
    assert d.wait(4_000) == [cut]


def test_another_error_of_the_probe_ends_the_outage_and_counts() -> None:
    d = driver(seats=2)
    (cut,) = d.records(A, [0])
    d.refuse(cut)
    d.records(B, range(4))
    (probe,) = d.wait(100)
    (new,) = d.fail(probe)
    assert new is not probe
    (again,) = d.wait(100)
    assert again is probe and probe.attempt == 2


def test_when_what_was_held_is_revoked_a_new_batch_looks() -> None:
    d = driver()
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    d.records(B, range(4))
    d.revoke(A)
    (probe,) = d.wait(100)
    assert probe.batch_id != cut.batch_id
    d.finish(probe)
    assert serving(d).primary.over


def test_a_probe_whose_partition_goes_away_still_ends_the_outage() -> None:
    d = driver(seats=2)
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    (probe,) = d.wait(100)
    d.revoke(A)
    assert d.records(B, range(4)) == []
    (new,) = d.finish(probe)
    assert only_offsets(new) == [0, 1, 2, 3]


def test_a_refused_probe_whose_partition_goes_away_leaves_no_probe_behind() -> None:
    d = driver(seats=2)
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    (probe,) = d.wait(100)
    d.revoke(A)
    d.refuse(probe)
    d.records(B, range(4))
    assert len(d.wait(10_000)) == 1


def test_lanes_say_what_they_wait_for() -> None:
    d = driver(seats=2)
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    d.records(B, range(4), lane=0)
    assert lane_of(d, 1) == ("stopped", "orders[0] waits: Unavailable; next probe in 0.1 s")
    assert lane_of(d, 0) == ("stopped", "agent starts nothing: Unavailable; next probe in 0.1 s")
    d.wait(100)
    assert lane_of(d, 0)[1] == "agent starts nothing: Unavailable; a batch looks whether it is back"
    d.finish(d.running[0])
    assert lane_of(d, 0)[0] == "ok"


# Failure.


def test_the_fallback_serves_while_something_is_missing() -> None:
    d = driver("failure", seats=2)
    (cut,) = d.records(A, range(4))
    (again,) = d.refuse(cut)
    assert again is cut and cut.degraded == "failure" and cut.attempt == 1
    (new,) = d.records(B, range(4), lane=0)
    assert new.degraded == "failure"
    assert lane_of(d, 0)[0] == "brownout"
    d.finish(cut)
    d.finish(new)
    assert d.engine.books[1].degraded == 4 and d.engine.books[0].degraded == 4
    assert d.counts(1) == {"read": 4, "settled": 4}


def test_meanwhile_one_batch_now_and_then_looks_whether_it_is_back() -> None:
    d = driver("failure")
    (cut,) = d.records(A, range(4))
    d.refuse(cut)
    d.finish(cut)
    d.wait(100)
    (probe,) = d.records(A, range(4, 8))
    assert probe.degraded == ""
    (again,) = d.refuse(probe)
    assert again is probe and probe.degraded == "failure"
    d.finish(probe)
    d.wait(200)
    (probe,) = d.records(A, range(8, 12))
    d.finish(probe)
    (cut,) = d.records(A, range(12, 16))
    assert cut.degraded == "" and serving(d).primary.over


def test_a_fallback_that_does_not_stand_in_for_failures_is_not_asked() -> None:
    d = driver("brownout", "deadline")
    (cut,) = d.records(A, range(4))
    assert d.refuse(cut) == []


def test_a_sink_that_is_missing_is_missing_for_the_fallback_as_well() -> None:
    d = driver("failure", seats=2)
    (cut,) = d.records(A, range(4))
    assert d.refuse(cut, common=True) == []
    assert d.records(B, range(4)) == []
    (probe,) = d.wait(100)
    assert probe.degraded == ""
    d.refuse(probe)  # now it is the agent's own dependency that is missing
    assert {each.degraded for each in d.running} == {"failure"}


def test_a_fallback_whose_sink_is_missing_waits_too() -> None:
    d = driver("failure")
    (cut,) = d.records(A, range(4))
    (again,) = d.refuse(cut)
    assert d.refuse(again, common=True) == []
    (probe,) = d.wait(100)
    assert probe.degraded == ""


def test_after_five_failures_the_fallback_tries_and_then_both_in_turn() -> None:
    d = driver("failure")
    (cut,) = d.records(A, [0])
    served = [cut.degraded]
    for _ in range(9):
        d.fail(cut, transient=True)  # it may be anything: nothing else has succeeded
        (cut,) = d.wait(20_000)
        served.append(cut.degraded)
    assert served == [""] * 5 + ["failure", "", "failure", "", "failure"]
    assert cut.attempt == 10
    d.finish(cut)
    assert d.engine.books[1].degraded == 1


def test_what_the_fallback_fails_with_too_becomes_a_dead_letter() -> None:
    d = driver("failure")
    (cut,) = d.records(A, [0])
    for _ in range(5):
        d.fail(cut)
        assert d.burying == []
        (cut,) = d.wait(20_000)
    assert cut.degraded == "failure"
    d.fail(cut)
    assert d.burying == [cut] and cut.attempt == 6


def test_a_fallback_that_fails_counts_and_its_batch_is_the_primarys_again() -> None:
    d = driver("failure")
    (cut,) = d.records(A, [0])
    d.refuse(cut)
    d.fail(cut)
    (cut,) = d.wait(10_000)
    assert cut.degraded == "" and cut.attempt == 2, "a probe is due"


def test_a_fallback_that_is_unavailable_itself_has_a_probe_of_its_own() -> None:
    d = driver("failure", seats=2)
    (cut,) = d.records(A, range(4))
    (cut,) = d.refuse(cut)
    assert d.refuse(cut) == []
    assert d.records(B, range(4)) == []
    started = d.wait(100)
    assert sorted(each.degraded for each in started) == ["", "failure"]
    assert all(each.attempt == 1 for each in started)


# Deadline.


def test_a_batch_with_less_time_than_the_agent_takes_goes_to_the_fallback() -> None:
    d = driver("deadline")
    taught(d, service_ms=40)
    fresh = chunk_of([0], partition=B, lane=0)
    fresh.born_ns = d.now_ns - 5 * MILLISECOND
    (cut,) = d.fetch(B, fresh)
    assert cut.degraded == "", "45 ms are left"
    d.finish(cut)
    late = chunk_of([1], partition=B, lane=0)
    late.born_ns = d.now_ns - 20 * MILLISECOND
    (cut,) = d.fetch(B, late)
    assert cut.degraded == "deadline", "30 ms are left, it takes 40"


def test_the_oldest_record_of_a_slice_decides() -> None:
    d = driver("deadline", records_max=1)
    taught(d, service_ms=40)
    two = chunk_of([0, 1], partition=B, lane=0, timestamps=[EPOCH_MS, EPOCH_MS + 15])
    two.born_ns, two.fetched_ns = d.now_ns - 20 * MILLISECOND, d.now_ns
    (first,) = d.fetch(B, two)
    assert first.degraded == "deadline"
    (second,) = d.finish(first)
    assert second.degraded == "", "its record is 5 ms old"


def test_headers_name_deadlines_once_the_wall_clock_is_known() -> None:
    d = driver("deadline")
    taught(d, service_ms=40)
    d.tell(Ticked(at_ns=d.now_ns, epoch_ms=EPOCH_MS + 5))

    def batch_due_in(offset: int, value: bytes) -> Cut:
        headers = [[(b"fg-deadline-ms", value)]]
        (cut,) = d.fetch(B, chunk_of([offset], partition=B, lane=1, headers=headers))
        d.finish(cut)
        return cut

    assert batch_due_in(0, b"%d" % (EPOCH_MS + 44)).degraded == "deadline"
    assert batch_due_in(1, b"%d" % (EPOCH_MS + 46)).degraded == ""
    for number, garbage in enumerate([b"soon", b"", b"\xff", b"9" * 30], 2):
        assert batch_due_in(number, garbage).degraded == ""
    assert batch_due_in(6, b"-1").degraded == "deadline"


def test_nothing_is_late_before_it_is_known_what_a_batch_takes() -> None:
    d = driver("deadline")
    (cut,) = d.records(A, [0], lane=0)
    assert cut.degraded == ""


def test_what_a_fallback_takes_teaches_nothing() -> None:
    d = driver("deadline")
    taught(d, service_ms=40)
    before = d.engine.views["agent"].service_ns, d.engine.views["agent"].sizes.common.records
    (cut,) = d.records(B, range(4), lane=0)
    assert cut.degraded == "deadline"
    d.wait(5_000)
    d.finish(cut)
    view = d.engine.views["agent"]
    assert (view.service_ns, view.sizes.common.records) == before
    assert serving(d).times.percentile_ns(95, d.now_ns) == 40 * MILLISECOND


# Brownout.


def test_a_brownout_takes_its_share_evenly() -> None:
    d = driver("brownout")
    serving(d).shares[1] = 0.4
    served = []
    for number in range(20):
        (cut,) = d.records(A, [number])
        served.append(cut.degraded)
        d.finish(cut)
    assert served.count("brownout") == 8
    assert all(served[start : start + 5].count("brownout") == 2 for start in range(0, 20, 5))


def test_a_brownout_leaves_other_lanes_and_retries_alone() -> None:
    d = driver("brownout")
    serving(d).shares[1] = 1.0
    (cut,) = d.records(A, [0], lane=0)
    assert cut.degraded == ""
    d.finish(cut)
    (cut,) = d.records(A, [1], lane=1)
    assert cut.degraded == "brownout"
    d.fail(cut)
    (cut,) = d.wait(100)
    assert cut.degraded == "" and cut.attempt == 2


def test_without_a_fallback_nothing_is_degraded() -> None:
    d = driver()
    serving(d).shares[1] = 1.0
    taught(d, service_ms=40)
    (cut,) = d.records(B, [0], lane=0)
    assert cut.degraded == ""


def test_degraded_counts_only_what_the_fallback_served_itself() -> None:
    d = driver("brownout")
    serving(d).shares[1] = 1.0
    (cut,) = d.records(A, range(10))
    d.finish(cut, dead_letters=3)
    assert d.engine.books[1].degraded == 7
    assert d.counts(1) == {"read": 10, "settled": 7, "dead_letters": 3}
