"""The seats of one agent: how many there are now, and for whom they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowguard.control.decision import Decision, DecisionLog
from flowguard.control.limit import Change, Limiter, Outcome
from flowguard.control.limits import make_algorithm
from flowguard.control.limits.fixed import Fixed
from flowguard.lanes.lane_set import LaneSet

if TYPE_CHECKING:
    from flowguard.commands import Cut
    from flowguard.view import AgentPlan

__all__ = ["Seats"]

LOOP: Final = "concurrency"

#: A lane that reserves a share of the seats has one of its own, also while it is tried out
#: whether fewer are enough: those that a lower lane has may be taken for long.
LEAST_WITH_RESERVE: Final = 2


class Seats:
    """Tell how many batches of an agent may be under way, and learn from those that were.

    Args:
        plan: The agent; its `seats` are the most there can be.
        decisions: Where each step of the limit is kept with its reason.
        shadow: Loops that only say what they would do; if this one is among them, there are
            as many seats as there can be.

    Attributes:
        limit: How many there are now.
        reserved: By lane, how many of them no other lane gets.
        always_reserved: By lane, how many of them are never fewer than that.
    """

    def __init__(
        self,
        plan: AgentPlan,
        lanes: LaneSet,
        *,
        decisions: DecisionLog,
        shadow: frozenset[str] = frozenset(),
    ) -> None:
        adaptive = plan.adaptive
        self.shadow = LOOP in shadow
        least = plan.seats if adaptive is None else adaptive.min
        if any(lane.reserve for lane in lanes):
            least = min(plan.seats, max(least, LEAST_WITH_RESERVE))
        self.always_reserved = reserves(lanes, least)
        self.limiter = Limiter(
            Fixed() if adaptive is None else make_algorithm(adaptive.algorithm),
            limit_min=least,
            limit_max=plan.seats,
            enforced=not self.shadow,
        )
        self._plan = plan
        self._lanes = lanes
        self._decisions = decisions
        self._said = ""
        self.limit = 0
        self.reserved: list[int] = []
        self._apply()

    def ended(self, cut: Cut, outcome: Outcome, *, in_flight: int, now_ns: int) -> None:
        """Learn from a batch that ended; one that a fallback served says nothing of the agent.

        Args:
            in_flight: Batches that had a seat, this one among them.
        """
        if not cut.degraded:
            self.limiter.sample(
                records=cut.num_records,
                service_ns=now_ns - cut.started_ns,
                outcome=outcome,
                in_flight=in_flight,
                at_ns=now_ns,
            )

    def invalidate(self, why: str) -> None:
        """Learn nothing from what is under way: something else has moved."""
        self.limiter.invalidate(why)

    def steer(self, now_ns: int, *, in_flight: int) -> None:
        """Move the limit if it is time."""
        change = self.limiter.tick(now_ns, in_flight=in_flight)
        if change is not None and self._plan.adaptive is not None:
            self._keep(change, now_ns)
            self._apply()

    def _apply(self) -> None:
        self.limit = self.limiter.seats
        self.reserved = reserves(self._lanes, self.limit)

    def _keep(self, change: Change, now_ns: int) -> None:
        """Keep a decision with its reason; what is as before is said once."""
        same_seats = int(change.before) == int(change.after)
        if same_seats and change.action == self._said:
            return
        self._said = change.action
        self._decisions.add(
            Decision(
                at_ns=now_ns,
                loop=LOOP,
                subject=self._plan.name,
                action=change.action,
                before=int(change.before),
                after=int(change.after),
                why=change.why,
                shadow=self.shadow,
            )
        )


def reserves(lanes: LaneSet, limit: int) -> list[int]:
    """Return how many of so many seats are kept for each lane.

    Each lane's share, rounded down; but as soon as there are two seats a lane that reserves
    any has one of its own, the highest lanes first, as long as one is left for all.
    """
    kept = [int(lane.reserve * limit + 1e-9) for lane in lanes]
    for rank, lane in enumerate(lanes):
        if lane.reserve > 0.0 and not kept[rank] and sum(kept) + 1 < limit:
            kept[rank] = 1
    return kept
