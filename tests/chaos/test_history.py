"""The checker of histories, on histories that are written by hand."""

from __future__ import annotations

import pytest

from tests.chaos.history import (
    Commit,
    History,
    Letter,
    Output,
    Policy,
    Produced,
    Verdict,
    check,
)

N = 20
PARTITION = Policy(order="partition", in_flight_records=2, commit_ms=0)
KEY = Policy(order="key", in_flight_records=2, skew_records=3, commit_ms=0)
NONE = Policy(order="none", in_flight_records=2, skew_records=3, commit_ms=0)


def records(count: int = N, *, bad: frozenset[int] = frozenset()) -> dict:
    """Return records of partition 0: record n is at offset n, with one of two keys."""
    return {
        (0, n): Produced(100 + n, b"odd" if n % 2 else b"even", bad=n in bad) for n in range(count)
    }


def came(offsets, *, turn: str = "a", since_ms: int = 0) -> list[Output]:
    """Return outputs, one a millisecond."""
    return [Output(0, n, 100 + n, turn, since_ms + i) for i, n in enumerate(offsets)]


def committed(*points: tuple[int, int]) -> list[Commit]:
    """Return commits: when, and up to where."""
    return [Commit(0, offset, at_ms) for at_ms, offset in points]


def judged(outputs, commits, *, policy: Policy = PARTITION, letters=(), bad=()) -> Verdict:
    produced = records(bad=frozenset(bad))
    return check(History(produced, outputs, letters, commits), policy)


def test_a_run_in_which_all_goes_well_has_no_anomaly():
    verdict = judged(came(range(N)), committed((10, 9), (30, N)))

    assert verdict.anomalies == [] and verdict.names == set()
    assert (verdict.records, verdict.outputs, verdict.duplicates) == (N, N, 0)
    assert "anomalies: none" in verdict.line


def test_a_worker_that_is_killed_may_repeat_what_was_not_committed():
    outputs = [*came(range(12)), *came(range(8, N), turn="b", since_ms=100)]

    verdict = judged(outputs, committed((9, 8), (200, N)))

    assert verdict.names == set()
    assert verdict.duplicates == 4
    assert verdict.most_repeated == (4, 2 + 2)  # in flight, and what came after the commit


def test_a_dead_letter_is_an_end():
    outputs = came(n for n in range(N) if n != 7)

    verdict = judged(outputs, committed((50, N)), letters=[Letter(0, 7, 5)], bad=[7])

    assert verdict.names == set()


def test_a_committed_record_that_came_to_no_end_is_a_lost_write():
    verdict = judged(came(n for n in range(N) if n != 7), committed((50, N)))

    assert verdict.names == {"lost-write", "committed-past-unfinished"}
    assert "lost-write: [0]@7 (record 107) is committed, and came to no end" in map(
        str, verdict.anomalies
    )


def test_an_uncommitted_record_that_came_to_no_end_is_unseen():
    verdict = judged(came(range(18)), committed((50, 18)))

    assert verdict.counts == {"unseen": 2}


def test_what_a_policy_leaves_out_is_not_missed():
    produced = {where: each._replace(lane="hints") for where, each in records().items()}
    policy = Policy(may_leave=frozenset({"hints"}))

    verdict = check(History(produced, came(range(5)), (), committed((50, N))), policy)

    assert verdict.names == set()


def test_a_commit_one_too_far_is_found_though_the_record_comes_later():
    # Record 8 came at 8 ms: 9 may be committed then, and 10 may not.
    right = judged(came(range(N)), committed((8, 9), (40, N)))
    too_far = judged(came(range(N)), committed((8, 10), (40, N)))

    assert right.names == set()
    assert too_far.counts == {"committed-past-unfinished": 1}
    assert "10 of [0] is committed, [0]@9 is finished 1 ms later" in too_far.anomalies[0].text


def test_a_commit_beyond_the_end_of_the_log_is_found():
    verdict = judged(came(range(N)), committed((40, N + 1)))

    assert verdict.names == {"committed-past-unfinished"}


def test_a_commit_that_goes_back_is_found():
    verdict = judged(came(range(N)), committed((10, 9), (12, 7), (40, N)))

    assert verdict.counts == {"nonmonotonic": 1}
    assert "goes back from 9 to 7" in verdict.anomalies[0].text


def test_a_record_that_was_committed_before_the_takeover_and_comes_again_is_found():
    outputs = [*came(range(12)), *came(range(7, N), turn="b", since_ms=100)]

    verdict = judged(outputs, committed((9, 8), (200, N)))

    assert verdict.names == {"duplicate"}
    assert "[0]@7 comes again, and 8 was committed when turn b began" in verdict.anomalies[0].text


