"""Some seeds of simulated chaos; a thousand: python -m tests.chaos.simulated 1000."""

from __future__ import annotations

import pytest

from flowguard.chunk import Chunk
from flowguard.facts import CommitPoint
from flowguard.settle.ledger import PartitionLedger
from tests.chaos.simulated import Figures, simulate

SEEDS = range(20)


def ran(seeds: range) -> Figures:
    figures = Figures()
    for seed in seeds:
        simulate(seed, figures)
    return figures


def test_crashes_and_rebalances_lose_nothing_repeat_what_was_uncommitted_and_keep_order():
    figures = ran(SEEDS)

    assert figures.is_good, "\n".join(figures.lines)
    assert figures.crashes > 10 and figures.rebalances > 5
    assert 0 < figures.duplicates <= figures.allowed


def test_a_commit_under_way_goes_before_that_of_a_rebalance():
    figures = ran(range(742, 743))

    assert figures.rebalances == 2
    assert figures.is_good, "\n".join(figures.lines)


def test_a_commit_of_all_that_was_read_is_found(monkeypatch: pytest.MonkeyPatch):
    def read_is_done(self: PartitionLedger) -> CommitPoint:
        return CommitPoint(self.position, (self.position,) * len(self.restored))

    monkeypatch.setattr(PartitionLedger, "point", property(read_is_done))

    figures = ran(range(3))

    assert figures.lost > 0 and "commit-floor" in figures.wrong


def test_what_is_repeated_though_it_was_finished_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Chunk, "from_offset", lambda self, offset: self)

    assert "duplicate" in ran(range(20, 21)).wrong  # of the first, the one in which it shows
