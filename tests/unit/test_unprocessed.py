"""What is said of records that leave without an agent."""

from __future__ import annotations

from array import array

from flowguard.commands import OffsetRanges, Unprocessed
from flowguard.unprocessed import LINE_CHARACTERS_MAX, UnprocessedLog, lines_of
from tests.builders import A, B


def flat(*ranges: tuple[int, int]) -> array[int]:
    return array("q", [each for pair in ranges for each in pair])


def told(*ranges: tuple[int, int], count: int | None = None) -> Unprocessed:
    total = sum(end - start for start, end in ranges)
    return Unprocessed(
        outcome="shed", lane=1, partition=A, ranges=OffsetRanges(flat(*ranges)),
        count=total if count is None else count, why="10.0 MiB wait, its share is 8.0 MiB",
    )  # fmt: skip


def test_what_leaves_until_the_next_tick_is_told_at_once():
    log = UnprocessedLog()
    log.note(A, 1, "shed", ranges=flat((5, 8)), count=3, why="first")
    log.note(A, 1, "shed", ranges=flat((8, 10), (0, 1)), count=3, why="then")
    log.note(A, 1, "expired", ranges=flat((1, 2)), count=1, why="old")
    log.note(B, 1, "shed", ranges=flat((1, 2)), count=1, why="first")

    found = log.take()

    assert [(each.partition, each.outcome, each.ranges, each.count) for each in found] == [
        (A, "expired", ((1, 2),), 1),
        (A, "shed", ((0, 1), (5, 10)), 6),
        (B, "shed", ((1, 2),), 1),
    ]
    assert found[1].why == "then"
    assert log.take() == []


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


def test_ranges_are_a_sequence_of_pairs():
    ranges = OffsetRanges(flat((1, 3), (5, 6), (8, 9)))

    assert len(ranges) == 3
    assert (ranges[0], ranges[-1], ranges[1:]) == ((1, 3), (8, 9), [(5, 6), (8, 9)])
    assert ranges == ((1, 3), (5, 6), (8, 9)) and ranges != ((1, 3),)
    assert repr(OffsetRanges(flat((1, 3)))) == "OffsetRanges([(1, 3)])"
