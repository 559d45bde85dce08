"""What is said of records that leave without an agent."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowguard.commands import Unprocessed
from flowguard.unprocessed import LINE_CHARACTERS_MAX, UnprocessedLog, lines_of, merged
from tests.builders import A, B

RANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 9)).map(lambda each: (each[0], sum(each))),
    max_size=30,
)


def told(*ranges: tuple[int, int], count: int | None = None) -> Unprocessed:
    total = sum(end - start for start, end in ranges)
    return Unprocessed(
        outcome="shed", lane=1, partition=A, ranges=ranges,
        count=total if count is None else count, why="10.0 MiB wait, its share is 8.0 MiB",
    )  # fmt: skip


def test_what_leaves_until_the_next_tick_is_told_at_once():
    log = UnprocessedLog()
    log.note(A, 1, "shed", ranges=[(5, 8)], count=3, why="first")
    log.note(A, 1, "shed", ranges=[(8, 10), (0, 1)], count=3, why="then")
    log.note(A, 1, "expired", ranges=[(1, 2)], count=1, why="old")
    log.note(B, 1, "shed", ranges=[(1, 2)], count=1, why="first")

    found = log.take()

    assert [(each.partition, each.outcome, each.ranges, each.count) for each in found] == [
        (A, "expired", ((1, 2),), 1),
        (A, "shed", ((0, 1), (5, 10)), 6),
        (B, "shed", ((1, 2),), 1),
    ]
    assert found[1].why == "then"
    assert log.take() == []


@given(RANGES)
def test_merging_keeps_the_offsets(ranges: list[tuple[int, int]]):
    def offsets(of: list[tuple[int, int]]) -> set[int]:
        return {offset for start, end in of for offset in range(start, end)}

    found = merged(ranges)

    assert offsets(found) == offsets(ranges)
    assert all(end < start for (_, end), (start, _) in pairwise(found))


def test_a_line_says_where_how_many_how_and_why():
    assert list(lines_of(told((5, 6), (8, 12)), "hints")) == [
        "orders[0] lane hints: 5 records shed, 10.0 MiB wait, its share is 8.0 MiB: offsets 5,8-11"
    ]
    (line,) = lines_of(told((5, 6)), "hints")
    assert line.startswith("orders[0] lane hints: 1 record shed, ")


def test_many_ranges_are_several_lines_and_none_is_too_long():
    ranges = [(10**12 + 3 * n, 10**12 + 3 * n + 2) for n in range(1000)]

    lines = list(lines_of(told(*ranges), "hints"))

    assert len(lines) > 1
    assert all(len(line) <= LINE_CHARACTERS_MAX for line in lines)
    words = [word for line in lines for word in line.rpartition(" ")[2].split(",")]
    assert words == [f"{start}-{end - 1}" for start, end in ranges]
