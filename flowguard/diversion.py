"""Records on their way to another topic: in flight without a seat, until the broker has them.

    waiting ─▶ in flight ─┬─ acknowledged ─▶ diverted
       ▲                  └─ failed ─┐
       └──────── put back ◀──────────┘   the next one is tried after a backoff

Their sub-queues stay closed meanwhile where order counts: what comes back is older than what
waits there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flowguard.commands import Cut, DivertBatch
from flowguard.facts import Failed
from flowguard.gate import Gate
from flowguard.holdings import Flight, Part
from flowguard.leaving import Leaving
from flowguard.settle.retry import backoff_ns
from flowguard.units import MIB

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["DIVERT_BYTES_MAX", "Diversions"]

#: At most so much of a lane is on its way at once: a few requests to the broker.
DIVERT_BYTES_MAX: Final = 4 * MIB

OUTCOME: Final = "diverted"


class Diversions:
    """The batches of all lanes that are on their way to other topics.

    Args:
        engine: What holds the records.
        leaving: How they leave.
    """

    def __init__(self, engine: Engine, leaving: Leaving) -> None:
        self._engine = engine
        self._leaving = leaving
        self._under_way: dict[int, tuple[Gate, Flight, str]] = {}

    def __contains__(self, batch_id: int) -> bool:
        return batch_id in self._under_way

    @property
    def bytes_max(self) -> int:
        """Return how much of a lane may be on its way at once; the agents' output needs room."""
        return min(DIVERT_BYTES_MAX, self._engine.memory.output_bytes_max // 2)

    def may_begin(self, gate: Gate, now_ns: int) -> bool:
        """Tell whether more of a lane may be sent now."""
        return gate.diversion is None and now_ns >= gate.not_before_ns

    def begin(self, gate: Gate, parts: Sequence[Part], topic: str, now_ns: int) -> DivertBatch:
        """Send records that were taken out of the lane's queue."""
        pieces = tuple(part.piece for part in parts)
        batch_id = self._engine.next_batch_id()
        cut = Cut(batch_id, gate.view.plan.name, gate.rank, pieces, started_ns=now_ns)
        flight = Flight(cut, list(parts))
        gate.diversion = flight
        gate.view.divert(flight)
        for piece in pieces:
            self._engine.tally.started(piece)
        self._under_way[batch_id] = gate, flight, topic
        return DivertBatch(cut, topic)

    def finished(self, batch_id: int) -> Gate:
        """Take in that all of it is acknowledged, and return whose it was."""
        gate, flight, topic = self._end(batch_id)
        for part in flight.live:
            self._engine.tally.failed(part.piece)  # no longer in flight ...
            self._leaving.whole(gate.view, part, OUTCOME, f"written to {topic}")  # ... but gone
        gate.failures = 0
        return gate

    def failed(self, fact: Failed) -> Gate:
        """Let the records wait again, in their place, and return whose they are."""
        gate, flight, _ = self._end(fact.batch_id)
        live = flight.live
        for part in live:
            self._engine.tally.failed(part.piece)
        gate.view.backlog.put_back(gate.rank, live)
        gate.failures += 1
        wait_ns = max(backoff_ns(gate.failures), fact.retry_after_ns or 0)
        gate.not_before_ns = fact.at_ns + wait_ns
        return gate

    def _end(self, batch_id: int) -> tuple[Gate, Flight, str]:
        gate, flight, topic = self._under_way.pop(batch_id)
        gate.diversion = None
        gate.view.end_diversion(flight)
        return gate, flight, topic
