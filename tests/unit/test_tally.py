"""Counting records that several agents read, against a model that keeps sets of rows."""

from __future__ import annotations

from itertools import compress

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowguard.chunk import Slice
from flowguard.snapshot import Counts
from flowguard.tally import OUTCOMES, Tally
from tests.builders import EPOCH_MS, chunk_of

ROWS = 12
AGENT = st.integers(0, 2)
START = st.integers(0, ROWS - 1)
COUNT = st.integers(1, ROWS)
STAYS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)


class TallyMachine(RuleBasedStateMachine):
    """Agents take, fail, settle and give up slices of one chunk, each in its own order.

    An agent may go on with some of its rows in a chunk of their own; rows keep their numbers.
    """

    agents = 3

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.tally = Tally([self.counts])
        timestamps = [EPOCH_MS + row for row in range(ROWS)]
        self.chunk = chunk_of(range(ROWS), timestamps=timestamps)
        self.tally.read(self.chunk.lane, ROWS)
        self.tally.admitted(self.chunk, agents=self.agents)
        self.free = [set(range(ROWS)) for _ in range(self.agents)]
        self.chunks = [[self.chunk] for _ in range(self.agents)]
        self.home = [dict.fromkeys(range(ROWS), self.chunk) for _ in range(self.agents)]
        self.flying: list[tuple[int, Slice]] = []
        self.left = [set(range(ROWS)) for _ in range(self.agents)]
        self.processed: set[int] = set()
        self.outcomes: dict[int, str] = {}
        self.gone = False

    def waiting(self, agent: int, start: int, count: int) -> Slice | None:
        """Return rows that wait for an agent, in whichever of its chunks they are now."""
        for chunk in [] if self.gone else self.chunks[agent % self.agents]:
            first = min(start, chunk.num_records)
            piece = Slice(chunk, first, min(count, chunk.num_records - first))
            rows, home = rows_of(piece), self.home[agent % self.agents]
            at_home = all(home[row] is chunk for row in rows)
            if rows and at_home and rows <= self.free[agent % self.agents]:
                return piece
        return None

    @rule(agent=AGENT, start=START, count=COUNT)
    def start(self, agent: int, start: int, count: int) -> None:
        if (piece := self.waiting(agent, start, count)) is not None:
            self.free[agent % self.agents] -= rows_of(piece)
            self.flying.append((agent % self.agents, piece))
            self.tally.started(piece)

    @precondition(lambda self: self.flying and not self.gone)
    @rule(pick=st.integers(0, 100))
    def fail(self, pick: int) -> None:
        agent, piece = self.flying.pop(pick % len(self.flying))
        self.free[agent] |= rows_of(piece)
        self.tally.failed(piece)

    @precondition(lambda self: self.flying and not self.gone)
    @rule(pick=st.integers(0, 100))
    def settle(self, pick: int) -> None:
        agent, piece = self.flying.pop(pick % len(self.flying))
        before = self.done_rows
        self.left[agent] -= rows_of(piece)
        self.processed |= rows_of(piece)
        settled = self.tally.settled(piece)
        rows = sorted(self.done_rows - before)
        assert settled.count == len(rows)
        assert settled.timestamps.to_pylist() == [EPOCH_MS + row for row in rows]

    @rule(agent=AGENT, start=START, count=COUNT, stays=STAYS, outcome=st.sampled_from(OUTCOMES),
          moves=st.booleans())  # fmt: skip
    def give_up(
        self, agent: int, start: int, count: int, stays: list[bool], outcome: str, moves: bool
    ) -> None:
        agent %= self.agents
        if (piece := self.waiting(agent, start, count)) is None:
            return
        keep = pa.array(stays[: piece.count])
        self.give_up_rows(agent, piece, outcome, keep if keep.true_count else None)
        if moves and keep.true_count:
            columns = piece.columns.filter(keep)
            kept = chunk_of(columns.column(0).to_pylist(), timestamps=columns.column(1).to_pylist())
            self.tally.moved(piece, keep, kept)
            self.chunks[agent].insert(0, kept)
            self.home[agent] |= dict.fromkeys(rows_of(Slice(kept, 0, kept.num_records)), kept)

    def give_up_rows(
        self, agent: int, piece: Slice, outcome: str, keep: pa.BooleanArray | None
    ) -> None:
        stay = set() if keep is None else set(compress(rows_list(piece), keep.to_pylist()))
        before = self.done_rows
        self.left[agent] -= rows_of(piece) - stay
        self.free[agent] -= rows_of(piece) - stay
        rows = self.done_rows - before - self.processed
        self.outcomes |= dict.fromkeys(rows, outcome)

        given_up = self.tally.gave_up(piece, outcome, keep)

        counted = [True] * piece.count if given_up.keep is None else [
            not each for each in given_up.keep.to_pylist()
        ]  # fmt: skip
        assert given_up.count == len(rows)
        assert not rows or set(compress(rows_list(piece), counted)) == rows

    @precondition(lambda self: self.done_rows != set(range(ROWS)) and not self.gone)
    @rule()
    def release(self) -> None:
        unfinished = ROWS - len(self.done_rows)
        for chunk in dict.fromkeys(each for chunks in self.chunks for each in chunks):
            if chunk.unsettled:
                self.tally.released(chunk)
        self.gone = True
        assert (self.counts.held, self.counts.in_flight) == (0, 0)
        assert self.counts.released == unfinished

    @property
    def done_rows(self) -> set[int]:
        return set(range(ROWS)).difference(*self.left)

    @invariant()
    def a_record_is_in_exactly_one_count(self) -> None:
        assert self.counts.balanced
        if self.gone:
            return
        flying = {row for _, piece in self.flying for row in rows_of(piece)}
        assert self.counts.settled == len(self.done_rows & self.processed)
        assert self.counts.in_flight == len(flying)
        assert self.counts.held == ROWS - len(self.done_rows | flying)
        for outcome in OUTCOMES:
            rows = [row for row, each in self.outcomes.items() if each == outcome]
            assert getattr(self.counts, outcome) == len(rows)

    @invariant()
    def memory_goes_when_all_agents_are_done_with_a_chunk(self) -> None:
        unsettled = {each: each.unsettled for chunks in self.chunks for each in chunks}
        assert sum(unsettled.values()) == sum(len(left) for left in self.left)


def rows_list(piece: Slice) -> list[int]:
    return list(piece.columns.column(0).to_pylist())


def rows_of(piece: Slice) -> set[int]:
    return set(rows_list(piece))


class OneAgent(TallyMachine):
    """With one agent there are no marks; the counts are the same."""

    agents = 1


TestSeveral = TallyMachine.TestCase
TestOne = OneAgent.TestCase
TestSeveral.settings = TestOne.settings = settings(max_examples=100, deadline=None)


@given(dead=st.integers(0, 5))
def test_dead_letters_are_taken_out_of_what_is_settled_once_it_is_settled(dead: int):
    counts = Counts()
    tally = Tally([counts])
    chunk = chunk_of(range(5))
    tally.read(chunk.lane, chunk.num_records)
    tally.admitted(chunk, agents=2)
    for _ in range(2):
        tally.started(Slice(chunk, 0, 5))

    tally.settled(Slice(chunk, 0, 5))
    tally.dead_letters(0, dead)
    assert (counts.dead_letters, counts.settled, counts.in_flight) == (0, 0, 5)
    tally.settled(Slice(chunk, 0, 5))

    assert (counts.dead_letters, counts.settled) == (dead, 5 - dead)
    assert counts.balanced
