"""Faults, made on the virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowguard.stress.faults import (
    Acknowledging,
    Crash,
    Fault,
    Pause,
    Rebalance,
    Skew,
    Stalls,
    Unreachable,
)
from flowguard.stress.simulator.provider_trouble import plan_provider_fault
from flowguard.units import SECOND

if TYPE_CHECKING:
    import random

    from flowguard.stress.simulator.world import World

__all__ = ["plan_faults"]

#: Kafka's group gives the partitions of a member away that is silent for so long.
SESSION_NS: Final = 10 * SECOND


def plan_faults(world: World, rng: random.Random) -> None:
    """Let all faults of the scenario happen when they are to."""
    for fault in world.scenario.faults:
        plan_fault(world, fault, rng)


def plan_fault(world: World, fault: Fault, rng: random.Random) -> None:
    plan_provider_fault(world, fault)
    kind, begin_ns, end_ns = fault.kind, fault.at_ns, fault.until_ns
    match kind:
        case Crash():
            for at_ns in repeated(begin_ns, end_ns, kind.every_ns):
                world.agenda.at(at_ns, lambda: world.crash(kind.restart_ns))
        case Pause():
            plan_pause(world, begin_ns, end_ns)
        case Stalls():
            for at_ns in repeated(begin_ns, end_ns, kind.every_ns):
                world.agenda.at(at_ns, lambda: world.sleep(kind.length_ns))
        case Rebalance():
            for at_ns in repeated(begin_ns, end_ns, kind.every_ns):
                away_ns = kind.every_ns // 2 or end_ns - begin_ns
                plan_rebalance(world, kind.share, at_ns, at_ns + away_ns, rng)
        case Unreachable():
            world.agenda.at(begin_ns, lambda: world.unreachable(end_ns))
        case Acknowledging():
            world.agenda.at(begin_ns, lambda: world.slow_broker(kind.delay_ns))
            world.agenda.at(end_ns, lambda: world.slow_broker(0))
        case Skew():
            by_ns = -kind.by_ns if kind.behind else kind.by_ns
            world.agenda.at(begin_ns, lambda: world.skew(by_ns))
            world.agenda.at(end_ns, lambda: world.skew(0))


def repeated(begin_ns: int, end_ns: int, every_ns: int) -> range:
    """Return the instants of a fault: one, or again and again."""
    return range(begin_ns, end_ns, every_ns) if every_ns else range(begin_ns, begin_ns + 1)


def plan_pause(world: World, begin_ns: int, end_ns: int) -> None:
    """Let the process stand still; if that is long, the group goes on without it."""
    world.agenda.at(begin_ns, lambda: world.sleep(end_ns - begin_ns))
    if end_ns - begin_ns > SESSION_NS:
        world.agenda.at(end_ns, world.rejoin)


def plan_rebalance(
    world: World, share: float, begin_ns: int, end_ns: int, rng: random.Random
) -> None:
    names = sorted(world.log)
    away = frozenset(rng.sample(names, round(share * len(names))))
    world.agenda.at(begin_ns, lambda: world.rebalance(frozenset(names) - away))
    if away:
        world.agenda.at(end_ns, lambda: world.rebalance(frozenset(names)))
