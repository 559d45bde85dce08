"""An agent finds the record that fails by itself, before it gives the batch back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowguard as fg
from flowguard.agents import delivered as delivered_module
from flowguard.agents.narrowing import Narrowing
from flowguard.chunk import Slice, run_of
from flowguard.facts import Found
from tests.builders import chunk_of
from tests.unit.agents.app import serving

BAD = ValueError("bad")


@given(count=st.integers(2, 2_000), data=st.data())
def test_the_first_record_that_fails_is_found_and_all_before_it_are_done_once(
    count: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    narrowing = Narrowing(count, BAD)
    calls, done = 0, 0

    while not narrowing.over:
        first, tried = narrowing.next()
        calls += 1
        assert first == done
        if bad.isdisjoint(range(first, first + tried)):
            narrowing.succeeded()
            done += tried
        else:
            narrowing.failed(BAD)

    assert narrowing.found(frozenset()) == Found(min(bad), 1, frozenset())
    assert calls <= math.ceil(math.log2(count)) + 1


@given(count=st.integers(2, 2_000))
def test_a_failure_by_chance_costs_a_few_calls_and_nothing_else(count: int) -> None:
    narrowing = Narrowing(count, BAD)

    while not narrowing.over:
        narrowing.next()
        narrowing.succeeded()

    assert narrowing.done == count and narrowing.error is None


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search go on to its end, however slow this machine is."""
    monkeypatch.setattr(delivered_module, "NARROW_WITHIN_S", 60.0)


class Agent:
    """Fails on records that are bad, and notes what it was given."""

    def __init__(self, *bad: int, error: Exception = BAD) -> None:
        self.bad = set(bad)
        self.error = error
        self.given: list[list[int]] = []

    async def __call__(self, batches: Any) -> None:
        async for batch in batches:
            numbers = batch.to_polars()["n"].to_list()
            self.given.append(numbers)
            assert len(batch) == len(numbers) == len(batch.records)
            if self.bad & set(numbers):
                raise self.error


async def told_of(agent: Any, count: int = 8, what: str = "failed") -> tuple[Any, Any]:
    """Let an agent have a batch; return what was told of it, and what it found."""

    async def function(batches: Any) -> None:
        await agent(batches)

    async with serving(function) as served:
        served.deliver([{"n": n} for n in range(count)])
        told = await served.outcomes.until(what, 1)
        return told, served.outcomes.found.get(1)


async def test_the_batch_is_given_back_when_the_record_is_alone() -> None:
    agent = Agent(5)

    told, found = await told_of(agent)

    assert agent.given == [[*range(8)], [0, 1, 2, 3], [4, 5], [4], [5]]
    assert (told[2], found) == (BAD, Found(5, 1, frozenset()))


async def test_a_batch_that_is_done_in_parts_is_finished() -> None:
    agent = Agent(5)

    async def once(batches: Any) -> None:
        async for batch in batches:
            agent.given.append(batch.to_polars()["n"].to_list())
            if len(agent.given) == 1:
                raise BAD

    told, _ = await told_of(once, what="finished")

    assert sorted(n for numbers in agent.given[1:] for n in numbers) == [*range(8)]
    assert told[2] == 0


async def test_what_takes_long_is_left_to_whoever_handed_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivered_module, "NARROW_WITHIN_S", -1.0)
    agent = Agent(5)

    _, found = await told_of(agent)

    assert agent.given == [[*range(8)]]
    assert found == Found(0, 8, frozenset())


@pytest.mark.parametrize(
    "error", [fg.Unavailable("later"), ConnectionResetError(), TimeoutError()], ids=type
)
async def test_a_batch_is_not_searched_for_what_is_missing(error: Exception) -> None:
    agent = Agent(5, error=error)

    told, found = await told_of(agent)

    assert agent.given == [[*range(8)]]
    assert (told[2], found) == (error, None)


async def test_what_was_done_before_something_went_missing_stays_done() -> None:
    given: list[list[int]] = []
    missing = fg.Unavailable("later")

    async def agent(batches: Any) -> None:
        async for batch in batches:
            given.append(batch.to_polars()["n"].to_list())
            if len(given) == 1:
                raise BAD
            if len(given) == 3:
                raise missing

    told, found = await told_of(agent)

    assert given == [[*range(8)], [0, 1, 2, 3], [4, 5]]
    assert (told[2], found) == (missing, Found(4, 4, frozenset()))


async def test_rows_that_a_part_rejects_are_dead_letters_at_their_place_in_the_batch() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            numbers = batch.to_polars()["n"]
            if 6 in numbers:
                raise BAD
            batch.reject(numbers.is_in([3, 4]), "not wanted")

    async def function(batches: Any) -> None:
        await agent(batches)

    async with serving(function) as served:
        served.deliver([{"n": n} for n in range(8)])
        await served.outcomes.until("failed", 1)

    assert served.outcomes.found[1] == Found(6, 1, frozenset({3, 4}))
    assert served.buried == [{3: "not wanted"}, {4: "not wanted"}]


async def test_a_part_of_which_rows_are_wanted_again_ends_the_search() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            numbers = batch.to_polars()["n"]
            if len(batch) == 8:
                raise BAD
            if 5 in numbers:
                batch.nack("again", rows=numbers == 5)

    told, found = await told_of(agent)

    assert str(told[2]) == "again"
    assert found == Found(4, 4, frozenset())


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    start=st.integers(0, 19),
    count=st.integers(1, 20),
)
def test_a_run_of_records_is_the_same_through_several_slices(
    counts: list[int], start: int, count: int
) -> None:
    slices, offsets = [], []
    for number, each in enumerate(counts):
        chunk = chunk_of(range(100 * number, 100 * number + each + 2))
        slices.append(Slice(chunk, 1, each))
        offsets += slices[-1].offsets.to_pylist()

    found = run_of(slices, start, count)

    assert [n for piece in found for n in piece.offsets.to_pylist()] == offsets[start:][:count]
    assert all(piece.count for piece in found)
