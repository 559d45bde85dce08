"""Faults, made on the virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from flowguard.stress.faults import (
    Acknowledging,
    Capacity,
    Crash,
    Decay,
    Errors,
    Fault,
    Hang,
    Oscillating,
    Outage,
    Pause,
    Rebalance,
    Skew,
    Slow,
    Stalls,
    Throttle,
    Unreachable,
)
from flowguard.stress.simulator.provider import Answer
from flowguard.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    import random

    from flowguard.stress.simulator.world import World

__all__ = ["plan_faults"]

#: What gets worse little by little does so in steps of this.
STEP_NS: Final = 100 * MILLISECOND

#: Kafka's group gives the partitions of a member away that is silent for so long.
SESSION_NS: Final = 10 * SECOND


def plan_faults(world: World, rng: random.Random) -> None:
    """Let all faults of the scenario happen when they are to."""
    for fault in world.scenario.faults:
        plan_fault(world, fault, rng)


def plan_fault(world: World, fault: Fault, rng: random.Random) -> None:
    kind, begin_ns, end_ns = fault.kind, fault.at_ns, fault.until_ns
    provider, usual = world.provider, world.scenario.provider

    def provider_is(at_ns: int, **state: object) -> None:
        def change() -> None:
            provider.change(world.agenda.now_ns, **state)
            world.wake_provider()

        world.agenda.at(at_ns, change)

    match kind:
        case Slow():
            provider_is(begin_ns, factor=kind.factor, delay_ns=kind.delay_ns)
            provider_is(end_ns, factor=1.0, delay_ns=0)
        case Decay():
            for at_ns in range(begin_ns, end_ns, STEP_NS):
                done = (at_ns - begin_ns) / (end_ns - begin_ns)
                provider_is(at_ns, factor=1.0 + (kind.factor - 1.0) * done)
            provider_is(end_ns, factor=1.0)
        case Capacity():
            provider_is(begin_ns, capacity=kind.seats)
            provider_is(end_ns, capacity=usual.capacity)
        case Errors():
            provider_is(begin_ns, errors=kind.ratio, unavailable=kind.unavailable)
            provider_is(end_ns, errors=usual.errors, unavailable=usual.unavailable)
        case Oscillating():
            for number, at_ns in enumerate(range(begin_ns, end_ns, kind.every_ns)):
                provider_is(at_ns, errors=kind.high if number % 2 else kind.low)
            provider_is(end_ns, errors=usual.errors)
        case Outage():
            plan_outage(world, kind, begin_ns, end_ns)
        case Hang():
            provider_is(begin_ns, hanging=True)
            provider_is(end_ns, hanging=False)
        case Throttle():
            provider_is(begin_ns, retry_after_ns=kind.retry_after_ns)
            world.agenda.at(begin_ns, lambda: provider.throttle(kind.rate_per_s))
            world.agenda.at(end_ns, lambda: provider.throttle(None))
            provider_is(end_ns, retry_after_ns=usual.retry_after_ns)
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
        case _:
            assert_never(kind)


def repeated(begin_ns: int, end_ns: int, every_ns: int) -> range:
    """Return the instants of a fault: one, or again and again."""
    return range(begin_ns, end_ns, every_ns) if every_ns else range(begin_ns, begin_ns + 1)


def plan_outage(world: World, kind: Outage, begin_ns: int, end_ns: int) -> None:
    refusal = Answer("the provider is down", True, kind.retry_after_ns or None)

    def go_down() -> None:
        world.provider.outage = refusal
        if kind.also_running:
            world.provider.fail_all(world.agenda.now_ns, refusal)

    def come_back() -> None:
        world.provider.outage = None

    world.agenda.at(begin_ns, go_down)
    world.agenda.at(end_ns, come_back)


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
