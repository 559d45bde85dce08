"""Counting records that several agents read, against a model that keeps sets of rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowguard.chunk import Slice
from flowguard.snapshot import Counts
from flowguard.tally import Tally
from tests.builders import EPOCH_MS, chunk_of

ROWS = 12


class TallyMachine(RuleBasedStateMachine):
    """Agents take, fail and settle slices of one chunk, each in its own order."""

    agents = 3

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.tally = Tally([self.counts])
        timestamps = [EPOCH_MS + row for row in range(ROWS)]
        self.chunk = chunk_of(range(ROWS), timestamps=timestamps)
        self.tally.fetched(self.chunk, agents=self.agents)
        self.free = [set(range(ROWS)) for _ in range(self.agents)]
        self.flying: list[tuple[int, Slice]] = []
        self.done = [set() for _ in range(self.agents)]
        self.gone = False

    @rule(agent=st.integers(0, 2), start=st.integers(0, ROWS - 1), count=st.integers(1, ROWS))
    def start(self, agent: int, start: int, count: int) -> None:
        agent %= self.agents
        rows = set(range(start, min(ROWS, start + count)))
        if rows <= self.free[agent] and not self.gone:
            piece = Slice(self.chunk, start, len(rows))
            self.free[agent] -= rows
            self.flying.append((agent, piece))
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
        before = self.settled_rows
        self.done[agent] |= rows_of(piece)
        settled = self.tally.settled(piece)
        rows = sorted(self.settled_rows - before)
        assert settled.count == len(rows)
        assert settled.timestamps.to_pylist() == [EPOCH_MS + row for row in rows]

    @precondition(lambda self: self.chunk.unsettled and not self.gone)
    @rule()
    def release(self) -> None:
        before = self.counts.settled
        self.tally.released(self.chunk)
        self.gone = True
        assert (self.counts.held, self.counts.in_flight) == (0, 0)
        assert self.counts.released == ROWS - before

    @property
    def settled_rows(self) -> set[int]:
        return set.intersection(*self.done)

    @invariant()
    def a_record_is_in_exactly_one_count(self) -> None:
        assert self.counts.balanced
        if self.gone:
            return
        flying = {row for _, piece in self.flying for row in rows_of(piece)}
        assert self.counts.settled == len(self.settled_rows)
        assert self.counts.in_flight == len(flying)
        assert self.counts.held == ROWS - len(self.settled_rows | flying)


def rows_of(piece: Slice) -> set[int]:
    return set(range(piece.start, piece.start + piece.count))


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
    tally.fetched(chunk, agents=2)
    for _ in range(2):
        tally.started(Slice(chunk, 0, 5))

    tally.settled(Slice(chunk, 0, 5))
    tally.dead_letters(0, dead)
    assert (counts.dead_letters, counts.settled, counts.in_flight) == (0, 0, 5)
    tally.settled(Slice(chunk, 0, 5))

    assert (counts.dead_letters, counts.settled) == (dead, 5 - dead)
    assert counts.balanced
