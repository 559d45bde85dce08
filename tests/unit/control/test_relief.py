"""From which sub-queues records are taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowguard.control.relief import fattest_first

SIZES = st.dictionaries(st.integers(0, 50), st.integers(0, 10_000), max_size=20)


def test_the_fattest_gives_half_before_the_next_is_asked():
    assert fattest_first([(1, 100), (2, 40)], 50) == {1: 50}
    assert fattest_first([(1, 100), (2, 60)], 80) == {1: 50, 2: 30}


def test_one_that_gave_half_gives_again_when_it_is_the_fattest_again():
    assert fattest_first([(1, 800), (2, 100)], 700) == {1: 700}


def test_all_give_all_when_it_is_not_enough():
    assert fattest_first([(1, 5), (2, 10), (3, 0)], 99) == {2: 10, 1: 5}
    assert fattest_first([], 10) == {}


def test_nothing_is_taken_when_nothing_is_wanted():
    assert fattest_first([(1, 100)], 0) == {}


@given(SIZES, st.integers(0, 100_000))
def test_it_is_exactly_enough_and_nobody_gives_more_than_it_has(sizes: dict[int, int], wanted: int):
    given_bytes = fattest_first(sizes.items(), wanted)

    assert sum(given_bytes.values()) == min(wanted, sum(sizes.values()))
    assert all(0 < num_bytes <= sizes[queue] for queue, num_bytes in given_bytes.items())


@given(SIZES, st.integers(0, 100_000))
def test_a_thin_one_gives_only_when_it_is_at_least_half_of_what_any_other_keeps(
    sizes: dict[int, int], wanted: int
):
    given_bytes = fattest_first(sizes.items(), wanted)
    left = {queue: size - given_bytes.get(queue, 0) for queue, size in sizes.items()}

    for queue in given_bytes:
        assert all(sizes[queue] >= left[other] // 2 for other in sizes)