def test_more_repeats_than_were_in_flight_or_not_committed_are_found():
    # Lanes: what came before the last commit is finished in its watermarks.
    outputs = [*came(range(12)), *came(range(4, N), turn="b", since_ms=100)]

    verdict = judged(outputs, committed((10, 4), (200, N)))

    assert verdict.counts == {"duplicate": 1}
    assert "repeats 8 records; 3 were in flight or not committed" in verdict.anomalies[0].text


@pytest.mark.parametrize(("policy", "found"), [(PARTITION, True), (KEY, False), (NONE, False)])
def test_skew_adds_to_what_may_be_repeated(policy: Policy, found: bool):
    outputs = [*came(range(12)), *came(range(6, N), turn="b", since_ms=100)]

    verdict = judged(outputs, committed((10, 6), (200, N)), policy=policy)

    assert ("duplicate" in verdict.names) is found


def test_a_record_that_comes_twice_in_one_turn_is_a_duplicate_unless_the_broker_was_away():
    outputs = [*came(range(12)), *came([11], since_ms=20), *came(range(12, N), since_ms=30)]
    away = Policy(in_flight_records=2, troubled_ms=[(15, 25)])

    assert judged(outputs, committed((200, N))).names == {"duplicate"}
    assert judged(outputs, committed((200, N)), policy=away).names == set()


def test_a_turn_that_was_replaced_may_put_out_what_was_in_flight_and_no_more():
    late = came([8, 9], since_ms=60)
    later = came([8, 9, 10, 11], since_ms=60)

    def run(stale: list[Output]) -> Verdict:
        second = came(range(8, N), turn="b", since_ms=40)
        return judged([*came(range(8)), *second, *stale], committed((9, 8), (200, N)))

    assert run(late).names == set()
    assert run(later).names == {"duplicate"}
    assert "a later turn has put out already" in run(later).anomalies[0].text


def test_a_record_that_is_overtaken_is_nonmonotonic():
    outputs = came([*range(7), 8, 7, *range(9, N)])

    verdict = judged(outputs, committed((200, N)))

    assert verdict.names == {"nonmonotonic"}
    assert "[0]@7 comes for the first time after 8" in verdict.anomalies[0].text


@pytest.mark.parametrize(
    ("policy", "offsets", "found"),
    [
        (KEY, [0, 1, 3, 2], False),  # of another key
        (KEY, [0, 1, 4, 3, 2], True),
        (NONE, [0, 1, 4, 3, 2], False),
    ],
)
def test_order_is_kept_as_the_feed_says(policy: Policy, offsets: list[int], found: bool):
    rest = [n for n in range(N) if n not in offsets]

    verdict = judged(came([*offsets, *rest]), committed((200, N)), policy=policy)

    assert verdict.names == ({"nonmonotonic"} if found else set())


def test_lanes_have_an_order_of_their_own():
    produced = {
        where: each._replace(lane="fast" if where[1] >= 10 else "bulk")
        for where, each in records().items()
    }
    outputs = came([*range(10, N), *range(10)])

    assert check(History(produced, outputs, (), committed((200, N))), PARTITION).names == set()


def test_a_turn_that_goes_back_over_what_another_has_put_out_is_nonmonotonic():
    first, second = came(range(10)), came([8, 9, 10, 8], turn="b", since_ms=50)

    verdict = judged(
        [*first, *second, *came(range(11, N), since_ms=90, turn="c")], committed((9, 8))
    )

    assert "nonmonotonic: turn b puts out [0]@8 after 10" in map(str, verdict.anomalies)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (Output(0, 99, 1, "a", 50), "an output of [0]@99, which nobody produced"),
        (Output(1, 0, 100, "a", 50), "an output of [1]@0, which nobody produced"),
        (Output(0, 19, 7, "a", 50), "[0]@19 is record 119, and came as 7"),
        (Output(0, 3, 103, "a", 50), "an output of [0]@3, which is bad"),
    ],
)
def test_an_output_of_what_was_not_produced_is_dirty(output: Output, said: str):
    letters = [Letter(0, 3, 3)]
    good = came(n for n in range(N - 1) if n != 3)

    verdict = judged([*good, output], committed((200, 19)), letters=letters, bad=[3])

    assert f"dirty: {said}" in map(str, verdict.anomalies)


def test_a_dead_letter_of_a_good_record_or_of_none_is_dirty():
    letters = [Letter(0, 5, 5), Letter(0, 77, 5)]

    verdict = judged(came(range(N)), committed((200, N)), letters=letters)

    assert verdict.counts == {"dirty": 2}


def test_only_a_few_of_each_kind_are_told_and_all_are_counted():
    verdict = judged([], committed((200, N)))

    assert verdict.counts["lost-write"] == N
    assert len([each for each in verdict.anomalies if each.name == "lost-write"]) == 3
