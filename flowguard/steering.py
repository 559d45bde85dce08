"""Pressure, the ladder, and what each rung changes.

    queue delay ─┐                      ┌─ 1 bulk        larger batches where no target shares them
    memory ──────┤                      ├─ 2 pause-bulk  partitions left out of fetch requests
    loop lag ────┼─▶ pressure ─▶ ladder ┼─ 3 spill       (lanes spill by their share)
    errors ──────┘                      ├─ 4 brownout    ─┐
                                        ├─ 5 shed        ─┼─ Dimming
                                        └─ 6 standard    ─┘

Each tick looks at all signals, moves the ladder by one rung at most, and then what the rung
permits.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from flowguard.chunk import TopicPartition
from flowguard.commands import Command, Hold
from flowguard.control.decision import Decision
from flowguard.control.ladder import BULK, ENTER, HYSTERESIS, NORMAL, PAUSE_BULK, RUNG_NAMES, Ladder
from flowguard.control.pressure import BULK_RATIO_MAX, LagWindow, LaneDelay, Part, highest
from flowguard.dimming import Dimming, is_pausable
from flowguard.units import MILLISECOND

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Steering"]

#: Where no lane with a target shares an agent, its batches may be so many times as large.
BULK_FACTOR: Final = 4.0

#: What pausing bulk helps against. Where only a dependency is missing, it helps nobody.
HELPED_BY_PAUSING: Final = ("delay", "memory", "loop_lag")

#: Weight of a tick in the share of a lane that is not read: 2 s of ticks.
OUT_SHARE: Final = 0.05


class Steering:
    """Degrade a worker one step at a time while it is under pressure.

    Args:
        engine: What is steered.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        shadow = engine.shadow
        self._acts = "ladder" not in shadow
        self.dimming = Dimming(
            engine,
            enforced={loop: self._acts and loop not in shadow for loop in ("brownout", "shed")},
        )
        self.pausable = {
            topic
            for view in engine.views.values()
            for topic in view.plan.topics
            if self._may_be_paused(topic)
        }
        self.ladder = Ladder(self._actuated())
        self.parts = [Part("delay", 0.0, "nothing was looked at yet")]
        self.steps: Counter[str] = Counter()  # up and down
        self.held: frozenset[TopicPartition] = frozenset()
        self._delays = {
            rank: LaneDelay(target_ns=lane.target_ns, max_age_ns=lane.max_age_ns)
            for rank, lane in enumerate(engine.lanes)
            if (lane.target_ns or lane.max_age_ns) and lane.rate_per_s is None
        }
        self._lag = LagWindow()
        self._holds = False  # there is a reason to pause bulk on this rung
        self._out = [0.0] * len(engine.lanes)

    # What is shown.

    @property
    def pressure(self) -> Part:
        """Return the part of the pressure that decides."""
        return highest(self.parts)

    @property
    def rung(self) -> int:
        """Return the rung that is in force."""
        return self.ladder.rung if self._acts else NORMAL

    @property
    def rung_name(self) -> str:
        """Return its name."""
        return RUNG_NAMES[self.rung]

    def admitted(self, rank: int) -> float:
        """Return the share of a lane's records that is taken in, 0..1."""
        shed, _ = self.dimming.ratio("shed", rank)
        return (1.0 - shed) * (1.0 - self._out[rank])

    # What is done.

    def tick(self, now_ns: int, loop_lag_ns: int) -> list[Command]:
        """Look at the pressure, and change what must change."""
        self._lag.sample(loop_lag_ns)
        waited = self._sample_delays(now_ns)
        self.parts = self._look(now_ns)
        pressure = self.pressure
        step = self.ladder.tick(now_ns, pressure.ratio, in_use=self.dimming.in_use)
        if step:
            self._stepped(step, now_ns, pressure)
        self.dimming.tick(now_ns, self.ladder.rung, self._delays, waited)
        commands = self._hold()
        self._weigh_admission()
        return commands

    def assigned(self) -> list[Command]:
        """Apply again what is left out of fetch requests: partitions have come or gone."""
        if not self.held and not self._wanted_held():
            return []
        self.held = self._wanted_held()
        return [Hold(self.held)]

    # Signals.

    def _sample_delays(self, now_ns: int) -> bool:
        """Take in how long records wait; True if any of a lane with a limit does.

        What waits for something unavailable does not wait for work, and is left out.
        """
        open_views = [each for each in self._engine.views.values() if not each.serving.is_shut]
        waited = False
        for rank, delay in self._delays.items():
            waits_ns = [view.waits.oldest_ns(rank, now_ns) for view in open_views]
            longest_ns = max((each for each in waits_ns if each is not None), default=None)
            delay.sample(longest_ns)
            waited |= longest_ns is not None
        return waited

    def _look(self, now_ns: int) -> list[Part]:
        """Return all parts of the pressure."""
        engine = self._engine
        held = engine.partitions.values()
        bulk = [each.account for each in held if each.name.topic in self.pausable]
        kept = [each.account for each in held if each.name.topic not in self.pausable]
        bulk_ratio, kept_ratio = engine.memory.fullness(bulk), engine.memory.fullness(kept)
        lag_ms = self._lag.usual_ns / MILLISECOND
        return [
            self._delay_part(),
            Part("memory", kept_ratio,
                 f"a partition that cannot be paused has filled {kept_ratio:.0%} of its memory"),
            Part("bulk_memory", min(BULK_RATIO_MAX, bulk_ratio),
                 f"a partition of bulk has filled {bulk_ratio:.0%} of its memory"),
            Part("loop_lag", self._lag.ratio, f"the event loop is mostly {lag_ms:.0f} ms late"),
            self._error_part(now_ns),
            Part("spill", *self._engine.spilling.fullness()),
        ]  # fmt: skip

    def _delay_part(self) -> Part:
        rank = max(self._delays, key=lambda each: self._delays[each].ratio, default=None)
        if rank is None:
            return Part("delay", 0.0, "no lane has a target or max_age")
        delay, lane = self._delays[rank], self._engine.lanes[rank]
        limit_ms = (delay.limit_ns or 0) / MILLISECOND
        why = f"queue delay of lane {lane.name} {delay.standing_ns / MILLISECOND:.1f} ms"
        return Part("delay", min(1.0, delay.ratio), f"{why} of {limit_ms:.1f} ms")

    def _error_part(self, now_ns: int) -> Part:
        views = self._engine.views
        name = max(views, key=lambda each: views[each].serving.refused_share(now_ns), default="")
        share = views[name].serving.refused_share(now_ns) if views else 0.0
        return Part("errors", share, f"{share:.0%} of agent {name}'s batches met something missing")

    # Actuators.

    def _actuated(self) -> frozenset[int]:
        """Return the rungs that change anything in this app."""
        lanes = self._engine.lanes
        rungs = set(self.dimming.rungs)
        if any(lane.target_ns is None for lane in lanes):
            rungs.add(BULK)
        if self.pausable and any(lane.target_ns is not None for lane in lanes):
            rungs.add(PAUSE_BULK)
        return frozenset(rungs)

    def _may_be_paused(self, topic: str) -> bool:
        return all(is_pausable(self._engine.lanes[rank]) for rank in self._engine.ranks(topic))

    def _stepped(self, step: int, now_ns: int, pressure: Part) -> None:
        """Do what the new rung says, and say so."""
        rung, direction = self.ladder.rung, "up" if step > 0 else "down"
        why = f"pressure {pressure.ratio:.2f} ({pressure.why}): {RUNG_NAMES[rung]}"
        self._engine.decisions.add(
            Decision(
                at_ns=now_ns, loop="ladder", subject="", action=direction, before=rung - step,
                after=rung, why=why, shadow=not self._acts,
            )
        )  # fmt: skip
        if not self._acts:
            return
        self.steps[direction] += 1
        self._engine.invalidate(f"rung {rung}")
        for view in self._engine.views.values():
            view.let_bulk_grow(BULK_FACTOR if rung >= BULK else 1.0)

    def _hold(self) -> list[Command]:
        """Leave bulk out of fetch requests, or take it in again."""
        if self.rung < PAUSE_BULK:
            self._holds = False
        elif not self._holds:
            enough = ENTER[PAUSE_BULK] - HYSTERESIS
            self._holds = any(
                part.component in HELPED_BY_PAUSING and part.ratio > enough for part in self.parts
            )
        wanted = self._wanted_held()
        if wanted == self.held:
            return []
        self.held = wanted
        return [Hold(wanted)]

    def _wanted_held(self) -> frozenset[TopicPartition]:
        """Return the partitions that give way now: those of lanes below one with a target."""
        if not self._holds:
            return frozenset()
        lanes = self._engine.lanes
        highest_rank = min(
            (rank for rank, lane in enumerate(lanes) if lane.target_ns is not None),
            default=len(lanes),
        )
        return frozenset(
            name
            for name in self._engine.partitions
            if name.topic in self.pausable and min(self._engine.ranks(name.topic)) > highest_rank
        )

    def _weigh_admission(self) -> None:
        """Learn what share of each lane is not read: on purpose, or because memory is full."""
        engine = self._engine
        paused = engine.memory.paused
        total, out = Counter[int](), Counter[int]()
        for name, partition in engine.partitions.items():
            not_read = name in self.held or partition.account in paused
            for rank in engine.ranks(name.topic):
                total[rank] += 1
                out[rank] += not_read
        for rank in range(len(self._out)):
            share = out[rank] / total[rank] if total[rank] else 0.0
            self._out[rank] += OUT_SHARE * (share - self._out[rank])
