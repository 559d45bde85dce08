"""Brownout and shedding: which lanes give way, in which order, and by how much.

    lowest lane                                highest lane
    brownout ───────────────────────────────────────▶      from rung 4 on
    shed, lanes without a target ───────────────────▶      from rung 5 on
    shed, lanes with one ───────────────────────────▶      from rung 6 on

One ratio after the other is raised, and lowered in the opposite order. A lane never gives way
for a lower one, and one that has nothing to do is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flowguard.control.decision import Decision
from flowguard.control.dimmer import DEAD_ZONE, LOWER_PER_S, Dimmer, Pace
from flowguard.control.ladder import BROWNOUT, NORMAL, SHED, STANDARD
from flowguard.control.pressure import LaneDelay
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Conflate, Shed
from flowguard.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Dimming", "is_pausable", "is_sheddable"]

#: Delay against its limit where the ratios stay as they are: half of the queue's time, which
#: for a lane with a target is the quarter that one batch of a lower lane may take.
SET_POINT: Final = 0.5

TICK_NS: Final = SECOND

#: The last records of a lane are read all the same, so that somebody sees when they are fewer.
SHED_MAX: Final = 0.95

#: Steps smaller than this since the last one are not worth a line in the log of decisions.
NOTED: Final = 0.05

#: Weight of the last second in how much is read.
LOAD_SHARE: Final = 0.5


@dataclass(slots=True)
class Actuator:
    """One ratio: what it does to which lane."""

    loop: str  # brownout or shed
    rank: int
    rung: int
    dimmer: Dimmer
    noted: float = 0.0
    why: str = field(default="")


class Dimming:
    """Raise and lower the ratios of brownout and shedding.

    Args:
        engine: What is steered.
        enforced: Loop → whether it acts, or only says what it would do.
    """

    def __init__(self, engine: Engine, *, enforced: Mapping[str, bool]) -> None:
        self._engine = engine
        self._enforced = enforced
        self.chain = [*brownouts(engine), *sheds(engine)]
        self._pace = Pace()
        self._ticked_ns: int | None = None
        self._waited = False
        self._read = 0
        self._load = 0.0

    @property
    def rungs(self) -> frozenset[int]:
        """Return the rungs on which something can be done."""
        return frozenset(each.rung for each in self.chain)

    @property
    def in_use(self) -> int:
        """Return the highest rung whose ratios are not back at nothing."""
        rungs = [
            each.rung for each in self.chain if each.dimmer.ratio > 0 and self._enforced[each.loop]
        ]
        return max(rungs, default=NORMAL)

    def ratio(self, loop: str, rank: int) -> tuple[float, str]:
        """Return what is in force of a loop for a lane, and why."""
        for each in self.chain:
            if (each.loop, each.rank) == (loop, rank) and self._enforced[loop]:
                return each.dimmer.ratio, each.why
        return 0.0, ""

    def tick(self, now_ns: int, rung: int, delays: Mapping[int, LaneDelay], waited: bool) -> None:
        """Look at the delays, and once a second change what must change.

        Args:
            rung: What the ladder permits.
            delays: By rank, of the lanes that have a limit.
            waited: Whether a record of theirs waits now.
        """
        self._waited |= waited
        if self._ticked_ns is not None and now_ns - self._ticked_ns < TICK_NS:
            return
        seconds = 1.0 if self._ticked_ns is None else (now_ns - self._ticked_ns) / SECOND
        self._ticked_ns = now_ns
        self._weigh(delays, seconds)
        self._move(now_ns, rung, delays)
        self._waited = False

    def _weigh(self, delays: Mapping[int, LaneDelay], seconds: float) -> None:
        """Learn how much there is to do: what is read of lanes that have a limit."""
        read = sum(self._engine.books[rank].counts.read for rank in delays)
        self._load += LOAD_SHARE * ((read - self._read) / seconds - self._load)
        self._read = read

    def _move(self, now_ns: int, rung: int, delays: Mapping[int, LaneDelay]) -> None:
        errors = {rank: delay.ratio / SET_POINT - 1.0 for rank, delay in delays.items()}
        worst = max(errors, key=lambda rank: errors[rank], default=None)
        if worst is None:
            return
        suffering = min((rank for rank, error in errors.items() if error > DEAD_ZONE), default=None)
        step = self._pace.step(errors[worst], idle=not self._waited)
        why = why_of(self._engine.lanes[worst], delays[worst])
        for each in self.chain:
            if each.rung > rung:
                each.dimmer.ratio = 0.0  # only what is not enforced can be left over here
            elif suffering is not None and each.rank < suffering:
                self._lower(each, LOWER_PER_S, now_ns)
            elif suffering is not None and step > 0.0 and self._has_work(each.rank):
                step = each.dimmer.raise_by(step, now_ns, load=self._load)
        if step < 0.0:
            self._lower_last(-step, now_ns)
        for each in self.chain:
            self._apply(each, why, now_ns)

    def _has_work(self, rank: int) -> bool:
        """Tell whether a lane has records that it could give way with."""
        counts = self._engine.books[rank].counts
        return counts.held + counts.in_flight > 0

    def _lower_last(self, step: float, now_ns: int) -> None:
        before = [each.dimmer.ratio for each in self.chain]
        for each in reversed(self.chain):
            if each.dimmer.ratio > 0.0 and not self._lower(each, step, now_ns):
                break
        if before == [each.dimmer.ratio for each in self.chain]:
            self._pace.rest()

    def _lower(self, each: Actuator, step: float, now_ns: int) -> bool:
        return each.dimmer.lower_by(step, now_ns, load=self._load)

    def _apply(self, each: Actuator, why: str, now_ns: int) -> None:
        """Put a ratio in force, and say so if it has moved enough."""
        ratio, enforced = each.dimmer.ratio, self._enforced[each.loop]
        each.why = why if ratio > 0.0 else ""
        if enforced:
            self._enforce(each, ratio, why)
        at_end = ratio != each.noted and ratio in (0.0, each.dimmer.most)
        if abs(ratio - each.noted) < NOTED and not at_end:
            return
        self._engine.decisions.add(
            Decision(
                at_ns=now_ns, loop=each.loop, subject=self._engine.lanes[each.rank].name,
                action="up" if ratio > each.noted else "down",
                before=round(each.noted, 3), after=round(ratio, 3), why=why, shadow=not enforced,
            )
        )  # fmt: skip
        each.noted = ratio
        if enforced:
            self._engine.invalidate(f"{each.loop} of lane {self._engine.lanes[each.rank].name}")

    def _enforce(self, each: Actuator, ratio: float, why: str) -> None:
        if each.loop == "shed":
            self._engine.overflow.set_shed_ratio(each.rank, ratio, why)
            return
        for view in self._engine.views.values():
            if "brownout" in view.plan.fallback_on:
                view.serving.shares[each.rank] = ratio


def brownouts(engine: Engine) -> list[Actuator]:
    """Return the lanes that a fallback may serve, lowest first."""
    served = {
        rank
        for view in engine.views.values()
        if "brownout" in view.plan.fallback_on
        for topic in view.plan.topics
        for rank in engine.ranks(topic)
    }
    return [
        Actuator("brownout", rank, BROWNOUT, Dimmer())
        for rank in sorted(served, reverse=True)
        if engine.lanes[rank].degrade
    ]


def sheds(engine: Engine) -> list[Actuator]:
    """Return the lanes that may be shed, lowest first, those with a target last."""
    ranks = [rank for rank, lane in enumerate(engine.lanes) if is_sheddable(lane)]
    actuators = [
        Actuator(
            "shed", rank, SHED if engine.lanes[rank].target_ns is None else STANDARD,
            Dimmer(most=SHED_MAX),
        )
        for rank in reversed(ranks)
    ]  # fmt: skip
    return sorted(actuators, key=lambda each: each.rung)


def is_sheddable(lane: Lane) -> bool:
    """Tell whether the lane's overflow policies permit to leave records out."""
    return any(isinstance(each, (Shed, Conflate)) for each in lane.policies)


def is_pausable(lane: Lane) -> bool:
    """Tell whether the lane may wait in Kafka without missing or losing anything."""
    return not lane.policies and lane.target_ns is None and lane.max_age_ns is None


def why_of(lane: Lane, delay: LaneDelay) -> str:
    """Return what is wrong, or right again, with a lane, with its figures."""
    limit_ns = round((delay.limit_ns or 0) * SET_POINT)
    return (
        f"queue delay of lane {lane.name} {delay.standing_ns / MILLISECOND:.1f} ms, "
        f"wanted {limit_ns / MILLISECOND:.1f} ms"
    )
