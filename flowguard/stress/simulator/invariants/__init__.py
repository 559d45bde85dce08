"""Invariants: what must hold in every run, whatever the scenario.

| checker | Jepsen calls it | what |
| --- | --- | --- |
| `LostWrite` | lost-write | what is committed as finished has come to an end |
| `Unseen` | unseen | a worker with nothing to do has left nothing |
| `Duplicates` | duplicate | settled again only what was not committed when it was lost |
| `CommitFloor` | | a commit never passes an unfinished record, and never goes back |
| `Order` | nonmonotonic-poll | as the feed's order says, through retries |
| `PollSkip` | poll-skip | nothing between two batches is left out in silence |
| `Bounded` | | memory stays in its budget, at every instant |
| `Balanced` | | every record that was read is in one count; only declared policies leave any out |
| `Priority` | | a lane with a target waits for at most one lower batch a seat, within its cap |
| `Starvation` | | a lane with records is served, however much the others have |

They see what is told to the engine and what it answers, and know records from the log; of the
engine they ask only what is public.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowguard.lanes.lane import Lane
from flowguard.stress.simulator.history import History
from flowguard.stress.simulator.invariants.checker import Checker
from flowguard.stress.simulator.invariants.lanes import Balanced, Bounded, Priority, Starvation
from flowguard.stress.simulator.invariants.records import (
    CommitFloor,
    Duplicates,
    LostWrite,
    Order,
    PollSkip,
    Unseen,
)

__all__ = ["Checker", "checkers_of"]


def checkers_of(history: History, lanes: Sequence[Lane], order: str) -> list[Checker]:
    """Return a checker of each invariant."""
    return [
        LostWrite(history), Unseen(history), Duplicates(history), CommitFloor(history),
        Order(history, order), PollSkip(history), Bounded(history), Balanced(history, lanes),
        Priority(history, lanes), Starvation(history, lanes),
    ]  # fmt: skip
